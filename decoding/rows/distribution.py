"""`Distribution`: rows of logits with what follows from them, each computed once.

A decoding step asks the same rows for several things: the largest logit, probabilities, entropy.
The rules of a setting, the draw and the trace share this object, so that none is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from decoding.information.measures import as_float
from decoding.rows.arrays import (
    Array,
    as_array,
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

Values = NDArray[np.floating]

BLOCK = 256  # ids whose weights are added up first, in the precision that they have
_NOTHING = -1e4  # a log weight whose weight is 0
_ONES = {char: np.ones(BLOCK, char) for char in "fd"}


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

    def divided(self, temperature: float | Tensor) -> Distribution:
        """The rows of `(z - max z) / T`.

        Args:
            temperature: T, or `(…, 1)` in the dtype of the logits.
        """
        return _Divided(self, temperature)

    def restricted(self, kept: Array) -> Distribution:
        """The rows without some tokens, renormalised; the first token of each must be kept.

        Args:
            kept: `(…, vocab)`, bool.
        """
        return _Restricted(self, kept)

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
            blocks = _blocks(weights)
            ones = _ONES[weights.dtype.char][: blocks.shape[-1]]
            return double(np.vecdot(blocks, ones))
        padded = pad(weights, (0, -weights.shape[-1] % BLOCK))
        return total(_blocks(padded))

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

    @cached_property
    def collision(self) -> Array:
        """`(…)`, Σ p², float64, in [1/vocab, 1]: the probability that two draws agree.

        Source: the collision probability, e^-H₂ with Rényi's entropy of order 2 (Rényi 1961).
        """
        return self._mean(self._long_weights) / self.total

    def log_prob(self, tokens: Tensor | Array) -> Array:
        """`(…)`, log p(token), nats, float64; -inf for an excluded token.

        Args:
            tokens: `(…)`, integer ids.
        """
        return double(self._log_weight(as_array(tokens))) - self.log_total

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
        return _filled(z, _NOTHING, lambda out: library(z).subtract(z, top, out=out))

    @cached_property
    def _long_weights(self) -> Array:
        return exp(self._long_log_weights)

    def _mean(self, values: Array) -> Array:
        """`(…)`, E_p[values], float64, of values as long as the weights."""
        weights = self._long_weights
        if on_host(values):
            with np.errstate(invalid="ignore"):
                sums = _sums(weights, values)
            if math.isnan(sums.sum()):  # 0·∞
                sums = _sums(weights, np.where(weights > 0, values, 0.0))
            return sums / self.total
        # A look whether there is 0·∞ would make the host wait.
        return total(weights * values.where(weights > 0, 0.0)) / self.total

    def _log_weight(self, tokens: Array) -> Array:
        return at(self.log_weights, tokens)


def _filled(like: Array, beyond: float, write: Callable[[Array | None], Array]) -> Array:
    """What is written into `(…, vocab)`, on a CPU filled up to whole blocks.

    Args:
        like: `(…, vocab)`, for shape, type and place.
        beyond: what stands beyond the vocabulary.
        write: writes into the array that it is given; on an accelerator it makes its own.
    """
    if not on_host(like):
        return write(None)
    *lead, vocab = like.shape
    room: Values = np.empty((*lead, vocab + -vocab % min(vocab, BLOCK)), like.dtype)
    room[..., vocab:] = beyond
    with np.errstate(over="ignore"):
        write(room[..., :vocab])
    return room


def _blocks(values: Array) -> Array:
    """`(…, blocks, BLOCK)` of whole blocks; of a smaller vocabulary one, of its size."""
    *lead, size = values.shape
    block = min(size, BLOCK)
    return values.reshape(*lead, size // block, block)


def _sums(weights: Values, values: Values) -> Array:
    """`(…)`, products added up by blocks, in the precision that they have, and then in float64."""
    return total(np.vecdot(_blocks(weights), _blocks(values)))


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
        return _filled(
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
        return _filled(weights, 0.0, lambda out: library(mask).multiply(mask, weights, out=out))

    @cached_property
    def support(self) -> Array:
        # A rule may keep what was excluded before, such as the k first of fewer than k.
        return self._mask & self.whole.support

    def restricted(self, kept: Array) -> Distribution:
        return _Restricted(self.whole, self._mask & kept)

    def _log_weight(self, tokens: Array) -> Array:
        kept = at(self._mask, tokens)
        return library(kept).where(kept, self.whole._log_weight(tokens), -np.inf)
