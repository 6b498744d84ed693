"""Abstaining with a guarantee, against the binomial counted out and against SciPy."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import beta, binom

from decoding_evals.judging.abstention import (
    STEPS,
    abstention_threshold,
    at_most,
    tried_ranks,
    upper_bound,
)


def test_the_binomial_is_that_of_all_outcomes():
    for answers, risk in ((1, 0.3), (6, 0.2), (9, 0.71)):
        outcomes = [*product((0, 1), repeat=answers)]
        for wrong in range(answers + 1):
            want = math.fsum(
                risk ** sum(one) * (1 - risk) ** (answers - sum(one))
                for one in outcomes
                if sum(one) <= wrong
            )
            assert at_most(wrong, answers, risk) == pytest.approx(want, abs=1e-14)
    assert at_most(731, 20_000, 0.04) == pytest.approx(binom.cdf(731, 20_000, 0.04), rel=1e-9)


@pytest.mark.parametrize(("wrong", "answers"), [(0, 1), (0, 44), (3, 17), (17, 17), (90, 1000)])
def test_the_bound_is_clopper_and_pearsons(wrong, answers):
    found = upper_bound(wrong, answers, 0.9)
    want = 1.0 if wrong == answers else beta.ppf(0.9, wrong + 1, answers - wrong)
    assert found == pytest.approx(want, abs=1e-10)
    if wrong == 0:
        assert found == pytest.approx(1 - 0.1 ** (1 / answers), abs=1e-12)


def test_ranks_follow_from_the_number_of_answers():
    assert tried_ranks(23, 0.1, 0.9) == [23]  # 0.9**22 <= 0.1 < 0.9**21
    assert tried_ranks(400, 0.2, 0.9)[0] == 41 and tried_ranks(400, 0.2, 0.9)[-1] == 400
    assert tried_ranks(100, 0.2, 0.9)[0] == 1 + 2 * 11
    assert tried_ranks(11, 0.5, 0.5)[0] == 3
    for ranks in (tried_ranks(24, 0.1, 0.9), tried_ranks(5000, 0.01, 0.99)):
        assert ranks == sorted({*ranks}) and len(ranks) <= STEPS


def by_hand(uncertainty, correct, risk, confidence):
    """The definition, a threshold at a time."""
    ordered, found = sorted(uncertainty), None
    for rank in tried_ranks(len(ordered), risk, confidence):
        below = [c for u, c in zip(uncertainty, correct, strict=True) if u < ordered[rank - 1]]
        wrong = len(below) - sum(below)
        if (1 - risk) ** len(below) > 1 - confidence:
            continue
        if binom.cdf(wrong, len(below), risk) > 1 - confidence:
            break
        found = (ordered[rank - 1], len(below), wrong)
    return found


@pytest.mark.parametrize("digits", [9, 1, 0])
def test_the_threshold_is_the_last_before_the_first_that_fails(digits):
    """With ties, too."""
    generator = np.random.default_rng(digits)
    kept = 0
    for risk in (0.2, 0.35, 0.6):
        for _ in range(10):
            uncertainty = np.round(generator.random(150) * 4, digits).tolist()
            correct = [generator.random() > u / 4 for u in uncertainty]
            found = abstention_threshold(uncertainty, correct, risk=risk, confidence=0.8)
            want = by_hand(uncertainty, correct, risk, 0.8)
            assert (found.threshold is None) == (want is None)
            if want is not None:
                assert (found.threshold, found.kept, found.wrong) == want
                assert found.coverage == found.kept / 150
                assert found.wrong / found.kept < found.bound <= risk
                kept += 1
    assert kept > 5


def test_answers_without_an_uncertainty_are_never_kept():
    uncertainty = [*range(60), None, math.nan, math.inf]
    found = abstention_threshold(uncertainty, [True] * 63, risk=0.1)
    assert (found.prompts, found.prompts_undefined, found.kept) == (63, 3, 59)
    assert found.threshold == 59 and found.coverage == 59 / 63


def test_equal_uncertainties_keep_nothing():
    found = abstention_threshold([0.5] * 100, [True] * 100, risk=0.1)
    assert (found.threshold, found.coverage, found.bound) == (None, 0, None)


@pytest.mark.parametrize("population", ["rising", "two humps", "in steps"])
def test_the_risk_of_what_is_kept_is_rarely_above(population):
    """In 300 draws of 80 answers; its risk is known at each threshold. A share of 10 % of them may
    be above, and 3 standard deviations more."""
    scale = np.linspace(0, 1, 2001)[1:]
    chance = {
        "rising": 0.1 + 0.5 * scale,
        "two humps": np.where((scale % 0.5) < 0.25, 0.02, 0.9),
        "in steps": 0.1 + 0.5 * scale,
    }[population]
    uncertainty = np.ceil(scale * 8) if population == "in steps" else scale
    below = np.searchsorted(uncertainty, uncertainty, "left")
    risks = np.concatenate([[0], chance.cumsum()])[below] / np.maximum(1, below)
    generator = np.random.default_rng(3)
    above = kept = 0
    for _ in range(300):
        drawn = generator.integers(2000, size=80)
        right = generator.random(80) >= chance[drawn]
        found = abstention_threshold(uncertainty[drawn], right, risk=0.3, confidence=0.9)
        if found.threshold is not None:
            kept += 1
            above += risks[np.searchsorted(uncertainty, found.threshold, "left")] > 0.3
    assert kept > 30
    assert above <= 300 * 0.1 + 3 * math.sqrt(300 * 0.09)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"risk": 0}, r"risk must be in \(0, 1\), got 0"),
        ({"risk": math.nan}, "risk must be in"),
        ({"confidence": 1}, "confidence must be in"),
        ({"risk": 5e-324}, "takes at least 1,000,000,000,000,001 .* got 20"),
        ({"risk": 0.1}, "risk=0.1 with confidence=0.9 takes at least 23 .* got 20"),
        ({"correct": [2] * 20}, "correct must hold booleans, got 2"),
        ({"correct": [True]}, "uncertainty must have a value for each of correct"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused(change, problem):
    arguments = {"uncertainty": range(20), "correct": [True] * 20, "risk": 0.3} | change
    with pytest.raises(ValueError, match=problem):
        abstention_threshold(**arguments)
