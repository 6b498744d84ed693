"""What is known about the answers to a prompt, and what they are answers to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from decoding.generation.result import Generation
from decoding.inference.sequences import SequenceEntropy
from decoding.texts.chats import Conversation, Prompt, last_of, worded
from decoding_evals.judging.correctness import Judgement
from decoding_evals.showing.result import TextResult, finite, quoted
from decoding_evals.showing.terminal import counted
from decoding_evals.uncertainty.estimators import probabilities as estimating
from decoding_evals.uncertainty.estimators.context_gain import ContextGain
from decoding_evals.uncertainty.estimators.epistemic import EpistemicUncertainty
from decoding_evals.uncertainty.view import PROMPT
from decoding_evals.uncertainty.votes import Vote


class PromptRow(NamedTuple):
    """A prompt and what is known about it."""

    prompt: Prompt | Any
    """None, of stored answers alone, where nothing says it."""
    references: tuple[str, ...] = ()
    """Correct answers."""
    incorrect: tuple[str, ...] = ()
    """Incorrect answers, for `likelihood`."""
    paraphrases: tuple[str, ...] = ()
    """The prompt in other words."""
    context: str | None = None
    """What stands before the prompt, on lines of its own."""

    def asked(self) -> Prompt:
        """What the model continues."""
        if self.context is None:
            return self.prompt
        return worded(self.prompt, f"{self.context}\n{last_of(self.prompt)}")

    def phrasings(self) -> list[Prompt]:
        """The prompt and its paraphrases, each as the model would be given it."""
        others = [worded(self.prompt, text) for text in self.paraphrases]
        return [self._replace(prompt=prompt).asked() for prompt in (self.prompt, *others)]


@dataclass(frozen=True)
class PromptUncertainty(TextResult):
    """What is known about the answer to one prompt."""

    view = PROMPT

    row: PromptRow
    greedy: Generation | None
    """None where samples were drawn elsewhere."""
    samples: tuple[Generation, ...]
    entropy: SequenceEntropy
    """Of the whole answer, estimated from the samples."""
    labels: list[int]
    """The cluster of each sample."""
    clustering: str
    """What the samples were sorted by."""
    similarity: str
    """What said how alike answers are."""
    estimators: estimating.Estimates
    """A larger value is less certain; None where undefined."""
    epistemic: dict[str, EpistemicUncertainty]
    """Along the greedy answer, by what differs: `phrasing`, `members`, `dropout`."""
    gain: ContextGain | None
    judgement: Judgement | None
    """Of the greedy answer, or where there is none the most common one; None without references."""
    votes: dict[str, Vote]
    """The answer that samples elect, by the confidence that their votes weigh."""
    extent: str
    """How far an answer goes: `whole`, `line` or `sentence`."""
    abstained: bool | None = None
    """Whether a threshold says not to answer; None where none was given."""
    pages: tuple[dict[str, Any], ...] | None = None
    """What the page of the answers needs, the greedy one first, where that was asked for."""

    @property
    def quality(self) -> float | None:
        """Of the judged answer, in [0, 1]; None without references."""
        return None if self.judgement is None else self.judgement.quality

    @property
    def correct(self) -> bool | None:
        """Whether the judged answer counts as correct; None without references."""
        return None if self.judgement is None else self.judgement.correct

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        asked = "" if self.row.prompt is None else quoted(last_of(self.row.prompt))
        if self.greedy is None:
            return asked, counted(len(self.samples), "stored answer")
        surprisal = math.fsum(self.greedy.trace.raw_surprisal_nats)
        answer = quoted(estimating.answer(self.greedy))
        return f"{asked} → {answer}", f"-log p {surprisal:.4f} nats"

    def counted(self) -> tuple[int, float]:
        """Nothing of it is shown as progress."""
        return 0, 0.0

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined or not known is None."""
        text, share = estimating.most_common(self.samples, self.labels)
        surprisals = estimating.surprisals(self.samples)
        cut_off = sum(sample.finish_reason == "length" for sample in self.samples)
        asked, any_one = self.row.prompt, self.samples[0]
        messages = {}
        if isinstance(asked, Conversation):
            messages["messages"] = [*map(dict, asked.messages)]
        return {
            **self.heading(),
            "prompt": None if asked is None else last_of(asked),
            **messages,
            "context": self.row.context,
            "model": any_one.model,
            "settings": None if any_one.settings is None else str(any_one.settings),
            "seed": any_one.seed,
            "chat": None if any_one.chat is None else dict(any_one.chat),
            "greedy": None if self.greedy is None else estimating.answer(self.greedy),
            "samples": [estimating.answer(sample) for sample in self.samples],
            **self._next_token(),
            "estimators": self.estimators,
            **self._errors(),
            "answer": self.extent,
            "samples_cut_off": cut_off,
            "of_beginnings": 2 * cut_off > len(self.samples),
            "sample_tokens": [
                None if math.isnan(surprisal) else len(sample.trace)
                for sample, surprisal in zip(self.samples, surprisals, strict=True)
            ],
            "sample_surprisal_nats": finite(surprisals),
            "sample_entropy_nats": finite(
                [sample.trace.entropy_nats.sum() for sample in self.samples]
            ),
            "clusters": self.labels,
            "clustering": self.clustering,
            "similarity": self.similarity,
            "most_common_answer": {"text": text, "share": share},
            "votes": {name: vote._asdict() for name, vote in self.votes.items()},
            "epistemic": {name: value.record() for name, value in self.epistemic.items()},
            "context_gain": None if self.gain is None else self.gain.record(),
            "references": list(self.row.references),
            "quality": self.quality,
            "correct": self.correct,
            "compared": None if self.judgement is None else self.judgement.record(),
            "abstained": self.abstained,
            **({} if self.pages is None else {"page": list(self.pages)}),
        }

    def _next_token(self) -> dict[str, Any]:
        """What the model says of the token that begins the answer."""
        names = ("next_token_entropy_nats", "next_token_candidates")
        if self.greedy is None:
            return dict.fromkeys(names)
        first = self.greedy.record()["tokens"][0]
        first["raw_probability"] = math.exp(-first["raw_surprisal_nats"])
        keys = {"id": "id", "text": "text", "probability": "raw_probability"}
        candidates = [
            {name: token[key] for name, key in keys.items()}
            for token in (first, *first["alternatives"])
        ]
        return dict(zip(names, (first["raw_entropy_nats"], candidates), strict=True))

    def _errors(self) -> dict[str, Any]:
        """Of the two entropies of the whole answer, and which has the smaller one."""
        errors = {
            "MonteCarloSequenceEntropy": finite(self.entropy.monte_carlo.standard_error),
            "RaoBlackwellSequenceEntropy": finite(self.entropy.rao_blackwellised.standard_error),
        }
        known = {name: error for name, error in errors.items() if error is not None}
        # Of equal ones the Rao–Blackwellised.
        better = min(reversed(known), key=known.__getitem__, default=None)
        return {"standard_errors": errors, "better_sequence_entropy": better}

    def rows(self) -> list[dict[str, Any]]:
        """One row: the prompt, its greedy answer, and each estimator."""
        record = self.record()
        names = ("index", "prompt", "greedy", "next_token_entropy_nats", "quality", "correct")
        return [{name: record[name] for name in names} | self.estimators]
