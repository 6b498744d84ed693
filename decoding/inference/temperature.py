"""Estimating a temperature from text, and the top-p that covers it.

Under the temperature T, token y of a row of logits z has the probability `exp(z_y/T - A)`. With
β = 1/T and F(β) the surprisal of a text, F is convex, and its derivatives with respect to ln β need
no more than three sums over the tokens, all under T:

    F = Σ surprisal,   β·F' = Σ (surprisal - entropy),   β²·F'' = Σ varentropy

So the likeliest temperature is the one under which a text is as surprising as it should be, and the
Fisher information of ln T is the sum of the varentropies. Whoever can make these sums for a given
temperature can fit one: no logits are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from decoding.inference.intervals import resampled
from decoding.information.statistics import BLOCK_BYTES, row_statistics
from decoding.rows.arrays import as_float
from decoding.rows.blocks import row_blocks
from decoding.rows.distribution import Distribution

Floats = NDArray[np.float64]
Interval = tuple[float, float]

SMALLEST, LARGEST = 1e-3, 1e3  # temperatures; in float32, beyond them little is left of the logits
TOLERANCE = 1e-4  # a Newton step of this size leaves an error of about its square
MOST_STEPS = 60
NORMAL_95 = 1.959963984540054
REPLICATES = 1000


@dataclass(frozen=True)
class LogNormalPrior:
    """A prior on the temperature: ln T is normal about `ln median` with deviation `scale`.

    Args:
        median: of T, in [0.001, 1000].
        scale: standard deviation of ln T, in [1e-6, 1e6].

    Raises:
        ValueError: one of them is outside its range.
    """

    median: float = 1.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        bounds = (("median", SMALLEST, LARGEST), ("scale", 1e-6, 1e6))
        for name, low, high in bounds:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(
                    f"prior {name} must be positive, from {low:g} to {high:g}, got {value!r}"
                )


class TemperatureSums(NamedTuple):
    """Sums over the tokens of each document under a temperature; arrays `(documents,)`."""

    tokens: Floats
    surprisal: Floats
    """Σ -log q(token), nats."""
    entropy: Floats
    """Σ H(q), nats."""
    varentropy: Floats
    """Σ of the variance of -log q under q, nats²."""
    off_top: Floats
    """Tokens to which another one is preferred."""


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature with its errors; intervals are of 95 %."""

    temperature: float
    """The likeliest: 0, or from 0.001 to 1,000."""
    confidence_interval: tuple[float, float | None]
    """From the Fisher information of ln T, right where the text was drawn from the model. At
    temperature 0, from 0 to where such a text has probability 0.05, or None where it never has."""
    bootstrap_interval: Interval | None
    """From drawing documents anew, which holds for any text, but needs more than a few documents;
    None where there are fewer than two, and at temperature 0."""
    map_temperature: float | None
    """Where the posterior density of ln T is largest; None without a prior."""
    map_interval: Interval | None
    """From the curvature of its logarithm there."""
    steps: int
    """Newton steps to `temperature`."""
    passes: int
    """How often sums were made, for everything together."""
    tokens: int
    documents: int
    """Those with tokens."""


def estimate_temperature(
    sums: Callable[[float], TemperatureSums],
    prior: LogNormalPrior | None = None,
    start: float = 1.0,
) -> TemperatureFit:
    """Fit a temperature by maximum likelihood and, with a prior, by its posterior mode.

    Newton's method on β = 1/T, in which the surprisal is convex, with steps of at most a factor of
    4 inside the bracket found so far. The posterior mode maximises
    `log likelihood - (ln T - ln median)² / (2·scale²)`, the density of ln T and not of T; Newton
    starts at the likeliest temperature, and at the median where that is 0.

    Args:
        sums: gives the sums of each document under a temperature; called 3 to 10 times.
        prior: of the temperature.
        start: where to begin, > 0.

    Raises:
        ValueError: there is no token, one has probability 0 at every temperature, all temperatures
            are equally likely, or none up to 1,000 is likelier than still higher ones.

    Source: Guo et al. 2017, arXiv:1706.04599 (temperature scaling); Newton, errors and prior are
        textbook. Of the bootstrap, one Newton step from the fit for each replicate (Davidson &
        MacKinnon 1999).
    """
    sums = cache(sums)
    beta = 1 / min(max(start, SMALLEST), LARGEST)
    first = sums(1 / beta)
    total = TemperatureSums(*(column.sum() for column in first))
    if not total.tokens:
        raise ValueError("there is no token to fit a temperature to")
    if not math.isfinite(total.surprisal):
        raise ValueError("no temperature fits: a token has probability 0 at all of them")
    if not total.varentropy and total.surprisal == total.entropy:
        raise ValueError("every temperature fits: the model's distributions do not depend on it")

    interval: tuple[float, float | None]
    bootstrap = None
    if not total.off_top:
        temperature = 0.0
        last, beta, steps = _solve(sums, beta, _improbable)
        interval = (0.0, None if beta <= 1 / LARGEST else 1 / beta)
    else:
        last, beta, steps = _solve(sums, beta, _likeliest)
        temperature = 1 / beta
        if temperature <= SMALLEST:
            raise ValueError(
                "no temperature fits: the smaller, the likelier, though the text is not greedy"
            )
        if temperature >= LARGEST:
            raise ValueError(
                "no temperature fits: uniform draws are likelier than the model at any of them"
            )
        at = sums(1 / last)
        interval = _log_interval(temperature, 1 / math.sqrt(at.varentropy.sum()))
        bootstrap = _bootstrap(1 / last, at)

    map_temperature = map_interval = None
    if prior is not None:
        begin = last if temperature else 1 / min(max(prior.median, SMALLEST), LARGEST)
        posterior = _posterior(prior)
        last, beta, _ = _solve(sums, begin, posterior)
        map_temperature = 1 / beta
        _, precision = posterior(last, sums(1 / last))
        map_interval = _log_interval(map_temperature, 1 / math.sqrt(precision))
    return TemperatureFit(
        temperature=temperature,
        confidence_interval=interval,
        bootstrap_interval=bootstrap,
        map_temperature=map_temperature,
        map_interval=map_interval,
        steps=steps,
        passes=sums.cache_info().misses,
        tokens=int(total.tokens),
        documents=int((first.tokens > 0).sum()),
    )


def fit_temperature(
    logits: Tensor, targets: Tensor, prior: LogNormalPrior | None = None
) -> TemperatureFit:
    """Fit a temperature to rows of logits that are in memory, which count as one document.

    Args:
        logits: `(…, vocab)`, any floating dtype.
        targets: `(…)`, the tokens that came, integer ids.
        prior: of the temperature.

    Raises:
        ValueError: `targets` has not the shape of the rows, or as for `estimate_temperature`.
    """

    def sums(temperature: float) -> TemperatureSums:
        columns = temperature_columns(logits, targets, temperature)
        return TemperatureSums(
            *(np.array([column.double().sum().item()]) for column in columns.values())
        )

    return estimate_temperature(sums, prior)


def temperature_columns(logits: Tensor, targets: Tensor, temperature: float) -> dict[str, Tensor]:
    """What each token adds to `TemperatureSums`, `(…)`, by the names there and in their order.

    Arguments as for `fit_temperature`, and T > 0.
    """
    q = row_statistics(Distribution(logits).tempered(temperature).logits, targets)
    assert q.target_log_prob is not None and q.rank is not None
    return {
        "tokens": torch.ones_like(q.entropy),
        "surprisal": -q.target_log_prob,
        "entropy": q.entropy,
        "varentropy": q.variance,
        "off_top": q.rank > 0,
    }


def mass_before(logits: Tensor, targets: Tensor) -> Tensor:
    """Mass of the tokens that stand before the target, by logit descending, then id ascending.

    A nucleus of mass p holds the target exactly where this is less than p. For logits
    `(rows, vocab)` and targets `(rows,)` it is `(rows,)`, float64, in [0, 1).
    """
    ids = torch.arange(logits.shape[-1], device=logits.device)
    parts = []
    for block in row_blocks(logits.shape, BLOCK_BYTES // 4):
        z = as_float(logits[block])
        tokens = targets[block].unsqueeze(-1)
        chosen = z.gather(-1, tokens)
        before = (z > chosen) | ((z == chosen) & (ids < tokens))
        parts.append((z.softmax(-1) * before).sum(-1, dtype=torch.float64))
    return torch.cat(parts)


def top_p_for_coverage(masses: ArrayLike, coverage: float) -> float:
    """The smallest top_p whose nuclei hold a share of the true tokens, in steps of 1e-6.

    Args:
        masses: `(tokens,)`, of `mass_before`, at least one.
        coverage: the share, in (0, 1].

    Returns:
        top_p, in (0, 1]; 1, which keeps all, where the step below it holds too few.

    Raises:
        ValueError: `coverage` is outside its range.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], got {coverage!r}")
    ordered = np.sort(np.asarray(masses, dtype=np.float64))
    if not len(ordered):
        raise ValueError("masses must hold at least one token, got none")
    # The product may come out above the whole number that it is.
    needed = max(1, math.ceil(coverage * len(ordered) - 1e-9))
    return min(1.0, round((math.floor(float(ordered[needed - 1]) * 1e6) + 1) / 1e6, 6))


def resampled_sums(sums: Floats, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """The bootstrap: sums `(replicates, …)` over as many units as there are, drawn anew.

    Args:
        sums: `(units, …)`, of each unit.
        replicates: how often to draw, with replacement.
        seed: of the draws.

    Source: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, chapter 6.
    """
    units = len(sums)
    flat = sums.reshape(units, -1)
    parts = [times @ flat for times in resampled(units, replicates, seed)]
    return np.concatenate(parts).reshape(replicates, *sums.shape[1:])


# Of an objective at β, its slope and curvature, such that Newton multiplies β by
# 1 - slope / curvature. Where the slope is positive, β is too large.
_Derivatives = Callable[[float, TemperatureSums], tuple[float, float]]


def _likeliest(beta: float, sums: TemperatureSums) -> tuple[float, float]:
    return float(sums.surprisal.sum() - sums.entropy.sum()), float(sums.varentropy.sum())


def _improbable(beta: float, sums: TemperatureSums) -> tuple[float, float]:
    """Not an optimum, but where the text has probability 0.05, and all that are likelier 0.95."""
    excess = sums.surprisal.sum() - sums.entropy.sum()
    return math.log(20) - float(sums.surprisal.sum()), -float(excess)


def _posterior(prior: LogNormalPrior) -> _Derivatives:
    def derivatives(beta: float, sums: TemperatureSums) -> tuple[float, float]:
        slope, information = _likeliest(beta, sums)
        away = (math.log(beta) + math.log(prior.median)) / prior.scale**2
        precision = information + prior.scale**-2
        # Far out the posterior is not concave, and the information alone shows the way.
        return slope + away, precision - away if precision > away else precision

    return derivatives


def _solve(
    sums: Callable[[float], TemperatureSums], beta: float, derivatives: _Derivatives
) -> tuple[float, float, int]:
    """Where the slope is 0: the last β at which it was taken, the solution, and the steps."""
    low, high = 0.0, math.inf
    for step in range(1, MOST_STEPS + 1):
        slope, curvature = derivatives(beta, sums(1 / beta))
        if slope > 0:
            high = beta
        else:
            low = beta
        # Where all logits are alike but for rounding, there is no curvature left.
        change = slope / curvature if curvature > 0 else math.copysign(math.inf, slope)
        new = beta * min(max(1 - change, 0.25), 4.0)
        if not low <= new <= high:
            new = math.sqrt(low * high)
        new = min(max(new, 1 / LARGEST), 1 / SMALLEST)
        if abs(math.log(new / beta)) < TOLERANCE:
            return beta, new, step
        beta = new
    raise ValueError(f"no temperature fits: no convergence, at T = {1 / beta:g}")


def _log_interval(temperature: float, deviation: float) -> Interval:
    factor = math.exp(min(NORMAL_95 * deviation, 700.0))
    return temperature / factor, temperature * factor


def _bootstrap(temperature: float, sums: TemperatureSums) -> Interval | None:
    table = np.stack([sums.surprisal - sums.entropy, sums.varentropy], axis=1)[sums.tokens > 0]
    if len(table) < 2:
        return None
    excess, information = resampled_sums(table).T
    # A replicate of documents that are certain of every token says nothing.
    informed = information > 0
    logs = math.log(temperature) + excess[informed] / information[informed]
    low, high = np.exp(np.quantile(logs, [0.025, 0.975]))
    return float(low), float(high)
