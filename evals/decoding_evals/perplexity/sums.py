"""What a perplexity and its errors are made of: sums that units of documents give, and join."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from decoding.inference.intervals import MeanError, ratio_of_sums
from decoding.information.statistics import row_statistics
from decoding.models.loading import LanguageModel
from decoding.passes.journal import Journal
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import Columns
from decoding.scoring.windows import Window, Windows
from decoding.texts.encoding import Segment
from decoding_evals.mapping.engine import OnProgress
from decoding_evals.mapping.units import Unit
from decoding_evals.perplexity.protocols import PROTOCOLS, Protocol
from decoding_evals.reading.interruptible import Interruptible, ReadPart, blocks_of

_floats: Callable[[], array[float]] = lambda: array("d")  # noqa: E731
_wholes: Callable[[], array[int]] = lambda: array("q")  # noqa: E731


@dataclass
class Sums(ReadPart):
    """Sums over the windows that a protocol scores; `by_document` and its kin have an entry for
    each document with scored tokens."""

    by_document: array[float] = field(default_factory=_floats)
    """Surprisals, nats."""
    counts: array[int] = field(default_factory=_wholes)
    """Tokens."""
    numbers: array[int] = field(default_factory=_wholes)
    """Index of the document."""
    bytes: array[int] = field(default_factory=_wholes)
    """Of its text."""
    weighted: float = 0.0
    weights: float = 0.0
    squares: float = 0.0
    entropy: float = 0.0
    words: int | None = None
    """As the protocol counts them; None where it does not."""
    text_bytes: int | None = None

    def join(self, other: ReadPart) -> None:
        """Append the sums over the documents behind."""
        assert isinstance(other, Sums)
        super().join(other)
        for name in ("by_document", "counts", "numbers", "bytes"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("weighted", "weights", "squares", "entropy"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("words", "text_bytes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, None if mine is None or theirs is None else mine + theirs)

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

    def naive_error(self) -> float | None:
        """The same as if tokens were independent; None where it is unknown."""
        tokens = self.blocks.count
        if tokens < 2 or not math.isfinite(self.squares):
            return None
        variance = max(0.0, self.squares / tokens - (self.total / tokens) ** 2)
        return math.sqrt(variance / (tokens - 1))


@dataclass(frozen=True)
class Scoring:
    """Scores the documents of a unit as a protocol does."""

    protocol: str
    windows: Windows

    def parts(
        self, models: LanguageModel, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[Sums]:
        """The sums over a unit."""
        run = PROTOCOLS[self.protocol](models, self.windows)
        run.begin(journal, unit.first)
        texts = _Texts()
        # Sums of the texts are the protocol's, and the rest is known once it has ended.
        sums = Sums({}, run.account, blocks_of(unit), 0.0, True)
        adding = _Adding(run, texts, sums)
        with Interruptible(run, sums.blocks, on_progress) as reading:
            for window, columns in run.scan(run.prepared(unit.documents), _measured, texts.add):
                adding.add(window, columns)
                reading.counted(columns["surprisal"].sum())
        run.finish(reading.complete)
        vars(sums).update(reading.part(), words=run.words, text_bytes=run.bytes)
        yield sums
        if not reading.complete:
            raise KeyboardInterrupt


class _Adding:
    """Adds windows to sums."""

    def __init__(self, run: Protocol, texts: _Texts, sums: Sums) -> None:
        self._run, self._texts, self._sums = run, texts, sums
        self._document = self._end = -1

    def add(self, window: Window, columns: Columns) -> None:
        """Take in a window."""
        sums, surprisal = self._sums, columns["surprisal"]
        text = self._texts.of(window)
        self._run.count_text(window.document, text)
        if window.document != self._document:
            self._document, self._end = window.document, 0
            sums.by_document.append(0.0)
            sums.counts.append(0)
            sums.numbers.append(window.document)
            sums.bytes.append(0)
        sums.bytes[-1] += len(text.encode())
        sums.by_document[-1] += surprisal.sum()
        sums.counts[-1] += len(surprisal)
        sums.blocks.add(surprisal)
        weight = self._run.weight(window, self._end)
        sums.weighted += weight * surprisal.mean()
        sums.weights += weight
        sums.squares += np.square(surprisal).sum()
        sums.entropy += columns["entropy"].sum()
        self._end = window.end


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
