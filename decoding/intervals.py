"""Error bars of a mean whose observations depend on each other.

The surprisals of neighbouring tokens are not independent, so σ/√n is too small. Sums over documents,
or over long blocks of a series, are nearly independent; their spread gives an honest error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_BLOCKS = 32


class MeanError(NamedTuple):
    """A mean per observation with its standard error."""

    mean: float
    standard_error: float | None
    """None where there are fewer than two units."""
    units: int

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Confidence interval by Student's t with `units - 1` degrees of freedom, or None."""
        if self.standard_error is None:
            return None
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        half = float(stdtrit(self.units - 1, (1 + level) / 2)) * self.standard_error
        return self.mean - half, self.mean + half


def ratio_of_sums(sums: ArrayLike, counts: ArrayLike) -> MeanError:
    """The mean per observation, from the sums and the sizes of independent units.

    The mean is Σ sums / Σ counts; its error comes from the spread of sum - mean·count between
    units, which may have any sizes.

    Args:
        sums: `(units,)`, the sum of the observations of each unit.
        counts: `(units,)`, the number of its observations, >= 1.

    Returns:
        The mean, in the observations' unit, with its error.

    Raises:
        ValueError: there is no unit.

    Source: Cochran, *Sampling Techniques*, 3rd ed., section 2.11 (ratio estimator).
    """
    x, n = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if len(x) == 0:
        raise ValueError("sums must hold at least one unit, got none")
    mean = math.fsum(x) / math.fsum(n)
    if len(x) < 2:
        return MeanError(mean, None, len(x))
    spread = math.fsum((x - mean * n) ** 2) * len(x) / (len(x) - 1)
    return MeanError(mean, math.sqrt(spread) / math.fsum(n), len(x))


class BlockSums:
    """Sums of a series over at most 32 blocks of equal length, kept while it passes.

    When all blocks are full, neighbours are merged and the length doubles. So a series of n values
    has between 16 and 32 blocks of n/32 to n/16 values (batch means), in constant memory.

    Source: Schmeiser 1982, *Batch size effects in the analysis of simulation output*; Student's t
        holds once the blocks are much longer than the memory of the series.
    """

    def __init__(self) -> None:
        self.length = 1
        self.count = 0
        self._sums = [0.0]
        self._filled = 0  # values in the last block

    def add(self, values: NDArray[np.float64]) -> None:
        """Append values to the series, `(n,)`."""
        self.count += len(values)
        begin = 0
        while begin < len(values):
            if self._filled == self.length:
                self._open()
            end = min(len(values), begin + self.length - self._filled)
            self._sums[-1] += float(values[begin:end].sum())
            self._filled += end - begin
            begin = end

    def sums(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Sum and size of each block, `(blocks,)`; the last may be shorter."""
        sums = np.array(self._sums)
        counts = np.full(len(sums), self.length, dtype=np.int64)
        counts[-1] = self._filled
        return sums[counts > 0], counts[counts > 0]

    def _open(self) -> None:
        if len(self._sums) == MAX_BLOCKS:
            self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
            self.length *= 2
        self._sums.append(0.0)
        self._filled = 0
