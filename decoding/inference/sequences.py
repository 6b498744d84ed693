"""Entropy of whole sequences, from a few samples of them.

The entropy of a sequence is H = E[-log q(sequence)]. Two averages over samples estimate it, both
without bias: the surprisal of each sample, and the sum of the exact entropies of the steps that the
sample went through. The second replaces each step's surprisal by its expectation (Rao and
Blackwell), which often, but not always, leaves less variance: a path's entropies may vary more than
its surprisals do. So both come with their errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from decoding.inference.intervals import MeanError, ratio_of_sums


class SequenceEntropy(NamedTuple):
    """Two estimates of one sequence entropy, nats; each with its standard error over samples."""

    monte_carlo: MeanError
    """Mean of -log q(sample)."""
    rao_blackwellised: MeanError
    """Mean of Σ_t H(q_t) along the samples."""

    @property
    def better(self) -> MeanError:
        """The estimate with the smaller standard error; of equal ones the Rao–Blackwellised."""
        first, second = self.rao_blackwellised, self.monte_carlo
        return second if second.standard_error < first.standard_error else first


def sequence_entropy(
    surprisals: Sequence[ArrayLike], entropies: Sequence[ArrayLike]
) -> SequenceEntropy:
    """Estimate the entropy of a sequence from samples of it.

    Where samples end at a length limit, it is the entropy of the sequence up to there.

    Args:
        surprisals: for each of n >= 2 independent samples, `(tokens,)`, -log q of its tokens, the
            one that ended it included, nats.
        entropies: the same for H(q) at its steps, nats.

    Raises:
        ValueError: fewer than two samples, or lengths that differ.

    Source: Rao 1945, Blackwell 1947; for language models Amini et al. 2025, arXiv:2504.10637
        ("Better estimation of the KL divergence between language models").
    """
    if len(surprisals) < 2:
        raise ValueError(f"samples must be at least 2 for an error, got {len(surprisals)}")
    lengths = [np.shape(values) for values in surprisals]
    if lengths != [np.shape(values) for values in entropies]:
        raise ValueError("surprisals and entropies must have one value for each token")
    ones = np.ones(len(surprisals))
    totals = [
        [math.fsum(np.asarray(values, dtype=np.float64)) for values in samples]
        for samples in (surprisals, entropies)
    ]
    return SequenceEntropy(*(ratio_of_sums(values, ones) for values in totals))
