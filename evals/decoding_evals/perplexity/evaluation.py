"""Perplexity: how well a model predicts a corpus, with honest error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from decoding.inference.intervals import MeanError
from decoding.models.loading import LanguageModel, check_language_model
from decoding.scoring.teacher_forcing import AnyDocument, Document, as_document, listed
from decoding.scoring.windows import Windows
from decoding_evals.mapping.engine import IN_PROCESS, Engine
from decoding_evals.mapping.units import Unit, units_of
from decoding_evals.perplexity.protocols import BOS, PROTOCOLS
from decoding_evals.perplexity.sums import Scoring
from decoding_evals.perplexity.view import VIEW
from decoding_evals.reading.interruptible import ReadResult, joined_parts
from decoding_evals.showing.result import exp_or_none, finite
from decoding_evals.showing.terminal import counted, number

FEW_DOCUMENTS = 20


@dataclass(frozen=True, kw_only=True)
class PerplexityResult(ReadResult):
    """Perplexity of a model on a corpus, and how it was computed."""

    view = VIEW

    model: str
    protocol: str
    rules: str
    headline: str
    """The key of what the protocol's tool reports."""
    nll_nats: float
    """Mean surprisal per scored token, as the protocol averages."""
    mean_entropy_nats: float
    words: int | None
    """Of the text that was scored, as the protocol counts it; None where it does not."""
    bytes: int | None
    standard_error: float | None
    """Of `nll_nats`, from documents or blocks; None where there are fewer than two."""
    naive_standard_error: float | None
    """The same as if tokens were independent."""
    error_unit: str
    """`documents` or `blocks`."""
    units: int
    block_length: int | None
    """Consecutive tokens in a block."""
    confidence_interval: tuple[float | None, float | None] | None
    """Of the perplexity, 95 %; None for a bound beyond the largest double."""
    full_logits: str | None
    document_nll: MeanError | None
    """Mean over the documents of each one's mean surprisal, nats; None where the protocol joins or
    changes them."""
    by_document: tuple[tuple[int, float, int, int], ...]
    """Of each document that has scored tokens: its number, the sum of their surprisals in nats,
    how many they are, and the bytes of their text."""

    @property
    def perplexity(self) -> float | None:
        """e^nll_nats; None, as for the other figures, where that is beyond the largest double."""
        return exp_or_none(self.nll_nats)

    @property
    def bits_per_byte(self) -> float | None:
        """Mean surprisal per byte of the text that was scored, bits; None where it is unknown."""
        return finite(self._nats_per(self.bytes) / math.log(2))  # type: ignore[no-any-return]

    @property
    def byte_perplexity(self) -> float | None:
        """The same per byte as an exponential."""
        return exp_or_none(self._nats_per(self.bytes))

    @property
    def word_perplexity(self) -> float | None:
        """The exponential of the mean surprisal per word."""
        return exp_or_none(self._nats_per(self.words))

    def _nats_per(self, units: int | None) -> float:
        return self.nll_nats * self.account.tokens_scored / units if units else math.nan

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        scored = counted(self.account.tokens_scored, "token")
        return repr(self.model), f"perplexity {number(self.perplexity)}", scored

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what has no finite value is None."""
        own = dict(vars(self))
        for name in ("account", "by_document", "document_nll"):
            del own[name]
        if self.confidence_interval is not None:
            own["confidence_interval"] = list(self.confidence_interval)
        ratio = None
        if self.standard_error is not None and self.naive_standard_error:
            ratio = self.standard_error / self.naive_standard_error
        return {
            "perplexity": self.perplexity,
            "bits_per_token": finite(self.nll_nats / math.log(2)),
            "bits_per_byte": self.bits_per_byte,
            "word_perplexity": self.word_perplexity,
            "byte_perplexity": self.byte_perplexity,
            **own,
            "nll_nats": finite(self.nll_nats),
            **self._over_documents(),
            "standard_error_ratio": ratio,
            **asdict(self.account),
        }

    def _over_documents(self) -> dict[str, Any]:
        """Means over the documents, each counting the same."""
        nll = self.document_nll
        mean = None if nll is None else sum(map(_perplexity_of, self.by_document))
        return {
            "mean_document_nll_nats": None if nll is None else finite(nll.mean),
            "mean_document_nll_standard_error": None if nll is None else finite(nll.standard_error),
            "mean_document_perplexity": finite(mean and mean / len(self.by_document)),
        }

    def per_document(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One row per document; figures are None where nothing of it was scored.

        Args:
            names: of the documents, in their order.

        Raises:
            ValueError: the protocol joins or changes them.
        """
        if self.document_nll is None:
            raise ValueError(f"protocol {self.protocol} joins or changes documents")
        rows = [
            {
                **({"name": names[index]} if index < len(names) else {}),
                "index": index,
                "tokens_scored": 0,
                **dict.fromkeys(("surprisal_nats", "nll_nats", "perplexity", "bits_per_byte")),
            }
            for index in range(self.account.documents)
        ]
        for document in self.by_document:
            index, total, count, size = document
            rows[index] |= {
                "tokens_scored": count,
                "surprisal_nats": finite(total),
                "nll_nats": finite(total / count),
                "perplexity": exp_or_none(total / count),
                "bits_per_byte": finite(total / size / math.log(2)) if size else None,
            }
        return rows


def _perplexity_of(document: tuple[int, float, int, int]) -> float:
    """Infinite where it is beyond the largest double."""
    _, total, count, _ = document
    found = exp_or_none(total / count)
    return math.inf if found is None else found


def perplexity(
    language_model: LanguageModel,
    documents: Iterable[str | AnyDocument],
    *,
    protocol: str = "default",
    windows: Windows = Windows(),
    errors: str = "auto",
    engine: Engine = IN_PROCESS,
    on_progress: Callable[[int, float], None] | None = None,
) -> PerplexityResult:
    """Perplexity of a corpus: the exponential of the mean surprisal of its tokens.

    Args:
        language_model: from `load_model`.
        documents: texts, `Document`s, whose prompts are context only, ids, or what
            `decoding.scoring.answers` makes of conversations; taken lazily.
        protocol: `default`, or the rules of a tool: `huggingface`, `lm-eval`, `llama.cpp`,
            `gpt2-paper`; see `decoding_evals.perplexity.protocols`.
        windows: how the texts are read; the protocol has defaults of its own for `context` and
            `stride`.
        errors: what the standard error is taken over: `documents`, `blocks` of consecutive
            tokens, or `auto`, which takes documents from 20 on.
        engine: what scores the documents.
        on_progress: is given the number of scored tokens and the mean surprisal so far, nats.

    Where Ctrl-C ends it early, the result is of what was scored until then.

    Raises:
        ValueError: an argument is outside its range, a document has a prompt under another
            protocol than `default`, or there is no token to score.
    """
    check_language_model(language_model)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if errors not in ("auto", "documents", "blocks"):
        raise ValueError(f"errors must be auto, documents or blocks, got {errors!r}")
    rules = PROTOCOLS[protocol]
    rules.check(windows)
    checked = _checked(documents, protocol)
    units = [Unit(0, checked)] if rules.joins else units_of(checked, windows.batch_size)
    sums = joined_parts(engine.map(language_model, Scoring(protocol, windows), units, on_progress))
    assert sums is not None
    how = sums.how()
    how["context"] += protocol == "huggingface"
    if not sums.weights:
        raise ValueError(f"protocol {protocol} gives every window weight zero at this stride")
    few = len(sums.by_document) < FEW_DOCUMENTS
    by_document = errors == "documents" or (errors == "auto" and not few)
    nll = float(sums.weighted / sums.weights)
    error = sums.error(by_document)
    low, high = (nll + float(bound) - float(error.mean) for bound in error.interval())
    return PerplexityResult(
        model=language_model.name,
        protocol=protocol,
        rules=rules.rules.format(bos=BOS[windows.bos]),
        headline=rules.headline,
        nll_nats=nll,
        mean_entropy_nats=float(sums.entropy / sums.blocks.count),
        words=sums.words,
        bytes=sums.text_bytes,
        standard_error=finite(float(error.standard_error)),
        naive_standard_error=sums.naive_error(),
        error_unit="documents" if by_document else "blocks",
        units=error.units,
        block_length=None if by_document else sums.blocks.length,
        # No perplexity is below 1, however few tokens there are.
        confidence_interval=(
            None if math.isnan(low) else (exp_or_none(max(0.0, low)), exp_or_none(high))
        ),
        full_logits=sums.run["full_logits"],
        document_nll=sums.over_documents() if rules.keeps_documents else None,
        by_document=sums.documents() if rules.keeps_documents else (),
        **how,
    )


def _checked(documents: Iterable[str | AnyDocument], protocol: str) -> Iterator[Any]:
    for item in listed(documents):
        document = as_document(item) if isinstance(item, str) else item
        whole = isinstance(document, Document) and document.prompt is None
        if not whole and protocol != "default":
            raise ValueError(
                f"documents must have neither prompts nor roles under protocol {protocol}"
            )
        yield document
