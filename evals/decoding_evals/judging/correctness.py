"""Whether an answer is correct: by its references, or by what the model finds likelier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from decoding.models.loading import LanguageModel
from decoding.texts.chats import Chat, Prompt
from decoding_evals.judging.answers import (
    contains,
    correct_share,
    exact_match,
    f1,
    normalized,
    prefers_correct,
    rouge_l,
    spoken,
)
from decoding_evals.score.evaluation import score_choices

# From which quality on an answer is correct.
THRESHOLDS = {"contains": 1.0, "exact": 1.0, "f1": 0.5, "rouge-l": 0.3}
CORRECTNESS = (*THRESHOLDS, "likelihood")
SHORT = 5
"""Words of a reference that is looked for in an answer, where no rule is chosen."""


class Judgement(NamedTuple):
    """Whether an answer is correct, and what was compared."""

    by: str
    quality: float
    """In [0, 1]."""
    correct: bool
    answer: str | None
    """The answer as it was compared; None where likelihoods of given answers were."""
    reference: str
    """The reference that it comes nearest to, as it was compared."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"by": self.by, "answer": self.answer, "reference": self.reference}


def usual_rule(references: Iterable[str]) -> str:
    """The rule where none is chosen: `contains` where every reference is short, else `rouge-l`.

    Short are references of up to `SHORT` words once they are normalised: names, numbers, terms.
    """
    lengths = [len(normalized(reference).split()) for reference in references]
    return "contains" if all(length <= SHORT for length in lengths) else "rouge-l"


def comparable(references: Iterable[str], by: str) -> list[str]:
    """The references in which a rule finds a word: "The" has none once it is normalised, "巴黎" has
    none for ROUGE-L. `likelihood` takes all."""
    if by == "likelihood":
        return [*references]
    found = (lambda text: rouge_l(text, text) > 0) if by == "rouge-l" else normalized
    return [reference for reference in references if found(reference)]


def judged(answer: str, references: Sequence[str], by: str) -> Judgement | None:
    """An answer by the best of its references; None where the rule finds a word in none of them.

    `by` says how: `contains`: whether one stands in it, on word borders; `exact`: whether it equals
    one; `f1`, correct from 0.5 on; all three of normalised texts. `rouge-l`, correct from 0.3 on.

    See `comparable` for references that are left out.
    """
    of_one: dict[str, Callable[[str, str], float]] = {
        "contains": contains, "exact": exact_match, "f1": f1, "rouge-l": rouge_l
    }  # fmt: skip
    known = comparable(references, by)
    if not known:
        return None
    quality, best = max(
        ((float(of_one[by](answer, reference)), reference) for reference in known),
        key=lambda pair: pair[0],
    )
    compared = {"rouge-l": str.lower, "contains": spoken}.get(by, normalized)
    return Judgement(by, quality, quality >= THRESHOLDS[by], compared(answer), compared(best))


def preferred(
    language_model: LanguageModel,
    prompt: Prompt,
    correct: Sequence[str],
    incorrect: Sequence[str],
    *,
    chat: bool | Chat = False,
) -> Judgement:
    """Share of the correct answers in the probability of all, and whether the likeliest is correct.

    There must be at least one of each. In a chat they are the assistant's.

    Raises:
        ValueError: an answer without a token.

    Source: Lin et al. 2022, *TruthfulQA* (MC2 and MC1).
    """
    choices = [continuing(prompt, text, chat=chat) for text in (*correct, *incorrect)]
    [scores] = score_choices(language_model, [(prompt, choices)], chat=chat)
    log_probs = scores.log_probs_nats()
    right, wrong = log_probs[: len(correct)], log_probs[len(correct) :]
    best = correct[max(range(len(right)), key=lambda index: right[index])]
    share, preferred_one = correct_share(right, wrong), prefers_correct(right, wrong)
    return Judgement("likelihood", share, preferred_one, None, best)


def continuing(prompt: Prompt, text: str, *, chat: bool | Chat = False) -> str:
    """An answer as it follows a prompt: with a space between words, or as a message of its own; an
    empty one stays empty."""
    if chat or not isinstance(prompt, str) or not prompt or not text:
        return text
    return text if prompt[-1].isspace() or text[:1].isspace() else f" {text}"
