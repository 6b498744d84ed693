"""Cuts worked out by hand, and where Hugging Face's differ from their sources."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from cuts_oracle import applied, by_logit, entropy, finite, prefix_entropies, softmax
from decoding.settings.settings import DecodingSettings

checked = settings(derandomize=True, max_examples=80)


def kept_ids(probs, name, value):
    return finite(applied(name, torch.tensor(probs).log(), value)).nonzero()[0].tolist()


def test_top_n_sigma_by_hand():
    # Mean 2 and deviations 2, 1, 0, 1, 2 give a variance of (4 + 1 + 0 + 1 + 4)/5 = 2.
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])
    for value, count in [(0.7, 1), (0.71, 2), (1.41, 2), (1.42, 3), (2.12, 3), (2.13, 4)]:
        # The k-th token lies k below the largest, and k/√2 is 0.707, 1.414, 2.121.
        assert finite(applied("top_n_sigma", logits, value)).sum() == count
    # Divided by 4 instead of 5 the variance would be 2.5, and 0.64 · √2.5 > 1.
    assert finite(applied("top_n_sigma", logits, 0.64)).sum() == 1


def test_top_n_sigma_leaves_excluded_tokens_out_of_the_deviation():
    logits = torch.tensor([4.0, -math.inf, 3.0, 2.0, -math.inf, 1.0, 0.0])
    assert finite(applied("top_n_sigma", logits, 1.42)).nonzero()[0].tolist() == [0, 2, 3]


def test_top_n_sigma_where_differences_exceed_float32():
    # Depths 6, 0, 3, 0: mean 2.25 and variance 24.75/4, so σ = 2.487 (in units of 1e38).
    logits = torch.tensor([-3e38, 3e38, 0.0, 3e38])
    assert finite(applied("top_n_sigma", logits, 1.0)).nonzero()[0].tolist() == [1, 3]
    assert finite(applied("top_n_sigma", logits, 1.5)).nonzero()[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("value", [0.25, 1.0, 4.0])
def test_top_n_sigma_is_the_same_at_every_temperature(value):
    logits = torch.randn(50, 64, generator=torch.Generator().manual_seed(2)).double()
    kept = finite(applied("top_n_sigma", logits, value))
    for divisor in 0.125, 0.5, 8.0:
        assert np.array_equal(finite(applied("top_n_sigma", logits / divisor, value)), kept)


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
    assert finite(applied("top_h", logits, value)).tolist() == (logits == 0).tolist()


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
    assert finite(applied("top_h", logits, value)).sum() == ours
    assert finite(top_h_warper(value)(None, logits)).sum() == theirs


def test_top_h_of_transformers_is_understood():
    """So the difference above is the whole difference."""
    logits = 2 * torch.randn(60, 80, generator=torch.Generator().manual_seed(4)).double()
    kept, differing = finite(top_h_warper(0.5)(None, logits)), 0
    for z, theirs, ours in zip(
        logits.numpy(), kept, finite(applied("top_h", logits, 0.5)), strict=True
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
    kept = finite(applied("top_h", torch.tensor(z), value))
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
    assert finite(applied("p_less", logits, 1.0)).sum() == vocab


def test_kl_budget_is_the_divergence():
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).double().log()
    log_q = DecodingSettings(kl_budget=0.3).log_probs(logits)
    # -ln 0.75 = 0.2877 fits, -ln 0.5 = 0.6931 would not.
    assert log_q.exp().tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-6)
    kept = log_q.isfinite()
    kl = (log_q[kept].exp() * (log_q[kept] - logits[kept])).sum()
    assert kl == pytest.approx(-math.log(0.75), abs=1e-6)
