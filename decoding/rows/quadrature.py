"""Sums of smooth functions over the tokens of a row, from a few nodes that stand for them all."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_POINTS = 8
_WIDTH = 0.5
_REACH = 40.0
_CHEBYSHEV = np.cos(np.pi * (np.arange(_POINTS) + 0.5) / _POINTS)  # roots of T_8
_TO_WEIGHTS = np.polynomial.chebyshev.chebvander(_CHEBYSHEV, _POINTS - 1).T * 2 / _POINTS
_TO_WEIGHTS[0] /= 2  # w_a = (1/8) Σ_k (2 - [k = 0]) T_k(x_a) Σ_tokens T_k(x)


class Nodes(NamedTuple):
    """Depths with weights that stand for the tokens of a row: `Σ_tokens f(x) ≈ Σ_a w_a f(x_a)`.

    Depths fall into bins, and in each bin f is interpolated at 8 Chebyshev points, so a weight is a
    sum of Lagrange polynomials over the bin's tokens. That is exact for polynomials of degree 7,
    whichever tokens of the bin are summed over, so each prefix of the order has weights of its own
    on the same nodes.

    The error, for the f of `comparison._js` with s = q_i + q_j: bins are so narrow that βh <= ½ for
    the largest β. f is analytic but for logarithmic branch points where Im ln(q_i/q_j) = ±π. On the
    Bernstein ellipse that stays within 0.9π, ρ = 22.6 and |f| <= 110·s(x) for every token x of the
    bin, thus interpolation errs by at most 4·110·s·ρ^-7/(ρ-1) < 7e-9·s. Σ s <= 2 and half of the
    sum counts: less than 1e-8 nats (2e-11 in tests). E[x], whose terms are entire, is off by less
    still, and so is KL in proportion to its size. Where a temperature's weights are below e^-40
    they no longer matter (vocab·e^-40 < 1e-11), so from there on bins widen with their depth.

    Source: Trefethen 2013, *Approximation Theory and Approximation Practice*, theorem 8.2.
    """

    points: FloatArray
    """`(bins·8,)`, the depths."""
    weights: FloatArray
    """`(cuts, bins·8)`, row i for the tokens before cut i."""
    reached: IntArray
    """`(cuts,)`, number of nodes up to the cut."""
    row: IntArray
    """The cut at each of the bounds, in their shape."""

    @classmethod
    def of(cls, depth: FloatArray, bounds: IntArray, betas: FloatArray) -> Nodes:
        """Nodes for the tokens of one row.

        Args:
            depth: `(tokens,)`, ascending from 0.
            bounds: places in the order, of any shape, at which kept sets begin or end.
            betas: `(scales,)`, the inverse temperatures that weigh the tokens, ascending.
        """
        cuts, row = np.unique(bounds, return_inverse=True)
        row = row.reshape(bounds.shape)
        depth = depth[: cuts[-1]]
        edges = _edges(depth[-1], betas)
        starts = np.searchsorted(depth, edges[:-1])
        sizes = np.diff(np.append(starts, len(depth)))
        filled = sizes > 0
        starts, sizes = starts[filled], sizes[filled]
        half = (edges[1:] - edges[:-1])[filled] / 2
        middle = edges[:-1][filled] + half
        x = depth - np.repeat(middle, sizes)
        x /= np.repeat(half, sizes)

        segments = np.union1d(starts, cuts[:-1])
        parts = _chebyshev_sums(x, segments).T @ _TO_WEIGHTS  # (segments, 8)
        running = np.concatenate([np.zeros((1, _POINTS)), parts.cumsum(0)])
        first_segment = np.searchsorted(segments, starts)
        whole = np.add.reduceat(parts, first_segment)  # (bins, 8)
        ends_in = np.maximum(np.searchsorted(starts, cuts) - 1, 0)  # the bin of each cut
        partial = running[np.searchsorted(segments, cuts)] - running[first_segment[ends_in]]
        before = np.arange(len(starts)) < ends_in[:, None]
        weights = np.where(before[:, :, None], whole, 0.0)  # (cuts, bins, 8)
        weights[np.arange(len(cuts)), ends_in] = partial
        weights = weights.reshape(len(cuts), -1)

        points = (middle[:, None] + half[:, None] * _CHEBYSHEV).ravel()
        return cls(points, weights, (ends_in + 1) * _POINTS, row)


def _chebyshev_sums(x: FloatArray, segments: IntArray) -> FloatArray:
    """`(8, segments)`: sums of T_0, …, T_7 over the tokens of each segment, by the recurrence."""
    sums = np.empty((_POINTS, len(segments)))
    sums[0] = np.diff(np.append(segments, len(x)))
    sums[1] = np.add.reduceat(x, segments)
    twice = x * 2
    older, newer = x, twice * x - 1
    spare = np.empty_like(x)
    for k in range(2, _POINTS):
        sums[k] = np.add.reduceat(newer, segments)
        np.multiply(twice, newer, out=spare)
        spare -= older
        older, newer, spare = newer, spare, older
    return sums


def _edges(deepest: float, betas: FloatArray) -> FloatArray:
    """Edges of bins from 0 to beyond the deepest token: equal ones, then ever wider ones."""
    width, ratio = _WIDTH / betas[-1], 1 + _WIDTH / _REACH
    needed = min(deepest, 1000 / betas[0])  # e^-1000 is zero
    count = int(min(needed / width, _REACH / _WIDTH)) + 1
    edges: FloatArray = np.arange(count + 1) * width
    if needed >= edges[-1]:
        more = math.ceil(math.log(needed / edges[-1]) / math.log(ratio)) + 1
        edges = np.concatenate([edges, edges[-1] * ratio ** np.arange(1, more + 1)])
    edges[-1] = max(edges[-1], deepest)
    return edges
