"""What each cut keeps, against Hugging Face and NumPy in float64."""

import math
from functools import cache
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from cuts_oracle import EVERY_CUT, NEAR, ORACLES, VALUES, applied, finite, softmax

checked = settings(derandomize=True, max_examples=80)

WARPERS = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": lambda mass: TypicalLogitsWarper(mass=mass),
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
}


@cache
def thousand_rows():
    """Rows like those of models: 5 kinds x 6 vocabularies, 1,000 rows in 30 batches."""
    sizes = {16: 84, 100: 60, 1000: 40, 8192: 12, 50257: 3, 151936: 1}
    kinds = {
        "peaked": lambda noise: 8 * noise,
        "flat": lambda noise: 0.05 * noise,
        "rounded": lambda noise: (3 * noise).bfloat16().float(),
        "far from zero": lambda noise: 3 * noise - 100,  # as GPT-2's are
        "masked": lambda noise: (3 * noise).masked_fill(noise > 2 * noise.roll(1, -1), -torch.inf),
    }
    generator = torch.Generator().manual_seed(3)
    batches = []
    for shape_row in kinds.values():
        for vocab, count in sizes.items():
            rows = shape_row(torch.randn(count, vocab, generator=generator))
            rows[:, 0] = torch.where(torch.isinf(rows).all(-1), 0.0, rows[:, 0])
            batches.append(rows)
    return batches


@pytest.mark.parametrize("name", [name for name in ORACLES if name not in WARPERS])
@pytest.mark.usefixtures("arrays")
def test_kept_sets_equal_float64(name):
    rows = exactly = 0
    for logits, value in zip(thousand_rows(), cycle(VALUES[name]), strict=False):
        for z, mine in zip(
            logits.double().numpy(), finite(applied(name, logits, value)), strict=True
        ):
            kept, margin, _ = ORACLES[name](z, value)
            kept &= np.isfinite(z)
            what = f"{name}={value}, row {rows}, vocabulary {len(z)}"
            assert not np.any((mine != kept) & (margin > NEAR)), what
            exactly += np.array_equal(mine, kept)
            rows += 1
    assert rows == 1000
    assert exactly >= 990


@pytest.mark.parametrize("name", WARPERS)
@pytest.mark.usefixtures("arrays")
def test_kept_sets_equal_hugging_face_and_float64(name):
    rows = as_oracle = as_float32 = 0
    for logits, value in zip(thousand_rows(), cycle(VALUES[name]), strict=False):
        ours, warper = finite(applied(name, logits, value)), WARPERS[name](value)
        # Given float64, Hugging Face's warpers do not add their own rounding to the comparison.
        theirs, theirs32 = (finite(warper(None, z)) for z in (logits.double(), logits))
        for z, mine, exact, rounded in zip(
            logits.double().numpy(), ours, theirs, theirs32, strict=True
        ):
            kept, margin, tied = ORACLES[name](z, value)
            kept &= np.isfinite(z)
            clear = margin > NEAR
            what = f"{name}={value}, row {rows}, vocabulary {len(z)}"
            assert not np.any((mine != kept) & clear), what
            assert not np.any((mine != exact) & clear & ~tied), what
            as_oracle += np.array_equal(mine, kept)
            as_float32 += not np.any((mine != rounded) & clear & ~tied)
            rows += 1
    assert rows == 1000
    assert as_oracle >= 990  # the allowance above is for rare rows
    # Its float32 entropy is off by 1e-5, more or less with the instructions that a CPU has.
    assert as_float32 >= (990 if name == "typical_p" else 1000)


@pytest.mark.parametrize(("name", "value"), EVERY_CUT)
@checked
@given(levels=st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_ties_follow_the_common_order(name, value, levels):
    z = np.array(levels, dtype=float)
    kept, margin, _ = ORACLES[name](z, value)
    assume(margin.min() > NEAR)
    assert np.array_equal(finite(applied(name, torch.tensor(z).float(), value)), kept)


@pytest.mark.parametrize(
    ("name", "value", "count"), [("top_k", 3, 3), ("top_p", 0.45, 4), ("typical_p", 0.45, 4)]
)
def test_equal_logits_keep_the_lowest_ids(name, value, count):
    kept = finite(applied(name, torch.full((8,), 2.5), value))
    assert kept.tolist() == [True] * count + [False] * (8 - count)


def test_top_k_keeps_exactly_k_of_tied_tokens_where_hugging_face_keeps_all():
    logits = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]])
    assert finite(applied("top_k", logits, 3)).tolist() == [[True, True, False, True, False]]
    assert finite(TopKLogitsWarper(3)(None, logits)).all()


def test_top_p_fills_up_from_the_lowest_of_the_tied_ids():
    logits = torch.tensor([0.4, 0.1, 0.1, 0.3, 0.1]).log()
    assert finite(applied("top_p", logits, 0.85)).tolist() == [True, True, True, True, False]
    assert finite(applied("top_p", logits, 0.75)).tolist() == [True, True, False, True, False]


def test_typical_p_orders_equal_distances_by_id():
    logits = torch.tensor([0.1, 0.2, 0.2, 0.2, 0.3]).log()  # 0.2 is nearest to the entropy
    assert finite(applied("typical_p", logits, 0.35)).tolist() == [False, True, True, False, False]


def test_the_first_token_stays_where_none_reaches_epsilon():
    logits = torch.zeros(1000)
    logits[[7, 500]] = 1e-3
    assert finite(applied("epsilon_cutoff", logits, 0.9)).nonzero()[0].tolist() == [7]


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p", "top_n_sigma", "top_h", "p_less"])
@checked
@given(data=st.data())
def test_kept_sets_are_exact_for_logits_of_any_size(name, data):
    """Adding a constant to all logits changes no probability, so it may change no kept set."""
    value = data.draw(st.sampled_from(VALUES[name]))
    seed = data.draw(st.integers(0, 10_000))
    shift = data.draw(st.sampled_from([-1e4, -1e3, 1e3, 1e4]))
    # Multiples of 1/1024 below 2^14 are exact in float32, shifted or not.
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(seed))
    logits = (noise * 2048).round() / 1024
    kept, margin, _ = ORACLES[name](logits.double().numpy(), value)
    assume(margin.min() > NEAR)
    assert np.array_equal(finite(applied(name, logits + shift, value)), kept)


@pytest.mark.parametrize("budget", VALUES["kl_budget"])
def test_kl_budget_is_top_p_and_its_cost_is_never_exceeded(budget):
    rows = 0
    for logits in thousand_rows():
        ours = applied("kl_budget", logits, budget)
        assert torch.equal(ours, applied("top_p", logits, math.exp(-budget)))
        for z, kept in zip(logits.double().numpy(), finite(ours), strict=True):
            p = softmax(z)
            # KL(q‖p) = -ln Z; a float32 probability is within 1e-6 of its own.
            assert -np.log(p[kept].sum()) <= budget + 1e-6
            if kept.sum() > 1:
                # One fewer would cost too much.
                assert -np.log(p[kept].sum() - p[kept].min()) > budget - 1e-6
            rows += 1
    assert rows == 1000
