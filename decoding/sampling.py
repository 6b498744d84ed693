"""Drawing tokens: reproducible uniforms, and inverse CDF as the last processor of a chain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor

from decoding.distribution import Distribution
from decoding.truncation import Rows

Floats = NDArray[np.floating]

_BLOCK = 256


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
    probs = Distribution.of(rows).probs
    if probs.device.type == "cpu":
        return torch.from_numpy(_draw_on_host(probs.detach().numpy(), points.numpy()[:, None]))
    vocab = probs.shape[-1]
    whole = vocab // _BLOCK
    blocks = probs[:, : whole * _BLOCK].view(len(probs), whole, _BLOCK)
    rest = probs[:, whole * _BLOCK :].sum(-1, keepdim=True)
    sums = torch.cat([blocks.sum(-1), rest], dim=-1).double()
    block, left = _invert(sums, points.unsqueeze(-1) * sums.sum(-1, keepdim=True))
    ids = block * _BLOCK + torch.arange(_BLOCK, device=probs.device)
    inside = probs.gather(-1, ids.clamp(max=vocab - 1)).double() * (ids < vocab)
    place, _ = _invert(inside, left)
    return (block * _BLOCK + place).squeeze(-1)


def _draw_on_host(probs: Floats, points: Floats) -> NDArray[np.int64]:
    """`draw` in NumPy, whose short steps take a fraction of the time."""
    rows, vocab = probs.shape
    whole = vocab // _BLOCK
    sums = np.empty((rows, whole + 1))
    probs[:, : whole * _BLOCK].reshape(rows, whole, _BLOCK).sum(-1, out=sums[:, :whole])
    probs[:, whole * _BLOCK :].sum(-1, out=sums[:, whole])
    block, left = _invert_on_host(sums, points * sums.sum(-1, keepdims=True))
    ids = block * _BLOCK + np.arange(_BLOCK)
    row = np.arange(rows)[:, None]
    inside = probs[row, np.minimum(ids, vocab - 1)] * (ids < vocab)
    place, _ = _invert_on_host(inside, left)
    return (block * _BLOCK + place)[:, 0]


def _invert_on_host(weights: Floats, targets: Floats) -> tuple[NDArray[np.int64], Floats]:
    """`_invert` in NumPy."""
    running = weights.cumsum(-1, dtype=np.float64)
    below = np.minimum(targets, np.nextafter(running[:, -1:], 0))
    place = (running <= below).sum(-1)
    rows = np.arange(len(running))
    before = running[rows, place] - weights[rows, place]
    return place[:, None], np.maximum(below - before[:, None], 0)


def _invert(weights: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The place where running sums first exceed a target, and how much of it is left there."""
    running = weights.cumsum(-1)
    total = running[:, -1:]
    # Rounding must not carry the target to the total, beyond the last place with any weight.
    below = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(running, below, right=True)
    before = running.gather(-1, place) - weights.gather(-1, place)
    return place, (below - before).clamp(min=0)


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
