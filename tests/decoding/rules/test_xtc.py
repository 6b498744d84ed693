"""xtc as a mixture: by hand, by tossing its coin, and at ties."""

import math

import numpy as np
import pytest
import torch

from cuts_oracle import softmax
from decoding.rules import Xtc
from oracle import without_top_choices


def mixture(logits, probability, threshold):
    return Xtc(probability, xtc_threshold=threshold)(None, logits).log_softmax(-1).exp().numpy()


def test_xtc_by_hand():
    logits = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()
    # 0.5, 0.3 and 0.15 reach 0.1; the last of them stays, and 0.15 : 0.05 = 3 : 1.
    assert mixture(logits, 1.0, 0.1) == pytest.approx([0, 0.25, 0, 0.75], abs=1e-6)
    assert mixture(logits, 0.5, 0.1) == pytest.approx([0.15, 0.15, 0.25, 0.45], abs=1e-6)
    excluded = Xtc(1.0, xtc_threshold=0.1)(None, logits) == -math.inf
    assert excluded.tolist() == [True, False, True, False]
    assert (Xtc(0.99, xtc_threshold=0.1)(None, logits) > -math.inf).all()


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.1, 0.3, 0.5])
def test_xtc_is_the_mixture_of_both_sides_of_the_coin(probability, threshold):
    generator = torch.Generator().manual_seed(11)
    for vocab, scale in [(4, 1), (30, 2), (30, 0.3), (500, 4)]:
        logits = scale * torch.randn(20, vocab, generator=generator).double()
        logits[:10, 1] = -math.inf
        for z, ours in zip(logits.numpy(), mixture(logits, probability, threshold), strict=True):
            p = softmax(z)
            assert np.abs(p - threshold).min() > 1e-9
            heads = without_top_choices(p, threshold)
            both = probability * heads + (1 - probability) * p
            np.testing.assert_allclose(ours, both, atol=1e-9)


def test_xtc_draws_what_the_coin_does():
    """χ² of 40,000 draws by the source's toss against the mixture."""
    p, rng = softmax(np.array([2.0, 1.6, 1.5, 0.4, 0.0, -1.0])), np.random.default_rng(5)
    heads = without_top_choices(p, 0.15)
    assert (heads == 0).sum() == 2
    tossed = rng.random(40_000) < 0.35
    counts = np.bincount(rng.choice(6, tossed.sum(), p=heads), minlength=6)
    counts += np.bincount(rng.choice(6, (~tossed).sum(), p=p), minlength=6)
    expected = 40_000 * mixture(torch.tensor(p).log(), 0.35, 0.15)
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # 0.1 % of χ²(5)


@pytest.mark.parametrize("probability", [0.5, 1.0])
@pytest.mark.parametrize(
    ("probs", "threshold"),
    [
        ([0.45, 0.44, 0.11], 0.51),  # llama.cpp switches itself off above one half
        ([0.9, 0.05, 0.05], 0.95),
        ([0.9, 0.06, 0.04], 0.1),  # one reaches
        ([0.3, 0.4, 0.3], 0.45),  # none reaches
        ([1.0], 0.1),
    ],
)
def test_xtc_excludes_nothing_where_fewer_than_two_reach(probs, threshold, probability):
    logits = torch.tensor(probs).log()
    assert mixture(logits, probability, threshold) == pytest.approx(probs, abs=1e-6)


def test_xtc_keeps_the_last_id_of_tied_last_ones():
    logits = torch.tensor([0.4, 0.15, 0.15, 0.15, 0.15]).log()
    # All five reach 0.1, and the last in the common order is id 4.
    assert mixture(logits, 1.0, 0.1) == pytest.approx([0, 0, 0, 0, 1], abs=1e-6)
    # Of two that are alike the first is excluded: 0.5 reaches 0.5.
    assert mixture(torch.zeros(2), 1.0, 0.5) == pytest.approx([0, 1])


def test_a_threshold_of_xtc_that_has_no_inverse_in_float64_excludes_all_but_the_last():
    logits = torch.tensor([2.0, 0.0, 1.0])
    assert torch.isfinite(Xtc(1.0, xtc_threshold=1e-310)(None, logits)).tolist() == [
        False,
        True,
        False,
    ]
