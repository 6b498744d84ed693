"""Truncation rules as pure functions from logits to logits, `-inf` outside the kept set.

One order rules them all: tokens by logit descending, then id ascending. So every kept set is
unique, has at least one token, and ties never depend on a sorting algorithm. Hugging Face's
warpers keep the same sets except at exact ties, where theirs are arbitrary (top_p) or keep every
tied token (top_k), and where a threshold falls within float32 rounding of a probability.

Every function takes `(…, vocab)` logits of any floating dtype, each row with one finite logit and
without NaN, or a `Distribution` of them, and returns a new float32 tensor (float64 for float64) of
the same shape. Probabilities are those of the rows it is given, so a chain of rules renormalises at
each step. On a CPU no rule sorts a vocabulary: see `decoding.rows.prefix`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, count, double, library, on_host
from decoding.rows.distribution import Distribution
from decoding.rows.prefix import shortest

Rows = Tensor | Distribution
COLDEST = 1e-30  # a temperature at which q is its limit already, well within float32
_BLOCK = 1 << 20  # logits at a time, so that what is made of them stays in the cache


class Cut:
    """A rule: from logits to logits, and as `kept` from rows to the tokens that are kept of them.

    Args:
        kept: gives `(…, vocab)`, bool, of a `Distribution`.
    """

    def __init__(self, kept: Callable[..., Array]) -> None:
        self.kept = kept
        functools.update_wrapper(self, kept)

    def __call__(self, logits: Rows, *values: float) -> Tensor:
        """The logits, `-inf` outside the kept set; of a large tensor a few rows at a time."""
        if isinstance(logits, Distribution):
            return logits.restricted(self.kept(logits, *values)).logits
        if logits.numel() <= _BLOCK or logits.device.type != "cpu":
            return self(Distribution(logits), *values)
        rows = logits.reshape(-1, logits.shape[-1])
        parts = torch.split(rows, max(1, _BLOCK // rows.shape[-1]))
        return torch.cat([self(Distribution(part), *values) for part in parts]).reshape(
            logits.shape
        )


def temperature(logits: Rows, value: float | Tensor) -> Tensor:
    """Divide by the temperature: `q ∝ p^(1/T)`; 0 keeps the first token alone.

    What is divided is `z - max z`: far from zero, z/T alone would be rounded more coarsely than
    the differences between tokens, which are all that matters.

    Args:
        logits: `(…, vocab)`.
        value: T >= 0; below 1 sharpens, above 1 flattens. Or `(…, 1)`, T > 0 of each row.

    Returns:
        `(…, vocab)` logits, the largest of each row 0.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    return tempered(Distribution.of(logits), value).logits


def tempered(rows: Distribution, value: float | Tensor) -> Distribution:
    """`temperature` of rows whose extremes may be known.

    Args:
        rows: `(…, vocab)`.
        value: as in `temperature`.

    Returns:
        `(…, vocab)` rows of (z - max z)/T.
    """
    if not isinstance(value, Tensor) and value == 0:
        return rows.restricted(top_k.kept(rows, 1))
    # Beyond these bounds the result is the limit already.
    most = torch.finfo(rows.logits.dtype).max
    if isinstance(value, Tensor):
        return rows.divided(value.clamp(COLDEST, most).to(rows.logits.dtype))
    return rows.divided(min(max(value, COLDEST), most))


@Cut
def top_n_sigma(rows: Distribution, value: float) -> Array:
    """Keep tokens with `z_i >= max z - n·σ`, σ being the standard deviation of the logits.

    The kept set is the same at every temperature.

    Args:
        rows: `(…, vocab)`.
        value: n > 0.

    Returns:
        `(…, vocab)` logits.

    Source: Tang et al. 2024, arXiv:2411.07641. As in llama.cpp, σ is over the tokens that are not
        excluded, and its square divided by their number, not by one less.
    """
    xp, finite = library(rows.z), rows.support
    size = rows.kept[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        depth = xp.where(finite, double(rows.top) - rows.z, 0.0)
        mean = xp.sum(depth, -1, keepdims=True) / size
        square = xp.sum(xp.where(finite, depth - mean, 0.0) ** 2, -1, keepdims=True) / size
    # Where float64 overflows, all are kept.
    return ~(depth > value * xp.sqrt(square))


@Cut
def top_h(rows: Distribution, value: float) -> Array:
    """Keep the longest prefix whose renormalised entropy is at most `α·H(p)`.

    The entropy of a prefix grows with its length, so the longest one is unique, and the first token
    always qualifies.

    Args:
        rows: `(…, vocab)`.
        value: 0 < α <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Potraghloo et al. 2025, arXiv:2509.02510, by its definition. Transformers' warper of the
        same name keeps other sets: it looks at the first 100 tokens alone, takes H of those, and
        adds up `-p ln p` over the prefix, where `H(q) = ln Z + Z⁻¹ Σ -p ln p`.
    """
    # With x = max z - z, where Z is Σ e^-x over the prefix: H(q) = ln Z + Z⁻¹ Σ e^-x·x.
    limit = value * rows.entropy

    def goes_on(mass: Array, moment: Array, limit: Array) -> Array:
        # Where rounding leaves H(p) nothing, no more than the first token can have H(q) = 0.
        return (library(mass).log(mass) + moment / mass <= limit) & (limit > 0)

    return shortest(rows, goes_on, limit[..., None], reaching=False)


@Cut
def top_k(rows: Distribution, value: int) -> Array:
    """Keep exactly the k first tokens.

    Args:
        rows: `(…, vocab)`.
        value: k >= 1; all are kept where the vocabulary is smaller.

    Returns:
        `(…, vocab)` logits.

    Source: Fan et al. 2018, arXiv:1805.04833. Of tokens tied at the k-th place the lowest ids are
        kept; Hugging Face keeps all of them.
    """
    size = min(int(value), rows.z.shape[-1])
    if size == 1:
        return _first(rows)
    boundary = as_array(as_tensor(rows.z).topk(size, dim=-1).values[..., -1:])
    kept = rows.z >= boundary
    if on_host(kept) and (count(kept) <= size).all():
        return kept
    # Of the tokens at the boundary, the lowest ids fill the places that are left.
    above = rows.z > boundary
    at = rows.z == boundary
    return above | (at & (at.cumsum(-1) <= (size - count(above))[..., None]))


@Cut
def top_p(rows: Distribution, value: float) -> Array:
    """Keep the shortest prefix of the order whose mass is at least p (nucleus sampling).

    Args:
        rows: `(…, vocab)`.
        value: 0 < p <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Holtzman et al. 2020, arXiv:1904.09751. The token that reaches p is kept.
    """
    return _with_mass(rows, value)


@Cut
def min_p(rows: Distribution, value: float) -> Array:
    """Keep tokens with `p_i >= m · max p`; the first token always qualifies.

    Args:
        rows: `(…, vocab)`.
        value: 0 < m <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Nguyen et al. 2024, arXiv:2407.01082.
    """
    return rows.log_weights >= math.log(value)


@Cut
def typical_p(rows: Distribution, value: float) -> Array:
    """Keep the tokens whose surprisal is nearest to the entropy, up to mass p.

    Tokens are ordered by `|-log p - H|` ascending, then by the common order; the shortest prefix
    whose mass is at least p is kept.

    Args:
        rows: `(…, vocab)`.
        value: 0 < p <= 1.

    Returns:
        `(…, vocab)` logits.

    Source: Meister et al. 2023, arXiv:2202.00666 (locally typical sampling).
    """
    # The distances of a large flat vocabulary differ by less than float32 rounding of its entropy.
    exact = Distribution(rows.logits.double())
    return _with_mass(exact, value, abs(exact.log_weights - exact.mean_log_weight[..., None]))


@Cut
def epsilon_cutoff(rows: Distribution, value: float) -> Array:
    """Keep tokens with `p_i >= ε`, or the first token where none has.

    Args:
        rows: `(…, vocab)`.
        value: 0 < ε < 1.

    Returns:
        `(…, vocab)` logits.

    Source: Hewitt et al. 2022, arXiv:2210.15191.
    """
    return up_to_surprisal(rows, -math.log(value))


@Cut
def eta_cutoff(rows: Distribution, value: float) -> Array:
    """Keep tokens with `p_i >= min(ε, √ε·exp(-H))`, or the first token where none has.

    Args:
        rows: `(…, vocab)`.
        value: 0 < ε < 1.

    Returns:
        `(…, vocab)` logits.

    Source: Hewitt et al. 2022, arXiv:2210.15191 (η-sampling).
    """
    return up_to_surprisal(rows, (rows.entropy - math.log(value) / 2).clip(-math.log(value)))


@Cut
def p_less(rows: Distribution, value: float) -> Array:
    """Keep tokens with `p_i >= c·Σ p²`; for c <= 1 the first token always qualifies.

    `Σ p²` is the probability that two draws agree, so the cut adapts without a parameter.

    Args:
        rows: `(…, vocab)`.
        value: 0 < c <= 1; 1 is the source's rule.

    Returns:
        `(…, vocab)` logits.

    Source: Tan et al. 2025, arXiv:2509.23234 (p-less sampling).
    """
    xp = library(rows.z)
    # The first token's surprisal is never beyond, but its rounded number may be.
    most = -(xp.log(rows.collision) + math.log(value))
    return up_to_surprisal(rows, xp.maximum(most, rows.log_total))


@Cut
def kl_budget(rows: Distribution, value: float) -> Array:
    """Keep the shortest prefix whose cost `KL(q‖p) = -ln Z` is at most ε nats.

    Z is the mass of the prefix, so this is top_p at `p = e^-ε`, said by what it costs.

    Args:
        rows: `(…, vocab)`.
        value: ε > 0, nats.

    Returns:
        `(…, vocab)` logits.

    Source: truncating p to a set of mass Z gives `KL(q‖p) = -ln Z` (Cover & Thomas, 2nd ed.,
        equation 2.26 with q = p/Z).
    """
    return _with_mass(rows, math.exp(-value))


def xtc(logits: Rows, probability: float, threshold: float) -> Tensor:
    """Exclude top choices: with probability P, all tokens with `p_i >= t` but the last of them.

    The source tosses a coin at each step. This is the distribution that comes of it, the mixture
    `(1 - P)·p + P·p'` with p' = p without its top choices, so it can be drawn from with one uniform
    and compared with others. Where fewer than two tokens reach t, nothing changes.

    Args:
        logits: `(…, vocab)`.
        probability: 0 < P <= 1.
        threshold: 0 < t <= 1; above 1/2 nothing is ever excluded.

    Returns:
        `(…, vocab)`, logits of the mixture; `-inf` for excluded tokens at P = 1.

    Source: p-e-w 2024, github.com/oobabooga/text-generation-webui/pull/6335, and llama.cpp.
    """
    rows = Distribution.of(logits)
    log_probs = rows.logits.double().log_softmax(-1)
    reaching = log_probs >= math.log(threshold)
    # Fewer than 1/t tokens can reach t, so the last of them is among these.
    vocab = log_probs.shape[-1]
    window = min(math.ceil(min(1 / threshold, vocab)) + 1, vocab)
    largest = log_probs.topk(window, dim=-1).values
    last = ((largest >= math.log(threshold)).sum(-1, keepdim=True) - 1).clamp(min=0)
    boundary = largest.gather(-1, last)
    at = log_probs == boundary
    # Of tied last ones, the highest id comes last.
    ids = torch.arange(log_probs.shape[-1], device=at.device)
    final = torch.where(at, ids, -1).amax(-1, keepdim=True)
    excluded = reaching & (ids != final)
    left = torch.where(excluded, 0.0, log_probs.exp()).sum(-1, keepdim=True)
    # p' = p / left outside of the excluded.
    raised = math.log1p(-probability) if probability < 1 else -math.inf
    factor = torch.where(excluded, raised, ((1 - probability) + probability / left).log())
    return torch.where(left < 1, log_probs + factor, log_probs).to(rows.logits.dtype)


def up_to_surprisal(rows: Distribution, most: float | Array) -> Array:
    """Tokens with `-log p_i <= μ`, or the first token where none has (mirostat's cut).

    Args:
        rows: `(…, vocab)`.
        most: μ, nats, or `(…)` of each row.

    Returns:
        `(…, vocab)`, bool.
    """
    least = (rows.log_total - most)[..., None]
    kept = rows.log_weights >= least
    if on_host(kept) and (least <= 0).all():
        return kept
    return kept | _first(rows)


def _first(rows: Distribution) -> Array:
    """Mask of the first token of each row."""
    ids = library(rows.z).arange(rows.z.shape[-1], device=rows.z.device)
    return ids == rows.z.argmax(-1)[..., None]


def _with_mass(rows: Distribution, value: float, key: Array = None) -> Array:
    def goes_on(mass: Array, _: Array, limit: Array) -> Array:
        return mass < limit

    return shortest(rows, goes_on, value * rows.total[..., None], reaching=True, key=key)
