"""Selective prediction: does an uncertainty tell good answers from bad ones?

Uncertainty is higher where an answer is less sure; quality is higher where it is better. Prompts of
equal uncertainty have no order, so every figure is its expectation over all orders of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from decoding_evals.judging.bootstrap import Interval, bootstrap
from decoding_evals.showing.result import Floats, Integers, finite

FEW = 5
"""Right or wrong answers, below which a bootstrap has too few of them to draw from."""


def auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float | None:
    """Probability that a wrong answer is more uncertain than a right one.

    P(u_wrong > u_right) + ½·P(u_wrong = u_right) over all pairs of a wrong and a right answer: 1
    where uncertainty tells them apart, ½ where it says nothing.

    Args:
        uncertainty: `(prompts,)`, not NaN; may be infinite.
        correct: `(prompts,)`, booleans.

    Returns:
        A number in [0, 1]; None unless there are both right and wrong answers.

    Raises:
        ValueError: lengths differ, a value is NaN, or `correct` is neither 0 nor 1.

    Source: Mann and Whitney 1947; Hanley and McNeil 1982. LM-Polygraph's `roc-auc` with 1 - correct
        as its target.
    """
    right = _judgements(correct)
    return _known(_Ties(uncertainty, right).auroc(_once(right)))


class RiskCoverage(NamedTuple):
    """Mean risk of the answers that are kept, by how many are kept."""

    coverage: Floats
    """`(prompts,)`, k / prompts for k = 1, 2, …"""
    risk: Floats
    """`(prompts,)`, mean of 1 - quality over the k most certain answers."""


def risk_coverage(uncertainty: ArrayLike, quality: ArrayLike) -> RiskCoverage:
    """The risk–coverage curve: risk of the k most certain answers, for every k.

    Args:
        uncertainty: `(prompts,)`, not NaN; may be infinite.
        quality: `(prompts,)`, in [0, 1]; booleans are 0 and 1.

    Raises:
        ValueError: lengths differ, a value is NaN, or a quality lies outside [0, 1].

    Source: El-Yaniv and Wiener 2010, *On the Foundations of Noise-free Selective Classification*.
    """
    good = _qualities(quality)
    kept = _Ties(uncertainty, good).kept_quality(_once(good))[0]
    return RiskCoverage(np.arange(1, len(kept) + 1) / max(1, len(kept)), 1 - kept)


def aurc(uncertainty: ArrayLike, quality: ArrayLike) -> float | None:
    """Area under the risk–coverage curve: mean of the risks at coverage 1/n, 2/n, …, 1.

    Arguments and errors are those of `risk_coverage`.

    Returns:
        A number in [0, 1], lower is better; None where there is no prompt.

    Source: Geifman, Uziel and El-Yaniv 2019, *Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers*. LM-Polygraph's `rcc-auc` where quality runs from 0 to 1.
    """
    return _mean(risk_coverage(uncertainty, quality).risk)


def prediction_rejection_ratio(
    uncertainty: ArrayLike,
    quality: ArrayLike,
    *,
    max_rejection: float = 1.0,
) -> float | None:
    """How much of what a perfect order of rejection gains the uncertainty gains (PRR).

    PRR = (A(uncertainty) - A(random)) / (A(perfect) - A(random)), where A is the mean of the mean
    qualities of the k most certain answers, over the last r = ⌊max_rejection·n⌋ of the k = 1 … n.
    A(random) is its expectation over random orders, the mean quality.

    Args:
        uncertainty: as for `risk_coverage`.
        quality: as for `risk_coverage`.
        max_rejection: largest share of answers that are rejected, in (0, 1].

    Returns:
        1 for a perfect order, 0 for one as good as chance, as a constant uncertainty is, negative
        for a worse one; None where quality is constant or nothing is rejected.

    Raises:
        ValueError: lengths differ, a value is NaN, or an argument lies outside its range.

    Source: Malinin and Gales 2021, *Uncertainty Estimation in Autoregressive Structured
        Prediction*; LM-Polygraph's `prr_normalized`, which takes the mean of 1,000 random orders
        for A(random), orders ties as its sort happens to, and gives the plain area where quality
        is constant.
    """
    if not 0 < max_rejection <= 1:
        raise ValueError(f"max_rejection must be in (0, 1], got {max_rejection}")
    good = _qualities(quality)
    ties, perfect = _Ties(uncertainty, good), _Ties(-good, good)
    rejected = int(max_rejection * len(good))
    if rejected < 2:  # the first of them rejects nothing
        return None
    return _known(_prr(ties, perfect, _once(good), rejected))


def evaluate_estimators(
    estimators: Mapping[str, Sequence[float | None]],
    correct: Sequence[bool | None],
    quality: Sequence[float | None] | None = None,
    *,
    max_rejection: float = 1.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How well each estimator's uncertainty tells right answers from wrong ones, ready for JSON.

    AUROC is of `correct`; the risk–coverage curve, its area and PRR are of `quality`. Intervals
    are of 95 %, by the bootstrap over prompts.

    Args:
        estimators: by name, the uncertainty of each prompt, higher is less sure; None or NaN where
            it is undefined, which leaves the prompt out for that estimator alone.
        correct: whether each answer is right; None where there is no reference, which leaves the
            prompt out.
        quality: how good each answer is, in [0, 1]; default 1 where it is right and 0 where not.
        max_rejection: see `prediction_rejection_ratio`.
        resamples: of the bootstrap, as `seed`.
        seed: of its draws.

    Returns:
        `prompts`, `prompts_left_out`, `accuracy`, `risk` (of all answers), `oracle` (`aurc` and
        `risk_coverage` of the perfect order) and `estimators`: by name `prompts`,
        `prompts_undefined`, `auroc`, `auroc_interval`, `auroc_undefined_resamples`, `aurc`, `prr`,
        `prr_interval`, `prr_undefined_resamples`, `risk_coverage` (`coverage` and `risk`), and
        `note`, which says why something is None or not to be trusted, or is None.

    Raises:
        ValueError: lengths differ, or a value lies outside its range.
    """
    judged = np.array([value is not None for value in correct], dtype=bool)
    right = _judgements([value for value in correct if value is not None])
    good = right
    if quality is not None:
        _same_length("quality", quality, "correct", correct)
        kept = [value for value, known in zip(quality, judged, strict=True) if known]
        good = _qualities(np.array(kept, dtype=np.float64))
    columns = {}
    for name, values in estimators.items():
        _same_length(name, values, "correct", correct)
        columns[name] = np.array(values, dtype=np.float64)[judged]  # None becomes NaN
    # An order of their own: the resamples too are then the same in whatever order prompts come.
    order = np.lexsort([*columns.values(), good, right])
    right, good = right[order], good[order]
    draws = {"resamples": resamples, "seed": seed}
    evaluated = {}
    for name, values in columns.items():
        uncertainty = values[order]
        known = ~np.isnan(uncertainty)
        evaluated[name] = {
            "prompts": int(known.sum()),
            "prompts_undefined": int((~known).sum()),
            **_evaluated(uncertainty[known], right[known], good[known], max_rejection, draws),
        }
    return {
        "prompts": len(right),
        "prompts_left_out": len(judged) - len(right),
        "accuracy": _mean(right),
        "risk": _mean(1 - good),
        "oracle": _curve(-good, good),
        "estimators": evaluated,
    }


def _evaluated(
    uncertainty: Floats, right: Floats, good: Floats, max_rejection: float, draws: dict[str, int]
) -> dict[str, Any]:
    """The figures of one estimator on the prompts where it is defined."""
    ratio = prediction_rejection_ratio(uncertainty, good, max_rejection=max_rejection)
    found = auroc(uncertainty, right)
    auroc_interval = prr_interval = Interval(None, None, draws["resamples"])
    if found is not None:
        auroc_interval = bootstrap(_Ties(uncertainty, right).auroc, len(right), **draws)
    if ratio is not None:
        ties, perfect = _Ties(uncertainty, good), _Ties(-good, good)
        rejected = int(max_rejection * len(good))

        def statistic(counts: Integers) -> Floats:
            return _prr(ties, perfect, counts, rejected)

        prr_interval = bootstrap(statistic, len(good), **draws)
    return {
        "auroc": found,
        "auroc_interval": auroc_interval.ends(),
        "auroc_undefined_resamples": auroc_interval.undefined,
        "prr": ratio,
        "prr_interval": prr_interval.ends(),
        "prr_undefined_resamples": prr_interval.undefined,
        **_curve(uncertainty, good),
        "note": _note(right, good, found, ratio),
    }


class _Ties:
    """Prompts by increasing uncertainty, those of equal uncertainty in one group.

    `counts`, `(resamples, prompts)`, says how often each prompt occurs, in the order given; every
    resample has as many in all.
    """

    def __init__(self, uncertainty: ArrayLike, quality: Floats) -> None:
        values = np.asarray(uncertainty, dtype=np.float64)
        _same_length("uncertainty", values, "the answers", quality)
        if np.isnan(values).any():
            raise ValueError("uncertainty must not be NaN: leave those prompts out")
        self.order = np.argsort(values, kind="stable")
        self.quality = quality[self.order]
        values = values[self.order]
        first = np.ones(len(values), dtype=bool)
        first[1:] = values[1:] != values[:-1]
        self.starts = np.flatnonzero(first)

    def groups(self, counts: Integers) -> tuple[Integers, Floats]:
        """Number of answers and sum of their qualities, `(resamples, groups)`."""
        drawn = counts[:, self.order]
        sizes = np.add.reduceat(drawn, self.starts, axis=1)
        sums = np.add.reduceat(drawn * self.quality, self.starts, axis=1)
        return sizes, sums

    def kept_quality(self, counts: Integers) -> Floats:
        """Mean quality of the k most certain answers, `(resamples, answers)`.

        Over all orders of a group, each of its places has the group's mean in expectation.
        """
        sizes, sums = self.groups(counts)
        return _running_means(sums / np.maximum(sizes, 1), sizes)

    def gain(self, counts: Integers, rejected: int) -> Floats:
        """What rejecting up to `rejected` - 1 answers adds to the mean quality of all, in the mean,
        `(resamples,)`; exactly 0 where all prompts are of one group."""
        sizes, sums = self.groups(counts)
        above = sums / np.maximum(sizes, 1) - sums.sum(1, keepdims=True) / counts.sum(1)[:, None]
        gained: Floats = _running_means(above, sizes)[:, -rejected:].mean(1)
        return gained

    def auroc(self, counts: Integers) -> Floats:
        """The AUROC of each resample, NaN where it is undefined; qualities are 0 and 1."""
        sizes, right = self.groups(counts)
        wrong = sizes - right
        below = right.cumsum(1) - right
        pairs = right.sum(1) * wrong.sum(1)
        with np.errstate(invalid="ignore"):
            found: Floats = (wrong * (below + right / 2)).sum(1) / pairs
        return found


def _once(values: Floats) -> Integers:
    """The counts of the sample itself."""
    return np.ones((1, len(values)), dtype=np.int64)


def _running_means(means: Floats, sizes: Integers) -> Floats:
    """Mean of the first k answers, `(resamples, answers)`, from means and sizes of groups."""
    expected = np.repeat(means.ravel(), sizes.ravel()).reshape(len(means), -1)
    running: Floats = expected.cumsum(1) / np.arange(1, expected.shape[1] + 1)
    return running


def _prr(ties: _Ties, perfect: _Ties, counts: Integers, rejected: int) -> Floats:
    """The PRR of each resample, NaN where its quality is constant."""
    # Groups of the perfect order are of one quality each.
    constant = (perfect.groups(counts)[0] > 0).sum(1) < 2
    best = np.where(constant, np.nan, perfect.gain(counts, rejected))
    # No order gains more than the perfect one, but for rounding.
    ratio: Floats = np.minimum(ties.gain(counts, rejected) / best, 1)
    return ratio


def _curve(uncertainty: Floats, quality: Floats) -> dict[str, Any]:
    curve = risk_coverage(uncertainty, quality)
    return {
        "aurc": _mean(curve.risk),
        "risk_coverage": {"coverage": curve.coverage.tolist(), "risk": curve.risk.tolist()},
    }


def _note(right: Floats, good: Floats, found: float | None, ratio: float | None) -> str | None:
    """Why a figure of an estimator is None, or its interval not to be trusted."""
    if not len(right):
        return "no prompt to evaluate"
    if found is None:
        undefined = "AUROC and PRR are undefined" if ratio is None else "AUROC is undefined"
        return f"every answer is {'right' if right[0] else 'wrong'}: {undefined}"
    if ratio is not None:
        fewest = int(min(right.sum(), len(right) - right.sum()))
        if fewest >= FEW:
            return None
        kind = "right" if right.sum() <= len(right) / 2 else "wrong"
        return f"only {fewest} {kind} answer{'s' * (fewest > 1)}: the intervals are too narrow"
    if (good == good[0]).all():
        return f"every answer is of quality {good[0]:g}: PRR is undefined"
    return f"max_rejection rejects none of {len(good)} answers: PRR is undefined"


def _judgements(correct: ArrayLike) -> Floats:
    values = np.asarray(correct, dtype=np.float64)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"correct must hold booleans, got {values[~np.isin(values, (0, 1))][0]}")
    return values


def _qualities(quality: ArrayLike) -> Floats:
    values = np.asarray(quality, dtype=np.float64)
    outside = ~((values >= 0) & (values <= 1))  # NaN too
    if outside.any():
        raise ValueError(f"quality must be in [0, 1], got {values[outside][0]}")
    return values


def _same_length(name: str, values: Any, other: str, others: Any) -> None:
    if np.shape(values) != np.shape(others):
        raise ValueError(
            f"{name} must have a value for each of {other}, got shapes "
            f"{np.shape(values)} and {np.shape(others)}"
        )


def _known(found: Floats) -> float | None:
    """The figure of the sample itself; None where it is undefined."""
    value: float | None = finite(found[0])
    return value


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
