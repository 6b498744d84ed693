"""Reliability and expected calibration error against plain loops and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding_evals.calibrate.quality import reliability
from decoding_evals.calibrate.view import verdict
from oracle import ece


def calibrated(n, seed, power=1.0):
    """Stated probabilities, and what came: true where the power is 1."""
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.01, 0.99, n)
    return stated, rng.random(n) < stated**power


def test_bins_have_equal_mass_and_the_ece_of_a_plain_loop():
    stated, came = calibrated(100, 0)
    got = reliability(stated, came)
    assert got.ece == pytest.approx(ece(stated, came))
    assert set(got.counts.tolist()) == {6, 7} and got.counts.sum() == 100
    assert (np.diff(got.confidence) > 0).all()
    assert (got.accuracy * got.counts).sum() == pytest.approx(came.sum())
    assert (got.ece_unit, got.units) == ("blocks", 32)


def test_equal_confidences_share_a_bin_however_they_come():
    """Half of what is stated with 1/2 comes true: no order of the rows makes that an error."""
    for came in ([1] * 750 + [0] * 750, [1, 0] * 750, [0] * 750 + [1] * 750):
        got = reliability([0.5] * 1500, came)
        assert (got.ece, got.counts.tolist()) == (0, [1500])
    # Three values, of which the middle one is of several bins: 0.2 + 0.1 + 0 off, by their numbers.
    stated = [0.1] * 20 + [0.5] * 60 + [0.9] * 20
    came = [1] * 6 + [0] * 14 + [1] * 36 + [0] * 24 + [1] * 18 + [0] * 2
    got = reliability(stated, came)
    assert got.ece == pytest.approx(0.2 * 0.2 + 0.6 * 0.1)
    assert got.counts.tolist() == [20, 60, 20]
    assert got.confidence == pytest.approx([0.1, 0.5, 0.9])
    assert got.accuracy == pytest.approx([0.3, 0.6, 0.9])


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.6, 0.9]), st.booleans()), min_size=1),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_rows_changes_no_bin(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, other = (reliability(*zip(*seen, strict=True)) for seen in (rows, shuffled))
    assert one.counts.tolist() == other.counts.tolist()
    for name in ("confidence", "accuracy", "ece", "ece_if_calibrated"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12), name


def test_documents_are_the_units_from_twenty_on():
    stated, came = calibrated(400, 1)
    few, many = np.arange(400) // 22, np.arange(400) // 20
    assert reliability(stated, came, few).ece_unit == "blocks"
    got = reliability(stated, came, many)
    assert (got.ece_unit, got.units) == ("documents", 20)
    # All that documents have in common widens the interval.
    together = np.repeat(came[::20], 20)
    low, high = reliability(np.repeat(stated[::20], 20), together, many).ece_interval
    alone = reliability(np.repeat(stated[::20], 20), together).ece_interval
    assert high - low > 0.5 * (alone[1] - alone[0])
    one = reliability([0.7], [True])
    assert one.ece_interval is None and one.ece == pytest.approx(0.3)


def test_the_interval_holds_the_truth():
    truth = reliability(*calibrated(200_000, 99, power=2.0)).ece
    held = {1.0: 0, 2.0: 0}
    for seed in range(50):
        for power, true in ((1.0, 0.0), (2.0, truth)):
            low, high = reliability(*calibrated(800, seed, power), seed=seed).ece_interval
            held[power] += low <= true <= high
    assert held[1.0] >= 45 and held[2.0] >= 40


def test_what_a_calibrated_model_shows():
    several = [reliability(*calibrated(500, seed)) for seed in range(40)]
    shown = np.mean([one.ece for one in several])
    assert shown == pytest.approx(np.mean([one.ece_if_calibrated for one in several]), rel=0.1)


def test_nothing_has_no_reliability():
    with pytest.raises(ValueError, match="got 0 and 15"):
        reliability([], [])


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ([1.1, 1.4], "above 1: as it is, the model is too sure"),
        ([0.6, 0.9], "below 1: as it is, the model is less sure"),
        ([0.9, 1.1], "not clearly other than 1"),
        ([0.9, None], "best."),
        (None, "best."),
    ],
)
def test_the_verdict_is_that_of_the_interval(interval, says):
    assert says in verdict({"temperature": 1.0, "confidence_interval": interval})
