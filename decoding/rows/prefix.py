"""Prefixes of the order of tokens; on a CPU found without sorting a vocabulary.

Weights, or keys, fall into bins by their upper bits. A histogram tells in which of them the prefix
ends, and only the tokens of that bin are put in order: O(vocab) for any row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from decoding.rows.arrays import Array, as_array, as_tensor, count, library, on_host
from decoding.rows.blocks import BLOCK

# From the weight of some first tokens, Σ weight·(max z - z) over them, and the row's limit.
GoesOn = Callable[[Array, Array, Array], Array]
Values = NDArray[np.floating]

_LOWER = 16  # bits of a float32 below its exponent and the 7 that divide an octave into bins
_ONE = 127 * 128  # the bin of 1, the largest weight
_REACHES = 8 * 128, 32 * 128, None  # bins of the weights down to 2^-8, and to 2^-32
_PEAKED = 100.0  # a row's weight, the first token's being 1, below which few tokens have most of it
_FEW = 1 / 16  # of the tokens


def first(z: Array, k: int) -> Array:
    """Mark the k >= 1 first tokens of each row of logits, lowest ids first where they are equal."""
    size = min(k, z.shape[-1])
    if size == 1:
        ids = library(z).arange(z.shape[-1], device=z.device)
        return ids == z.argmax(-1)[..., None]
    boundary = as_array(as_tensor(z).topk(size, dim=-1).values[..., -1:])
    kept = z >= boundary
    if on_host(kept) and (count(kept) <= size).all():
        return kept
    # Of the tokens at the boundary, the lowest ids fill the places that are left.
    above = z > boundary
    at = z == boundary
    return above | (at & (at.cumsum(-1) <= (size - count(above))[..., None]))


def first_of_each(z: Array, k: Array) -> Array:
    """`first` with a number `(…)` of its own for each row, which may be above their number."""
    vocab, k = z.shape[-1], k.clip(None, z.shape[-1])
    if on_host(z):
        rows = zip(z.reshape(-1, vocab), k.reshape(-1).astype(np.int64), strict=True)
        return np.array([first(row, int(size)) for row, size in rows], bool).reshape(z.shape)
    return _marked(z.argsort(dim=-1, descending=True, stable=True), k.long()[..., None])


def _marked(order: Tensor, length: Tensor) -> Tensor:
    """Mark the first tokens of an order `(…, vocab)`, as many as `(…, 1)` says."""
    inside = torch.arange(order.shape[-1], device=order.device) < length
    return torch.zeros_like(inside).scatter_(-1, order, inside)


def steepest_drop(z: Array) -> Array:
    """The number of tokens before the drop to the next logit that is largest for its place.

    Args:
        z: `(…, vocab)`, logits; `-inf` marks excluded tokens.

    Returns:
        `(…)`, int64, the smallest i >= 1 at which `(z_i - z_{i+1}) / i` is largest, the tokens in
        their order; 1 where there is one token.
    """
    if on_host(z):
        rows = z.reshape(-1, z.shape[-1])
        return np.array([_steepest_drop(row) for row in rows], np.int64).reshape(z.shape[:-1])
    largest = z.double().sort(-1, descending=True).values
    largest = pad(largest, (0, 1), value=-torch.inf)
    below = torch.where(largest[..., 1:].isfinite(), largest[..., 1:], largest[..., :-1])
    drops = (largest[..., :-1] - below).nan_to_num(nan=0.0)
    return (drops / torch.arange(1, z.shape[-1] + 1, device=z.device)).argmax(-1) + 1


def _steepest_drop(row: Values) -> int:
    finite = row[row > -np.inf].astype(np.float64)
    lowest, size = finite.min(), 64
    while True:
        size = min(size, len(finite))
        largest = -np.sort(np.partition(-finite, size - 1)[:size])
        drops = -np.diff(largest) / np.arange(1, size)
        steepest = drops.max(initial=0.0)
        # No later drop is larger than all that is left to the lowest logit, at its place.
        if size == len(finite) or (largest[-1] - lowest) / size <= steepest:
            return int(drops.argmax()) + 1 if len(drops) else 1
        size *= 8


def shortest_with_mass(
    log_weights: Array, weights: Array, total: Array, mass: Array, key: Array | None = None
) -> Array:
    """Mark, in `(…, vocab)`, the shortest prefix whose weight is at least `mass`.

    Args:
        log_weights: `(…, vocab)`, z - max z.
        weights: `(…, vocab)`, e^(z - max z).
        total: `(…)`, the weights added up.
        mass: `(…)`, in (0, total].
        key: `(…, vocab)`, >= 0; first by it ascending, and then in the common order.
    """

    def goes_on(mass: Array, _: Array, limit: Array) -> Array:
        return mass < limit

    return _prefix(log_weights, weights, total, goes_on, mass[..., None], True, key)


def longest_within_entropy(
    log_weights: Array, weights: Array, total: Array, entropy: Array
) -> Array:
    """Mark the longest prefix whose renormalised entropy is at most `entropy`, `(…)`, nats.

    The entropy of a prefix grows with its length; the first token always qualifies. The other
    arrays are those of `shortest_with_mass`.
    """

    # With x = max z - z, where Z is Σ e^-x over the prefix: H(q) = ln Z + Z⁻¹ Σ e^-x·x.
    def goes_on(mass: Array, moment: Array, limit: Array) -> Array:
        # Where rounding leaves no entropy, no more than the first token can have H(q) = 0.
        return (library(mass).log(mass) + moment / mass <= limit) & (limit > 0)

    return _prefix(log_weights, weights, total, goes_on, entropy[..., None], False, None)


def _prefix(
    log_weights: Array,
    weights: Array,
    total: Array,
    goes_on: GoesOn,
    limit: Array,
    reaching: bool,
    key: Array | None,
) -> Array:
    """Mark the first tokens of each row, as far as allowed; arrays as in `shortest_with_mass`.

    Args:
        goes_on: whether the prefix may go on, given its weight, its Σ weight·(max z - z), and the
            limit; true up to some length and false from there.
        limit: `(…, 1)`.
        reaching: the limit is on the weight alone, and the token is kept that reaches it.
    """
    if not on_host(limit):
        return _by_sorting(log_weights, weights, goes_on, limit, reaching, key)
    vocab, shape = weights.shape[-1], weights.shape
    weights, log_weights = (a.reshape(-1, vocab) for a in (weights, log_weights))
    kept = np.empty(weights.shape, bool)
    keys: Any = [None] * len(kept) if key is None else key.reshape(-1, vocab)
    # Row by row, so that what is made of one row stays in the cache.
    for i, (end, whole) in enumerate(zip(limit.flat, total.flat, strict=True)):
        # A guess: where few tokens reach the limit, the others need no look.
        if reaching and key is None and whole < _PEAKED:
            tokens = _few(weights[i], (whole - end) / (_FEW * vocab), end)
            if tokens is not None:
                own = weights[i][tokens], log_weights[i][tokens]
                among = np.empty(len(tokens), bool)
                _mark(among, *own, None, goes_on, end, reaching)
                kept[i] = False
                kept[i][tokens] = among
                continue
        _mark(kept[i], weights[i], log_weights[i], keys[i], goes_on, end, reaching)
    return kept.reshape(shape)


def _few(weights: Values, least: float, end: float) -> NDArray[np.int64] | None:
    """Tokens of a row that weigh so much, if they are few and reach the limit."""
    heavy = weights >= least
    if not 0 < np.count_nonzero(heavy) < _FEW * len(weights):
        return None
    tokens = heavy.nonzero()[0]
    return tokens if weights[tokens].sum(dtype=np.float64) >= end else None


def _mark(
    kept: NDArray[np.bool_],
    weights: Values,
    log_weights: Values,
    keys: Values | None,
    goes_on: GoesOn,
    end: float,
    reaching: bool,
) -> None:
    """Mark which of some tokens of a row are in its prefix; all arrays `(tokens)`."""
    if keys is None:
        binned = weights.astype(np.float32, copy=False)
    else:
        with np.errstate(over="ignore"):
            binned = keys.astype(np.float32)  # Rounding never changes the order.
    bins = binned.view(np.int32) >> _LOWER
    mass = moment = np.bincount(bins, weights)
    if reaching:
        end = max(end, 1e-300)  # which bins that are empty do not reach
    else:
        moment = np.bincount(bins, weights * -log_weights.clip(-1000, None))
    if keys is None:
        mass, moment = mass[::-1], moment[::-1]
    # Where the prefix is long, or the keys are many octaves apart, one look is not enough.
    for reach in _REACHES:
        masses = moments = mass[:reach].cumsum()
        if not reaching:
            moments = moment[:reach].cumsum()
        last = int(np.count_nonzero(goes_on(masses, moments, end)))
        if last < len(masses):
            break
    else:  # not even all reach the limit, which may be by rounding
        kept[:] = True
        return
    before = (masses[last - 1], moments[last - 1]) if last else (0.0, 0.0)
    if keys is None:
        last = _ONE - last
    tokens = (bins == last).nonzero()[0]
    if not len(tokens):  # by rounding
        kept[:] = bins > last if keys is None else bins < last
        return
    depth = -log_weights[tokens]
    order = depth.argsort(kind="stable") if keys is None else np.lexsort((depth, keys[tokens]))
    tokens = tokens[order]
    own = weights[tokens].astype(np.float64)
    masses = before[0] + own.cumsum()
    if reaching:
        allowed = goes_on(masses, masses, end)
        # The one that reaches the limit is the first that may not follow.
        allowed[1:] = allowed[:-1]
        allowed[0] = True
    else:
        allowed = goes_on(masses, before[1] + (own * depth[order].clip(None, 1000)).cumsum(), end)
        allowed[0] |= before[0] == 0
    edge = tokens[max(np.count_nonzero(allowed) - 1, 0)]
    if keys is None:
        np.greater(log_weights, log_weights[edge], out=kept)
    else:
        np.less(keys, keys[edge], out=kept)
    kept[tokens] = allowed


def _by_sorting(
    log_weights: Tensor,
    weights: Tensor,
    goes_on: GoesOn,
    limit: Tensor,
    reaching: bool,
    key: Tensor | None,
) -> Tensor:
    """`_prefix` without a look at any number, for which an accelerator's host would wait."""
    order = log_weights.argsort(dim=-1, descending=True, stable=True)
    if key is not None:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    sorted_weights = weights.gather(-1, order).double()
    mass = _running_sums(sorted_weights)
    if reaching:
        allowed = goes_on(mass - sorted_weights, mass, limit)
    else:
        depth = -log_weights.gather(-1, order).clip(-1000, None)
        allowed = goes_on(mass, _running_sums(sorted_weights * depth), limit)
    return _marked(order, allowed.sum(-1, keepdim=True).clip(1))


def _running_sums(values: Tensor) -> Tensor:
    """`cumsum` of `(…, vocab)` by blocks; an accelerator would go through a row step by step."""
    vocab = values.shape[-1]
    padded = pad(values, (0, -vocab % BLOCK))
    blocks = padded.reshape(*padded.shape[:-1], -1, BLOCK).cumsum(-1)
    before = pad(blocks[..., -1].cumsum(-1)[..., :-1], (1, 0))
    return (blocks + before[..., None]).reshape(padded.shape)[..., :vocab]
