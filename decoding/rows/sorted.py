"""The rules of a setting on a sorted row, where what they keep is one or two intervals.

Tokens are named by their place in the order, and by their depth `x = max z - z >= 0`. A kept set is
`[a, b) ∪ [c, d)` in places, its bounds `(a, b, c, d)`; what it weighs is a difference of prefix
sums. `decoding.rules.truncation` has the same rules on rows as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class ScaledRow(NamedTuple):
    """A sorted row at one temperature."""

    depth: FloatArray
    """`(n,)`, ascending."""
    beta: float
    """β = 1/T."""
    weights: FloatArray
    """`(n,)`, e^{-βx}."""
    mass: FloatArray
    """`(n + 1,)`, their prefix sums: entry k is that of the k first tokens."""

    @classmethod
    def of(cls, depth: FloatArray, beta: float, mass: FloatArray) -> ScaledRow:
        """Weigh the tokens; the prefix sums are written into `mass`, `(n + 1,)`."""
        weights = depth * -beta
        np.exp(weights, out=weights)
        mass[0] = 0
        # NumPy's own cumsum takes three times as long.
        torch.cumsum(torch.from_numpy(weights), 0, out=torch.from_numpy(mass[1:]))
        return cls(depth, beta, weights, mass)

    def log_z(self, bounds: IntArray) -> FloatArray:
        """`(S,)`, ln Σ e^{-βx} over kept sets of bounds `(S, 4)`."""
        return np.log(sum_over(self.mass, bounds))

    def mean(self, bounds: IntArray) -> FloatArray:
        """`(S,)`, E[x] over kept sets of bounds `(S, 4)`."""
        terms = self.depth * self.weights
        sums = [terms[a:b].sum() + terms[c:d].sum() for a, b, c, d in bounds]
        return np.array(sums) / sum_over(self.mass, bounds)


def sum_over(sums: FloatArray, bounds: IntArray) -> FloatArray:
    """`(S,)`, sums over kept sets of bounds `(S, 4)`, from prefix sums `(n + 1,)`."""
    a, b, c, d = bounds.T
    over: FloatArray = sums[b] - sums[a] + (sums[d] - sums[c])
    return over


def _cut(bounds: IntArray, place: FloatArray | IntArray) -> IntArray:
    """What lies before a place, and the first token of the set in any case."""
    return np.minimum(bounds, np.maximum(place.astype(np.int64)[:, None], bounds[:, :1] + 1))


def _top_n_sigma(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    """Stands first, so its set is the whole row; neither σ nor the depth is scaled."""
    return _cut(bounds, np.searchsorted(scaled.depth, value * scaled.depth.std(), "right"))


def _top_h(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    """Comes before other cuts but top_n_sigma, so the set is a prefix."""
    moments = np.cumsum(scaled.depth * scaled.weights)
    mass = scaled.mass[1:]
    entropy = np.log(mass) + scaled.beta * moments / mass
    end = bounds[:, 1]
    # Rounding aside, the entropy of a prefix grows with it.
    running = np.maximum.accumulate(entropy)
    limit = value * entropy[end - 1] * (1 + 1e-12)
    return _cut(bounds, np.where(limit > 0, np.searchsorted(running, limit, "right"), 1))


def _p_less(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    squares = scaled.weights**2
    sums = np.array([squares[a:b].sum() + squares[c:d].sum() for a, b, c, d in bounds])
    # w/Z >= c·Σ w²/Z²
    deepest = -np.log(value * sums / sum_over(scaled.mass, bounds)) / scaled.beta
    return _cut(bounds, np.searchsorted(scaled.depth, deepest, "right"))


def _kl_budget(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    return _top_p(scaled, bounds, np.exp(-value))


def _top_k(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    return _cut(bounds, np.minimum(value, len(scaled.depth)))


def _top_p(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    mass = scaled.mass
    goal = value * sum_over(mass, bounds)
    a, b, c, _ = bounds.T
    first = mass[b] - mass[a]  # what the first interval holds
    beyond = np.where(goal <= first, mass[a] + goal, mass[c] + goal - first)
    return _cut(bounds, np.searchsorted(mass, beyond))


def _min_p(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    return _cut(bounds, np.searchsorted(scaled.depth, -np.log(value) / scaled.beta, "right"))


def _epsilon_cutoff(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    deepest = (-np.log(value) - scaled.log_z(bounds)) / scaled.beta
    return _cut(bounds, np.searchsorted(scaled.depth, deepest, "right"))


def _eta_cutoff(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    log_z = scaled.log_z(bounds)
    entropy = log_z + scaled.beta * scaled.mean(bounds)
    largest_surprisal = np.maximum(-np.log(value), entropy - np.log(value) / 2)
    deepest = (largest_surprisal - log_z) / scaled.beta
    return _cut(bounds, np.searchsorted(scaled.depth, deepest, "right"))


def _typical_p(scaled: ScaledRow, bounds: IntArray, value: FloatArray) -> IntArray:
    """A surprisal's distance from the entropy is β·|x - E[x]|, and only prefixes come before."""
    result = np.empty_like(bounds)
    for i, (end, mean) in enumerate(zip(bounds[:, 1], scaled.mean(bounds), strict=True)):
        order = np.argsort(np.abs(scaled.depth[:end] - mean), kind="stable")
        mass = np.cumsum(scaled.weights[order])
        count = np.searchsorted(mass, value[i] * mass[-1]) + 1
        kept = np.sort(order[:count])
        gap = np.flatnonzero(np.diff(kept) > 1)[:1]
        last = kept[-1] + 1
        hole = (kept[gap[0]] + 1, kept[gap[0] + 1]) if len(gap) else (last, last)
        result[i] = kept[0], *hole, last
    return result


# From bounds `(S, 4)` and the parameters `(S,)` of a rule to what it leaves.
SORTED_CUTS: dict[str, Callable[[ScaledRow, IntArray, FloatArray], IntArray]] = {
    "top_n_sigma": _top_n_sigma,
    "top_h": _top_h,
    "p_less": _p_less,
    "kl_budget": _kl_budget,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "typical_p": _typical_p,
    "epsilon_cutoff": _epsilon_cutoff,
    "eta_cutoff": _eta_cutoff,
}
