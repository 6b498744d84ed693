"""Drawing tokens: reproducible uniforms, and inverse CDF as the last processor of a chain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from decoding.arrays import Array, as_array, as_tensor, double, library
from decoding.distribution import BLOCK, Distribution
from decoding.truncation import Rows


def uniforms(seed: int, prompt: str, sample: int, steps: int) -> Tensor:
    """The uniforms of one sequence, one per step: a function of its seed, prompt and sample.

    Args:
        seed: the run's seed.
        prompt: the prompt's text.
        sample: which sample of this prompt it is, from 0.
        steps: how many to draw; more steps extend the stream and change nothing before.

    Returns:
        `(steps)`, in [0, 1), float64, on the CPU.

    Source: Philox, a counter-based generator (Salmon et al. 2011), keyed by a SHA-256 digest.
    """
    identity = f"{seed}\0{sample}\0{prompt}".encode("utf-8", "surrogatepass")
    key = np.frombuffer(hashlib.sha256(identity).digest()[:16], dtype=np.uint64)
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(steps))


def draw(rows: Rows, points: Tensor) -> Tensor:
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
    weights, totals = rows.weights, rows.block_totals
    xp, (count, vocab) = library(weights), weights.shape
    row = xp.arange(count, device=weights.device)
    block, left = _invert(totals, as_array(points) * rows.total, row)
    ids = (block * BLOCK)[:, None] + xp.arange(BLOCK, device=weights.device)
    inside = double(weights[row[:, None], ids.clip(None, vocab - 1)]) * (ids < vocab)
    place, _ = _invert(inside, left, row)
    return as_tensor(ids[row, place])


def _invert(weights: Array, targets: Array, row: Array) -> tuple[Array, Array]:
    """The place where a row's running sums first exceed its target, and what is left of it there.

    Args:
        weights: `(rows, places)`, float64.
        targets: `(rows)`, float64.
        row: `(rows)`, their numbers from 0.
    """
    xp = library(weights)
    running = weights.cumsum(-1)
    total = running[:, -1]
    # Rounding must not carry the target to the total, beyond the last place with any weight.
    below = xp.minimum(targets, xp.nextafter(total, xp.zeros_like(total)))
    place = (running <= below[:, None]).sum(-1)
    left = below - running[row, place] + weights[row, place]
    return place, left.clip(0)


class DrawProcessor(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's token and leaves no other, so that greedy search takes it.

    Args:
        points: `(rows, steps)`, uniform in [0, 1), float64; one column is used up per call.
        listener: told the drawn ids, `(rows)`, before the model's loop sees them.
    """

    def __init__(self, points: Tensor, listener: Callable[[Tensor], None] | None = None) -> None:
        self.points = points
        self.listener = listener
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Turn `(rows, vocab)` log q into 0 at the drawn token and -inf elsewhere."""
        tokens = draw(scores, self.points[:, self.step])
        self.step += 1
        if self.listener is not None:
            self.listener(tokens)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)
