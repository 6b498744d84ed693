"""Drawing tokens by inverse CDF."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoding.rows.arrays import as_array, on_host
from decoding.rows.blocks import BLOCK
from decoding.rows.distribution import Distribution

_BELOW_ONE = math.nextafter(1, 0)  # times a number: the next one towards 0


def draw(rows: Tensor | Distribution, points: Tensor) -> Tensor:
    """Inverse-CDF sampling in id order: the first id whose cumulative probability exceeds u.

    The cumulative sums are taken in two levels: over blocks of ids, and within the block that
    holds the point.

    Args:
        rows: `(rows, vocab)`, logits or their `Distribution`.
        points: `(rows)`, uniform in [0, 1), float64.

    Returns:
        `(rows)` int64 ids; never one of probability 0.

    Source: Devroye 1986, *Non-Uniform Random Variate Generation*, chapter III.2.
    """
    rows = Distribution.of(rows)
    weights, totals, points = rows.weights, rows.block_totals, as_array(points)
    if not on_host(weights):
        return _draw_at_once(weights, totals, points)
    tokens = []
    for own, blocks, point in zip(weights, totals, points, strict=True):
        running = blocks.cumsum()
        block, left = _invert(blocks, running, point * running[-1])
        inside = own[block * BLOCK : (block + 1) * BLOCK].astype(np.float64)
        place, _ = _invert(inside, inside.cumsum(), left)
        tokens.append(block * BLOCK + place)
    return torch.from_numpy(np.array(tokens, np.int64))


def _invert(
    weights: NDArray[np.float64], running: NDArray[np.float64], target: float
) -> tuple[int, float]:
    """The place where running sums first exceed a target, and what is left of it there."""
    # Rounding must not carry the target to the total, beyond the last place with any weight.
    target = min(target, running[-1] * _BELOW_ONE)
    place = int(running.searchsorted(target, side="right"))
    return place, max(target - running[place] + weights[place], 0.0)


def _draw_at_once(weights: Tensor, totals: Tensor, points: Tensor) -> Tensor:
    """`draw` without a look at any number, for which an accelerator's host would wait."""
    count, vocab = weights.shape
    row = torch.arange(count, device=weights.device)
    running = totals.cumsum(-1)
    block, left = _invert_at_once(totals, points * running[:, -1], row)
    ids = (block * BLOCK)[:, None] + torch.arange(BLOCK, device=weights.device)
    inside = weights[row[:, None], ids.clip(None, vocab - 1)].double() * (ids < vocab)
    place, _ = _invert_at_once(inside, left, row)
    return ids[row, place]


def _invert_at_once(weights: Tensor, targets: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """`_invert` of `(rows, places)`, with the numbers of the rows."""
    running = weights.cumsum(-1)
    targets = torch.minimum(targets, running[:, -1] * _BELOW_ONE)
    place = (running <= targets[:, None]).sum(-1)
    left = targets - running[row, place] + weights[row, place]
    return place, left.clip(0)
