"""How far a prefix of the order goes, without sorting a vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoding.distribution import Distribution

# From the mass of some first tokens, Σ p·x over them, and the row's limit, arrays or tensors.
GoesOn = Callable[[Any, Any, Any], Any]

Values = NDArray[np.floating]

_BINS = 2048
_REACH = 32.0  # nats; what lies deeper has less than vocab · e^-32 of the mass


def shortest(
    rows: Distribution, key: Tensor, goes_on: GoesOn, limit: Tensor, *, reaching: bool
) -> Tensor:
    """Mark the first tokens by `key` ascending (then in the common order), as far as allowed.

    Each row's keys fall into equal bins. A histogram of mass over the bins tells in which of them
    the prefix ends, and only the tokens of that bin are put in order: O(vocab) for any row.

    Args:
        rows: `(…, vocab)`.
        key: `(…, vocab)`, >= 0.
        goes_on: whether the prefix may go on, given its mass, its Σ p·x, and the limit; true up to
            some length and false from there.
        limit: `(…, 1)`.
        reaching: whether the token is kept with which the prefix may no longer go on.

    Returns:
        `(…, vocab)`, 1 for these tokens and 0 elsewhere, in the dtype of the probabilities.
    """
    if key.device.type != "cpu":
        return _by_sorting(rows, key, goes_on, limit, reaching=reaching)
    shape = key.shape
    keys, depths, probs = (
        t.detach().reshape(-1, shape[-1]).numpy() for t in (key, rows.depth, rows.probs)
    )
    ends = limit.detach().reshape(-1).numpy()
    kept = np.empty_like(probs)
    # In one thread: a row is many short steps, which a second one would not make shorter.
    for row in range(len(kept)):
        _mark(kept[row], keys[row], depths[row], probs[row], goes_on, ends[row], reaching)
    return torch.from_numpy(kept).view(shape)


def _mark(
    kept: Values,
    keys: Values,
    depths: Values,
    probs: Values,
    goes_on: GoesOn,
    end: np.floating,
    reaching: bool,
) -> None:
    """Mark the tokens of one row's prefix, each argument being `(vocab,)` but the last three."""
    # Subtracting, scaling and rounding down never change the order.
    largest = float(keys.max())
    # A little wider than a share of the range, so that its end falls into the last bin.
    width = min(max(largest, 1e-30), _REACH) / _BINS * (1 + 1e-6)
    bins = (keys * keys.dtype.type(1 / width)).astype(np.int32)
    if largest > _REACH:
        np.minimum(bins, _BINS - 1, out=bins)
    places = bins.astype(np.int64)  # what bincount wants, here in a fraction of the time
    mass = np.bincount(places, probs, _BINS).cumsum()
    moment = mass if reaching else np.bincount(places, probs * depths, _BINS).cumsum()
    last = np.count_nonzero(goes_on(mass, moment, end))  # the bin where it ends
    kept[:] = bins < last
    tokens = np.flatnonzero(bins == last)
    if not len(tokens):
        return
    # In the order, and behind whole bins.
    tokens = tokens[np.lexsort((depths[tokens], keys[tokens]))]
    weights = probs[tokens].astype(np.float64)
    before = mass[last - 1] if last else 0.0
    so_far = before + weights.cumsum()
    if reaching:
        # The one that reaches the limit is the first that may not follow.
        kept[tokens[1:]] = goes_on(so_far, so_far, end)[:-1]
        kept[tokens[0]] = 1
    else:
        start = moment[last - 1] if last else 0.0
        kept[tokens] = goes_on(so_far, start + (weights * depths[tokens]).cumsum(), end)
        if not last:
            kept[tokens[0]] = 1


def _by_sorting(
    rows: Distribution, key: Tensor, goes_on: GoesOn, limit: Tensor, *, reaching: bool
) -> Tensor:
    """`shortest` without a look at any number, for which an accelerator's host would wait."""
    order = rows.depth.argsort(dim=-1, stable=True)
    if key is not rows.depth:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    weights = rows.probs.gather(-1, order).double()
    mass = weights.cumsum(-1)
    if reaching:
        allowed = goes_on(mass - weights, mass, limit)
    else:
        allowed = goes_on(mass, (weights * rows.depth.gather(-1, order)).cumsum(-1), limit)
    allowed[..., 0] = True
    return torch.zeros_like(rows.probs).scatter_(-1, order, allowed.to(rows.probs.dtype))
