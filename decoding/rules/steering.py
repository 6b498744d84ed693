"""Temperatures that follow the entropy of each row.

All take the logits as they are, at temperature 1, and give one temperature for each row.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from decoding.rows.arrays import as_tensor, on_host
from decoding.rows.distribution import Distribution
from decoding.rules.truncation import COLDEST, Rows

if TYPE_CHECKING:
    from decoding.settings.settings import DecodingSettings

TOLERANCE = 1e-6  # nats
_MOST_STEPS = 30  # 17 were the most that any of 100,000 hostile rows took
_DEEPEST = 1000.0  # e^-1000 is zero even in float64


def steered_temperature(settings: DecodingSettings, logits: Rows) -> Tensor | None:
    """The temperature that a setting takes for each row, or None where its own is fixed.

    Args:
        settings: the setting.
        logits: `(…, vocab)`.

    Returns:
        `(…, 1)`, T > 0, float64; or None.
    """
    if settings.edt_theta:
        return edt(logits, settings.temperature, settings.edt_theta, settings.edt_base)
    if settings.dynatemp_range:
        spread, exponent = settings.dynatemp_range, settings.dynatemp_exponent
        return dynatemp(logits, settings.temperature, spread, exponent)
    if settings.target_entropy:
        return solve_temperature(logits, settings.target_entropy).temperature
    return None


def edt(logits: Rows, temperature: float, theta: float, base: float = 0.8) -> Tensor:
    """Entropy-dependent temperature: `T = T₀·N^(θ/H)`; cold where the model is sure.

    T tends to 0 with H, and to T₀ as H grows.

    Args:
        logits: `(…, vocab)`.
        temperature: T₀ > 0.
        theta: θ > 0; larger is colder.
        base: 0 < N < 1.

    Returns:
        `(…, 1)`, T in (0, T₀], float64.

    Source: Zhang et al. 2024, arXiv:2403.14541, with N = 0.8; H in nats.
    """
    entropy = as_tensor(Distribution.of(logits).entropy).unsqueeze(-1)
    # Without entropy any temperature gives the same, and 0/0 none.
    exponent = (math.log(base) * theta / entropy).nan_to_num(nan=0.0)
    return (temperature * exponent.exp()).clamp(min=COLDEST)


def dynatemp(logits: Rows, temperature: float, spread: float, exponent: float = 1.0) -> Tensor:
    """Dynamic temperature: `T = a + (b - a)·(H / ln n)^k` from a = max(0, T₀ - r) to b = T₀ + r.

    n is the number of tokens that are not excluded; where there is one, T does not matter.

    Args:
        logits: `(…, vocab)`.
        temperature: T₀ >= 0.
        spread: r > 0.
        exponent: k > 0; above 1 most rows are colder.

    Returns:
        `(…, 1)`, T in (0, T₀ + r], float64.

    Source: llama.cpp's temp_ext sampler (`--dynatemp-range`, `--dynatemp-exp`).
    """
    rows = Distribution.of(logits)
    count = as_tensor(rows.kept).double()
    share = torch.where(count > 1, as_tensor(rows.entropy) / count.log(), 0.0).clamp(max=1)
    low, high = max(0.0, temperature - spread), min(temperature + spread, sys.float_info.max)
    return (low + (high - low) * share.pow(exponent)).clamp(min=COLDEST).unsqueeze(-1)


class SolvedTemperature(NamedTuple):
    """The temperature at which each row has a given entropy."""

    temperature: Tensor
    """`(…, 1)`, T > 0, float64."""
    entropy: Tensor
    """`(…)`, H(T), nats, float64: the target where it is attained, else the nearest possible."""
    attained: Tensor
    """`(…)`, whether the target lies between ln of the number of tokens tied for the first place
    (T → 0) and ln of the number of tokens that are not excluded (T → ∞)."""


@torch.no_grad()
def solve_temperature(logits: Rows, target: float) -> SolvedTemperature:
    """Solve `H(T) = h` for T, row by row.

    H grows with T: `dH/dT = Var_T[z]/T³`. Newton's method on ln H in 1/T, which is nearly straight
    where H is small: `T' = T / (1 + H·ln(H/h)·T²/Var_T[z])`. Every step narrows a bracket of ln T,
    which is bisected where Newton's step leaves it, and where a step passed the target without
    halving ln(H/h): two such steps could take turns for ever.
    A target that no temperature attains gets the limit: T → 0 (the tokens tied for the first place
    alone) below, T → ∞ (all that are not excluded, alike) above.

    Args:
        logits: `(…, vocab)`.
        target: h >= 0, nats.

    Returns:
        T within 1e-6 nats of the target where it is attained.

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
    return SolvedTemperature(temperature, entropy.squeeze(-1), attained)
