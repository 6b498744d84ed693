"""Many settings on one sorted row: kept sets, masses and divergences by look-ups.

Temperature never changes the order of tokens, and nearly every cut keeps a prefix of it.
So a row is sorted once, each temperature adds prefix sums of `e^{βz}` (β = 1/T), and kept sets,
their masses and the total variation of a pair are look-ups. Entropy and KL need `E[z]` besides.
That, and the Jensen–Shannon divergence, which has no closed form between two temperatures, are
summed over a few hundred nodes that stand for the whole row, within 1e-8 nats (see
`decoding.rows.quadrature`).

All is float64 NumPy. Tokens are named by their place in the order (logit descending, then
id ascending) and by their depth `x = max z - z >= 0`, so `q(x) = e^{-βx} / Z` on the kept set. In
places that is one or two intervals (see `decoding.rows.sorted`): a prefix is `[0, k)`, and a
typical set is one interval, or two where it holds a part of some tied tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.rows.distribution import COLDEST
from decoding.rows.quadrature import Nodes
from decoding.rows.sorted import FloatArray, IntArray, ScaledRow, SortedRows, sum_over
from decoding.rules import Cut
from decoding.settings.settings import RULES_IN_ORDER, DecodingSettings


class RowComparison(NamedTuple):
    """Quantities of each row under S settings, q_i being the i-th setting's distribution."""

    entropy: FloatArray
    """`(rows, S)`, H(q), nats."""
    kept: IntArray
    """`(rows, S)`, size of the support of q."""
    kept_mass: FloatArray
    """`(rows, S)`, mass of the support of q at the setting's temperature before truncation, in
    (0, 1]; for greedy the probability of its token before the cut, at temperature 1."""
    surprisal: FloatArray
    """`(rows, S)`, -log q(target), nats; infinite where the target is cut off."""
    kl: FloatArray
    """`(rows, S, S)`, `[i, j]` is KL(q_i‖q_j), nats; infinite unless j keeps all that i keeps."""
    js: FloatArray
    """`(rows, S, S)`, Jensen–Shannon divergence, nats, in [0, ln 2]; symmetric."""
    total_variation: FloatArray
    """`(rows, S, S)`, `½ Σ |q_i - q_j|`, in [0, 1]; symmetric."""


class Plan:
    """What the settings alone decide: temperatures, steps of each, and pairs."""

    def __init__(self, settings: Sequence[DecodingSettings]) -> None:
        self.size = len(settings)
        # Beyond these bounds the result is the limit already. Greedy is a prefix of one token,
        # whatever the temperature; at 1 its kept mass is the raw probability.
        betas = [
            1 / min(max(s.temperature, COLDEST), 1e38) if not s.greedy else 1 for s in settings
        ]
        self.betas, self.scale = np.unique(betas, return_inverse=True)
        self.beta = self.betas[self.scale]
        self.greedy = np.flatnonzero([s.greedy for s in settings])
        # For each temperature: its settings; and their cuts in their order, each with its settings
        # and their values.
        self.members = [np.flatnonzero(self.scale == scale) for scale in range(len(self.betas))]
        self.cuts = [_cuts(settings, np.setdiff1d(some, self.greedy)) for some in self.members]
        # In every pair the first is at least as sharp as the second.
        by_sharpness = np.argsort(-self.beta, kind="stable")
        self.upper = np.triu_indices(self.size, 1)
        self.sharp, self.flat = by_sharpness[self.upper[0]], by_sharpness[self.upper[1]]


def _cuts(
    settings: Sequence[DecodingSettings], members: IntArray
) -> list[tuple[Cut, IntArray, FloatArray]]:
    """The cuts of some settings; a rule of the package is applied to all that have it at once."""
    cuts: list[tuple[Cut, IntArray, FloatArray]] = []
    for rule in RULES_IN_ORDER:
        found = {i: one for i in members for one in settings[i].rules if type(one) is rule}
        first = next(iter(found.values()), None)
        if isinstance(first, Cut):
            values = np.array([one.value for one in found.values()], np.float64)
            cuts.append((first, np.array([*found]), values))
    for i in members:
        for one in settings[i].extra:
            assert isinstance(one, Cut)
            cuts.append((one, np.array([i]), np.array([one.value], np.float64)))
    return cuts


def compare_row(logits: NDArray[np.floating], target: int, plan: Plan) -> RowComparison:
    """`RowComparison` of one row, without the axis of rows."""
    with np.errstate(over="ignore", under="ignore"):
        depth = _depths(logits)
        mass = np.empty((len(plan.betas), len(depth) + 1))
        bounds = np.empty((plan.size, 4), np.int64)
        z, kept_mass = np.empty((2, plan.size))
        for scale, beta in enumerate(plan.betas):
            scaled = ScaledRow.of(depth, beta, mass[scale])
            members = plan.members[scale]
            bounds[members] = 0, len(depth), len(depth), len(depth)
            prefixes = True
            for cut, chosen, values in plan.cuts[scale]:
                kept = cut.keep(SortedRows(scaled, bounds[chosen], prefixes), values)
                bounds[chosen], prefixes = kept.bounds, prefixes and kept.prefixes
            if beta == 1:
                bounds[plan.greedy] = 0, 1, 1, 1
            z[members] = sum_over(scaled.mass, bounds[members])
            kept_mass[members] = z[members] / scaled.mass[-1]
        sets = _Sets(bounds, z, np.log(z), bounds @ np.array([-1, 1, -1, 1]))
        nodes = Nodes.of(depth, bounds, plan.betas)
        # -ln q at the nodes; e^-1000 is zero already.
        exponent = np.minimum(np.outer(plan.beta, nodes.points), 1000) + sets.log_z[:, None]
        weights = sum_over(nodes.weights, nodes.row)
        mean = np.einsum("sn,n->s", weights * np.exp(-exponent), nodes.points)
        entropy = np.maximum(sets.log_z + plan.beta * mean, 0)
        entropy[sets.kept == 1] = 0
        surprisal = _surprisal(logits, target, sets, plan.beta)
        kl, total_variation = _kl_and_total_variation(depth, mass, mean, sets, plan)
        js = _js(nodes, exponent, sets, plan)
    return RowComparison(
        entropy, sets.kept, np.minimum(kept_mass, 1), surprisal, kl, js, total_variation
    )


class _Sets(NamedTuple):
    """The kept sets of one row."""

    bounds: IntArray  # (S, 4): a, b, c, d
    z: FloatArray  # (S,), Σ e^{-βx}
    log_z: FloatArray  # (S,)
    kept: IntArray  # (S,)


def _depths(logits: NDArray[np.floating]) -> FloatArray:
    """`max z - z` of the tokens that are not excluded, ascending."""
    top = logits.max()
    ascending = _sort(-logits)
    depth = ascending[: np.searchsorted(ascending, math.inf)].astype(np.float64)
    depth += float(top)
    # Only float64 logits can be further apart than a float64 can tell.
    return np.minimum(depth, np.finfo(np.float64).max, out=depth)


def _sort(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Values ascending; of a float32's two halves, by radix, in half the time of `np.sort`."""
    if values.dtype != np.float32:
        return np.sort(values)
    bits = values.view(np.int32)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # whole numbers in the order of the floats
    order = keys.astype(np.uint16).argsort(kind="stable")
    order = order[(keys >> 16).astype(np.int16)[order].argsort(kind="stable")]
    return values[order]


def _surprisal(
    logits: NDArray[np.floating], target: int, sets: _Sets, beta: FloatArray
) -> FloatArray:
    own = logits[target]
    if own == -math.inf:
        return np.full(len(beta), math.inf)
    place = np.count_nonzero(logits > own) + np.count_nonzero(logits[:target] == own)
    a, b, c, d = sets.bounds.T
    inside = ((a <= place) & (place < b)) | ((c <= place) & (place < d))
    depth = float(logits.max()) - float(own)
    return np.where(inside, np.maximum(beta * depth + sets.log_z, 0), math.inf)


def _holes(bounds: IntArray) -> NDArray[np.bool_]:
    """`(S,)`, which sets are no prefix."""
    return (bounds[:, 0] > 0) | (bounds[:, 1] < bounds[:, 3])


def _overlaps(
    bounds: IntArray, first: IntArray | np.int64, second: IntArray
) -> Iterator[tuple[IntArray, IntArray]]:
    """Disjoint intervals that make up what both sets of each pair keep; some are empty."""
    starts = (0, 2) if _holes(bounds).any() else (0,)
    for i in starts:
        for j in starts:
            low = np.maximum(bounds[first, i], bounds[second, j])
            high = np.minimum(bounds[first, i + 1], bounds[second, j + 1])
            yield low, np.maximum(low, high)


def _kl_and_total_variation(
    depth: FloatArray, mass: FloatArray, mean: FloatArray, sets: _Sets, plan: Plan
) -> tuple[FloatArray, FloatArray]:
    """Both `(S, S)`.

    KL is linear in the depth, so it needs E[x] alone. For the total variation, ln q_i/q_j is linear
    too and changes sign once: with i the sharper one, q_i is the larger up to that depth.
    """
    first, second = plan.sharp, plan.flat
    gap = sets.log_z[second] - sets.log_z[first]
    crossing = np.where(gap > 0, math.inf, 0)
    slope = plan.beta[first] - plan.beta[second]
    np.divide(gap, slope, out=crossing, where=slope > 0)
    place = np.searchsorted(depth, crossing)
    i, j = plan.scale[first], plan.scale[second]
    count, common, ahead_i, ahead_j = np.zeros((4, len(first)))
    for low, high in _overlaps(sets.bounds, first, second):
        until = np.minimum(np.maximum(place, low), high)
        count += high - low
        common += mass[i, high] - mass[i, low]
        ahead_i += mass[i, until] - mass[i, low]
        ahead_j += mass[j, until] - mass[j, low]
    # Where q_i is the larger: what only i keeps, and the common tokens before the crossing.
    larger = 1 - common / sets.z[first] + ahead_i / sets.z[first] - ahead_j / sets.z[second]
    total_variation = np.zeros((plan.size, plan.size))
    total_variation[first, second] = total_variation[second, first] = np.clip(larger, 0, 1)

    excess = (plan.beta - plan.beta[:, None]) * mean[:, None]
    kl = np.maximum(excess + (sets.log_z - sets.log_z[:, None]), 0)
    kl[first, second] = np.where(count < sets.kept[first], math.inf, kl[first, second])
    kl[second, first] = np.where(count < sets.kept[second], math.inf, kl[second, first])
    return kl, total_variation


def _js(nodes: Nodes, exponent: FloatArray, sets: _Sets, plan: Plan) -> FloatArray:
    """`(S, S)`: `ln 2 - ½ Σ f` over the common tokens, `f = s·ln s - q_i·ln q_i - q_j·ln q_j`."""
    # With the smaller sets first, a pair of prefixes has the first one's tokens in common.
    order = np.argsort(sets.bounds[:, 3], kind="stable")
    row, exponent = nodes.row[order], exponent[order]
    typical = _holes(sets.bounds)[order]
    q = np.exp(-exponent) + np.finfo(np.float64).tiny  # the tiny number keeps 0·ln 0 out
    q_log_q = -q * exponent
    total = np.zeros((plan.size, plan.size))
    for i in range(plan.size - 1):
        end = row[i, 3]
        until = nodes.reached[end]
        f = q[i + 1 :, :until] + q[i, :until]
        f *= np.log(f)
        f -= q_log_q[i + 1 :, :until]
        f -= q_log_q[i, :until]
        # Not `@`: on a busy machine BLAS's threads took 40 times as long.
        total[i, i + 1 :] = np.einsum("jn,n->j", f, nodes.weights[end, :until])
        if typical.any():
            several = np.flatnonzero(typical[i + 1 :] | typical[i])
            weights = np.zeros((len(several), until))
            for low, high in _overlaps(row, np.int64(i), several + i + 1):
                weights += nodes.weights[high, :until] - nodes.weights[low, :until]
            total[i, several + i + 1] = np.einsum("jn,jn->j", f[several], weights)
    values = np.clip(math.log(2) - total[plan.upper] / 2, 0, math.log(2))
    js = np.zeros_like(total)
    first, second = order[plan.upper[0]], order[plan.upper[1]]
    js[first, second] = js[second, first] = values
    return js
