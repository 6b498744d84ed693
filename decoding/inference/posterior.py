"""Which of several candidates made the data: Bayes' rule on log-likelihoods.

The last axis is that of the candidates; everything is float64 and in nats. A log-likelihood of
`-inf` rules a candidate out, whatever its prior. Where every candidate is ruled out there is no
posterior: it is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def log_posterior(log_likelihoods: ArrayLike, prior: ArrayLike | None = None) -> FloatArray:
    """Bayes' rule, `log π(k | x) = log π(k) + log p(x | k) - log Σ_j π(j)·p(x | j)`.

    Args:
        log_likelihoods: `(…, candidates)`, nats, in [-∞, ∞).
        prior: `(candidates,)`, positive weights, which need not add up to 1; default all alike.

    Returns:
        `(…, candidates)`, nats, normalised; `-inf` for what is ruled out, NaN in all places of a
        row in which everything is.

    Raises:
        ValueError: the prior has another length, or a weight that is not positive and finite; a
            log-likelihood is NaN or +∞.
    """
    values = np.asarray(log_likelihoods, dtype=np.float64)
    if np.isnan(values).any() or (values == np.inf).any():
        raise ValueError("log_likelihoods must be in [-inf, inf), got NaN or inf")
    joint = values + np.log(normalised_prior(values.shape[-1], prior))
    largest = joint.max(-1, keepdims=True)
    below = joint - np.where(np.isfinite(largest), largest, np.nan)
    return below - np.log(np.exp(below).sum(-1, keepdims=True))  # type: ignore[no-any-return]


def normalised_prior(candidates: int, prior: ArrayLike | None = None) -> FloatArray:
    """Prior probabilities `(candidates,)`, positive, sum 1, from positive weights; default alike.

    Raises:
        ValueError: another number of weights, or one that is not positive and finite.
    """
    weights = np.ones(candidates) if prior is None else np.asarray(prior, dtype=np.float64)
    if weights.shape != (candidates,):
        raise ValueError(
            f"prior must hold one weight for each of the {candidates} candidates, "
            f"got {weights.size}"
        )
    wrong = weights[~((weights > 0) & (weights < np.inf))]
    if wrong.size:
        raise ValueError(f"prior must hold positive, finite weights, got {wrong[0]:g}")
    shares = weights / weights.max()
    return shares / shares.sum()  # type: ignore[no-any-return]


def running_log_posterior(steps: ArrayLike, prior: ArrayLike | None = None) -> FloatArray:
    """The posterior after each step: `log_posterior` of the cumulative sums.

    Args:
        steps: `(steps, candidates)`, log-likelihood of each step given those before it, nats.
        prior: as for `log_posterior`.

    Returns:
        `(steps + 1, candidates)`, nats; row n is the posterior after n steps, row 0 the prior.
    """
    values = np.asarray(steps, dtype=np.float64)
    start = np.zeros((1, values.shape[-1]))
    return log_posterior(np.concatenate([start, values.cumsum(0)]), prior)


def log_odds(log_probs: ArrayLike) -> FloatArray:
    """Odds of each candidate against all the others together: `log π(k) - log Σ_{j≠k} π(j)`.

    Unlike `log π/(1 - π)` this stays exact where π is within rounding of 1.

    Args:
        log_probs: `(…, candidates)`, a posterior or prior, nats.

    Returns:
        `(…, candidates)`, nats; +∞ where the others are ruled out, NaN where all are.
    """
    values = np.asarray(log_probs, dtype=np.float64)
    none = np.full((*values.shape[:-1], 1), -np.inf)
    with np.errstate(invalid="ignore"):  # NaN where all are ruled out
        before = np.logaddexp.accumulate(values, axis=-1)[..., :-1]
        after = np.logaddexp.accumulate(values[..., :0:-1], axis=-1)[..., ::-1]
        rest = np.logaddexp(
            np.concatenate([none, before], axis=-1), np.concatenate([after, none], axis=-1)
        )
        return values - rest  # type: ignore[no-any-return]


def log_bayes_factors(log_likelihoods: ArrayLike, candidate: int) -> FloatArray:
    """How much more likely one candidate makes the data than each: `log p(x | k) - log p(x | j)`.

    The prior has no part in it; 2.3 nats are a factor of 10.

    Args:
        log_likelihoods: `(candidates,)`, nats.
        candidate: k; a ValueError where it is ruled out.

    Returns:
        `(candidates,)`, nats; 0 for k itself, +∞ against what is ruled out.

    Source: Kass & Raftery 1995, *Bayes factors*, JASA 90, 773-795.
    """
    values = np.asarray(log_likelihoods, dtype=np.float64)
    if not np.isfinite(values[candidate]):
        raise ValueError(f"candidate {candidate} must not be ruled out")
    return values[candidate] - values  # type: ignore[no-any-return]
