"""How far a prefix of the order goes; on a CPU without sorting a vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from decoding.rows.arrays import Array, on_host
from decoding.rows.distribution import BLOCK, Distribution

# From the weight of some first tokens, Σ weight·(max z - z) over them, and the row's limit.
GoesOn = Callable[[Array, Array, Array], Array]

Values = NDArray[np.floating]

_LOWER = 16  # bits of a float32 below its exponent and the 7 that divide an octave into bins
_ONE = 127 * 128  # the bin of 1, the largest weight
_REACHES = 8 * 128, 32 * 128, None  # bins of the weights down to 2^-8, and to 2^-32
_PEAKED = 100.0  # a row's weight, the first token's being 1, below which few tokens have most of it
_FEW = 1 / 16  # of the tokens


def shortest(
    rows: Distribution, goes_on: GoesOn, limit: Array, *, reaching: bool, key: Array | None = None
) -> Array:
    """Mark the first tokens of each row, as far as allowed.

    Weights, or keys, fall into bins by their upper bits. A histogram tells in which of them the
    prefix ends, and only the tokens of that bin are put in order: O(vocab) for any row.

    Args:
        rows: `(…, vocab)`.
        goes_on: whether the prefix may go on, given its weight, its Σ weight·(max z - z), and the
            limit; true up to some length and false from there.
        limit: `(…, 1)`.
        reaching: the limit is on the weight alone, and the token is kept that reaches it.
        key: `(…, vocab)`, >= 0; first by it ascending, and then in the common order.

    Returns:
        `(…, vocab)`, bool.
    """
    if not on_host(limit):
        return _by_sorting(rows, goes_on, limit, reaching=reaching, key=key)
    vocab = rows.weights.shape[-1]
    weights, log_weights = (a.reshape(-1, vocab) for a in (rows.weights, rows.log_weights))
    kept = np.empty(weights.shape, bool)
    keys: Any = [None] * len(kept) if key is None else key.reshape(-1, vocab)
    # Row by row, so that what is made of one row stays in the cache.
    for i, (end, total) in enumerate(zip(limit.flat, rows.total.flat, strict=True)):
        # A guess: where few tokens reach the limit, the others need no look.
        if reaching and key is None and total < _PEAKED:
            tokens = _few(weights[i], (total - end) / (_FEW * vocab), end)
            if tokens is not None:
                own = weights[i][tokens], log_weights[i][tokens]
                among = np.empty(len(tokens), bool)
                _mark(among, *own, None, goes_on, end, reaching)
                kept[i] = False
                kept[i][tokens] = among
                continue
        _mark(kept[i], weights[i], log_weights[i], keys[i], goes_on, end, reaching)
    return kept.reshape(rows.weights.shape)


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
    if reaching:
        end = max(end, 1e-300)  # which bins that are empty do not reach
    mass = moment = np.bincount(bins, weights)
    if not reaching:
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
    last = min(last, len(masses) - 1)
    before = (masses[last - 1], moments[last - 1]) if last else (0.0, 0.0)
    if keys is None:
        last = _ONE - last
    tokens = (bins == last).nonzero()[0]
    if not len(tokens):  # by rounding, or where all may be kept
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
    rows: Distribution, goes_on: GoesOn, limit: Tensor, *, reaching: bool, key: Tensor | None
) -> Tensor:
    """`shortest` without a look at any number, for which an accelerator's host would wait."""
    order = rows.log_weights.argsort(dim=-1, descending=True, stable=True)
    if key is not None:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    weights = rows.weights.gather(-1, order).double()
    mass = _running_sums(weights)
    if reaching:
        allowed = goes_on(mass - weights, mass, limit)
    else:
        depth = -rows.log_weights.gather(-1, order).clip(-1000, None)
        allowed = goes_on(mass, _running_sums(weights * depth), limit)
    length = allowed.sum(-1, keepdim=True).clip(1)
    prefix = torch.arange(allowed.shape[-1], device=allowed.device) < length
    return torch.zeros_like(allowed).scatter_(-1, order, prefix)


def _running_sums(values: Tensor) -> Tensor:
    """`cumsum` of `(…, vocab)` by blocks; an accelerator would go through a row step by step."""
    vocab = values.shape[-1]
    padded = pad(values, (0, -vocab % BLOCK))
    blocks = padded.reshape(*padded.shape[:-1], -1, BLOCK).cumsum(-1)
    before = pad(blocks[..., -1].cumsum(-1)[..., :-1], (1, 0))
    return (blocks + before[..., None]).reshape(padded.shape)[..., :vocab]
