"""Drawing tokens: reproducible uniforms, and inverse CDF as the last processor of a chain."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from decoding.arrays import as_array, on_host
from decoding.distribution import BLOCK, Distribution
from decoding.truncation import Rows

_BELOW_ONE = math.nextafter(1, 0)  # times a number: the next one towards 0


def chosen_seed(seed: int | None) -> int:
    """The seed of a run: the given one, or one in [0, 2^32) that nobody can foresee."""
    return secrets.randbits(32) if seed is None else seed


def check_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        ValueError: it is no whole number in [0, 2^64).
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ValueError(f"seed must be a whole number, got {seed!r}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")


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
        self.points = self.points.to(scores.device)
        tokens = draw(scores, self.points[:, self.step])
        self.step += 1
        if self.listener is not None:
            self.listener(tokens)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.unsqueeze(-1), 0.0)
