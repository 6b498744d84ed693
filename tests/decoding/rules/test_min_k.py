"""min_k against its definition, in float64 over the whole sorted row."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decoding import DecodingSettings
from decoding.information import compare_rows
from decoding.rules import MinK


def kept_of(z, tau):
    """Algorithm 1 of the source on the tokens that are not excluded."""
    z = np.asarray(z, float)
    order = [i for i in np.argsort(-z, kind="stable") if z[i] > -math.inf]
    ranked = z[order]
    drops = [(ranked[i] - ranked[i + 1]) / (i + 1) for i in range(len(ranked) - 1)]
    before_the_cliff = int(np.argmax(drops)) + 1 if drops else 1
    span = ranked[0] - ranked[-1]
    least = len(order) if tau >= span * len(order) else math.floor(tau / span)
    kept = np.zeros(len(z), bool)
    kept[order[: min(max(before_the_cliff, least), len(order))]] = True
    return kept


def kept(logits, tau):
    return (MinK(tau)(None, torch.as_tensor(logits)) > -math.inf).numpy()


@pytest.mark.parametrize("vocab", [1, 2, 3, 63, 64, 65, 600, 50257])
@pytest.mark.parametrize("scale", [8.0, 1.0, 0.05, 1e-3])
@pytest.mark.usefixtures("arrays")
def test_kept_sets_equal_the_definition(vocab, scale):
    logits = scale * torch.randn(3, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[:, 1::7] = -math.inf
    for tau in (1e-9, 3.0, 50.0):
        want = np.array([kept_of(row, tau) for row in logits.double().numpy()])
        assert np.array_equal(kept(logits, tau), want), tau


def test_by_hand():
    # Drops 1, 4, 1 count 1/1, 4/2, 1/3: the second is the steepest.
    assert kept([9.0, 8.0, 4.0, 3.0], 3.0).tolist() == [True, True, False, False]
    # Drops 2.5, 4: 2.5 > 4/2.
    assert kept([9.0, 6.5, 2.5], 3.0).tolist() == [True, False, False]
    # The span is 0.5, so at least 3/0.5 = 6 of the 7 are kept.
    logits = [0.5, 0.1, 0.08, 0.06, 0.04, 0.02, 0.0]
    assert kept(logits, 3.0).tolist() == [True] * 6 + [False]
    assert kept(logits, 1e-9).tolist() == [True] + [False] * 6


@pytest.mark.parametrize("tau", [3.0, 1e-9, 1e-300, 5e-324, 1e308])
def test_a_flat_row_is_kept_whole(tau):
    assert kept([2.0] * 9, tau).all()
    flat = torch.full((1, 9), 2.0)
    setting = DecodingSettings(min_k=tau)
    assert compare_rows(flat, torch.tensor([0]), [setting]).kept.tolist() == [[9]]


def test_a_steep_drop_far_down_is_found():
    """Of the first 64 drops each is tiny; the one behind the 300th counts for more."""
    logits = np.concatenate([5 - 1e-4 * np.arange(300), -60 - 1e-4 * np.arange(5000)])
    assert kept(logits, 1e-9).sum() == 300


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.sampled_from([1e-9, 1.0, 3.0]))
def test_ties_follow_the_common_order(levels, tau):
    logits = np.array(levels, np.float32)
    assert np.array_equal(kept(logits, tau), kept_of(logits, tau))


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("tau", [3.0, 40.0])
def test_the_kept_set_is_the_same_at_every_temperature(temperature, tau):
    logits = 3 * torch.randn(40, 200, generator=torch.Generator().manual_seed(3)).double()
    plain = DecodingSettings(min_k=tau).log_probs(logits).isfinite()
    tempered = DecodingSettings(min_k=tau, temperature=temperature).log_probs(logits).isfinite()
    assert torch.equal(plain, tempered)
    assert len(set(plain.sum(-1).tolist())) > 1


def test_after_another_cut_the_span_is_that_of_what_is_left():
    logits = torch.tensor([[3.0, 2.9, 2.8, 2.7, -50.0]])
    both = DecodingSettings(top_n_sigma=1, min_k=0.9).log_probs(logits)
    # σ leaves four tokens, whose span is 0.3: at least three.
    assert both.isfinite().tolist() == [[True, True, True, False, False]]


def test_sorted_rows_keep_the_same():
    logits = 2 * torch.randn(6, 300, generator=torch.Generator().manual_seed(4)).double()
    texts = [
        "min_k=3",
        "temperature=0.5,min_k=30",
        "top_n_sigma=2,min_k=9",
        "min_k=3,typical_p=0.8",
    ]
    settings = [DecodingSettings.parse(text) for text in texts]
    compared = compare_rows(logits, torch.zeros(6, dtype=torch.long), settings)
    for i, setting in enumerate(settings):
        alone = setting.log_probs(logits)
        assert compared.kept[:, i].tolist() == alone.isfinite().sum(-1).tolist(), texts[i]
