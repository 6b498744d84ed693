"""Truncation rules against Hugging Face and NumPy in float64."""

import math
from functools import cache
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from cuts_oracle import ORACLES, by_logit, entropy, softmax
from decoding.rules.history import History
from decoding.rules.truncation import temperature, xtc
from decoding.settings.applying import CUTS
from decoding.settings.settings import STEERING, DecodingSettings
from oracle import prefix_entropies, without_top_choices

RULES = {"temperature": temperature, **CUTS}

checked = settings(derandomize=True, max_examples=80)

NEAR = 1e-6
"""A token may fall on either side where its threshold quantity is this close to the cut."""
WARPERS = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": lambda mass: TypicalLogitsWarper(mass=mass),
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
}
VALUES = {
    "top_n_sigma": (0.3, 1.0, 1.5, 2.5, 4.0),
    "top_h": (0.1, 0.4, 0.6, 0.8, 0.99),
    "top_k": (1, 3, 20, 50, 1000),
    "top_p": (0.1, 0.5, 0.9, 0.95, 0.999),
    "min_p": (0.01, 0.05, 0.1, 0.3, 0.9),
    "typical_p": (0.2, 0.5, 0.9, 0.95, 0.99),
    "epsilon_cutoff": (1e-5, 3e-4, 1e-3, 1e-2, 0.2),
    "eta_cutoff": (1e-4, 6e-4, 2e-3, 0.05, 0.3),
    "p_less": (0.01, 0.1, 0.5, 1.0, 0.9),
    "kl_budget": (1e-4, 0.01, 0.1, 0.5, 3.0),
}
EVERY_RULE = [(name, value) for name, values in VALUES.items() for value in values[1:4]]


def finite(logits):
    return (logits > -torch.inf).numpy()


# --- kept sets


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
            logits.double().numpy(), finite(RULES[name](logits, value)), strict=True
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
        ours, warper = finite(RULES[name](logits, value)), WARPERS[name](value)
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


@pytest.mark.parametrize(("name", "value"), EVERY_RULE)
@checked
@given(levels=st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_ties_follow_the_common_order(name, value, levels):
    z = np.array(levels, dtype=float)
    kept, margin, _ = ORACLES[name](z, value)
    assume(margin.min() > NEAR)
    assert np.array_equal(finite(RULES[name](torch.tensor(z).float(), value)), kept)


@pytest.mark.parametrize(
    ("name", "value", "count"), [("top_k", 3, 3), ("top_p", 0.45, 4), ("typical_p", 0.45, 4)]
)
def test_equal_logits_keep_the_lowest_ids(name, value, count):
    kept = finite(RULES[name](torch.full((8,), 2.5), value))
    assert kept.tolist() == [True] * count + [False] * (8 - count)


def test_top_k_keeps_exactly_k_of_tied_tokens_where_hugging_face_keeps_all():
    logits = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]])
    assert finite(RULES["top_k"](logits, 3)).tolist() == [[True, True, False, True, False]]
    assert finite(TopKLogitsWarper(3)(None, logits)).all()


def test_top_p_fills_up_from_the_lowest_of_the_tied_ids():
    logits = torch.tensor([0.4, 0.1, 0.1, 0.3, 0.1]).log()
    assert finite(RULES["top_p"](logits, 0.85)).tolist() == [True, True, True, True, False]
    assert finite(RULES["top_p"](logits, 0.75)).tolist() == [True, True, False, True, False]


def test_typical_p_orders_equal_distances_by_id():
    logits = torch.tensor([0.1, 0.2, 0.2, 0.2, 0.3]).log()  # 0.2 is nearest to the entropy
    assert finite(RULES["typical_p"](logits, 0.35)).tolist() == [False, True, True, False, False]


def test_the_first_token_stays_where_none_reaches_epsilon():
    logits = torch.zeros(1000)
    logits[[7, 500]] = 1e-3
    assert finite(RULES["epsilon_cutoff"](logits, 0.9)).nonzero()[0].tolist() == [7]


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
    assert np.array_equal(finite(RULES[name](logits + shift, value)), kept)


# --- by hand


def kept_ids(probs, name, value):
    return finite(RULES[name](torch.tensor(probs).log(), value)).nonzero()[0].tolist()


def test_top_n_sigma_by_hand():
    # Mean 2 and deviations 2, 1, 0, 1, 2 give a variance of (4 + 1 + 0 + 1 + 4)/5 = 2.
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    for value, count in [(0.7, 1), (0.71, 2), (1.41, 2), (1.42, 3), (2.12, 3), (2.13, 4)]:
        # The k-th token lies k below the largest, and k/√2 is 0.707, 1.414, 2.121.
        assert finite(RULES["top_n_sigma"](logits, value)).sum() == count
    # Divided by 4 instead of 5 the variance would be 2.5, and 0.64 · √2.5 > 1.
    assert finite(RULES["top_n_sigma"](logits, 0.64)).sum() == 1


def test_top_n_sigma_leaves_excluded_tokens_out_of_the_deviation():
    logits = torch.tensor([4.0, -math.inf, 3.0, 2.0, -math.inf, 1.0, 0.0])
    assert finite(RULES["top_n_sigma"](logits, 1.42)).nonzero()[0].tolist() == [0, 2, 3]


def test_top_n_sigma_where_differences_exceed_float32():
    # Depths 6, 0, 3, 0: mean 2.25 and variance 24.75/4, so σ = 2.487 (in units of 1e38).
    logits = torch.tensor([-3e38, 3e38, 0.0, 3e38])
    assert finite(RULES["top_n_sigma"](logits, 1.0)).nonzero()[0].tolist() == [1, 3]
    assert finite(RULES["top_n_sigma"](logits, 1.5)).nonzero()[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", [0.25, 1.0, 4.0])
def test_top_n_sigma_is_the_same_at_every_temperature(value):
    logits = torch.randn(50, 64, generator=torch.Generator().manual_seed(2)).double()
    kept = finite(RULES["top_n_sigma"](logits, value))
    for divisor in 0.125, 0.5, 8.0:
        assert np.array_equal(finite(RULES["top_n_sigma"](logits / divisor, value)), kept)


def test_top_h_by_hand():
    # H = 1.5 ln 2; the first two alone have (2/3, 1/3), so ln 3 - 2/3 ln 2 = 0.6365.
    probs = [0.25, 0.5, 0.25]
    assert entropy(np.array([2, 1]) / 3) == pytest.approx(0.6365, abs=1e-4)
    assert kept_ids(probs, "top_h", 0.61) == [1]  # 0.61 H = 0.6342
    assert kept_ids(probs, "top_h", 0.62) == [0, 1]  # 0.62 H = 0.6446


@pytest.mark.parametrize("value", [0.4, 0.99])
def test_top_h_keeps_one_token_where_the_others_weigh_nothing(value):
    # e^-104 is nothing in float32, so H(p) is rounded to 0, as is that of every prefix.
    logits = torch.cat([torch.zeros(1), torch.full((255,), -105.0)])[torch.randperm(256)]
    assert finite(RULES["top_h"](logits, value)).tolist() == (logits == 0).tolist()


def top_h_warper(value):
    if not hasattr(logits_process, "TopHLogitsWarper"):
        pytest.skip("this transformers has no top_h")
    return logits_process.TopHLogitsWarper(value)


@pytest.mark.parametrize(
    ("weights", "value", "theirs", "ours"),
    [
        # Adding up -p ln p, two tokens have 0.5 ln 2 + 0.25 ln 4 = ln 2 > 0.62 · 1.5 ln 2, so one
        # is left; their entropy when they are drawn from is less, see above.
        ([2, 1, 1], 0.62, 1, 2),
        # k of 16 alike add up to (k/16) ln 16 <= 0.6 ln 16, k = 9. Drawn from they have ln k,
        # which is at most 0.6 ln 16 up to k = 16^0.6 = 5.28.
        ([1] * 16, 0.6, 9, 5),
        # The first hundred at most, and of their entropy: (k/100) ln 100 <= 0.95 ln 100.
        # Against k = 300^0.95 = 225.5.
        ([1] * 300, 0.95, 95, 225),
    ],
)
def test_top_h_differs_from_transformers(weights, value, theirs, ours):
    """There `-p ln p` is added up over the prefix without renormalising it."""
    logits = torch.tensor([weights], dtype=torch.float64).log()
    assert finite(RULES["top_h"](logits, value)).sum() == ours
    assert finite(top_h_warper(value)(None, logits)).sum() == theirs


def test_top_h_of_transformers_is_understood():
    """So the difference above is the whole difference."""
    logits = 2 * torch.randn(60, 80, generator=torch.Generator().manual_seed(4)).double()
    kept, differing = finite(top_h_warper(0.5)(None, logits)), 0
    for z, theirs, ours in zip(
        logits.numpy(), kept, finite(RULES["top_h"](logits, 0.5)), strict=True
    ):
        p, order = softmax(z), by_logit(z)
        added_up = np.cumsum(-p[order] * np.log(p[order]))
        assert theirs.sum() == max(1, (added_up <= 0.5 * entropy(p)).sum())
        differing += theirs.sum() != ours.sum()
    assert differing > 50


@checked
@given(weights=st.lists(st.floats(1e-6, 1), min_size=2, max_size=40), value=st.floats(0.01, 0.999))
def test_the_entropy_of_a_prefix_grows_with_its_length(weights, value):
    z = np.log(weights)
    p, order = softmax(z), by_logit(z)
    entropies = prefix_entropies(p, order)
    for length in range(1, len(p) + 1):
        q = p[order[:length]] / p[order[:length]].sum()
        assert entropies[length - 1] == pytest.approx(entropy(q), abs=1e-12)
    assert np.all(np.diff(entropies) > -1e-12)
    assume(np.abs(entropies[1:] - value * entropies[-1]).min() > 1e-9)
    longest = max(
        n for n in range(1, len(p) + 1) if n == 1 or entropies[n - 1] <= value * entropies[-1]
    )
    kept = finite(RULES["top_h"](torch.tensor(z), value))
    assert set(np.flatnonzero(kept)) == set(order[:longest])


def test_p_less_by_hand():
    # Σ p² = 0.01 + 0.04 + 0.0961 + 0.1521 = 0.2982.
    probs = [0.1, 0.2, 0.31, 0.39]
    assert kept_ids(probs, "p_less", 1.0) == [2, 3]
    assert kept_ids(probs, "p_less", 0.68) == [2, 3]  # 0.68 · 0.2982 = 0.2028
    assert kept_ids(probs, "p_less", 0.66) == [1, 2, 3]  # 0.66 · 0.2982 = 0.1968
    assert kept_ids(probs, "p_less", 0.33) == [0, 1, 2, 3]  # 0.33 · 0.2982 = 0.0984


@pytest.mark.parametrize("vocab", [*range(1, 130), 1000, 50257, 151936])
@pytest.mark.parametrize("masked", [0, 3])
def test_p_less_keeps_all_of_a_flat_row(vocab, masked):
    """p = Σ p² = 1/n exactly, so rounding may not decide."""
    logits = torch.cat([torch.full((vocab,), 2.5), torch.full((masked,), -math.inf)])
    assert finite(RULES["p_less"](logits, 1.0)).sum() == vocab


@pytest.mark.parametrize("budget", VALUES["kl_budget"])
def test_kl_budget_is_top_p_and_its_cost_is_never_exceeded(budget):
    rows = 0
    for logits in thousand_rows():
        ours = RULES["kl_budget"](logits, budget)
        assert torch.equal(ours, RULES["top_p"](logits, math.exp(-budget)))
        for z, kept in zip(logits.double().numpy(), finite(ours), strict=True):
            p = softmax(z)
            # KL(q‖p) = -ln Z; a float32 probability is within 1e-6 of its own.
            assert -np.log(p[kept].sum()) <= budget + 1e-6
            if kept.sum() > 1:
                # One fewer would cost too much.
                assert -np.log(p[kept].sum() - p[kept].min()) > budget - 1e-6
            rows += 1
    assert rows == 1000


def test_kl_budget_is_the_divergence():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).double().log()
    log_q = DecodingSettings(kl_budget=0.3).log_probs(logits)
    # -ln 0.75 = 0.2877 fits, -ln 0.5 = 0.6931 would not.
    assert log_q.exp().tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-6)
    kept = log_q.isfinite()
    kl = (log_q[kept].exp() * (log_q[kept] - logits[kept])).sum()
    assert kl == pytest.approx(-math.log(0.75), abs=1e-6)


# --- what every rule keeps to


ADVERSARIAL = {
    "all equal": torch.zeros(9),
    "all equal and huge": torch.full((9,), 1e4),
    "all equal and hugely negative": torch.full((9,), -1e4),
    "one token": torch.tensor([-3.0]),
    "one finite": torch.tensor([-torch.inf, -torch.inf, 5.0, -torch.inf]),
    "two finite and equal": torch.tensor([-torch.inf, 5.0, -torch.inf, 5.0]),
    "far apart": torch.tensor([-1e4, 1e4, 0.0, -1e4]),
    "largest float32": torch.tensor([-3e38, 3e38, 0.0, 3e38]),
    "smallest float32": torch.tensor([1e-45, 0.0, 1e-40, -1e-45]),
    "masked by the smallest number": torch.tensor([torch.finfo().min, 0.0, torch.finfo().min, 1.0]),
}


@pytest.mark.parametrize("row", ADVERSARIAL)
@pytest.mark.parametrize(("name", "value"), EVERY_RULE)
@pytest.mark.usefixtures("arrays")
def test_adversarial_rows_keep_a_token_unchanged(name, value, row):
    logits = ADVERSARIAL[row].clone()
    result = RULES[name](logits, value)
    kept = result > -torch.inf
    assert torch.equal(logits, ADVERSARIAL[row])  # the input is as it was
    assert kept.any()
    assert torch.equal(result[kept], logits[kept])
    if name != "typical_p":
        assert kept[logits.argmax()]
    log_probs = result.log_softmax(-1)
    assert not log_probs.isnan().any()
    assert log_probs.exp().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("row", ADVERSARIAL)
@pytest.mark.parametrize("probability", [1e-3, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [1e-3, 0.1, 0.5, 1.0])
def test_adversarial_rows_keep_a_token_without_top_choices(probability, threshold, row):
    logits = ADVERSARIAL[row].clone()
    got = xtc(logits, probability, threshold).log_softmax(-1).exp().numpy()
    assert torch.equal(logits, ADVERSARIAL[row])
    p = softmax(logits.double().numpy())
    want = probability * without_top_choices(p, threshold) + (1 - probability) * p
    np.testing.assert_allclose(got, want, atol=1e-6)


REACHES = {
    "dry_multiplier": [0.5, 1e30],
    "temperature": [1e-30, 0.3, 3.0, 1e39],
    "edt_theta": [1e-320, 0.5, 50.0],
    "dynatemp_range": [0.5, 3.0, 1e308],
    "target_entropy": [1e-3, 0.7, 20.0],
    "top_n_sigma": [1e-9, 1.0, 1e9],
    "top_h": [1e-9, 0.5, 0.999999],
    "top_k": [1, 3],
    "top_p": [1e-12, 0.5, 0.999999],
    "min_p": [1e-12, 0.5, 1.0],
    "typical_p": [1e-12, 0.5, 0.999999],
    "epsilon_cutoff": [1e-12, 0.1, 0.999],
    "eta_cutoff": [1e-12, 0.1, 0.999],
    "p_less": [1e-12, 0.5, 1.0],
    "kl_budget": [1e-12, 0.5, 800.0],
    "mirostat_tau": [1e-9, 1.0, 800.0],
    "xtc_probability": [1e-9, 0.5, 1.0],
}
HUGE = {
    **ADVERSARIAL,
    "all huge": torch.full((9,), 1e30),
    "one huge": torch.tensor([-math.inf, 1e30, 5.0, -math.inf]),
    "hugely negative": torch.tensor([-1e30, -1e30, -2e30]),
    "huge either way": torch.tensor([1e30, -1e30, 9e29]),
    "huge doubles": torch.tensor([1e308, -1e308, 0.0, -math.inf], dtype=torch.float64),
}


@pytest.mark.parametrize("row", HUGE)
@settings(checked, max_examples=60)
@given(data=st.data())
def test_no_combination_leaves_a_row_without_tokens(row, data):
    names = data.draw(st.sets(st.sampled_from(sorted(REACHES)), min_size=1, max_size=5))
    values = {name: data.draw(st.sampled_from(REACHES[name])) for name in sorted(names)}
    steering = [name for name in STEERING if name in values]
    for name in steering[1:]:
        del values[name]
    if "target_entropy" in values:
        values.pop("temperature", None)
    if "mirostat_tau" in values:
        values.pop("xtc_probability", None)
    logits = HUGE[row].unsqueeze(0)
    ids = torch.randint(logits.shape[1], (1, 30), generator=torch.Generator().manual_seed(1))
    log_q = DecodingSettings(**values).log_probs(logits, History(ids))
    assert not log_q.isnan().any()
    assert log_q.exp().sum() == pytest.approx(1, abs=1e-5)
    assert not (log_q.isfinite() & (logits == -math.inf)).any()


@pytest.mark.parametrize("name", [*CUTS, "temperature", "xtc_probability", *STEERING])
def test_log_q_has_the_gradient_of_a_softmax_over_what_is_kept(name):
    values = {"top_k": 5, "top_p": 0.7, "top_h": 0.6, "typical_p": 0.7, "min_p": 0.2}
    setting = DecodingSettings(**{name: values.get(name, 0.5)})
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(7)).double()
    logits.requires_grad_()
    log_q = setting.log_probs(logits)
    best = logits.argmax(-1)
    if name == "typical_p":
        best = log_q.argmax(-1)
    log_q.gather(-1, best.unsqueeze(-1)).sum().backward()
    assert logits.grad.isfinite().all()
    if name in CUTS:
        # d ln q_i / dz_j = [i = j] - q_j.
        want = torch.nn.functional.one_hot(best, 20) - log_q.exp()
        torch.testing.assert_close(logits.grad, want.detach())


@pytest.mark.parametrize(
    ("name", "value"),
    [rule for rule in EVERY_RULE if rule[0] in ("top_k", "min_p", "epsilon_cutoff")],
)
@checked
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 1e4]))
def test_rules_whose_cut_does_not_move_are_idempotent(name, value, seed, scale):
    logits = scale * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    once = RULES[name](logits, value)
    assert torch.equal(RULES[name](once, value), once)


EVERY_STEP = [("temperature", 0), ("temperature", 0.7), *EVERY_RULE]


@pytest.mark.parametrize(("name", "value"), EVERY_STEP)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_raised_to_float32_and_float64_stays(name, value, dtype):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(5)).to(dtype)
    before = logits.clone()
    result = RULES[name](logits, value)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(result, RULES[name](logits.to(result.dtype), value))
    assert torch.equal(logits, before)
    assert logits.dtype == dtype


@pytest.mark.parametrize(("name", "value"), EVERY_STEP)
def test_leading_axes_of_any_number(name, value):
    logits = 3 * torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(6))
    result = RULES[name](logits, value)
    for i in range(2):
        for j in range(3):
            assert torch.equal(result[i, j], RULES[name](logits[i, j], value))
    assert RULES[name](logits[:, :0], value).shape == (2, 0, 40)
