"""Perplexity: how well a model predicts a corpus, with honest error bars."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from decoding.inference.intervals import BlockSums, MeanError, ratio_of_sums
from decoding.information.statistics import row_statistics
from decoding.models.loading import LanguageModel, check_language_model
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import AnyDocument, Columns, Document, as_document, listed
from decoding.scoring.windows import Window, Windows
from decoding.texts.encoding import Segment
from decoding_evals.perplexity.protocols import BOS, PROTOCOLS, Protocol
from decoding_evals.perplexity.view import VIEW
from decoding_evals.reading.interruptible import Interruptible, ReadResult
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
    journal: Journal = NO_JOURNAL,
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
        journal: keeps what is measured of each batch.
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
    run = rules(language_model, windows)
    run.journal = journal
    sums = _Sums(run)
    prepared = run.prepared(_checked(documents, protocol))
    with Interruptible(run, sums.blocks, on_progress) as reading:
        for window, columns in run.scan(prepared, _measured, sums.texts.add):
            sums.add(window, columns)
            reading.counted(columns["surprisal"].sum())
    run.finish(reading.complete)
    how = reading.how()
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
        words=run.words,
        bytes=run.bytes,
        standard_error=finite(float(error.standard_error)),
        naive_standard_error=sums.naive_error(reading.total),
        error_unit="documents" if by_document else "blocks",
        units=error.units,
        block_length=None if by_document else sums.blocks.length,
        # No perplexity is below 1, however few tokens there are.
        confidence_interval=(
            None if math.isnan(low) else (exp_or_none(max(0.0, low)), exp_or_none(high))
        ),
        full_logits=run.full_logits,
        document_nll=sums.over_documents() if rules.keeps_documents else None,
        by_document=sums.documents() if rules.keeps_documents else (),
        **how,
    )


class _Sums:
    """What a perplexity and its errors are made of, over the windows that a protocol scores."""

    def __init__(self, run: Protocol) -> None:
        self._run = run
        self._document = self._end = -1
        self.texts = _Texts()
        self.by_document, self.counts = array("d"), array("q")
        self.numbers, self.bytes = array("q"), array("q")
        self.blocks = BlockSums()
        self.weighted = self.weights = self.squares = self.entropy = 0.0

    def add(self, window: Window, columns: Columns) -> None:
        """Take in a window."""
        surprisal = columns["surprisal"]
        text = self.texts.of(window)
        self._run.count_text(window.document, text)
        if window.document != self._document:
            self._document, self._end = window.document, 0
            self.by_document.append(0.0)
            self.counts.append(0)
            self.numbers.append(window.document)
            self.bytes.append(0)
        self.bytes[-1] += len(text.encode())
        self.by_document[-1] += surprisal.sum()
        self.counts[-1] += len(surprisal)
        self.blocks.add(surprisal)
        weight = self._run.weight(window, self._end)
        self.weighted += weight * surprisal.mean()
        self.weights += weight
        self.squares += np.square(surprisal).sum()
        self.entropy += columns["entropy"].sum()
        self._end = window.end

    def error(self, by_document: bool) -> MeanError:
        """Of the mean surprisal."""
        if by_document:
            return ratio_of_sums(self.by_document, self.counts)
        return ratio_of_sums(*self.blocks.sums())

    def documents(self) -> tuple[tuple[int, float, int, int], ...]:
        """See `PerplexityResult.by_document`."""
        columns = (self.numbers, self.by_document, self.counts, self.bytes)
        return tuple(zip(*columns, strict=True))

    def over_documents(self) -> MeanError:
        """Of the documents' mean surprisals, each document counting the same."""
        means = np.array(self.by_document) / np.array(self.counts)
        return ratio_of_sums(means, np.ones(len(means)))

    def naive_error(self, total: float) -> float | None:
        """The same as if tokens were independent, from their total; None where it is unknown."""
        tokens = self.blocks.count
        if tokens < 2 or not math.isfinite(self.squares):
            return None
        variance = max(0.0, self.squares / tokens - (total / tokens) ** 2)
        return math.sqrt(variance / (tokens - 1))


def _checked(documents: Iterable[str | AnyDocument], protocol: str) -> Iterator[Any]:
    for item in listed(documents):
        document = as_document(item) if isinstance(item, str) else item
        whole = isinstance(document, Document) and document.prompt is None
        if not whole and protocol != "default":
            raise ValueError(
                f"documents must have neither prompts nor roles under protocol {protocol}"
            )
        yield document


class _Texts:
    """The text of each window's targets, from the stretches that are encoded and not yet scored."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, Segment]] = deque()
        self._document = self._tokens = -1

    def add(self, document: int, segment: Segment) -> None:
        """Take the next stretch of a document."""
        if document != self._document:
            self._document, self._tokens = document, 0
        self._waiting.append((document, self._tokens, segment))
        self._tokens += len(segment.ids)

    def of(self, window: Window) -> str:
        """The text of a window's targets; windows come in the order of the stretches."""
        parts = []
        while self._waiting and self._waiting[0][0] <= window.document:
            document, first, segment = self._waiting[0]
            if document == window.document:
                stops = (window.start - first, min(window.end - first, len(segment.ids)))
                begin, end = (segment.ends[i - 1] - segment.start if i > 0 else 0 for i in stops)
                parts.append(segment.text[begin:end])
                if first + len(segment.ids) > window.end:
                    break
            self._waiting.popleft()
        return "".join(parts)


def _measured(block: LogitBlock) -> dict[str, Tensor]:
    statistics = row_statistics(block.logits, block.targets)
    assert statistics.target_log_prob is not None
    return {"surprisal": -statistics.target_log_prob, "entropy": statistics.entropy}
