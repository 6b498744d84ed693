"""`Moments`: what follows from rows of logits, each computed once.

A decoding step asks the same rows for several things: the largest logit, probabilities, entropy.
The rules of a setting, the draw and the trace share this object, so that none is computed twice.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from decoding.rows.arrays import (
    Array,
    as_array,
    as_float,
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
from decoding.rows.prefix import steepest_drop

NOTHING = -1e4  # a log weight whose weight is 0
_ONES = {char: np.ones(BLOCK, char) for char in "fd"}


def is_plain(value: float | Array) -> TypeGuard[float]:
    """Whether a number is one for all rows; that of a row alone is NumPy's, a `float` as well."""
    return type(value) in (float, int)


class Moments:
    """Rows of `p = softmax(z)`; what follows from them are arrays (see `decoding.rows.arrays`).

    Args:
        logits: z, `(…, vocab)`, any floating dtype; `-inf` marks excluded tokens. Each row needs
            one finite logit and neither NaN nor +inf. Raised to float32, float64 stays.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = as_float(logits)
        self.vocab = self.logits.shape[-1]

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

    def mean_log_weight_of(self, other: Moments) -> Array:
        """`(…)`, E_p[z' - max z'] <= 0, nats, float64, of rows that exclude no further token."""
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
    def self_certainty(self) -> Array:
        """`(…)`, KL(U‖p) = ln Σ e^z - mean z - ln n, U being even over the n tokens that are not
        excluded, nats, float64, >= 0; see `decoding.information.self_certainty`."""
        depth = library(self.z).where(self.support, self.log_weights, 0.0)
        return (self.log_total - total(depth) / self.kept - self.log(double(self.kept))).clip(0)

    @cached_property
    def deviation(self) -> Array:
        """`(…)`, standard deviation of the logits that are not excluded, float64.

        Its square is divided by their number, not by one less. Infinite where float64 overflows.
        """
        xp, finite, size = library(self.z), self.support, self.kept[..., None]
        with np.errstate(over="ignore", invalid="ignore"):
            depth = double(self.top) - self.z
            if on_host(depth) and (size == self.vocab).all():
                spread = depth.std(-1)
            else:
                depth = xp.where(finite, depth, 0.0)
                mean = xp.sum(depth, -1, keepdims=True) / size
                square = xp.sum(xp.where(finite, depth - mean, 0.0) ** 2, -1) / self.kept
                spread = xp.sqrt(square)
            return xp.nan_to_num(spread, nan=math.inf, posinf=math.inf)

    @cached_property
    def span(self) -> Array:
        """`(…)`, the largest logit less the smallest that is not excluded, float64.

        It is that of the logits before they were divided by a temperature.
        """
        depth = library(self.z).where(self.support, -double(self.log_weights), 0.0)
        return largest(depth)[..., 0] * self.divisor

    @cached_property
    def cliff(self) -> Array:
        """`(…)`, how many tokens stand before the steepest drop; see `steepest_drop`."""
        return steepest_drop(self.z)

    @cached_property
    def probs(self) -> Array:
        """`(…, vocab)`, p."""
        return self.weights * self.support / self.total[..., None]

    @property
    def divisor(self) -> Any:
        """The temperature that the logits were divided by: a number, or `(…)`."""
        return 1.0

    def log(self, value: float | Array) -> Any:
        """The natural logarithm of a number, or of each of an array."""
        return math.log(value) if is_plain(value) else library(value).log(value)

    def exp(self, value: float | Array) -> Any:
        """e to the power of a number, or of each of an array."""
        return math.exp(value) if is_plain(value) else library(value).exp(value)

    def log_prob(self, tokens: Tensor | Array) -> Array:
        """`(…)`, log p(token) of integer ids `(…)`, nats, float64; -inf for an excluded token."""
        return double(self._log_weight(as_array(tokens))) - self.log_total

    def surprisal(self, tokens: Tensor | Array, *, otherwise: Moments) -> Array:
        """`(…)`, -log p(token), nats, float64; of an excluded token that under other rows."""
        own = -self.log_prob(tokens)
        xp = library(own)
        return xp.where(xp.isfinite(own), own, -otherwise.log_prob(tokens))

    def rank(self, tokens: Tensor | Array) -> Array:
        """`(…)`, number of tokens that come before the given ones by logit alone."""
        return count(self.z > at(self.z, as_array(tokens))[..., None])

    # On a CPU the two that follow are filled up to whole blocks with what weighs nothing.

    @cached_property
    def _long_log_weights(self) -> Array:
        z, top = self.z, self.top
        return filled(z, NOTHING, lambda out: library(z).subtract(z, top, out=out))

    @cached_property
    def _long_weights(self) -> Array:
        return exp(self._long_log_weights)

    def _mean(self, values: Array) -> Array:
        """`(…)`, E_p[values], float64, of values as long as the weights."""
        weights = self._long_weights
        if on_host(values):
            sums = block_sums(weights, values)
            if math.isnan(sums.sum()):  # 0·∞
                sums = block_sums(weights, np.where(weights > 0, values, 0.0))
            return sums / self.total
        # A look whether there is 0·∞ would make the host wait.
        return total(weights * values.where(weights > 0, 0.0)) / self.total

    def _log_weight(self, tokens: Array) -> Array:
        return at(self.log_weights, tokens)
