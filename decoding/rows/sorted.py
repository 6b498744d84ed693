"""Sorted rows: many kept sets of one row at one temperature, by look-ups.

Tokens are named by their place in the order, and by their depth `x = max z - z >= 0`. A kept set is
`[a, b) ∪ [c, d)` in places, its bounds `(a, b, c, d)`; what it weighs is a difference of prefix
sums. `SortedRows` says what a rule keeps in the same words as `Distribution`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

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
        _running_sums(weights, out=mass[1:])
        return cls(depth, beta, weights, mass)


def _running_sums(values: FloatArray, out: FloatArray) -> None:
    """As NumPy's own `cumsum`, which takes three times as long."""
    torch.cumsum(torch.from_numpy(values), 0, out=torch.from_numpy(out))


def sum_over(sums: FloatArray, bounds: IntArray) -> FloatArray:
    """`(S,)`, sums over kept sets of bounds `(S, 4)`, from prefix sums `(n + 1,)`."""
    a, b, c, d = bounds.T
    over: FloatArray = sums[b] - sums[a] + (sums[d] - sums[c])
    return over


class SortedRows:
    """S kept sets of one row at one temperature; each word leaves a part of every set.

    Args:
        scaled: the row.
        bounds: `(S, 4)`, the sets.
        prefixes: whether all of them are known to begin the row and to have no hole.
    """

    def __init__(self, scaled: ScaledRow, bounds: IntArray, prefixes: bool = False) -> None:
        self.scaled, self.bounds, self.prefixes = scaled, bounds, prefixes

    @cached_property
    def mass(self) -> FloatArray:
        """`(S,)`, Σ e^{-βx} over each set."""
        return sum_over(self.scaled.mass, self.bounds)

    @cached_property
    def log_mass(self) -> FloatArray:
        """`(S,)`, ln Σ e^{-βx} over each set."""
        return np.log(self.mass)

    @cached_property
    def first_depth(self) -> FloatArray:
        """`(S,)`, x of the first token of each set."""
        return self.scaled.depth[self.bounds[:, 0]]

    @cached_property
    def log_total(self) -> FloatArray:
        """`(S,)`, the surprisal of the first token of each set, nats."""
        return self.log_mass + self.scaled.beta * self.first_depth

    @cached_property
    def mean_depth(self) -> FloatArray:
        """`(S,)`, E[x]."""
        return self._of_each(np.sum, self.scaled.depth * self.scaled.weights) / self.mass

    @cached_property
    def entropy(self) -> FloatArray:
        """`(S,)`, nats."""
        return self.log_mass + self.scaled.beta * self.mean_depth

    def renyi_entropy(self, order: float) -> FloatArray:
        """`(S,)`, of that order, nats; see `Distribution.renyi_entropy`."""
        if order == 0:
            return np.log(self._sizes)
        if order == 1:
            return self.entropy
        powers = self._of_each(np.sum, self.scaled.weights**order)
        value = (np.log(powers) - order * self.log_mass) / (1 - order)
        return np.maximum(value, self.log_total)

    @cached_property
    def deviation(self) -> FloatArray:
        """`(S,)`, standard deviation of the logits of each set."""
        return self.scaled.beta * self._of_each(np.std, self.scaled.depth)

    @cached_property
    def span(self) -> FloatArray:
        """`(S,)`, the largest logit of each set less its smallest, at temperature 1."""
        last = np.where(self.bounds[:, 2] < self.bounds[:, 3], self.bounds[:, 3], self.bounds[:, 1])
        span: FloatArray = self.scaled.depth[last - 1] - self.scaled.depth[self.bounds[:, 0]]
        return span

    @cached_property
    def cliff(self) -> FloatArray:
        """`(S,)`, how many tokens of each set stand before its steepest drop."""
        return self._of_each(_cliff, self.scaled.depth)

    def first(self, k: FloatArray) -> SortedRows:
        """The k first tokens of each set."""
        return self._before(self._place(np.minimum(k, len(self.scaled.depth))))

    def with_mass(self, mass: FloatArray) -> SortedRows:
        """The shortest part from the front whose share is at least `mass`."""
        sums = self.scaled.mass
        goal = mass * self.mass
        if self.prefixes:
            return self._before(np.searchsorted(sums, goal))
        a, b, c, _ = self.bounds.T
        first = sums[b] - sums[a]  # what the first interval holds
        beyond = np.where(goal <= first, sums[a] + goal, sums[c] + goal - first)
        return self._before(np.searchsorted(sums, beyond))

    def with_entropy(self, entropy: FloatArray) -> SortedRows:
        """The longest part from the front whose entropy is at most `entropy`, nats."""
        # The entropy of a set is summed in another order than that of its parts. Where rounding
        # leaves none, no more than the first token has none.
        limit = np.where(entropy > 0, entropy * (1 + 1e-12), -1)
        running = self._each(self._running_entropy, self.scaled.depth, self.scaled.weights)
        pairs = zip(running, limit, strict=True)
        return self._before(self._place(np.array([of.searchsorted(h, "right") for of, h in pairs])))

    def within_depth(self, depth: FloatArray) -> SortedRows:
        """Tokens whose logit is at most `depth` below the largest of their set, nats."""
        deepest = depth / self.scaled.beta
        if not self.prefixes:
            deepest = self.first_depth + deepest
        return self._before(np.searchsorted(self.scaled.depth, deepest, "right"))

    def within_surprisal(self, surprisal: FloatArray) -> SortedRows:
        """Tokens with `-log p` of at most `surprisal`, nats; the first of each set always."""
        return self.within_depth(surprisal - self.log_total)

    def typical(self, mass: FloatArray) -> SortedRows:
        """Tokens whose surprisal is nearest to the entropy, up to a share of at least `mass`.

        A surprisal's distance from the entropy is β·|x - E[x]|.

        Raises:
            ValueError: a set is of that kind already: what is left need not be two intervals.
        """
        a, b, _, d = self.bounds.T
        if (a > 0).any() or (b < d).any():
            raise ValueError("what is typical of a typical set cannot be compared on sorted rows")
        result = np.empty_like(self.bounds)
        for i, (end, mean) in enumerate(zip(self.bounds[:, 1], self.mean_depth, strict=True)):
            order = np.argsort(np.abs(self.scaled.depth[:end] - mean), kind="stable")
            running = np.cumsum(self.scaled.weights[order])
            size = np.searchsorted(running, mass[i] * running[-1]) + 1
            kept = np.sort(order[:size])
            gap = np.flatnonzero(np.diff(kept) > 1)[:1]
            last = kept[-1] + 1
            hole = (kept[gap[0]] + 1, kept[gap[0] + 1]) if len(gap) else (last, last)
            result[i] = kept[0], *hole, last
        return SortedRows(self.scaled, result)

    def log(self, value: FloatArray) -> FloatArray:
        """The natural logarithm of each number."""
        return np.log(value)

    def exp(self, value: FloatArray) -> FloatArray:
        """e to the power of each number."""
        return np.exp(value)

    @property
    def _sizes(self) -> IntArray:
        a, b, c, d = self.bounds.T
        sizes: IntArray = b - a + (d - c)
        return sizes

    def _each(self, function: Callable[..., Any], *values: FloatArray) -> list[Any]:
        """What a function makes of each set's own values, once where sets are alike."""
        found: dict[tuple[int, ...], Any] = {}
        places = [tuple(bounds) for bounds in self.bounds.tolist()]
        for a, b, c, d in dict.fromkeys(places):
            own = (of[a:b] if c >= d else np.concatenate([of[a:b], of[c:d]]) for of in values)
            found[a, b, c, d] = function(*own)
        return [found[bounds] for bounds in places]

    def _of_each(self, function: Callable[..., Any], *values: FloatArray) -> FloatArray:
        """`(S,)`, a number of each set's own values."""
        return np.array(self._each(function, *values))

    def _place(self, size: FloatArray | IntArray) -> FloatArray | IntArray:
        """The place behind so many tokens of each set."""
        if self.prefixes:
            return size
        a, b, c, _ = self.bounds.T
        place: FloatArray | IntArray = np.where(size <= b - a, a + size, c + size - (b - a))
        return place

    def _before(self, place: FloatArray | IntArray) -> SortedRows:
        """What lies before a place, and the first token of each set in any case."""
        ends = np.maximum(place.astype(np.int64)[:, None], self.bounds[:, :1] + 1)
        return SortedRows(self.scaled, np.minimum(self.bounds, ends), self.prefixes)

    def _running_entropy(self, depth: FloatArray, weights: FloatArray) -> FloatArray:
        """Entropy of the first tokens, for each number of them; rounding aside, it grows."""
        mass, moment = np.empty((2, len(depth)))
        _running_sums(weights, out=mass)
        _running_sums(depth * weights, out=moment)
        return np.maximum.accumulate(np.log(mass) + self.scaled.beta * moment / mass)


def _cliff(depth: FloatArray) -> int:
    """How many tokens stand before the steepest drop."""
    drops = np.diff(depth) / np.arange(1, len(depth))
    return int(drops.argmax()) + 1 if len(drops) else 1
