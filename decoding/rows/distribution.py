"""`Distribution`: rows of logits, and what a rule may make of them, each in a word."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, at, double, library, on_host
from decoding.rows.blocks import filled
from decoding.rows.moments import NOTHING, Moments, is_plain
from decoding.rows.prefix import first, first_of_each, longest_within_entropy, shortest_with_mass

COLDEST = 1e-30  # a temperature at which q is its limit already, well within float32


class Distribution(Moments):
    """Rows of `p = softmax(z)`, and the words in which rules say what they keep; see `Moments`."""

    @classmethod
    def of(cls, rows: Tensor | Distribution) -> Distribution:
        """Rows as they are, or made of logits."""
        return rows if isinstance(rows, Distribution) else cls(rows)

    def tempered(self, temperature: float | Array) -> Distribution:
        """The rows of `(z - max z) / T`: `q ∝ p^(1/T)`; T = 0 keeps the first token alone.

        What is divided is `z - max z`: far from zero, z/T alone would be rounded more coarsely than
        the differences between tokens, which are all that matters.

        Args:
            temperature: T >= 0, or `(…)`, T > 0 of each row.
        """
        if is_plain(temperature) and temperature == 0:
            return self.first(1)
        # Beyond these bounds the result is the limit already.
        most = torch.finfo(self.logits.dtype).max
        if is_plain(temperature):
            return _Divided(self, min(max(temperature, COLDEST), most))
        of_rows = as_tensor(temperature).unsqueeze(-1).clamp(COLDEST, most)
        return _Divided(self, of_rows.to(self.logits.dtype))

    def restricted(self, kept: Array) -> Distribution:
        """Renormalised rows of the tokens marked in `(…, vocab)`, the first of each among them."""
        return _Restricted(self, kept)

    # What a rule may keep, each in a word. Sorted rows have the same words.

    def first(self, k: float | Array) -> Distribution:
        """The k first tokens, k >= 1 or `(…)` of each row; of equal logits the lowest ids."""
        if isinstance(k, float | int):
            return self.restricted(first(self.z, int(k)))
        return self.restricted(first_of_each(self.z, k))

    def with_mass(self, mass: float | Array) -> Distribution:
        """The shortest prefix of the order whose mass is at least `mass`, in (0, 1]."""
        goal = mass * self.total
        return self.restricted(shortest_with_mass(self.log_weights, self.weights, self.total, goal))

    def with_entropy(self, entropy: Array) -> Distribution:
        """The longest prefix whose renormalised entropy is at most `entropy`, `(…)`, nats."""
        of_rows = self.log_weights, self.weights, self.total
        return self.restricted(longest_within_entropy(*of_rows, entropy))

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

    def mass_of(self, part: Distribution) -> Array | None:
        """`(…)`, mass that a restriction of these rows kept, float64; None where it is none."""
        if part is self:
            return library(self.total).ones_like(self.total)
        if isinstance(part, _Restricted) and part.whole is self:
            return part.total / self.total
        return None


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

    @property
    def divisor(self) -> Any:
        own = self.temperature
        divisor = double(as_array(own)[..., 0]) if isinstance(own, Tensor) else own
        return divisor * self.whole.divisor

    @cached_property
    def top(self) -> Array:
        """`(…, 1)`, 0."""
        return library(self.whole.top).zeros_like(self.whole.top)

    @cached_property
    def _long_log_weights(self) -> Array:
        depths, divisor = self.whole.log_weights, as_array(self.temperature)
        return filled(depths, NOTHING, lambda out: library(depths).divide(depths, divisor, out=out))

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

    @property
    def divisor(self) -> Any:
        return self.whole.divisor

    def tempered(self, temperature: float | Array) -> Distribution:
        return self.whole.tempered(temperature).restricted(self._mask)

    def restricted(self, kept: Array) -> Distribution:
        return _Restricted(self.whole, self._mask & kept)

    def _log_weight(self, tokens: Array) -> Array:
        kept = at(self._mask, tokens)
        return library(kept).where(kept, self.whole._log_weight(tokens), -np.inf)
