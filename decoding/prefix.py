"""How far a prefix of the order goes, without sorting a vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoding.distribution import Distribution

# From the mass of some first tokens, Σ p·x over them, and the row's limit, each `(rows, …)`.
GoesOn = Callable[[Tensor, Tensor, Tensor], Tensor]

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
    keys, depths, probs = (t.detach().reshape(-1, shape[-1]) for t in (key, rows.depth, rows.probs))
    ends = limit.detach().reshape(-1, 1)
    count = len(keys)
    width = keys.amax(-1, keepdim=True).clamp_(min=1e-30, max=_REACH).div_(_BINS)
    # Subtracting, scaling and rounding down never change the order.
    scaled = (keys / width).clamp_(max=_BINS - 1)
    bins = scaled.long()

    def sums(weights: Tensor) -> Tensor:
        total = torch.zeros(count, _BINS, dtype=torch.float64)
        return total.scatter_add_(1, bins, weights.double()).cumsum(1)

    mass = sums(probs)
    moment = mass if reaching else sums(probs * depths)
    last = goes_on(mass, moment, ends).numpy().sum(1, keepdims=True)  # the bin where it ends
    edge = torch.from_numpy(last).to(scaled.dtype)
    kept = torch.lt(scaled, edge, out=torch.empty_like(probs))
    at, low = scaled.numpy(), edge.numpy()
    row, token = np.divmod(np.flatnonzero((at >= low) & (at < low + 1)), shape[-1])
    # In order within each row, and padded to a rectangle with tokens of no mass.
    order = np.lexsort((depths.numpy()[row, token], keys.numpy()[row, token], row))
    row, token = row[order], token[order]
    sizes = np.bincount(row, minlength=count)
    place = np.arange(len(row)) - (sizes.cumsum() - sizes)[row]

    def running(weights: NDArray[np.float64], whole_bins: Tensor) -> Tensor:
        padded = np.zeros((count, sizes.max()))
        padded[row, place] = weights
        padded[:, :1] += np.where(
            last > 0, np.take_along_axis(whole_bins.numpy(), np.maximum(last - 1, 0), 1), 0
        )
        return torch.from_numpy(padded.cumsum(1))

    weights = probs.numpy()[row, token].astype(np.float64)
    if not len(row):
        return kept.view(shape)
    so_far = running(weights, mass)
    if reaching:
        allowed = goes_on(so_far, so_far, ends).numpy()
        # The one that reaches the limit is the first that may not follow.
        allowed = np.concatenate([np.ones((count, 1), bool), allowed[:, :-1]], 1)
    else:
        moments = running(weights * depths.numpy()[row, token], moment)
        allowed = goes_on(so_far, moments, ends).numpy()
        allowed |= (last == 0) & (np.arange(sizes.max()) == 0)
    kept.numpy()[row, token] = allowed[row, place]
    return kept.view(shape)


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
