"""How much of an ensemble's uncertainty its members share, and how much they disagree about.

Each member gives a distribution over the next token. The entropy of their mean is what one knows
who does not know which member to trust; the mean of their entropies would be left if one knew. The
difference is the information between the token and the member: the epistemic part. Members are
added one after the other, so memory is that of one vocabulary row a position, however many come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.information.measures import entropy
from decoding.information.statistics import BLOCK_BYTES
from decoding.rows.blocks import row_blocks


class Uncertainty(NamedTuple):
    """The entropy of a mixture and its two parts, total = aleatoric + mutual information.

    Every tensor is `(…)`, float64, nats.
    """

    total: Tensor
    """H(mean_k p_k), in [0, ln vocab]."""
    aleatoric: Tensor
    """mean_k H(p_k), in [0, total]: what remains where the member is known."""
    mutual_information: Tensor
    """Between token and member, in [0, ln members]: what the members disagree about."""


class Mixture:
    """The equal mixture of members' distributions, gathered one member at a time.

    Kept are a running `log Σ_k p_k` and a running `Σ_k H(p_k)`, in float64: one vocabulary row and
    one number a position. Temporaries are a few rows.

    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474 (equal mixture); Houlsby et al. 2011,
        arXiv:1112.5745, and Depeweg et al. 2018, arXiv:1710.07283 (the decomposition).
    """

    def __init__(self) -> None:
        self.members = 0
        self._shape: tuple[int, ...] = ()
        self._log_sum = torch.empty(0)  # (rows, vocab)
        self._entropy_sum = torch.empty(0)  # (rows)

    @torch.no_grad()
    def add(self, logits: Tensor) -> None:
        """Take in the next member's logits at the positions of all members, `(…, vocab)`.

        They are of any floating dtype; `-inf` marks excluded tokens.

        Raises:
            ValueError: another shape than the first member's, or a row without a distribution.
        """
        if not self.members:
            self._shape = tuple(logits.shape)
            size = (math.prod(logits.shape[:-1]), logits.shape[-1])
            self._log_sum = logits.new_full(size, -math.inf, dtype=torch.float64)
            self._entropy_sum = logits.new_zeros(size[0], dtype=torch.float64)
        elif tuple(logits.shape) != self._shape:
            raise ValueError(
                "logits must have the shape of the first member's, positions and vocabulary: "
                f"{self._shape}, got {tuple(logits.shape)} of member {self.members}"
            )
        rows = logits.reshape(self._log_sum.shape)
        # Before anything is taken in: a refused member leaves no trace.
        if not all(bool(rows[block].amax(-1).isfinite().all()) for block in self._blocks()):
            raise ValueError(
                "logits must be finite or -inf, and not all -inf in a row, got otherwise of "
                f"member {self.members}"
            )
        for block in self._blocks():
            log_probs = rows[block].double().log_softmax(-1)
            log_sum = self._log_sum[block]
            torch.logaddexp(log_sum, log_probs, out=log_sum)
            self._entropy_sum[block] += entropy(log_probs)
        self.members += 1

    def uncertainty(self) -> Uncertainty:
        """The uncertainty of the mixture of the members so far, and its parts.

        `H(mean_k p_k) = mean_k H(p_k) + I`, with I the mean of KL(p_k‖mean), >= 0.

        Raises:
            ValueError: fewer than two members: one cannot disagree with itself.
        """
        if self.members < 2:
            raise ValueError(f"members must be at least 2, got {self.members}")
        log_members = math.log(self.members)
        aleatoric = self._entropy_sum / self.members
        total = torch.empty_like(aleatoric)
        for block in self._blocks():
            total[block] = entropy(self._log_sum[block] - log_members)
        # In float64 the difference cancels to 1e-13 at worst, so no second pass over KL is needed.
        information = (total - aleatoric).clamp(0, log_members)
        shape = self._shape[:-1]
        return Uncertainty(*(x.reshape(shape) for x in (total, aleatoric, information)))

    def _blocks(self) -> Iterator[slice]:
        """The rows, a few at a time."""
        return row_blocks(self._log_sum.shape, BLOCK_BYTES // 8)
