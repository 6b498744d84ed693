"""One pass over rows of logits: everything that teacher forcing needs, in bounded memory.

Rows are taken a block at a time, so the temporaries stay at about `BLOCK_BYTES` however many rows
there are. Within a row the maximum is subtracted first, so logits of any size are safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.rows.arrays import as_float
from decoding.rows.blocks import row_blocks

BLOCK_BYTES = 4 << 20


class RowStatistics(NamedTuple):
    """Statistics of p = softmax(z) for each row of logits z; every tensor is `(…)`.

    The identities `entropy = log_partition - mean` and `varentropy = variance` hold by definition.
    """

    log_partition: Tensor
    """A = log Σ exp z, nats."""
    mean: Tensor
    """E_p[z]."""
    variance: Tensor
    """Var_p[z], which equals the varentropy of p, nats²."""
    entropy: Tensor
    """H(p) = A - E_p[z], nats."""
    target_log_prob: Tensor | None
    """log p(target), nats; None without targets."""
    rank: Tensor | None
    """Number of tokens with a larger logit than the target's, int64; None without targets."""


def row_statistics(logits: Tensor, targets: Tensor | None = None) -> RowStatistics:
    """Log-partition, moments, entropy, and the target's log-probability and rank, per row.

    Args:
        logits: `(…, vocab)`, any floating dtype; `-inf` marks excluded tokens. Each row needs one
            finite logit and neither NaN nor +inf.
        targets: `(…)` integer ids, or None.

    Returns:
        `(…)` tensors; float32, or float64 for float64 logits.

    Raises:
        ValueError: `targets` has not the shape of the rows.
    """
    shape = logits.shape[:-1]
    if targets is not None and targets.shape != shape:
        raise ValueError(
            f"targets must have the shape of the rows, {tuple(shape)}, got {tuple(targets.shape)}"
        )
    rows = logits.reshape(-1, logits.shape[-1])
    flat_targets = None if targets is None else targets.reshape(-1)
    blocks = [*row_blocks(rows.shape, BLOCK_BYTES // 4)]
    dtype = torch.promote_types(rows.dtype, torch.float32)
    buffers = rows.new_empty((2, *rows[blocks[0]].shape), dtype=dtype)
    parts = []
    for block in blocks:
        part = rows[block]
        wanted = None if flat_targets is None else flat_targets[block]
        parts.append(_block_statistics(part, wanted, *buffers[:, : len(part)]))
    columns = [
        None if column[0] is None else torch.cat(column).reshape(shape)
        for column in zip(*parts, strict=True)
    ]
    return RowStatistics(*columns)  # type: ignore[arg-type]


def log_probs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of some tokens, per row.

    Args:
        logits: `(rows, vocab)`, as for `row_statistics`.
        ids: `(members,)`, int64, on the same device.

    Returns:
        `(rows, members)`, nats, <= 0; -∞ for an excluded token.
    """
    return torch.cat([*_log_probs_of(logits, ids)])


def log_mass(logits: Tensor, ids: Tensor) -> Tensor:
    """The logarithm of the probability of a set of tokens, `log Σ p_i` over its ids, per row.

    Args:
        logits: `(rows, vocab)`, as for `row_statistics`.
        ids: `(members,)`, int64, each once, on the same device.

    Returns:
        `(rows,)`, nats, <= 0; -∞ for a set without probability.
    """
    masses = [log_probs.logsumexp(-1) for log_probs in _log_probs_of(logits, ids)]
    return torch.cat(masses).clamp_(max=0)


@torch.no_grad()
def _log_probs_of(logits: Tensor, ids: Tensor) -> Iterator[Tensor]:
    """A few rows at a time."""
    for block in row_blocks(logits.shape, BLOCK_BYTES // 4):
        z = as_float(logits[block])
        z = z - z.amax(-1, keepdim=True)  # the sum's logarithm is small then, and exact
        yield z[:, ids] - z.logsumexp(-1, keepdim=True)


@torch.no_grad()
def _block_statistics(
    logits: Tensor, targets: Tensor | None, probs: Tensor, centred: Tensor
) -> RowStatistics:
    """Statistics of a few rows, with two buffers of their shape to work in."""
    z = as_float(logits)
    top = z.amax(-1, keepdim=True)
    # One fused pass; its sum is a long one in float32, so what the shares add up to is kept apart.
    torch.softmax(z, -1, out=probs)
    shares = probs.sum(-1)
    # The most probable token has centred logit 0.
    log_total = (shares / probs.amax(-1)).log()
    # e^-1000 is zero even in float64, so this changes no sum; it keeps 0·(-inf) out of them.
    torch.sub(z, top, out=centred).clamp_(min=-1000)
    mean = probs.mul_(centred).sum(-1) / shares
    square = probs.mul_(centred).sum(-1) / shares
    variance = (square - mean.square()).clamp_(min=0)
    entropy = (log_total - mean).clamp_(min=0)
    log_prob = rank = None
    if targets is not None:
        chosen = z.gather(-1, targets.long().unsqueeze(-1))
        log_prob = (chosen - top).squeeze(-1) - log_total
        # Booleans are slow to sum; in floats, counts are exact up to 2^24.
        rank = torch.gt(z, chosen, out=probs).sum(-1).long()
    top = top.squeeze(-1)
    return RowStatistics(log_total + top, mean + top, variance, entropy, log_prob, rank)
