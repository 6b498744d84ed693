"""Information measures on log-probabilities: nats, last axis, never NaN.

Every function takes normalised log-probabilities of p, and of q, of shape `(…, vocab)`; leading
axes broadcast. `-inf` is probability zero and contributes nothing, by the limit `0·log 0 = 0`, to a
gradient neither. Half precision is raised to float32, float64 stays. No input is changed.

Source: Cover & Thomas, *Elements of Information Theory*, 2nd ed., chapter 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decoding.rows.arrays import as_float


def _expectation(log_probs: Tensor, values: Tensor) -> Tensor:
    """Σ p·values over the last axis; an infinite value counts on the support of p alone.

    The support is where log p is finite, also where p itself is too small for a float.
    """
    probs = log_probs.exp()
    infinite = (log_probs > -math.inf) & (values == math.inf)
    # Left out before the product is taken: in its gradient 0·∞ would be NaN.
    terms = probs * values.masked_fill((probs == 0) | infinite, 0.0)
    return terms.masked_fill(infinite, math.inf).sum(-1)


def surprisal(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Surprisal of the given tokens, `-log p(token)`.

    Args:
        log_probs: `(…, vocab)`.
        tokens: `(…)`, integer ids.

    Returns:
        `(…)`, nats, in [0, ∞]; infinite for a token outside the support.
    """
    return -as_float(log_probs).gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy, the mean surprisal: `H(p) = -Σ p log p`.

    Returns:
        `(…)`, nats, in [0, ln vocab].
    """
    log_probs = as_float(log_probs)
    return _expectation(log_probs, -log_probs).clamp(min=0)


def renyi_entropy(log_probs: Tensor, order: float) -> Tensor:
    """Rényi entropy of an order α: `H_α(p) = ln Σ p^α / (1 - α)`, which falls as α rises.

    Of order 0 it is the logarithm of the number of tokens in the support, of order 1 the Shannon
    entropy, of order 2 `-ln Σ p²`, and of order ∞ the surprisal of the most probable token.

    Args:
        log_probs: `(…, vocab)`.
        order: α, in [0, ∞].

    Returns:
        `(…)`, nats, in [0, ln vocab].

    Raises:
        ValueError: the order is negative or NaN.

    Source: Rényi 1961, *On measures of entropy and information*.
    """
    if not order >= 0:
        raise ValueError(f"order must be >= 0, got {order}")
    log_probs = as_float(log_probs)
    if order == 0:
        return (log_probs > -math.inf).sum(-1).to(log_probs.dtype).log()
    if order == 1:
        return entropy(log_probs)
    if order == math.inf:
        return -log_probs.amax(-1)
    return ((order * log_probs).logsumexp(-1) / (1 - order)).clamp(min=0)


def self_certainty(log_probs: Tensor) -> Tensor:
    """How far p is from U, even over its support of n tokens: `KL(U‖p) = -Σ ln p / n - ln n`.

    Returns:
        `(…)`, nats, >= 0; 0 for a uniform distribution, and for a point mass, which has no other
        token to tell its own from.

    Source: Kang et al. 2025, arXiv:2502.18581 (self-certainty), of the whole vocabulary.
    """
    log_probs = as_float(log_probs)
    support = log_probs > -math.inf
    count = support.sum(-1)
    mean = log_probs.masked_fill(~support, 0.0).sum(-1) / count
    return (-mean - count.to(log_probs.dtype).log()).clamp(min=0)


def varentropy(log_probs: Tensor) -> Tensor:
    """Variance of the surprisal: `Σ p (-log p - H)²`.

    Returns:
        `(…)`, nats², >= 0; 0 for a point mass and for any uniform distribution.
    """
    log_probs = as_float(log_probs)
    # e^-1000 is zero even in float64; the clamp keeps the square finite where p is zero.
    excess = log_probs.clamp(min=-1000) + entropy(log_probs).unsqueeze(-1)
    return _expectation(log_probs, excess.square())


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Mean surprisal under q of tokens drawn from p: `-Σ p log q = H(p) + KL(p‖q)`.

    Returns:
        `(…)`, nats, in [H(p), ∞]; infinite where q is zero on the support of p.
    """
    return _expectation(as_float(log_p), -as_float(log_q))


def cross_varentropy(log_p: Tensor, log_q: Tensor, mean: Tensor | None = None) -> Tensor:
    """Variance of the surprisal under q of tokens drawn from p: `Σ p (-log q - H(p, q))²`.

    Args:
        log_p: `(…, vocab)`.
        log_q: `(…, vocab)`.
        mean: `(…)`, H(p, q), where it is known.

    Returns:
        `(…)`, nats², >= 0; `varentropy(log_p)` where q is p, infinite where H(p, q) is.
    """
    log_p, log_q = as_float(log_p), as_float(log_q)
    mean = cross_entropy(log_p, log_q) if mean is None else mean
    squares = _expectation(log_p, (log_q + mean.unsqueeze(-1)).square())
    return squares.masked_fill(mean == math.inf, math.inf)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback–Leibler divergence `KL(p‖q) = Σ p (log p - log q)`; not symmetric.

    Returns:
        `(…)`, nats, in [0, ∞]; infinite where q is zero on the support of p.
    """
    log_p, log_q = as_float(log_p), as_float(log_q)
    return _expectation(log_p, log_p - log_q).clamp(min=0)


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen–Shannon divergence: the mean of KL(p‖m) and KL(q‖m) with m = (p + q)/2.

    Returns:
        `(…)`, nats, in [0, ln 2]; symmetric, finite also for disjoint supports.
    """
    both = torch.broadcast_tensors(log_p, log_q)  # type: ignore[no-untyped-call]
    return mutual_information(torch.stack(both, dim=-2))


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Total variation distance: `½ Σ |p - q|`, the largest difference over all events.

    Returns:
        `(…)`, in [0, 1].
    """
    return (as_float(log_p).exp() - as_float(log_q).exp()).abs().sum(-1).div(2).clamp(max=1)


def mutual_information(log_probs: Tensor) -> Tensor:
    """Mutual information between the event and which of K equally likely members drew it.

    `I = H(mean_k p_k) - mean_k H(p_k) = mean_k KL(p_k‖mean)`, computed in the second form, which
    does not cancel. For an ensemble this is the epistemic part of the total entropy.

    Args:
        log_probs: `(…, members, vocab)`.

    Returns:
        `(…)`, nats, in [0, ln members].
    """
    log_probs = as_float(log_probs)
    members = log_probs.shape[-2]
    excluded = (log_probs == -math.inf).all(-2, keepdim=True)
    # The gradient of a logarithm of nothing would be NaN.
    sums = log_probs.masked_fill(excluded, 0.0).logsumexp(-2, keepdim=True)
    mean = sums.masked_fill(excluded, -math.inf) - math.log(members)
    return kl_divergence(log_probs, mean).mean(-1).clamp(max=math.log(members))
