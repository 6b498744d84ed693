"""`Distribution`: rows of logits with what follows from them, each computed once.

A decoding step asks the same rows for several things: the largest logit, probabilities, entropy.
The rules of a setting, the draw and the trace share this object, so that none is computed twice.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from decoding.arrays import (
    Array,
    as_array,
    as_tensor,
    at,
    count,
    double,
    exp_of_negative,
    library,
    on_host,
)
from decoding.information import as_float

# e^-1000 is zero even in float64, so a limit on depths changes no sum and keeps 0·∞ out of them.
DEEPEST = 1000.0

BLOCK = 256  # ids whose weights are added up first, in the precision that they have

# A step's temporaries are a few megabytes each. By default, glibc hands such blocks back to the
# system when they are freed, and the next step pays for every page anew: up to ten times its
# arithmetic. Freeing one large block, whose pages are never touched, makes it keep them
# (mallopt(3): the mmap threshold is dynamic, 32 MiB at most).
torch.empty(31 << 20, dtype=torch.uint8)


class Distribution:
    """Rows of `p = softmax(z)`; what follows from them are arrays (see `decoding.arrays`).

    Args:
        logits: z, `(…, vocab)`, any floating dtype; `-inf` marks excluded tokens. Each row needs
            one finite logit and neither NaN nor +inf. Raised to float32, float64 stays.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = as_float(logits)

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
        return library(self.z).amax(self.z, -1, keepdims=True)

    @cached_property
    def bottom(self) -> Array:
        """`(…, 1)`, the smallest logit."""
        return library(self.z).amin(self.z, -1, keepdims=True)

    @cached_property
    def shallow(self) -> bool:
        """Whether all depths are known to lie below 1000, so that no token is excluded."""
        if not on_host(self.z):
            return False
        with np.errstate(over="ignore"):
            return bool((self.top - self.bottom < DEEPEST).all())

    @cached_property
    def depth(self) -> Array:
        """`(…, vocab)`, x = max z - z, in [0, 1000]; excluded tokens have 1000."""
        if self.shallow:
            return self.top - self.z
        with np.errstate(over="ignore"):
            return (self.top - self.z).clip(None, DEEPEST)

    @cached_property
    def weights(self) -> Array:
        """`(…, vocab)`, e^-x, which is p·Σ e^-x; the first token has 1."""
        return exp_of_negative(self.depth)

    def divided(self, temperature: float | Tensor) -> Distribution:
        """The rows of `z / T`.

        Args:
            temperature: T, or `(…, 1)` in the dtype of the logits; no logit may overflow.
        """
        divisor = as_array(temperature)
        with np.errstate(over="ignore"):  # by logits that mask
            if self.logits.requires_grad:
                rows = Distribution(self.logits / temperature)
            else:
                rows = Distribution(as_tensor(self.z / divisor))
            # Rounding keeps the order, so these are the extremes of the quotients.
            rows.top, rows.bottom = self.top / divisor, self.bottom / divisor
        return rows

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
        """`(…, blocks)`, Σ e^-x over each `BLOCK` ids, and over the rest at the end, float64."""
        weights, xp = self.weights, library(self.weights)
        blocks = weights.shape[-1] // BLOCK
        whole = weights[..., : blocks * BLOCK].reshape(*weights.shape[:-1], blocks, BLOCK)
        rest = weights[..., blocks * BLOCK :].sum(-1)[..., None]
        return double(xp.concatenate([xp.einsum("...v->...", whole), rest], -1))

    @cached_property
    def total(self) -> Array:
        """`(…)`, Σ e^-x, float64."""
        return self.block_totals.sum(-1)

    @cached_property
    def log_total(self) -> Array:
        """`(…)`, ln Σ e^-x, nats, float64: the surprisal of the first token."""
        return library(self.total).log(self.total)

    @cached_property
    def mean_depth(self) -> Array:
        """`(…)`, E_p[x], float64."""
        return self.expectation(self.depth)

    @cached_property
    def entropy(self) -> Array:
        """`(…)`, H(p) = ln Σ e^-x + E_p[x], nats, float64, in [0, ln vocab]."""
        return (self.log_total + self.mean_depth).clip(0)

    @cached_property
    def varentropy(self) -> Array:
        """`(…)`, Var_p[x], which is the variance of the surprisal, nats², float64."""
        return (self.expectation(self.depth**2) - self.mean_depth**2).clip(0)

    def expectation(self, values: Array) -> Array:
        """`(…)`, E_p[values], float64.

        Args:
            values: `(…, vocab)`, finite.
        """
        return double(library(values).linalg.vecdot(self.weights, values)) / self.total

    def log_prob(self, tokens: Tensor | Array) -> Array:
        """`(…)`, log p(token), nats, float64; -inf for an excluded token.

        Args:
            tokens: `(…)`, integer ids.
        """
        return double(self._logit(tokens) - self.top[..., 0]) - self.log_total

    def rank(self, tokens: Tensor | Array) -> Array:
        """`(…)`, number of tokens that come before the given ones by logit alone.

        Args:
            tokens: `(…)`, integer ids.
        """
        return count(self.z > self._logit(tokens)[..., None])

    def mass_of(self, part: Distribution) -> Array | None:
        """`(…)`, mass that a restriction of these rows kept, float64; None where it is none."""
        if part is self:
            return library(self.total).ones_like(self.total)
        if isinstance(part, _Restricted) and part.whole is self:
            return part.total / self.total
        return None

    def _logit(self, tokens: Tensor | Array) -> Array:
        return at(self.z, as_array(tokens))


class _Restricted(Distribution):
    """Some tokens of other rows, the first among them; shares what was computed of those.

    Excluded tokens have the depth that they had there, and no weight.
    """

    def __init__(self, whole: Distribution, kept: Array) -> None:
        self.whole = whole
        self._mask = kept
        self.top = whole.top
        self.shallow = whole.shallow
        self.depth = whole.depth

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        return torch.where(as_tensor(self._mask), self.whole.logits, -torch.inf)

    @cached_property
    def weights(self) -> Array:
        return self.whole.weights * self._mask

    @cached_property
    def support(self) -> Array:
        # A rule may keep what was excluded before, such as the k first of fewer than k.
        return self._mask if self.shallow else self._mask & self.whole.support

    def restricted(self, kept: Array) -> Distribution:
        return _Restricted(self.whole, self._mask & kept)

    def _logit(self, tokens: Tensor | Array) -> Array:
        tokens = as_array(tokens)
        kept = at(self._mask, tokens)
        return library(kept).where(kept, self.whole._logit(tokens), -np.inf)
