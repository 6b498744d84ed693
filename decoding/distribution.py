"""`Distribution`: rows of logits with what follows from them, each computed once.

A decoding step asks the same rows for several things: the largest logit, probabilities, entropy.
The rules of a setting, the draw and the trace share this object, so that none is computed twice.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from decoding.information import as_float

# e^-1000 is zero even in float64, so a limit on depths changes no sum and keeps 0·∞ out of them.
DEEPEST = 1000.0

# A step's temporaries are a few megabytes each. By default, glibc hands such blocks back to the
# system when they are freed, and the next step pays for every page anew: up to ten times its
# arithmetic. Freeing one large block, whose pages are never touched, makes it keep them
# (mallopt(3): the mmap threshold is dynamic, 32 MiB at most).
torch.empty(31 << 20, dtype=torch.uint8)


class Distribution:
    """Rows of `p = softmax(z)`.

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
    def top(self) -> Tensor:
        """`(…, 1)`, the largest logit."""
        return self.logits.amax(-1, keepdim=True)

    @cached_property
    def depth(self) -> Tensor:
        """`(…, vocab)`, x = max z - z, in [0, 1000]; excluded tokens have 1000."""
        return torch.sub(self.top, self.logits).clamp_(max=DEEPEST)

    @cached_property
    def probs(self) -> Tensor:
        """`(…, vocab)`, p; sums to 1 within float32 rounding."""
        return self.logits.softmax(-1)

    def restricted(self, kept: Tensor) -> Distribution:
        """The rows without some tokens, renormalised; the first token of each must be kept.

        Args:
            kept: `(…, vocab)`, 1 where a token is kept and 0 elsewhere, in the dtype of the logits.
        """
        return _Restricted(self, kept)

    @cached_property
    def kept(self) -> Tensor:
        """`(…)`, number of tokens that are not excluded."""
        return (self.logits > -torch.inf).sum(-1)

    @cached_property
    def log_total(self) -> Tensor:
        """`(…)`, ln Σ e^-x, nats, float64: the surprisal of the first token."""
        return (self.share / self.probs.amax(-1)).log()

    @cached_property
    def mean_depth(self) -> Tensor:
        """`(…)`, E_p[x], float64."""
        return self.expectation(self.depth)

    @cached_property
    def entropy(self) -> Tensor:
        """`(…)`, H(p) = ln Σ e^-x + E_p[x], nats, float64, in [0, ln vocab]."""
        return (self.log_total + self.mean_depth).clamp(min=0)

    @cached_property
    def varentropy(self) -> Tensor:
        """`(…)`, Var_p[x], which is the variance of the surprisal, nats², float64."""
        return (self.expectation(self.depth.square()) - self.mean_depth.square()).clamp(min=0)

    def expectation(self, values: Tensor) -> Tensor:
        """`(…)`, E_p[values], float64.

        Args:
            values: `(…, vocab)`, finite.
        """
        sums: Tensor = torch.linalg.vecdot(self.probs, values)
        return sums.double() / self.share

    def log_prob(self, tokens: Tensor) -> Tensor:
        """`(…)`, log p(token), nats, float64; -inf for an excluded token.

        Args:
            tokens: `(…)`, integer ids.
        """
        return (self._logits_of(tokens) - self.top.squeeze(-1)).double() - self.log_total

    def rank(self, tokens: Tensor) -> Tensor:
        """`(…)`, number of tokens that come before the given ones by logit alone.

        Args:
            tokens: `(…)`, integer ids.
        """
        chosen = self._logits_of(tokens).unsqueeze(-1)
        # Comparing into floats is faster than into booleans, and counts below 2^24 are exact.
        return torch.gt(self.logits, chosen, out=torch.empty_like(self.logits)).sum(-1)

    def mass_of(self, part: Distribution) -> Tensor | None:
        """`(…)`, mass that a restriction of these rows kept, float64; None where it is none."""
        if part is self:
            return torch.ones_like(self.share)
        if isinstance(part, _Restricted) and part.whole is self:
            return part.share / self.share
        return None

    def _logits_of(self, tokens: Tensor) -> Tensor:
        return self.logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def share(self) -> Tensor:
        """`(…)`, what `probs` add up to, float64."""
        return self.probs.sum(-1).double()


class _Restricted(Distribution):
    """Some tokens of other rows, the first among them; shares what was computed of those.

    Its `probs` are those of the other rows, so they add up to the mass of what is kept, and
    excluded tokens have the depth that they had there.
    """

    def __init__(self, rows: Distribution, kept: Tensor) -> None:
        self.whole = rows
        self._kept = kept
        self.top = rows.top
        self.depth = rows.depth

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        return torch.where(self._kept.bool(), self.whole.logits, -torch.inf)

    @cached_property
    def probs(self) -> Tensor:
        return self.whole.probs * self._kept

    @cached_property
    def kept(self) -> Tensor:
        # A rule may keep what was excluded before, such as the k first of fewer than k.
        if self.depth.device.type == "cpu" and float(self.depth.amax()) < DEEPEST:
            return self._kept.sum(-1).long()  # exact in float32 below 2^24
        return ((self._kept > 0) & (self.whole.logits > -torch.inf)).count_nonzero(-1)

    def restricted(self, kept: Tensor) -> Distribution:
        return _Restricted(self.whole, self._kept * kept)

    def _logits_of(self, tokens: Tensor) -> Tensor:
        kept = self._kept.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return torch.where(kept.bool(), self.whole._logits_of(tokens), -torch.inf)
