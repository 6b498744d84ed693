"""`Distribution`: rows of logits with what follows from them, each computed once.

A decoding step asks the same rows for several things: the largest logit, probabilities, entropy.
The rules of a setting, the draw and the trace share this object, so that none is computed twice.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from decoding.rows.arrays import (
    Array,
    as_array,
    as_float,
    as_tensor,
    at,
    count,
    double,
    exp,
    largest,
    library,
    on_host,
    total,
)
from decoding.rows.blocks import BLOCK, block_sums, blocks, filled
from decoding.rows.prefix import first, longest_within_entropy, shortest_with_mass

_NOTHING = -1e4  # a log weight whose weight is 0
COLDEST = 1e-30  # a temperature at which q is its limit already, well within float32
_ONES = {char: np.ones(BLOCK, char) for char in "fd"}

# A step's temporaries are a few megabytes each. By default, glibc hands such blocks back to the
# system when they are freed, and the next step pays for every page anew: up to ten times its
# arithmetic. Freeing one large block, whose pages are never touched, makes it keep them
# (mallopt(3): the mmap threshold is dynamic, 32 MiB at most).
torch.empty(31 << 20, dtype=torch.uint8)


def _is_plain(value: float | Array) -> TypeGuard[float]:
    """Whether a number is one for all rows; that of a row alone is NumPy's, a `float` as well."""
    return type(value) in (float, int)


class Distribution:
    """Rows of `p = softmax(z)`; what follows from them are arrays (see `decoding.rows.arrays`).

    Args:
        logits: z, `(…, vocab)`, any floating dtype; `-inf` marks excluded tokens. Each row needs
            one finite logit and neither NaN nor +inf. Raised to float32, float64 stays.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = as_float(logits)
        self.vocab = self.logits.shape[-1]

    @classmethod
    def of(cls, rows: Tensor | Distribution) -> Distribution:
        """Rows as they are, or made of logits."""
        return rows if isinstance(rows, Distribution) else cls(rows)

    @cached_property
    def z(self) -> Array:
        """`(…, vocab)`, the logits as an array."""
        return as_array(self.logits)

    @cached_property
    def top(self) -> Array:
        """`(…, 1)`, the largest logit."""
        return largest(self.z)

    @cached_property
    def log_weights(self) -> Array:
        """`(…, vocab)`, z - max z <= 0; of excluded tokens -inf."""
        return self._long_log_weights[..., : self.vocab]

    @cached_property
    def weights(self) -> Array:
        """`(…, vocab)`, e^(z - max z), which is p·Σ e^(z - max z); the first token has 1."""
        return self._long_weights[..., : self.vocab]

    def tempered(self, temperature: float | Array) -> Distribution:
        """The rows of `(z - max z) / T`: `q ∝ p^(1/T)`; T = 0 keeps the first token alone.

        What is divided is `z - max z`: far from zero, z/T alone would be rounded more coarsely than
        the differences between tokens, which are all that matters.

        Args:
            temperature: T >= 0, or `(…)`, T > 0 of each row.
        """
        if _is_plain(temperature) and temperature == 0:
            return self.first(1)
        # Beyond these bounds the result is the limit already.
        most = torch.finfo(self.logits.dtype).max
        if _is_plain(temperature):
            return _Divided(self, min(max(temperature, COLDEST), most))
        of_rows = as_tensor(temperature).unsqueeze(-1).clamp(COLDEST, most)
        return _Divided(self, of_rows.to(self.logits.dtype))

    def restricted(self, kept: Array) -> Distribution:
        """The rows without some tokens, renormalised; the first token of each must be kept.

        Args:
            kept: `(…, vocab)`, bool.
        """
        return _Restricted(self, kept)

    # What a rule may keep, each in a word. Sorted rows have the same words.

    def first(self, k: float) -> Distribution:
        """The k first tokens, k >= 1; of equal logits the lowest ids."""
        return self.restricted(first(self.z, int(k)))

    def with_mass(self, mass: float | Array) -> Distribution:
        """The shortest prefix of the order whose mass is at least `mass`, in (0, 1]."""
        goal = mass * self.total
        return self.restricted(shortest_with_mass(self.log_weights, self.weights, self.total, goal))

    def with_entropy(self, entropy: Array) -> Distribution:
        """The longest prefix whose renormalised entropy is at most `entropy`, `(…)`, nats."""
        return self.restricted(
            longest_within_entropy(self.log_weights, self.weights, self.total, entropy)
        )

    def within_depth(self, depth: float | Array) -> Distribution:
        """Tokens whose logit is at most `depth` >= 0 below the largest, nats, or `(…)`."""
        least = -depth if isinstance(depth, float | int) else -depth[..., None]
        return self.restricted(self.log_weights >= least)

    def within_surprisal(self, surprisal: float | Array) -> Distribution:
        """Tokens with `-log p` of at most `surprisal`, nats, or `(…)`; the first token always."""
        least = (self.log_total - surprisal)[..., None]
        kept = self.log_weights >= least
        if not (on_host(kept) and (least <= 0).all()):
            kept = kept | first(self.z, 1)
        return self.restricted(kept)

    def typical(self, mass: float | Array) -> Distribution:
        """Tokens whose surprisal is nearest to the entropy, up to a mass of at least `mass`.

        Tokens are ordered by `|-log p - H|` ascending, then by the common order.
        """
        # The distances of a large flat vocabulary differ by less than float32 rounding of H.
        exact = Distribution(self.logits.double())
        distance = abs(exact.log_weights - exact.mean_log_weight[..., None])
        kept = shortest_with_mass(
            exact.log_weights, exact.weights, exact.total, mass * exact.total, distance
        )
        return Distribution(torch.where(as_tensor(kept), self.logits, -torch.inf))

    def reweighted(self, log_weights: Array) -> Distribution:
        """Rows of `q ∝ e^w`, w being `(…, vocab)`, without the tokens that are excluded."""
        values = as_tensor(log_weights).to(self.logits.dtype)
        return Distribution(torch.where(as_tensor(self.support), values, -torch.inf))

    def log(self, value: float | Array) -> Any:
        """The natural logarithm of a number, or of each of an array."""
        return math.log(value) if _is_plain(value) else library(value).log(value)

    def exp(self, value: float | Array) -> Any:
        """e to the power of a number, or of each of an array."""
        return math.exp(value) if _is_plain(value) else library(value).exp(value)

    @cached_property
    def support(self) -> Array:
        """`(…, vocab)`, whether a token is not excluded."""
        return self.z > -np.inf

    @cached_property
    def kept(self) -> Array:
        """`(…)`, number of tokens that are not excluded."""
        return count(self.support)

    @cached_property
    def block_totals(self) -> Array:
        """`(…, blocks)`, the weights added up over each `BLOCK` ids, and the rest, float64."""
        weights = self._long_weights
        if on_host(weights):
            # By BLAS, whose threads would get in the way of torch's, but do not for one block.
            parts = blocks(weights)
            ones = _ONES[weights.dtype.char][: parts.shape[-1]]
            return double(np.vecdot(parts, ones))
        padded = pad(weights, (0, -weights.shape[-1] % BLOCK))
        return total(blocks(padded))

    @cached_property
    def total(self) -> Array:
        """`(…)`, the weights added up, float64."""
        return total(self.block_totals)

    @cached_property
    def log_total(self) -> Array:
        """`(…)`, ln Σ e^(z - max z), nats, float64: the surprisal of the first token."""
        return library(self.total).log(self.total)

    @cached_property
    def mean_log_weight(self) -> Array:
        """`(…)`, E_p[z - max z], float64."""
        return self.mean_log_weight_of(self)

    def mean_log_weight_of(self, other: Distribution) -> Array:
        """`(…)`, E_p[z' - max z'] <= 0, nats, float64.

        Args:
            other: `(…, vocab)`, rows of z', which exclude no token that these do not.
        """
        return self._mean(other._long_log_weights)

    @cached_property
    def entropy(self) -> Array:
        """`(…)`, H(p) = ln Σ e^(z - max z) - E_p[z - max z], nats, float64, in [0, ln vocab].

        Rounded, too, it is not negative: the first weight is 1, and no log weight is above 0.
        """
        return self.log_total - self.mean_log_weight

    @cached_property
    def varentropy(self) -> Array:
        """`(…)`, Var_p[z], which is the variance of the surprisal, nats², float64."""
        with np.errstate(over="ignore"):
            squares = self._long_log_weights**2
        return (self._mean(squares) - self.mean_log_weight**2).clip(0)

    def renyi_entropy(self, order: float) -> Array:
        """`(…)`, Rényi's entropy H_α = ln Σ p^α / (1 - α), nats, float64, in [0, ln vocab].

        Of order 0 it is the logarithm of the number of tokens that are not excluded, of order 1
        the entropy, and of order 2 minus the logarithm of Σ p², the probability that two draws
        agree. Rounded, too, it is at least the surprisal of the first token, which is H_∞.

        Source: Rényi 1961, *On measures of entropy and information*.
        """
        if order == 0:
            return self.log(double(self.kept))
        if order == 1:
            return self.entropy
        if order == 2:
            value = -self.log(self._mean(self._long_weights) / self.total)
        else:
            value = (self.log(total(self.weights**order)) - order * self.log_total) / (1 - order)
        return value.clip(self.log_total)

    @cached_property
    def deviation(self) -> Array:
        """`(…)`, standard deviation of the logits that are not excluded, float64.

        Its square is divided by their number, not by one less. Infinite where float64 overflows.
        """
        xp, finite, size = library(self.z), self.support, self.kept[..., None]
        with np.errstate(over="ignore", invalid="ignore"):
            depth = xp.where(finite, double(self.top) - self.z, 0.0)
            mean = xp.sum(depth, -1, keepdims=True) / size
            square = xp.sum(xp.where(finite, depth - mean, 0.0) ** 2, -1) / self.kept
            return xp.nan_to_num(xp.sqrt(square), nan=math.inf, posinf=math.inf)

    def log_prob(self, tokens: Tensor | Array) -> Array:
        """`(…)`, log p(token), nats, float64; -inf for an excluded token.

        Args:
            tokens: `(…)`, integer ids.
        """
        return double(self._log_weight(as_array(tokens))) - self.log_total

    def surprisal(self, tokens: Tensor | Array, *, otherwise: Distribution) -> Array:
        """`(…)`, -log p(token), nats, float64; of an excluded token that under other rows.

        Args:
            tokens: `(…)`, integer ids.
            otherwise: `(…, vocab)`.
        """
        own, xp = -self.log_prob(tokens), library(self.z)
        return xp.where(xp.isfinite(own), own, -otherwise.log_prob(tokens))

    def rank(self, tokens: Tensor | Array) -> Array:
        """`(…)`, number of tokens that come before the given ones by logit alone.

        Args:
            tokens: `(…)`, integer ids.
        """
        return count(self.z > at(self.z, as_array(tokens))[..., None])

    def mass_of(self, part: Distribution) -> Array | None:
        """`(…)`, mass that a restriction of these rows kept, float64; None where it is none."""
        if part is self:
            return library(self.total).ones_like(self.total)
        if isinstance(part, _Restricted) and part.whole is self:
            return part.total / self.total
        return None

    # On a CPU the two that follow are filled up to whole blocks with what weighs nothing.

    @cached_property
    def _long_log_weights(self) -> Array:
        z, top = self.z, self.top
        return filled(z, _NOTHING, lambda out: library(z).subtract(z, top, out=out))

    @cached_property
    def _long_weights(self) -> Array:
        return exp(self._long_log_weights)

    def _mean(self, values: Array) -> Array:
        """`(…)`, E_p[values], float64, of values as long as the weights."""
        weights = self._long_weights
        if on_host(values):
            with np.errstate(invalid="ignore"):
                sums = block_sums(weights, values)
            if math.isnan(sums.sum()):  # 0·∞
                sums = block_sums(weights, np.where(weights > 0, values, 0.0))
            return sums / self.total
        # A look whether there is 0·∞ would make the host wait.
        return total(weights * values.where(weights > 0, 0.0)) / self.total

    def _log_weight(self, tokens: Array) -> Array:
        return at(self.log_weights, tokens)


class _Divided(Distribution):
    """Rows of z/T, less the largest of each: the differences are divided, which rounds less."""

    def __init__(self, whole: Distribution, temperature: float | Tensor) -> None:
        self.whole, self.vocab = whole, whole.vocab
        self.temperature = temperature

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        if self.whole.logits.requires_grad:
            return (self.whole.logits - as_tensor(self.whole.top)) / self.temperature
        return as_tensor(self.log_weights).clone(memory_format=torch.contiguous_format)

    @cached_property
    def top(self) -> Array:
        """`(…, 1)`, 0."""
        return library(self.whole.top).zeros_like(self.whole.top)

    @cached_property
    def _long_log_weights(self) -> Array:
        depths, divisor = self.whole.log_weights, as_array(self.temperature)
        return filled(
            depths, _NOTHING, lambda out: library(depths).divide(depths, divisor, out=out)
        )

    @cached_property
    def support(self) -> Array:
        return self.log_weights > -np.inf


class _Restricted(Distribution):
    """Some tokens of other rows, the first among them; shares what was computed of those.

    Excluded tokens have the log weight that they had there, and no weight.
    """

    def __init__(self, whole: Distribution, kept: Array) -> None:
        self.whole, self.vocab = whole, whole.vocab
        self._mask = kept
        self.top = whole.top

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        return torch.where(as_tensor(self._mask), self.whole.logits, -torch.inf)

    @cached_property
    def _long_log_weights(self) -> Array:
        return self.whole._long_log_weights

    @cached_property
    def _long_weights(self) -> Array:
        mask, weights = self._mask, self.whole.weights
        return filled(weights, 0.0, lambda out: library(mask).multiply(mask, weights, out=out))

    @cached_property
    def support(self) -> Array:
        # A rule may keep what was excluded before, such as the k first of fewer than k.
        return self._mask & self.whole.support

    def restricted(self, kept: Array) -> Distribution:
        return _Restricted(self.whole, self._mask & kept)

    def _log_weight(self, tokens: Array) -> Array:
        kept = at(self._mask, tokens)
        return library(kept).where(kept, self.whole._log_weight(tokens), -np.inf)
