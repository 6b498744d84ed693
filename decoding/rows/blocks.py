"""A few rows at a time, and sums over a row by blocks of ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from decoding.rows.arrays import Array, on_host, total

Values = NDArray[np.floating]

BLOCK = 256  # ids whose weights are added up first


def row_blocks(shape: Sequence[int], numbers: int) -> Iterator[slice]:
    """Slices of rows `(rows, width)` that hold at most so many numbers, or one row.

    Without rows there is one slice, which is empty.
    """
    rows, width = shape
    step = max(1, numbers // max(1, width))
    return (slice(begin, begin + step) for begin in range(0, max(1, rows), step))


def filled(like: Array, beyond: float, write: Callable[[Array | None], Array]) -> Array:
    """What is written into `(…, vocab)`, on a CPU filled up to whole blocks.

    Args:
        like: `(…, vocab)`, for shape, type and place.
        beyond: what stands beyond the vocabulary.
        write: writes into the array that it is given; on an accelerator it makes its own.
    """
    if not on_host(like):
        return write(None)
    *lead, vocab = like.shape
    room: Values = np.empty((*lead, vocab + -vocab % min(vocab, BLOCK)), like.dtype)
    room[..., vocab:] = beyond
    with np.errstate(over="ignore"):
        write(room[..., :vocab])
    return room


def blocks(values: Array) -> Array:
    """`(…, blocks, BLOCK)` of whole blocks; of a smaller vocabulary one, of its size."""
    *lead, size = values.shape
    block = min(size, BLOCK)
    return values.reshape(*lead, size // block, block)


def block_sums(weights: Values, values: Values) -> Array:
    """`(…)`, products added up by blocks, in the precision that they have, and then in float64.

    NaN where one is 0·∞, and infinite beyond that precision's numbers.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return total(np.vecdot(blocks(weights), blocks(values)))
