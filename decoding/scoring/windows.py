"""Which tokens a model reads together, and which of them each reading scores.

A document becomes one sequence: BOS, where there is one, and its tokens. A window reads a stretch
of that sequence and predicts the successor of every token it reads; what it scores are the last
predictions, those that no earlier window made. Windows are made while the sequence arrives, so a
document of any length passes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """One reading of the model."""

    document: int
    """Index of the document."""
    start: int
    """Index of the first target among the document's tokens, where BOS is -1."""
    inputs: Ids
    """What the model reads, `(length,)`."""
    targets: Ids
    """The successors of the last `len(targets)` inputs, `(scored,)`, at least one."""

    @property
    def begin(self) -> int:
        """Index of the first input among the document's tokens, where BOS is -1."""
        return self.start - 1 - (len(self.inputs) - len(self.targets))

    @property
    def end(self) -> int:
        """Index behind the last target among the document's tokens."""
        return self.start + len(self.targets)


def sliding_windows(
    document: int,
    sequence: Iterable[Ids],
    context_length: int,
    stride: int,
    *,
    bos: bool,
    first_target: int = 0,
    full_last: bool = False,
) -> Iterator[Window]:
    """Windows that begin `stride` tokens apart and read `context_length` tokens, the last fewer.

    Window k reads tokens k·stride … k·stride + context_length - 1 of the sequence. With
    `stride <= context_length` every token from `first_target` on is scored exactly once, save one
    that has no predecessor.

    Args:
        document: index of the document.
        sequence: its ids in their order, BOS included, in pieces.
        context_length: tokens that a window reads, >= 1.
        stride: tokens between the starts of windows, >= 1.
        bos: whether the sequence begins with BOS.
        first_target: index of the first token to score; what stands before is context only.
        full_last: let the last window begin early enough to read `context_length` tokens.

    Returns:
        The windows that score something, in order.
    """
    pieces = iter(sequence)
    held = np.empty(0, dtype=np.int64)
    # Below, positions count from the start of the sequence.
    offset = 0  # of the first id held
    target = first_target + bos
    start = 0
    more = True
    while more:
        # The context before this window stays, for a last window that reaches back.
        keep = max(0, start - context_length if full_last else start)
        keep = min(keep, offset + len(held))
        parts = [held[keep - offset :]]
        offset = keep
        while offset + sum(map(len, parts)) <= start + context_length:
            piece = next(pieces, None)
            if piece is None:
                more = False
                break
            parts.append(piece)
        held = parts[0] if len(parts) == 1 else np.concatenate(parts)
        stop = min(start + context_length + 1, offset + len(held))
        target = max(target, start + 1)
        if target < stop:
            begin = max(0, stop - 1 - context_length) if full_last else start
            inputs = held[begin - offset : stop - 1 - offset]
            yield Window(document, target - bos, inputs, held[target - offset : stop - offset])
            target = stop
        start += stride
