"""Bayes' rule on log-likelihoods, against exact fractions and mpmath."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from decoding.inference.posterior import (
    log_bayes_factors,
    log_odds,
    log_posterior,
    normalised_prior,
    running_log_posterior,
)

INF = math.inf
parts = st.integers(1, 1000)


def exact(likelihoods, weights):
    joint = [a * b for a, b in zip(likelihoods, weights, strict=True)]
    return [value / sum(joint) for value in joint]


@given(st.lists(st.tuples(parts, parts, parts), min_size=1, max_size=6))
def test_posterior_is_bayes_rule_in_fractions(rows):
    likelihoods = [Fraction(a, a + b) for a, b, _ in rows]
    weights = [Fraction(c) for _, _, c in rows]
    logs = [math.log(a) - math.log(a + b) for a, b, _ in rows]
    got = log_posterior(logs, [float(weight) for weight in weights])
    want = exact(likelihoods, weights)
    assert_allclose(np.exp(got), [float(value) for value in want], rtol=1e-12)
    assert np.exp(got).sum() == pytest.approx(1, abs=1e-12)
    others = [float(share / (1 - share)) if share < 1 else INF for share in want]
    assert_allclose(np.exp(log_odds(got)), others, rtol=1e-9)


def test_long_texts_neither_under_nor_overflow():
    logs = [-1e6, -1e6 - 700, -1e6 - 2000]
    with mpmath.workdps(1000):
        shares = [mpmath.exp(value - logs[0]) for value in logs]
        total = mpmath.fsum(shares)
        want = [float(mpmath.log(share / total)) for share in shares]
        odds = [float(mpmath.log(share / (total - share))) for share in shares]
    assert_allclose(log_posterior(logs), want, rtol=1e-12, atol=1e-300)
    # log(1 - p) would be log 0 here.
    assert_allclose(log_odds(log_posterior(logs)), odds, rtol=1e-12)


def test_what_is_ruled_out_stays_out_whatever_its_prior():
    got = log_posterior([-INF, -5.0, -5.0], [1e9, 1, 3])
    assert_allclose(np.exp(got), [0, 0.25, 0.75])
    assert_allclose(log_odds(got), [-INF, -math.log(3), math.log(3)])
    only = log_posterior([-INF, -5.0])
    assert only.tolist() == [-INF, 0] and log_odds(only).tolist() == [-INF, INF]
    assert np.isnan(log_posterior([-INF, -INF])).all()
    assert np.isnan(log_odds(log_posterior([-INF, -INF]))).all()
    assert log_odds(log_posterior([-3.0])).tolist() == [INF]


def test_rows_are_apart():
    rows = np.array([[-1.0, -2.0], [-INF, -INF], [-INF, -1.0]])
    got = log_posterior(rows)
    assert np.isnan(got[1]).all()
    for row in (0, 2):
        assert_allclose(got[row], log_posterior(rows[row]))


def test_running_posterior_is_updated_token_by_token():
    rng = np.random.default_rng(0)
    steps = -rng.gamma(1, 1, (30, 4))
    steps[12, 2] = -INF
    prior = np.array([1, 2, 3, 4.0])
    got = np.exp(running_log_posterior(steps, prior))
    belief = prior / prior.sum()
    for number, step in enumerate(steps):
        assert_allclose(got[number], belief, rtol=1e-9)
        belief = belief * np.exp(step)
        belief /= belief.sum()
    assert_allclose(got[-1], belief, rtol=1e-9)
    assert len(got) == 31 and (got[13:, 2] == 0).all() and got[12, 2] > 0
    assert_allclose(got[-1], np.exp(log_posterior(steps.sum(0), prior)), rtol=1e-9)
    steps[20] = -INF
    after = running_log_posterior(steps)
    assert np.isfinite(after[20, 0]) and np.isnan(after[21:]).all()
    assert_allclose(np.exp(running_log_posterior(np.empty((0, 2)))), [[0.5, 0.5]])


def test_bayes_factors_are_ratios_of_likelihoods():
    assert log_bayes_factors([-10.0, -12.5, -INF], 0).tolist() == [0, 2.5, INF]
    assert log_bayes_factors([-10.0, -12.5, -INF], 1).tolist() == [-2.5, 0, INF]
    with pytest.raises(ValueError, match="candidate 2 must not be ruled out"):
        log_bayes_factors([-10.0, -12.5, -INF], 2)


def test_a_prior_is_made_to_add_up():
    assert_allclose(normalised_prior(3, [1, 1, 2]), [0.25, 0.25, 0.5])
    assert_allclose(normalised_prior(2, [1e308, 1e308]), [0.5, 0.5])
    assert_allclose(normalised_prior(4), [0.25] * 4)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([1, 2, 3], "one weight for each of the 2 candidates, got 3"),
        ([0, 1], "positive, finite weights, got 0"),
        ([1, -0.5], "positive, finite weights, got -0.5"),
        ([1, math.nan], "positive, finite weights, got nan"),
        ([INF, 1], "positive, finite weights, got inf"),
    ],
)
def test_a_prior_that_is_none_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        log_posterior([-1.0, -2.0], prior)


@pytest.mark.parametrize("value", [math.nan, INF])
def test_log_likelihoods_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="log_likelihoods must be in"):
        log_posterior([-1.0, value])
