"""What `generate` gives: finished sequences, and tokens as they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from decoding.generation.view import GENERATION
from decoding.rows.packed import DETAIL
from decoding.settings.policy import EntropyPolicy
from decoding.settings.processor import BEAM_SEARCH
from decoding.settings.settings import DecodingSettings
from decoding.showing.inline import inline, static_text
from decoding.tracing.trace import Trace, described

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.passes.caches import Reader

SHOWN = 40  # characters of a text in a repr


@dataclass(frozen=True)
class Generation:
    """One generated sequence."""

    prompt: str
    prompt_ids: tuple[int, ...]
    """What the model read of it."""
    index: int
    """Position of the prompt in the input, from 0."""
    sample: int
    """How many samples of this prompt text came before it in the run."""
    text: str
    """The continuation; the prompt is not part of it."""
    model: str
    settings: DecodingSettings | EntropyPolicy
    num_beams: int
    seed: int
    finish_reason: str
    """`eos`, `stop` (a stop string, which stays in the text) or `length`; where a policy ended the
    sequence, `entropy`, `abstain` or `branch`, and the token that it ended at was not drawn."""
    trace: Trace
    alternative_texts: tuple[tuple[str, ...], ...] | None = None
    """Text of each token's runners-up, where they were asked for."""
    messages: tuple[Mapping[str, Any], ...] | None = None
    """The conversation before it, where there is one; `prompt` is what its last message says."""
    chat: Mapping[str, Any] | None = None
    """How the chat template was used; None where it was not."""
    page: Mapping[str, Any] | None = None
    """What its page needs for sliders; see `with_page`."""

    def __repr__(self) -> str:
        facts = described(self.trace, self.finish_reason)
        return f"Generation({_shortened(self.prompt)} → {_shortened(self.text)}, {facts})"

    def record(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; see `docs/records.md` for the keys."""
        tokens, runners_up = self.trace.records(), self.trace.alternatives
        if runners_up is not None and self.alternative_texts is not None:
            columns = (runners_up.ids, runners_up.probability, runners_up.raw_probability)
            steps = zip(self.alternative_texts, *(one.tolist() for one in columns), strict=True)
            for token, step in zip(tokens, steps, strict=True):
                token["alternatives"] = [
                    {"id": id_, "text": text, "probability": q, "raw_probability": p}
                    for text, id_, q, p in zip(*step, strict=True)
                ]
        said = None if self.messages is None else [dict(message) for message in self.messages]
        return {
            "prompt": self.prompt,
            **({} if said is None else {"messages": said}),
            "prompt_ids": list(self.prompt_ids),
            "index": self.index,
            "sample": self.sample,
            "text": self.text,
            "model": self.model,
            "settings": str(self.settings),
            "num_beams": self.num_beams,
            **(BEAM_SEARCH if self.num_beams > 1 else {}),
            "seed": self.seed,
            "finish_reason": self.finish_reason,
            "chat": None if self.chat is None else dict(self.chat),
            "tokens": tokens,
            "summary": self.trace.summary(),
            **({} if self.page is None else {"page": dict(self.page)}),
        }

    def with_page(
        self,
        language_model: LanguageModel,
        detail: int = DETAIL,
        *,
        reader: Reader | None = None,
    ) -> Generation:
        """The same with the rows behind its tokens, for a page with sliders.

        Args:
            language_model: that wrote it; it reads the sequence once more.
            detail: how many tokens of each position are kept one by one; see `PackedRows`.
            reader: that has read the prompt.

        Raises:
            ValueError: `detail` is outside its range.
        """
        from decoding.showing.packing import pages_of

        ids = self.trace.ids.tolist()
        said, read = self.prompt, self.prompt_ids
        [page] = pages_of(language_model, said, read, [ids], detail, reader=reader)
        return replace(self, page=page)

    def _repr_html_(self) -> str:
        record = self.record()
        return inline(GENERATION, [record], static_text(record["tokens"], self.prompt))


@dataclass(frozen=True)
class StreamedToken:
    """A token at the moment it is drawn."""

    index: int
    sample: int
    id: int
    text: str
    """What the token adds to the text; empty while a character is incomplete."""
    entropy_nats: float
    """H(q) of the step, in [0, ln vocab]."""


def _shortened(text: str) -> str:
    """A text on one line, in quotes, its control characters escaped."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
