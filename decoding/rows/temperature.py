"""The temperature at which a row has a given entropy."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.rows.arrays import as_tensor, on_host
from decoding.rows.distribution import COLDEST, Distribution

TOLERANCE = 1e-6  # nats
_MOST_STEPS = 30  # 17 were the most that any of 100,000 hostile rows took
_DEEPEST = 1000.0  # e^-1000 is zero even in float64


class SolvedTemperature(NamedTuple):
    """The temperature at which each row has a given entropy."""

    temperature: Tensor
    """`(…)`, T > 0, float64."""
    entropy: Tensor
    """`(…)`, H(T), nats, float64: the target where it is attained, else the nearest possible."""
    attained: Tensor
    """`(…)`, whether the target lies between ln of the number of tokens tied for the first place
    (T → 0) and ln of the number of tokens that are not excluded (T → ∞)."""


@torch.no_grad()
def solve_temperature(logits: Tensor | Distribution, target: float) -> SolvedTemperature:
    """Solve `H(T) = h` nats, h >= 0, for T, row by row, within 1e-6 nats where it is attained.

    H grows with T: `dH/dT = Var_T[z]/T³`. Newton's method on ln H in 1/T, which is nearly straight
    where H is small: `T' = T / (1 + H·ln(H/h)·T²/Var_T[z])`. Every step narrows a bracket of ln T,
    which is bisected where Newton's step leaves it, and where a step passed the target without
    halving ln(H/h): two such steps could take turns for ever.
    A target that no temperature attains gets the limit: T → 0 (the tokens tied for the first place
    alone) below, T → ∞ (all that are not excluded, alike) above.

    Source: `dH/dT` from the derivatives of the log-partition (Jaynes 1957).
    """
    rows = Distribution.of(logits)
    excluded = rows.logits == -math.inf
    depth = (as_tensor(rows.top).double() - rows.logits).masked_fill(excluded, 0.0)
    largest = depth.amax(-1, keepdim=True).clamp(min=1e-12, max=torch.finfo(depth.dtype).max)
    # In units of its own range a row's temperature lies within these for any attainable target;
    # the range may be that of float32, where tokens are masked by its smallest number.
    log_low, log_high = torch.full_like(largest, -700.0), torch.full_like(largest, 30.0)
    depth = (depth / largest).masked_fill_(excluded, math.inf)
    tied = (rows.logits == as_tensor(rows.top)).sum(-1, dtype=torch.float64).log()
    possible = as_tensor(rows.kept).double().log()
    attained = (tied <= target) & (target <= possible)
    # Elsewhere the limit is known.
    below, above = (target < tied).unsqueeze(-1), (target > possible).unsqueeze(-1)
    log_t = torch.where(below, log_low, torch.where(above, log_high, -largest.log()))  # or T = 1
    entropy = largest
    earlier = torch.full_like(largest, math.inf)
    for _ in range(_MOST_STEPS):
        exponent = (depth / log_t.exp()).clamp_(max=_DEEPEST)
        weights = torch.exp(-exponent)
        total = weights.sum(-1, keepdim=True)
        weights *= exponent
        mean = weights.sum(-1, keepdim=True) / total
        weights *= exponent
        # Var_T[z]/T², since the exponent is x/T.
        slope = weights.sum(-1, keepdim=True) / total - mean.square()
        entropy = total.log() + mean
        error = entropy - target
        log_low = torch.where(error < 0, log_t, log_low)
        log_high = torch.where(error < 0, log_high, log_t)
        done = below | above | (error.abs() < TOLERANCE) | (log_high - log_low < 1e-12)
        # On an accelerator a look would make the host wait.
        if on_host(rows.z) and bool(done.all()):
            break
        off = (entropy / target).log()
        step = log_t - torch.log1p(entropy * off / slope).nan_to_num(nan=math.inf)
        nearer = (off * earlier > 0) | (off.abs() < earlier.abs() / 2)
        inside = (step > log_low) & (step < log_high) & nearer
        earlier = off
        log_t = torch.where(done, log_t, torch.where(inside, step, (log_low + log_high) / 2))
    temperature = (log_t.exp() * largest).clamp(min=COLDEST)
    return SolvedTemperature(temperature.squeeze(-1), entropy.squeeze(-1), attained)
