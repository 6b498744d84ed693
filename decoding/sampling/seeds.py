"""Reproducible uniforms: a sequence is a function of the run's seed, its prompt and its sample."""

from __future__ import annotations

import hashlib
import secrets
from numbers import Integral

import numpy as np
import torch
from torch import Tensor


def chosen_seed(seed: int | None) -> int:
    """The seed of a run: the given one, or a random one in [0, 2^32)."""
    return secrets.randbits(32) if seed is None else seed


def check_seed(seed: object) -> None:
    """Refuse, by a ValueError, what is no whole number in [0, 2^64)."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ValueError(f"seed must be a whole number, got {seed!r}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed must be in [0, 2^64), got {seed}")


def uniforms(seed: int, prompt: str, sample: int, steps: int) -> Tensor:
    """The uniforms of one sequence, `(steps)`, in [0, 1), float64, on the CPU.

    Args:
        seed: the run's seed.
        prompt: the prompt's text.
        sample: which sample of this prompt it is, from 0.
        steps: how many to draw; more steps extend the stream and change nothing before.

    Source: Philox, a counter-based generator (Salmon et al. 2011), keyed by a SHA-256 digest.
    """
    identity = f"{seed}\0{sample}\0{prompt}".encode("utf-8", "surrogatepass")
    key = np.frombuffer(hashlib.sha256(identity).digest()[:16], dtype=np.uint64)
    return torch.from_numpy(np.random.Generator(np.random.Philox(key=key)).random(steps))
