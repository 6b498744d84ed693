"""Error bars of a mean whose observations depend on each other.

The surprisals of neighbouring tokens are not independent, so σ/√n is too small. Sums over
documents, or over long blocks of a series, are nearly independent; their spread gives an honest
error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_BLOCKS = 32
LEAST_BLOCK = 16
RESAMPLED_TOGETHER = 1 << 20  # replicates × units

FloatArray = NDArray[np.float64]


class MeanError(NamedTuple):
    """A mean per observation with its standard error; of several quantities, arrays `(…)`."""

    mean: FloatArray
    """NaN where there is no observation."""
    standard_error: FloatArray
    """NaN where there are fewer than two units."""
    units: int

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Confidence interval by Student's t with `units - 1` degrees of freedom; NaN where the
        error is."""
        half = student_t(level, max(1, self.units - 1)) * self.standard_error
        return self.mean - half, self.mean + half


def student_t(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = `level`, T being Student's with ν >= 1 degrees of freedom.

    P is a finite sum in the angle θ = arctan(t/√ν), and concave in it: Newton's steps from 0 go up
    to the solution and never beyond it.

    Args:
        level: in (0, 1).
        freedom: ν.

    Source: Abramowitz & Stegun 1964, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4.
    """
    odd = freedom % 2
    k = np.arange(1, (freedom - odd) // 2)
    ratios = (2 * k - 1 + odd) / (2 * k + odd)
    slope = 2 / math.sqrt(math.pi)
    slope *= math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    angle, step = 0.0, math.inf
    while step > 1e-15 * angle:
        cosine = math.cos(angle)
        share = math.sin(angle) * float(1 + np.cumprod(ratios * cosine**2).sum())
        if odd:
            share = (angle + (share * cosine if freedom > 1 else 0)) * 2 / math.pi
        step = (level - share) / (slope * cosine ** (freedom - 1))
        angle += step
    return math.sqrt(freedom) * math.tan(angle)


def ratio_of_sums(sums: ArrayLike, counts: ArrayLike) -> MeanError:
    """The mean per observation, from the sums and the sizes of independent units.

    The mean is Σ sums / Σ counts; its error comes from the spread of sum - mean·count between
    units, which may have any sizes.

    Args:
        sums: `(units, …)`, the sum of the observations of each unit.
        counts: `(units,)` or `(units, …)`, the number of its observations, >= 0.

    Returns:
        The mean, in the observations' unit, with its error, `(…)`.

    Raises:
        ValueError: there is no unit.

    Source: Cochran, *Sampling Techniques*, 3rd ed., section 2.11 (ratio estimator).
    """
    x, n = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    units = len(x)
    if units == 0:
        raise ValueError("sums must hold at least one unit, got none")
    n = n.reshape(n.shape + (1,) * (x.ndim - n.ndim))
    total = n.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = x.sum(0) / total
        spread = ((x - mean * n) ** 2).sum(0) * (units / (units - 1) if units > 1 else np.nan)
        return MeanError(mean, np.sqrt(spread) / total, units)


def resampled(units: int, replicates: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each unit comes when as many as there are get drawn with replacement.

    Yields:
        `(some replicates, units)`, few enough to be held at a time.

    Source: Efron 1979, *Bootstrap Methods: Another Look at the Jackknife*.
    """
    generator = np.random.default_rng(seed)
    together = max(1, RESAMPLED_TOGETHER // units)
    for start in range(0, replicates, together):
        rows = np.arange(min(together, replicates - start))
        drawn = generator.integers(units, size=(len(rows), units)) + units * rows[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)


class BlockSums:
    """Sums of a series over at most 32 blocks of equal length, kept while it passes.

    When all blocks are full, neighbours are merged and the length doubles. So a series of n >= 512
    values has between 16 and 32 blocks of n/32 to n/16 values (batch means), in constant memory. A
    shorter one has blocks of 16, since sums over fewer neighbours are not nearly independent, and
    one of up to 16 values has a single block, from which no error follows.

    Series that were summed apart can be joined; their blocks, up to 64, then have lengths of their
    own, which the error of a ratio allows for.

    Args:
        length: of the first blocks, >= 1.

    Source: Schmeiser 1982, *Batch size effects in the analysis of simulation output*; Student's t
        holds once the blocks are much longer than the memory of the series.
    """

    def __init__(self, length: int = LEAST_BLOCK) -> None:
        self.length = length
        """Of the blocks; where series were joined, of the longest."""
        self.count = 0
        self._sums: list[FloatArray] = []
        self._counts: list[int] = []

    def pieces(self, count: int) -> Iterator[int]:
        """How many of the next `count` observations go into each block, in order."""
        length, blocks = self.length, len(self._sums)
        filled = self._counts[-1] if blocks else length
        while count:
            if filled == length:
                if blocks == MAX_BLOCKS:
                    blocks, length = blocks // 2, 2 * length
                blocks, filled = blocks + 1, 0
            piece = min(count, length - filled)
            yield piece
            filled, count = filled + piece, count - piece

    def add(self, values: ArrayLike) -> None:
        """Append observations to the series, `(n, …)`."""
        observations = np.asarray(values, dtype=np.float64)
        begin = 0
        for piece in [*self.pieces(len(observations))]:
            self.add_sum(observations[begin : begin + piece].sum(0), piece)
            begin += piece

    def add_sum(self, total: FloatArray, count: int) -> None:
        """Append `count` observations, of which the sum `(…)` is known and which go into one block
        (see `pieces`)."""
        if not self._sums or self._counts[-1] == self.length:
            if len(self._sums) == MAX_BLOCKS:
                self._join(2)
                self.length *= 2
            self._sums.append(np.zeros_like(total))
            self._counts.append(0)
        self._sums[-1] = self._sums[-1] + total
        self._counts[-1] += count
        self.count += count

    def join(self, other: BlockSums) -> None:
        """Append another series; where there are more than 64 blocks, neighbours are merged."""
        self.length = max(self.length, other.length) if self.count else other.length
        self._sums += other._sums
        self._counts += other._counts
        self.count += other.count
        while len(self._sums) > 2 * MAX_BLOCKS:
            self._join(2)
        self.length = max(self.length, *self._counts)

    def _join(self, size: int) -> None:
        """Merge so many neighbours at a time."""
        starts = range(0, len(self._sums), size)
        self._sums = [sum(self._sums[i + 1 : i + size], self._sums[i]) for i in starts]
        self._counts = [sum(self._counts[i : i + size]) for i in starts]

    def sums(self) -> tuple[FloatArray, NDArray[np.int64]]:
        """Sum and size of each block, `(blocks, …)` and `(blocks,)`; the last may be shorter."""
        return np.array(self._sums), np.array(self._counts, dtype=np.int64)
