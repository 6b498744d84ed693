"""Abstaining with a guarantee: how uncertain may an answer be, so that few that are kept are wrong?

Prompts are judged once, and a threshold is found; later answers are kept where their uncertainty is
below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from decoding_evals.showing.result import Floats

STEPS = 100
"""Thresholds that are tried at most."""
FIRST = 0.1
"""Share of the answers below the first of them, at least."""


@dataclass(frozen=True)
class Abstention:
    """A threshold below which answers are kept, and what is known of them."""

    threshold: float | None
    """Answers less uncertain than this are kept; None where no threshold passes: then none is."""
    risk: float
    """R: the share of wrong answers among those kept is at most this …"""
    confidence: float
    """… with at least this probability."""
    coverage: float
    """Share of the judged prompts whose answers are kept."""
    prompts: int
    """Judged."""
    prompts_undefined: int
    """Of them, those without an uncertainty: they are never kept."""
    kept: int
    wrong: int
    """Of those kept."""
    bound: float | None
    """The Clopper–Pearson upper bound of their risk, at most `risk`."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


def abstention_threshold(
    uncertainty: Sequence[float | None] | ArrayLike,
    correct: ArrayLike,
    *,
    risk: float,
    confidence: float = 0.9,
) -> Abstention:
    """The largest threshold for which kept answers are wrong at most `risk` of the time.

    With probability `confidence` over the draw of the judged prompts, P(wrong | uncertainty <
    threshold) <= `risk` for further prompts of their kind, or nothing is kept.

    Thresholds are tried from the most certain answers on, and the last before the first that fails
    is taken. A threshold passes where P(at most k wrong of n) <= 1 - confidence if each were wrong
    with probability `risk`, k being the wrong ones of the n answers *below* it; that is where the
    Clopper–Pearson bound of their risk is at most `risk`. Where ties leave so few below it that
    none could pass, it is passed over.

    **Why the thresholds may come from the same answers.** Which ranks are tried (`tried_ranks`) is
    fixed by the number of answers alone; the threshold is the uncertainty of the answer at that
    rank, which itself is not counted. Call a threshold bad if the true risk below it exceeds R.
    Going up the scale, bad stretches and good ones take turns, and where they change, the true risk
    below is R. So within each whole stretch the mean risk is R too; and given how many answers fall
    into each stretch, the number of wrong ones in each is binomial with R. These numbers decide
    which tried rank is the first in a bad stretch. Given that, and given its threshold, the answers
    below it are those of whole stretches, and some of a bad stretch up to it, whose mean risk is
    more than R. So k is at least as large as a binomial number with n and R, and this threshold
    passes with probability 1 - confidence at most. Unless it passes, no bad threshold is taken: one
    test is paid for, whatever the number tried. Nothing need be assumed of the estimator, which may
    order answers badly. Where uncertainties tie, the risk jumps over R between stretches; then the
    argument holds if answers are wrong no less often the less sure they are.

    Args:
        uncertainty: `(prompts,)`, larger is less sure; None, NaN or infinite where it is undefined.
            The estimator must be chosen before `correct` is seen: the best of several has no such
            guarantee.
        correct: `(prompts,)`, booleans. Prompts must be independent draws of one kind.
        risk: R, in (0, 1).
        confidence: in (0, 1).

    Raises:
        ValueError: an argument is out of its range, lengths differ, or there are so few answers
            that none could pass, n < ln(1 - confidence) / ln(1 - risk).

    Source: Angelopoulos et al. 2021, arXiv:2110.01052 (Learn then Test, fixed-sequence testing);
        Clopper and Pearson 1934. There thresholds are fixed on the scale itself; here they are
        ranks.
    """
    values = np.array(
        [math.nan if value is None else value for value in uncertainty],  # type: ignore[union-attr]
        dtype=np.float64,
    )
    right = np.asarray(correct, dtype=np.float64)
    if values.shape != right.shape:
        raise ValueError(
            "uncertainty must have a value for each of correct, got shapes "
            f"{values.shape} and {right.shape}"
        )
    if not np.isin(right, (0, 1)).all():
        raise ValueError(f"correct must hold booleans, got {right[~np.isin(right, (0, 1))][0]}")
    known = np.isfinite(values)
    order = np.argsort(values[known], kind="stable")
    scale, wrongs = values[known][order], 1 - right[known][order]
    threshold, kept, wrong = _last_passing(scale, wrongs, risk, confidence)
    return Abstention(
        threshold=threshold,
        risk=risk,
        confidence=confidence,
        coverage=kept / len(values),
        prompts=len(values),
        prompts_undefined=int((~known).sum()),
        kept=kept,
        wrong=wrong,
        bound=upper_bound(wrong, kept, confidence) if kept else None,
    )


def _last_passing(
    scale: Floats, wrongs: Floats, risk: float, confidence: float
) -> tuple[float | None, int, int]:
    """Threshold, answers below it, and the wrong ones of these."""
    found: tuple[float | None, int, int] = (None, 0, 0)
    before = np.concatenate([[0], wrongs.cumsum()])
    for rank in tried_ranks(len(scale), risk, confidence):
        threshold = float(scale[rank - 1])
        below = int(np.searchsorted(scale, threshold, "left"))
        wrong = int(before[below])
        if below < fewest(risk, confidence):
            continue
        if at_most(wrong, below, risk) > 1 - confidence:
            break
        found = (threshold, below, wrong)
    return found


def tried_ranks(answers: int, risk: float, confidence: float) -> list[int]:
    """The ranks whose uncertainties are tried as thresholds, the most certain first, from 1.

    Up to `STEPS` of them, evenly spread. The first has a tenth of the answers before it, and at
    least twice as many as could pass with none wrong, so that one wrong answer is not the end;
    where there are not so many, it is the last.

    Raises:
        ValueError: risk or confidence is not in (0, 1), or there are too few answers.
    """
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    least = fewest(risk, confidence)
    if answers < least + 1:
        raise ValueError(
            f"risk={risk:g} with confidence={confidence:g} takes at least {least + 1:,} judged "
            f"answers with an uncertainty, got {answers:,}"
        )
    first = min(answers, 1 + max(2 * least, math.ceil(FIRST * answers)))
    return [*map(int, np.unique(np.linspace(first, answers, STEPS).round()))]


def fewest(risk: float, confidence: float) -> int:
    """The n from which on answers pass if none is wrong: (1 - risk)^n <= 1 - confidence; 10^15 for
    risks that take more."""
    needed = math.log(1 - confidence) / math.log1p(-risk)
    return math.ceil(min(needed - 1e-9, 1e15))


def at_most(wrong: int, answers: int, risk: float) -> float:
    """P(K <= k) of a binomial K: at most k wrong of n answers, each wrong with probability p.

    Args:
        wrong: k, in [0, n].
        answers: n.
        risk: p, in (0, 1).
    """
    if wrong >= answers:
        return 1.0
    number = np.arange(wrong + 1)
    ways = [math.lgamma(k + 1) + math.lgamma(answers - k + 1) for k in number.tolist()]
    logs = math.lgamma(answers + 1) - np.array(ways)
    logs += number * math.log(risk) + (answers - number) * math.log1p(-risk)
    return min(1.0, math.fsum(np.exp(logs)))


def upper_bound(wrong: int, answers: int, confidence: float) -> float:
    """The Clopper–Pearson upper bound of a risk: the p with P(K <= k) = 1 - confidence.

    Args:
        wrong: k, in [0, n].
        answers: n >= 1.
        confidence: one-sided, in (0, 1).

    Source: Clopper and Pearson 1934, *The use of confidence or fiducial limits*.
    """
    low, high = wrong / answers, 1.0
    if wrong == answers:
        return 1.0
    while low < (middle := (low + high) / 2) < high:
        if at_most(wrong, answers, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high
