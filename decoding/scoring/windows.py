"""Which tokens a model reads together, and which of them each reading scores.

A document becomes one sequence: what stands in front, such as BOS, and its tokens. A window reads a
stretch of that sequence and predicts the successor of every token it reads; what it scores are the
last predictions, those that no earlier window made. Windows are made while the sequence arrives, so
a document of any length passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DEFAULT_CONTEXT = 2048

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """How texts are read: in windows of `context` tokens that begin `stride` tokens apart.

    Raises:
        ValueError: `bos` or `batch_size` is outside its range. `context` and `stride` are checked
            where they meet a model, whose positions limit them.
    """

    context: int | None = None
    """Tokens that a window reads, >= 1; None: the model's positions, at most 2,048."""
    stride: int | None = None
    """Tokens between the starts of windows, in [1, context]; None: half of `context`."""
    bos: Literal["auto", "always", "never", "every"] = "auto"
    """What stands in front of each document without a prompt: under `auto` what the tokenizer
    itself puts there, else BOS, else EOS, unless it is there already; `always` puts it there in any
    case, and before prompts too; `every` puts it in front of every window, which reads that many
    tokens of the text fewer; `never` adds nothing. With nothing in front, a document's first token
    is context only."""
    batch_size: int = 8
    """Windows that run together, >= 1; on a CPU fewer where they are long."""

    def __post_init__(self) -> None:
        if self.bos not in ("auto", "always", "never", "every"):
            raise ValueError(f"bos must be auto, always, never or every, got {self.bos!r}")
        for name in ("context", "stride", "batch_size"):
            if getattr(self, name) is not None or name == "batch_size":
                check_whole(name, getattr(self, name))
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")

    def within(self, limit: int | None) -> tuple[int, int]:
        """Context and stride under a model of `limit` positions; None sets no limit.

        Raises:
            ValueError: `context` or `stride` is outside its range.
        """
        context = self.context
        if context is None:
            context = min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        elif context < 1 or (limit is not None and context > limit):
            most = "" if limit is None else f" and at most the model's {limit} positions"
            raise ValueError(f"context must be at least 1{most}, got {context}")
        stride = max(1, context // 2) if self.stride is None else self.stride
        if not 1 <= stride <= context:
            raise ValueError(f"stride must be from 1 to the context of {context}, got {stride}")
        return context, stride


def check_whole(name: str, value: object) -> None:
    """Refuse what is no whole number with a ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")


@dataclass(frozen=True)
class Window:
    """One reading of the model."""

    document: int
    """Index of the document."""
    start: int
    """Index of the first target among the document's tokens; what stands in front ends at -1."""
    inputs: Ids
    """What the model reads, `(length,)`."""
    targets: Ids
    """The successors of the last `len(targets)` inputs, `(scored,)`, at least one."""
    front: int = 0
    """How many of the inputs stand in front of this window as they do of every one."""
    closes: bool = False
    """Whether the last target is not the document's, but what was asked for behind it."""

    @property
    def begin(self) -> int:
        """Index of the first input among the document's tokens; what stands in front of the
        document ends at -1, and what stands in front of every window does not count."""
        return self.start - 1 - (len(self.inputs) - len(self.targets)) + self.front

    @property
    def end(self) -> int:
        """Index behind the last target among the document's tokens."""
        return self.start + len(self.targets)


def sliding_windows(
    document: int,
    sequence: Iterable[Ids],
    context: int,
    stride: int,
    *,
    front: int,
    first_target: int = 0,
    full_last: bool = False,
) -> Iterator[Window]:
    """Windows that begin `stride` tokens apart and read `context` tokens, the last fewer.

    Window k reads tokens k·stride … k·stride + context - 1 of the sequence. With
    `stride <= context` every token from `first_target` on is scored exactly once, save one
    that has no predecessor.

    Args:
        document: index of the document.
        sequence: its ids in their order, those in front included, in pieces.
        context: tokens that a window reads, >= 1.
        stride: tokens between the starts of windows, >= 1.
        front: how many ids stand in front of the document's tokens.
        first_target: index of the first token to score; what stands before is context only.
        full_last: let the last window begin early enough to read `context` tokens.

    Returns:
        The windows that score something, in order.
    """
    pieces = iter(sequence)
    held = np.empty(0, dtype=np.int64)
    # Below, positions count from the start of the sequence.
    offset = 0  # of the first id held
    target = first_target + front
    start = 0
    more = True
    while more:
        # The context before this window stays, for a last window that reaches back.
        keep = max(0, start - context if full_last else start)
        keep = min(keep, offset + len(held))
        parts = [held[keep - offset :]]
        offset = keep
        while offset + sum(map(len, parts)) <= start + context:
            piece = next(pieces, None)
            if piece is None:
                more = False
                break
            parts.append(piece)
        held = parts[0] if len(parts) == 1 else np.concatenate(parts)
        stop = min(start + context + 1, offset + len(held))
        target = max(target, start + 1)
        if target < stop:
            begin = max(0, stop - 1 - context) if full_last else start
            inputs = held[begin - offset : stop - 1 - offset]
            yield Window(document, target - front, inputs, held[target - offset : stop - offset])
            target = stop
        start += stride


def of_scored(windows: Iterable[Window], scored: NDArray[np.bool_]) -> Iterator[Window]:
    """Windows for those targets alone that are to be scored; each run of them is read by itself.

    Args:
        windows: of one document, in their order.
        scored: `(tokens,)`, which of the document's tokens to score.
    """
    for window in windows:
        wanted = scored[window.start : window.end]
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2).tolist():
            read = len(window.inputs) - len(window.targets) + end
            yield replace(
                window, start=window.start + begin, inputs=window.inputs[:read],
                targets=window.targets[begin:end],
            )  # fmt: skip


def each_begun(windows: Iterable[Window], front: Sequence[int]) -> Iterator[Window]:
    """Windows that all begin with the same ids.

    They take the place of the first input, which is the last of them in a document's first window
    and in a later one must score nothing.
    """
    begun = np.array(front, dtype=np.int64)
    for window in windows:
        inputs = np.concatenate([begun, window.inputs[1:]])
        yield replace(window, inputs=inputs, front=len(begun))


def last_closing(windows: Iterable[Window]) -> Iterator[Window]:
    """Windows of a document, of which the last one `closes`."""
    held = None
    for window in windows:
        if held is not None:
            yield held
        held = window
    if held is not None:
        yield replace(held, closes=True)


def split_at(windows: Iterable[Window], limit: int | None) -> Iterator[Window]:
    """Windows of which none scores on both sides of a limit.

    A model whose rotary factors change behind a limit reads a longer row otherwise, from its first
    token on. So that each token is scored as it would be drawn, a window beyond the limit is read
    twice: up to it, for the tokens there, and whole, for those behind.
    """
    for window in windows:
        inside = 0 if limit is None else limit - (len(window.inputs) - len(window.targets))
        if not 0 < inside < len(window.targets):
            yield window
            continue
        yield replace(window, inputs=window.inputs[:limit], targets=window.targets[:inside])
        yield replace(window, start=window.start + inside, targets=window.targets[inside:])
