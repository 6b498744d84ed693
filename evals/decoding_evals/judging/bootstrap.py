"""The bootstrap: how much a statistic would vary over samples like this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decoding.inference.intervals import resampled
from decoding_evals.showing.result import Floats, Integers

Statistic = Callable[[Integers], Floats]


class Interval(NamedTuple):
    """A percentile interval over resamples; its ends are None where no resample gave a value."""

    low: float | None
    high: float | None
    undefined: int
    """Resamples in which the statistic was undefined; they are left out."""

    def ends(self) -> list[float] | None:
        """`[low, high]`, or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]


def bootstrap(
    statistic: Statistic, units: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of a statistic, from units drawn again with replacement.

    Args:
        statistic: takes `(some resamples, units)`, how often each unit was drawn, and gives their
            values, `(some resamples,)`; NaN where it is undefined.
        units: number of independent units, such as prompts, >= 1.
        resamples: >= 1.
        level: probability that the interval stands for, in (0, 1).
        seed: of the draws; the same seed draws the same units for every statistic.

    Raises:
        ValueError: an argument lies outside its range.

    Source: Efron 1979, *Bootstrap Methods: Another Look at the Jackknife*.
    """
    for name, value in (("units", units), ("resamples", resamples)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    found = np.concatenate([statistic(counts) for counts in resampled(units, resamples, seed)])
    found = found[~np.isnan(found)]
    if not len(found):
        return Interval(None, None, resamples)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), resamples - len(found))
