"""What is known about the answers to a prompt, and what they are answers to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from decoding.generation.result import Generation
from decoding.inference.sequences import SequenceEntropy
from decoding.texts.chats import Prompt, last_of, worded
from decoding_evals.judging.correctness import Judgement
from decoding_evals.showing.result import TextResult, quoted
from decoding_evals.uncertainty import estimators as estimating
from decoding_evals.uncertainty.context_gain import ContextGain
from decoding_evals.uncertainty.epistemic import EpistemicUncertainty
from decoding_evals.uncertainty.tables import prompt_lines


class PromptRow(NamedTuple):
    """A prompt and what is known about it."""

    prompt: Prompt
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

    _tables = staticmethod(prompt_lines)

    row: PromptRow
    greedy: Generation
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
    """Of the greedy answer; None without references."""

    @property
    def quality(self) -> float | None:
        """Of the greedy answer, in [0, 1]; None without references."""
        return None if self.judgement is None else self.judgement.quality

    @property
    def correct(self) -> bool | None:
        """Whether the greedy answer counts as correct; None without references."""
        return None if self.judgement is None else self.judgement.correct

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        answer = quoted(estimating.answer(self.greedy))
        surprisal = math.fsum(self.greedy.trace.raw_surprisal_nats)
        return f"{quoted(last_of(self.row.prompt))} → {answer}", f"-log p {surprisal:.4f} nats"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        trace = self.greedy.trace
        first = self.greedy.record()["tokens"][0]
        first["raw_probability"] = math.exp(-first["raw_surprisal_nats"])
        names = {"id": "id", "text": "text", "probability": "raw_probability"}
        entropies = {
            "MonteCarloSequenceEntropy": self.entropy.monte_carlo,
            "RaoBlackwellSequenceEntropy": self.entropy.rao_blackwellised,
        }
        text, share = estimating.most_common(self.samples, self.labels)
        asked, how = self.row.prompt, self.greedy.chat
        messages = {} if isinstance(asked, str) else {"messages": [*map(dict, asked.messages)]}
        chat = None if how is None else dict(how)
        return {
            **self.heading(),
            "prompt": last_of(self.row.prompt),
            **messages,
            "context": self.row.context,
            "model": self.greedy.model,
            "settings": str(self.samples[0].settings),
            "seed": self.greedy.seed,
            "chat": chat,
            "greedy": estimating.answer(self.greedy),
            "samples": [estimating.answer(sample) for sample in self.samples],
            "next_token_entropy_nats": float(trace.raw_entropy_nats[0]),
            "next_token_candidates": [
                {name: token[key] for name, key in names.items()}
                for token in (first, *first["alternatives"])
            ],
            "estimators": self.estimators,
            "standard_errors": {
                name: float(entropy.standard_error) for name, entropy in entropies.items()
            },
            "better_sequence_entropy": next(
                name for name, entropy in entropies.items() if entropy is self.entropy.better
            ),
            "samples_cut_off": sum(sample.finish_reason == "length" for sample in self.samples),
            "sample_tokens": [len(sample.trace) for sample in self.samples],
            "sample_surprisal_nats": estimating.surprisals(self.samples),
            "sample_entropy_nats": [
                math.fsum(sample.trace.entropy_nats) for sample in self.samples
            ],
            "clusters": self.labels,
            "clustering": self.clustering,
            "similarity": self.similarity,
            "most_common_answer": {"text": text, "share": share},
            "epistemic": {name: value.record() for name, value in self.epistemic.items()},
            "context_gain": None if self.gain is None else self.gain.record(),
            "references": list(self.row.references),
            "quality": self.quality,
            "correct": self.correct,
            "compared": None if self.judgement is None else self.judgement.record(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row: the prompt, its greedy answer, and each estimator."""
        record = self.record()
        names = ("index", "prompt", "greedy", "next_token_entropy_nats", "quality", "correct")
        return [{name: record[name] for name in names} | self.estimators]
