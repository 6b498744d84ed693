"""Perplexity: how well a model predicts a corpus, with honest error bars."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.inference.intervals import BlockSums, ratio_of_sums
from decoding.information.statistics import row_statistics
from decoding.models.encoding import Segment
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import Account, Document, LogitBlock, as_document
from decoding.scoring.windows import Window, Windows
from decoding_evals.perplexity.protocols import PROTOCOLS
from decoding_evals.showing.result import finite

if TYPE_CHECKING:
    from torch import Tensor

FEW_DOCUMENTS = 20


@dataclass(frozen=True)
class PerplexityResult:
    """Perplexity of a model on a corpus, and how it was come by."""

    model: str
    protocol: str
    rules: str
    headline: str
    """The key of what the protocol's tool reports."""
    context: int
    stride: int
    bos: str | None
    """The token in front of each document, or None."""
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
    account: Account
    full_logits: str | None
    complete: bool
    """False where it was interrupted: the figures are of what was scored until then."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what has no finite value is None."""
        nll, tokens = self.nll_nats, self.account.tokens_scored
        per_byte = nll * tokens / self.bytes if self.bytes else math.nan
        per_word = nll * tokens / self.words if self.words else math.nan
        values = {
            name: value for name, value in vars(self).items() if name not in ("account", "nll_nats")
        }
        if self.confidence_interval is not None:
            values["confidence_interval"] = list(self.confidence_interval)
        ratio = None
        if self.standard_error is not None and self.naive_standard_error:
            ratio = self.standard_error / self.naive_standard_error
        return {
            "perplexity": _exp(nll),
            "nll_nats": finite(nll),
            "bits_per_token": finite(nll / math.log(2)),
            "bits_per_byte": finite(per_byte / math.log(2)),
            "word_perplexity": _exp(per_word),
            "byte_perplexity": _exp(per_byte),
            **values,
            "standard_error_ratio": ratio,
            **asdict(self.account),
        }


def perplexity(
    language_model: LanguageModel,
    documents: Iterable[str | Document],
    *,
    protocol: str = "default",
    windows: Windows = Windows(),
    errors: str = "auto",
    on_progress: Callable[[int, float], None] | None = None,
) -> PerplexityResult:
    """Perplexity of a corpus: the exponential of the mean surprisal of its tokens.

    Args:
        language_model: from `load_model`.
        documents: texts, or `Document`s, whose prompts are context only; taken lazily.
        protocol: `default`, or the rules of a tool: `huggingface`, `lm-eval`, `llama.cpp`,
            `gpt2-paper`; see `decoding_evals.perplexity.protocols`.
        windows: how the texts are read; the protocol has defaults of its own for `context` and
            `stride`.
        errors: what the standard error is taken over: `documents`, `blocks` of consecutive
            tokens, or `auto`, which takes documents from 20 on.
        on_progress: is given the number of scored tokens and the mean surprisal so far, nats.

    Returns:
        The result; of what was scored until then where Ctrl-C ends it early.

    Raises:
        ValueError: an argument is outside its range, a document has a prompt under another
            protocol than `default`, or there is no token to score.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if errors not in ("auto", "documents", "blocks"):
        raise ValueError(f"errors must be auto, documents or blocks, got {errors!r}")
    rules = PROTOCOLS[protocol]
    for name in rules.fixed:
        if getattr(windows, name) != getattr(Windows(), name):
            raise ValueError(f"{name} cannot be chosen: protocol {protocol} fixes it")
    run = rules(language_model, windows)

    prepared = run.prepared(_checked(documents, protocol))
    texts = _Texts()
    sums, counts = array("d"), array("q")  # by document
    blocks = BlockSums()
    weighted = weights = total = squares = entropy = 0.0
    document = end = -1
    complete = True
    try:
        for window, columns in run.scan(prepared, _measured, texts.add):
            surprisal = columns["surprisal"]
            run.count_text(window.document, texts.of(window))
            if window.document != document:
                document, end = window.document, 0
                sums.append(0.0)
                counts.append(0)
            sums[-1] += surprisal.sum()
            counts[-1] += len(surprisal)
            blocks.add(surprisal)
            weight = run.weight(window, end)
            weighted += weight * surprisal.mean()
            weights += weight
            total += surprisal.sum()
            squares += np.square(surprisal).sum()
            entropy += columns["entropy"].sum()
            end = window.end
            if on_progress is not None:
                on_progress(blocks.count, total / blocks.count)
    except KeyboardInterrupt:
        complete = False
        if not blocks.count:
            raise
        run.account.stop(blocks.count)
    run.finish(complete)
    tokens = blocks.count
    if not tokens:
        raise ValueError(
            f"nothing to score: {run.account.documents} documents with {run.account.tokens} tokens"
        )
    if not weights:
        raise ValueError(f"protocol {protocol} gives every window weight zero at this stride")
    by_document = errors == "documents" or (errors == "auto" and len(sums) >= FEW_DOCUMENTS)
    error = ratio_of_sums(sums, counts) if by_document else ratio_of_sums(*blocks.sums())
    nll = float(weighted / weights)
    low, high = (nll + float(bound) - float(error.mean) for bound in error.interval())
    naive = None
    if tokens > 1 and math.isfinite(squares):
        variance = max(0.0, squares / tokens - (total / tokens) ** 2)
        naive = math.sqrt(variance / (tokens - 1))
    return PerplexityResult(
        model=language_model.name,
        protocol=protocol,
        rules=rules.rules,
        headline=rules.headline,
        context=run.context + (protocol == "huggingface"),
        stride=run.stride,
        bos=run.bos_token,
        nll_nats=nll,
        mean_entropy_nats=float(entropy / tokens),
        words=run.words,
        bytes=run.bytes,
        standard_error=finite(float(error.standard_error)),
        naive_standard_error=naive,
        error_unit="documents" if by_document else "blocks",
        units=error.units,
        block_length=None if by_document else blocks.length,
        # No perplexity is below 1, however few tokens there are.
        confidence_interval=None if math.isnan(low) else (_exp(max(0.0, low)), _exp(high)),
        account=run.account,
        full_logits=run.full_logits,
        complete=complete,
    )


def _checked(documents: Iterable[str | Document], protocol: str) -> Iterator[Document]:
    for document in map(as_document, documents):
        if document.prompt and protocol != "default":
            raise ValueError(f"documents must have no prompts under protocol {protocol}")
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


def _exp(value: float) -> float | None:
    # e^709 is the largest double; a perplexity beyond it has no number to print.
    return math.exp(value) if value < 709 else None
