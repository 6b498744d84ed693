"""Gradients of information measures by logits, where tokens were cut off: closed forms, torch's
numerical check, and never NaN."""

import math

import numpy as np
import pytest
import torch

from decoding import DecodingSettings
from decoding.information.measures import (
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    surprisal,
    total_variation,
    varentropy,
)

CUTS = ["raw", "greedy", "top_k=2", "top_p=0.7", "min_p=0.3", "typical_p=0.6", "temperature=0.5"]
Z = [0.0, 0.5, 1.0, 2.0]


def gradient(measure, setting, z=Z):
    logits = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    measure(DecodingSettings.parse(setting).log_probs(logits)).sum().backward()
    return logits.grad.numpy()


def distribution(setting, z=Z):
    log_q = DecodingSettings.parse(setting).log_probs(torch.tensor(z, dtype=torch.float64)).numpy()
    return np.exp(log_q), np.where(np.isfinite(log_q), log_q, 0)


def slope(setting):
    """dz'/dz of what a setting makes of logits."""
    return 2.0 if setting == "temperature=0.5" else 1.0


@pytest.mark.parametrize("setting", CUTS)
def test_entropy_and_varentropy_fall_and_rise_by_their_closed_forms(setting):
    """dH/dz_i = −q_i(log q_i + H); dV/dz_i = q_i((log q_i + H)² − V + 2(log q_i + H))."""
    q, log_q = distribution(setting)
    h = -(q * log_q).sum()
    excess = log_q + h
    v = (q * excess**2).sum()
    by_z = -slope(setting) * q * excess
    np.testing.assert_allclose(gradient(entropy, setting), by_z, atol=1e-12)
    third = slope(setting) * q * (excess**2 - v + 2 * excess)
    np.testing.assert_allclose(gradient(varentropy, setting), third, atol=1e-12)


def test_entropy_of_two_tokens_that_a_cut_left():
    want = [0, 0, 0.19661193, -0.19661193]
    np.testing.assert_allclose(gradient(entropy, "top_k=2"), want, atol=1e-8)


@pytest.mark.parametrize("setting", CUTS)
def test_divergences_from_a_fixed_distribution_by_their_closed_forms(setting):
    """dKL(q‖p)/dz_i = q_i(log q_i/p_i − KL), dCE(q, p)/dz_i = −q_i(log p_i + CE)."""
    q, log_q = distribution(setting)
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    log_p = p.log().numpy()
    kl, crossed = (q * (log_q - log_p)).sum(), -(q * log_p).sum()
    by_kl = slope(setting) * q * (log_q - log_p - kl)
    by_crossed = -slope(setting) * q * (log_p + crossed)
    got = gradient(lambda log_q: kl_divergence(log_q, p.log()), setting)
    np.testing.assert_allclose(got, by_kl, atol=1e-12)
    got = gradient(lambda log_q: cross_entropy(log_q, p.log()), setting)
    np.testing.assert_allclose(got, by_crossed, atol=1e-12)


KEPT = torch.tensor(
    [[True, True, True, False, False, True], [True, False, True, True, False, False]]
)
ONE = {"entropy": entropy, "varentropy": varentropy}
OF_BOTH = {
    "js_divergence": lambda p: js_divergence(p[0], p[1]),
    "total_variation": lambda p: total_variation(p[0], p[1]),
    "mutual_information": mutual_information,
}


@pytest.mark.parametrize("name", [*ONE, *OF_BOTH])
def test_gradients_of_cut_rows_are_what_differences_say(name):
    """One token is cut off in both rows, some in either."""
    measure = (ONE | OF_BOTH)[name]
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)).double().requires_grad_()

    def of_logits(logits):
        return measure(torch.where(KEPT, logits, -math.inf).log_softmax(-1))

    assert torch.autograd.gradcheck(of_logits, z)


@pytest.mark.parametrize("measure", [cross_entropy, kl_divergence])
def test_what_is_infinite_has_no_gradient_that_is_nan(measure):
    z = torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.1, 0.3]], requires_grad=True)
    log_p = z[0].log_softmax(-1)
    log_q = DecodingSettings(top_k=2).log_probs(z[1])
    value = measure(log_p, log_q)
    value.backward()
    assert value == math.inf and z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_masked_by_the_smallest_number_have_gradients_too(dtype):
    z = torch.tensor([0.0, 1.0, torch.finfo(dtype).min], dtype=dtype, requires_grad=True)
    log_p = z.float().log_softmax(-1)
    other = torch.tensor([0.5, 0.5, 0.0]).log()
    total = entropy(log_p) + varentropy(log_p) + js_divergence(log_p, other)
    (total + kl_divergence(log_p, other.clamp(min=-1e4)) + total_variation(log_p, other)).backward()
    assert z.grad.isfinite().all() and z.grad[0] != 0


def test_surprisal_of_a_token_that_is_kept():
    got = gradient(lambda log_q: surprisal(log_q, torch.tensor(3)), "top_k=2")
    q, _ = distribution("top_k=2")
    np.testing.assert_allclose(got, q - [0, 0, 0, 1], atol=1e-12)
