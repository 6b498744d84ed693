"""Fitted temperatures against plain minimisation in float64, and against the truth."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.inference.temperature import (
    LogNormalPrior,
    TemperatureSums,
    estimate_temperature,
    fit_temperature,
    mass_before,
    resampled_sums,
    temperature_columns,
    top_p_for_coverage,
)
from decoding.settings.settings import DecodingSettings
from oracle import log_softmax

NORMAL_95 = 1.959964


def sampled(rows, vocab, temperature, seed, scale=3.0):
    """Rows of logits, and a token of each drawn at the temperature."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (rows, vocab))
    y = (z / temperature + rng.gumbel(size=z.shape)).argmax(-1)
    return torch.tensor(z), torch.tensor(y)


def nll(z, y, log_t):
    """Surprisal of the tokens, from the definition."""
    rows = z.numpy() / math.exp(log_t)
    return -sum(log_softmax(row)[token] for row, token in zip(rows, y.tolist(), strict=True))


def minimum(objective):
    """ln T where an objective is smallest, and its second derivative there."""
    at = scipy.optimize.minimize_scalar(objective, bounds=(-5, 5), options={"xatol": 1e-9}).x
    h = 1e-3
    return at, (objective(at + h) - 2 * objective(at) + objective(at - h)) / h**2


def around(log_t, curvature):
    return tuple(np.exp(log_t + sign * NORMAL_95 / math.sqrt(curvature)) for sign in (-1, 1))


# Against minimisation.


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_likeliest_temperature_and_its_information(temperature, dtype):
    z, y = sampled(80, 23, temperature, seed=1)
    log_t, curvature = minimum(lambda at: nll(z, y, at))
    got = fit_temperature(z.to(dtype), y)
    assert got.temperature == pytest.approx(math.exp(log_t), rel=1e-5)
    assert got.confidence_interval == pytest.approx(around(log_t, curvature), rel=1e-3)
    assert (got.tokens, got.documents) == (80, 1)
    assert got.map_temperature is got.map_interval is got.bootstrap_interval is None


@settings(max_examples=20)
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.floats(0.2, 5), st.floats(0.1, 2)
)  # fmt: skip
def test_the_posterior_mode_and_its_curvature(seed, rows, median, scale):
    z, y = sampled(rows, 7, 0.8, seed, scale=1.5)
    prior = LogNormalPrior(median, scale)

    def loss(log_t):
        return nll(z, y, log_t) + (log_t - math.log(median)) ** 2 / (2 * scale**2)

    try:
        got = fit_temperature(z, y, prior)
    except ValueError:
        # The tokens are less likely than uniform draws, so their surprisal falls to the end.
        assert nll(z, y, math.log(999)) < nll(z, y, math.log(99))
        return
    log_t = math.log(got.map_temperature)
    h = 1e-3
    around_it = [loss(log_t + step) for step in (-h, 0, h)]
    curvature = (around_it[0] - 2 * around_it[1] + around_it[2]) / h**2
    assert curvature > 0
    # A stationary point: the slope is small beside the curvature.
    assert abs(around_it[2] - around_it[0]) / (2 * h) < 1e-4 * max(1, curvature)
    assert got.map_interval == pytest.approx(around(log_t, curvature), rel=1e-2)


def test_much_text_outweighs_the_prior_and_little_does_not():
    z, y = sampled(4000, 11, 0.6, seed=3)
    prior = LogNormalPrior(2.0, 0.3)
    much, little = fit_temperature(z, y, prior), fit_temperature(z[:1], y[:1], prior)
    assert much.map_temperature == pytest.approx(much.temperature, rel=0.02)
    assert 1.5 < little.map_temperature < 2.2


@pytest.mark.parametrize("start", [0.001, 0.05, 1.0, 20.0, 1e6])
def test_the_start_does_not_matter(start):
    z, y = sampled(60, 13, 0.8, seed=4)

    def sums(temperature):
        columns = temperature_columns(z, y, temperature)
        return TemperatureSums(*(np.array([c.double().sum().item()]) for c in columns.values()))

    got = estimate_temperature(sums, start=start)
    assert got.temperature == pytest.approx(fit_temperature(z, y).temperature, rel=1e-6)
    assert got.steps <= 25 and (start != 1.0 or got.steps <= 6)


# Sums.


def test_columns_are_their_definitions():
    z, y = sampled(9, 17, 1.0, seed=5)
    z[0, 3] = -math.inf
    got = temperature_columns(z, y, 0.7)
    for index, (row, token) in enumerate(zip(z.numpy() / 0.7, y.tolist(), strict=True)):
        with np.errstate(invalid="ignore"):
            log_q = log_softmax(row)
            q = np.exp(log_q)
            entropy = -np.nansum(q * log_q)
            spread = np.nansum(q * (log_q + entropy) ** 2)
        assert got["surprisal"][index] == pytest.approx(-log_q[token])
        assert got["entropy"][index] == pytest.approx(entropy)
        assert got["varentropy"][index] == pytest.approx(spread)
        assert got["off_top"][index] == (row.argmax() != token)
    assert list(got) == list(TemperatureSums._fields)


def test_documents_drawn_anew_and_each_time_fitted_anew():
    z, y = sampled(600, 9, 1.3, seed=6)
    of_document = np.arange(600) // 20  # 30 documents

    def sums(temperature):
        columns = temperature_columns(z, y, temperature).values()
        # A document without tokens, at the end, must not count.
        return TemperatureSums(
            *(np.bincount(of_document, column.double(), 31) for column in columns)
        )

    got = estimate_temperature(sums)
    assert got.documents == 30
    rng = np.random.default_rng(0)
    logs = []
    for _ in range(150):
        rows = np.concatenate([np.flatnonzero(of_document == d) for d in rng.integers(30, size=30)])
        logs.append(math.log(fit_temperature(z[rows], y[rows]).temperature))
    low, high = np.log(got.bootstrap_interval)
    assert (high - low) / (2 * NORMAL_95) == pytest.approx(np.std(logs), rel=0.2)
    assert (high + low) / 2 == pytest.approx(math.log(got.temperature), abs=0.02)


def test_resampled_sums_have_the_moments_of_the_bootstrap():
    sums = np.random.default_rng(7).normal(2, 3, (25, 2, 2))
    got = resampled_sums(sums, 4000)
    assert got.shape == (4000, 2, 2)
    assert np.array_equal(got, resampled_sums(sums, 4000))
    error = sums.std(0) * 5  # of a sum of 25 units drawn with replacement
    np.testing.assert_allclose(got.std(0), error, rtol=0.05)
    assert (np.abs(got.mean(0) - sums.sum(0)) < 5 * error / math.sqrt(4000)).all()


# What has no ordinary fit.


def test_only_favourites_is_temperature_0():
    z, _ = sampled(40, 12, 1.0, seed=8)
    got = fit_temperature(z, z.argmax(-1), LogNormalPrior())
    low, high = got.confidence_interval
    assert got.temperature == low == 0
    assert math.exp(-nll(z, z.argmax(-1), math.log(high))) == pytest.approx(0.05, rel=1e-3)
    assert 0.02 < got.map_temperature < 1 and got.map_interval[1] < 2
    assert got.bootstrap_interval is None


def test_one_favourite_of_few_tokens_bounds_nothing():
    got = fit_temperature(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    assert (got.temperature, got.confidence_interval) == (0, (0, None))


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        ([[2.0, 1.0, 0.0]] * 9, 2, "uniform draws are likelier"),
        ([[1.0, 1.0, 1.0]], 1, "every temperature fits"),
        ([[1.0, 0.5, -math.inf]], 2, "probability 0"),
        (np.zeros((0, 3)), 0, "no token to fit"),
    ],
)
def test_what_no_temperature_fits_is_refused(logits, target, message):
    logits = torch.tensor(np.array(logits))
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, torch.full((len(logits),), target))


@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan])
def test_a_prior_needs_positive_numbers(bad):
    message = rf"prior median must be positive, from 0.001 to 1000, got {bad}"
    with pytest.raises(ValueError, match=message):
        LogNormalPrior(median=bad)
    with pytest.raises(ValueError, match="prior scale"):
        LogNormalPrior(scale=bad)


# Against the truth.


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_the_interval_holds_the_truth_as_often_as_it_says(temperature):
    inside = 0
    for seed in range(120):
        z, y = sampled(150, 10, temperature, seed)
        low, high = fit_temperature(z, y).confidence_interval
        inside += low <= temperature <= high
    # Binomial with 0.95: outside these with a chance of 0.003.
    assert 106 <= inside <= 119


def test_a_prior_keeps_little_text_sane():
    truths = np.random.default_rng(0).choice([0.5, 0.7, 1.0, 1.5], 100)
    fits = [
        fit_temperature(*sampled(20, 30, truth, seed, scale=9), LogNormalPrior())
        for seed, truth in enumerate(truths)
    ]
    assert all(0.2 <= fit.map_temperature <= 5 for fit in fits)
    assert any(fit.temperature < 0.2 for fit in fits)


# Top-p.


def test_mass_before_follows_the_order():
    rng = np.random.default_rng(9)
    z = rng.integers(0, 4, (50, 8)).astype(float)  # many ties
    y = rng.integers(0, 8, 50)
    got = mass_before(torch.tensor(z), torch.tensor(y))
    for row, token, mass in zip(z, y, got, strict=True):
        order = np.argsort(-row, kind="stable")
        p = np.exp(log_softmax(row))[order]
        assert mass == pytest.approx(p[: list(order).index(token)].sum(), abs=1e-12)


@pytest.mark.parametrize("coverage", [0.005, 0.5, 0.9, 0.99, 1.0])
def test_top_p_is_the_smallest_that_covers(coverage):
    z, y = sampled(200, 40, 1.2, seed=10)
    top_p = top_p_for_coverage(mass_before(z, y), coverage)

    def covered(value):
        log_q = DecodingSettings(top_p=value).log_probs(z)
        return float(log_q.gather(-1, y[:, None]).isfinite().double().mean())

    assert covered(top_p) >= coverage
    # Several favourites are covered by any nucleus.
    assert top_p <= 2e-6 or covered(top_p - 2e-6) < coverage


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"coverage must be in \(0, 1\], got 1.5"):
        top_p_for_coverage([0.0], 1.5)
