"""How far a prefix of the order goes, without sorting a vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoding.arrays import Array, on_host
from decoding.distribution import Distribution

# From Σ e^-x over some first tokens, Σ e^-x·x over them, and the row's limit.
GoesOn = Callable[[Array, Array, Array], Array]

Values = NDArray[np.floating]

_BINS = 1024
_REACH = 32.0  # nats; what lies deeper has less than vocab · e^-32 of the mass
_FEW = 1 / 16  # of the tokens


def shortest(
    rows: Distribution, key: Array, goes_on: GoesOn, limit: Array, *, reaching: bool
) -> Array:
    """Mark the first tokens by `key` ascending (then in the common order), as far as allowed.

    Each row's keys fall into equal bins. A histogram of weight over the bins tells in which of them
    the prefix ends, and only the tokens of that bin are put in order: O(vocab) for any row.

    Args:
        rows: `(…, vocab)`.
        key: `(…, vocab)`, >= 0.
        goes_on: whether the prefix may go on, given its weight Σ e^-x, its Σ e^-x·x, and the limit;
            true up to some length and false from there.
        limit: `(…, 1)`.
        reaching: the limit is on the weight alone, and the token is kept that reaches it.

    Returns:
        `(…, vocab)`, bool.
    """
    if not on_host(key):
        return _by_sorting(rows, key, goes_on, limit, reaching=reaching)
    vocab = key.shape[-1]
    keys, depths, weights = (a.reshape(-1, vocab) for a in (key, rows.depth, rows.weights))
    kept = np.empty(keys.shape, bool)
    ends = limit.reshape(-1)
    heavy = np.full(len(kept), np.inf, weights.dtype)
    if reaching and key is rows.depth:
        # A guess. Heavy tokens come first; where they are few and reach the limit, the others need
        # no look.
        heavy[:] = (rows.total.reshape(-1) - ends) / (_FEW * vocab)
    # In one thread: a row is many short steps, which a second one would not make shorter.
    for row, end in enumerate(ends):
        near = weights[row] >= heavy[row]
        if 0 < np.count_nonzero(near) < _FEW * vocab:
            tokens = near.nonzero()[0]
            own = weights[row][tokens]
            if own.sum(dtype=np.float64) >= end:
                depth = depths[row][tokens]
                near[tokens] = _prefix(depth, depth, own, goes_on, end, reaching)
                kept[row] = near
                continue
        kept[row] = _prefix(keys[row], depths[row], weights[row], goes_on, end, reaching)
    return kept.reshape(key.shape)


def _prefix(
    keys: Values, depths: Values, weights: Values, goes_on: GoesOn, end: float, reaching: bool
) -> NDArray[np.bool_]:
    """Which of some tokens of a row are in its prefix, all `(tokens)`."""
    # Subtracting, scaling and rounding down never change the order.
    largest = float(keys.max())
    # A little wider than a share of the range, so that its end falls into the last bin.
    width = min(max(largest, 1e-30), _REACH) / _BINS * (1 + 1e-6)
    bins = (keys * keys.dtype.type(1 / width)).astype(np.int32)
    if largest > _REACH:
        np.minimum(bins, _BINS - 1, out=bins)
    places = bins.astype(np.int64)  # what bincount wants, here in a fraction of the time
    mass = np.bincount(places, weights, _BINS).cumsum()
    moment = mass if reaching else np.bincount(places, weights * depths, _BINS).cumsum()
    # The bin where it ends; of another type it would widen all the others first.
    last = int(np.count_nonzero(goes_on(mass, moment, end)))
    kept: NDArray[np.bool_] = bins < last
    tokens = (bins == last).nonzero()[0]
    if not len(tokens):
        return kept
    # In the order, and behind whole bins.
    tokens = tokens[np.lexsort((depths[tokens], keys[tokens]))]
    own = weights[tokens].astype(np.float64)
    before = mass[last - 1] if last else 0.0
    so_far = before + own.cumsum()
    if reaching:
        # The one that reaches the limit is the first that may not follow.
        kept[tokens[0]] = True
        kept[tokens[1:]] = goes_on(so_far, so_far, end)[:-1]
    else:
        start = moment[last - 1] if last else 0.0
        kept[tokens] = goes_on(so_far, start + (own * depths[tokens]).cumsum(), end)
        if not last:
            kept[tokens[0]] = True
    return kept


def _by_sorting(
    rows: Distribution, key: Tensor, goes_on: GoesOn, limit: Tensor, *, reaching: bool
) -> Tensor:
    """`shortest` without a look at any number, for which an accelerator's host would wait."""
    order = rows.depth.argsort(dim=-1, stable=True)
    if key is not rows.depth:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    weights = rows.weights.gather(-1, order).double()
    mass = weights.cumsum(-1)
    if reaching:
        allowed = goes_on(mass - weights, mass, limit)
    else:
        allowed = goes_on(mass, (weights * rows.depth.gather(-1, order)).cumsum(-1), limit)
    allowed[..., 0] = True
    return torch.zeros_like(allowed).scatter_(-1, order, allowed)
