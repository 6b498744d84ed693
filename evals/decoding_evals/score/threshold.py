"""A threshold between texts of people and of models, fitted on texts of people alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Threshold:
    """Beyond it lies hardly any text of those people; so it says nothing of texts of other kinds.

    With the stated confidence over the choice of the human texts, at most the stated share of texts
    drawn as they were lies beyond.
    """

    value: float
    above: bool
    """Whether beyond is above."""
    false_positive_rate: float
    """The bound on that share, in (0, 1)."""
    confidence: float
    human_texts: int
    """Those that it was fitted on."""
    human_texts_left_out: int
    """Those that have no score."""
    human_texts_beyond: int
    """Of those that it was fitted on."""

    def flags(self, score: float | None) -> bool | None:
        """Whether a score lies beyond; None for a text without one."""
        if score is None or not math.isfinite(score):
            return None
        return score > self.value if self.above else score < self.value

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_threshold(
    scores: Iterable[float | None], false_positive_rate: float = 0.05, *, above: bool = True
) -> Threshold:
    """The threshold with the most texts beyond that keeps a false-positive rate.

    It is the k-th most extreme score, and strictly beyond it lies a share F of all texts that are
    drawn as these were. P(F > rate) is P(Bin(n, rate) < k), or less where scores repeat, whatever
    their distribution; k is the largest for which that is at most 5 %.

    Args:
        scores: of texts that people wrote; those of None, or infinite, are counted and left out.
        false_positive_rate: in (0, 1).
        above: whether scores of a model's texts are larger, as curvatures are; else smaller, as
            Binoculars' are.

    Raises:
        ValueError: the rate is outside its range, or there are too few scores for it, fewer than
            ln 0.05 / ln(1 - rate).

    Source: Wilks 1941, *Determination of Sample Sizes for Setting Tolerance Limits*.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be in (0, 1), got {false_positive_rate}")
    given = [*scores]
    known = sorted((s for s in given if s is not None and math.isfinite(s)), reverse=above)
    rank = _rank(len(known), false_positive_rate)
    if not rank:
        needed = math.log(1 - CONFIDENCE) / math.log1p(-false_positive_rate)
        least = math.ceil(min(needed, 1e15))  # infinite at the tiniest of rates
        raise ValueError(
            f"a false-positive rate of {false_positive_rate:g} takes at least {least:,} human "
            f"texts, got {len(known):,} with a score"
        )
    value = known[rank - 1]
    return Threshold(
        value=value,
        above=above,
        false_positive_rate=false_positive_rate,
        confidence=CONFIDENCE,
        human_texts=len(known),
        human_texts_left_out=len(given) - len(known),
        human_texts_beyond=known.index(value),
    )


def _rank(n: int, rate: float) -> int:
    """The largest k with P(Bin(n, rate) < k) <= 1 - confidence; 0 where there is none."""
    below, rank = 0.0, 0
    while rank < n:
        term = math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1)
        below += math.exp(term + rank * math.log(rate) + (n - rank) * math.log1p(-rate))
        if below > 1 - CONFIDENCE:
            break
        rank += 1
    return rank
