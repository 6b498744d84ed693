"""What every rule keeps to: any row, any combination, any dtype and shape; gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuts_oracle import CUTS, EVERY_CUT, applied, finite, softmax
from decoding.rows.distribution import Distribution
from decoding.rules import Xtc
from decoding.settings.applying import History
from decoding.settings.settings import DecodingSettings
from oracle import STEERING, without_top_choices

checked = settings(derandomize=True, max_examples=80)

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
@pytest.mark.parametrize(("name", "value"), EVERY_CUT)
@pytest.mark.usefixtures("arrays")
def test_adversarial_rows_keep_a_token_unchanged(name, value, row):
    logits = ADVERSARIAL[row].clone()
    result = applied(name, logits, value)
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
    got = Xtc(probability, xtc_threshold=threshold)(None, logits).log_softmax(-1).exp().numpy()
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
    "min_k": [1e-9, 3.0, 1e300],
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
    "temperature_last": [1e-30, 0.5, 1e39],
    "xtc_probability": [1e-9, 0.5, 1.0],
    "adaptive_p": [1e-9, 0.5, 1.0],
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
        for name in ("xtc_probability", "adaptive_p", "temperature_last"):
            values.pop(name, None)
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
    [rule for rule in EVERY_CUT if rule[0] in ("top_k", "min_p", "epsilon_cutoff")],
)
@checked
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 1e4]))
def test_rules_whose_cut_does_not_move_are_idempotent(name, value, seed, scale):
    logits = scale * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    once = applied(name, logits, value)
    assert torch.equal(applied(name, once, value), once)


EVERY_STEP = [("temperature", 0), ("temperature", 0.7), *EVERY_CUT]


@pytest.mark.parametrize(("name", "value"), EVERY_STEP)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_is_raised_to_float32_and_float64_stays(name, value, dtype):
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(5)).to(dtype)
    before = logits.clone()
    result = applied(name, logits, value)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(result, applied(name, logits.to(result.dtype), value))
    assert torch.equal(logits, before)
    assert logits.dtype == dtype


@pytest.mark.parametrize(("name", "value"), EVERY_STEP)
def test_leading_axes_of_any_number(name, value):
    logits = 3 * torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(6))
    result = applied(name, logits, value)
    for i in range(2):
        for j in range(3):
            assert torch.equal(result[i, j], applied(name, logits[i, j], value))
    assert applied(name, logits[:, :0], value).shape == (2, 0, 40)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.usefixtures("arrays")
def test_a_threshold_beyond_any_number_keeps_all_without_a_warning():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(8))
    for name in ("top_n_sigma", "min_k"):
        assert finite(applied(name, logits, 1e308)).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_divergences_beyond_any_number_are_infinite_without_a_warning():
    raw = Distribution(torch.tensor([[1e38, -1.6e38, -1.6e38, -1.6e38]]))
    for rows in (torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -1e30]])):
        assert Distribution(rows).mean_log_weight_of(raw) < -1e38
