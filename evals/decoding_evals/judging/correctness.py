"""Whether an answer is correct: by its references, or by what the model finds likelier."""

from __future__ import annotations

from collections.abc import Sequence

from decoding.models.chats import Chat, Prompt
from decoding.models.loading import LanguageModel
from decoding_evals.judging.answers import correct_share, exact_match, f1, prefers_correct, rouge_l
from decoding_evals.score.evaluation import score_choices

# From which quality on an answer is correct.
THRESHOLDS = {"exact": 1.0, "f1": 0.5, "rouge-l": 0.3}
CORRECTNESS = (*THRESHOLDS, "likelihood")


def judged(answer: str, references: Sequence[str], by: str) -> tuple[float, bool]:
    """Quality of an answer, in [0, 1], by the best of its references, and whether it is correct.

    `by` says how: `exact`: whether it equals one, both normalised; `f1`, correct from 0.5 on;
    `rouge-l`, correct from 0.3 on.
    """
    if by == "exact":
        quality = float(exact_match(answer, references))
    elif by == "f1":
        quality = f1(answer, references)
    else:
        quality = max(rouge_l(answer, reference) for reference in references)
    return quality, quality >= THRESHOLDS[by]


def preferred(
    language_model: LanguageModel,
    prompt: Prompt,
    correct: Sequence[str],
    incorrect: Sequence[str],
    *,
    chat: bool | Chat = False,
) -> tuple[float, bool]:
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
    return correct_share(right, wrong), prefers_correct(right, wrong)


def continuing(prompt: Prompt, text: str, *, chat: bool | Chat = False) -> str:
    """An answer as it follows a prompt: with a space between words, or as a message of its own."""
    if chat or not isinstance(prompt, str) or not prompt:
        return text
    return text if prompt[-1].isspace() or text[:1].isspace() else f" {text}"
