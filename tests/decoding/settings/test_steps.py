"""Temperature and all rules of a setting, against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cuts_oracle import ORACLES, by_logit, log_softmax
from decoding.rows.distribution import Distribution
from decoding.settings.applying import History, apply_settings
from decoding.settings.settings import DecodingSettings
from oracle import reference_log_q

checked = settings(derandomize=True, max_examples=80)


# --- temperature


def assert_log_probs(actual, expected, atol):
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=atol)


grid = st.one_of(  # multiples of 1/8: exact in float32, so equal means equal in both precisions
    st.integers(-80, 80).map(lambda n: n / 8),
    st.integers(-80_000, 80_000).map(lambda n: n / 8),
    st.just(-np.inf),
)
grid_rows = (
    st.lists(grid, min_size=1, max_size=16)
    .map(lambda row: np.array(row))
    .filter(lambda z: np.isfinite(z).any())
)


@checked
@given(z=grid_rows, value=st.floats(0.05, 50))
def test_temperature_divides_and_preserves_the_order(z, value):
    single = Distribution(torch.tensor(z).float()).tempered(value).logits
    double = Distribution(torch.tensor(z)).tempered(value).logits
    for result in single, double:
        assert np.array_equal(by_logit(result.numpy()), by_logit(z))
    assert_log_probs(single.log_softmax(-1).numpy(), log_softmax(z / value), 1e-5)
    assert_log_probs(double.log_softmax(-1).numpy(), log_softmax(z / value), 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [5e-324, 1e-45, 1e-12])
@checked
@given(z=grid_rows)
def test_tiny_temperatures_leave_the_largest_logits(value, dtype, z):
    logits = torch.tensor(z).to(dtype)
    largest = logits == logits.max()
    probs = DecodingSettings(temperature=value).log_probs(logits).exp()
    assert torch.allclose(probs, largest / largest.sum().to(probs.dtype), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1e12, 1e38, 1e308])
@checked
@given(z=grid_rows)
def test_huge_temperatures_are_uniform_on_the_support(value, dtype, z):
    logits = torch.tensor(z).to(dtype)
    support = logits > -torch.inf
    probs = DecodingSettings(temperature=value).log_probs(logits).exp()
    assert torch.allclose(probs, support / support.sum().to(probs.dtype), atol=1e-6)


@checked
@given(z=grid_rows)
def test_greedy_is_the_first_token(z):
    log_probs = DecodingSettings(temperature=0).log_probs(torch.tensor(z))
    expected = np.full(len(z), -np.inf)
    expected[by_logit(z)[0]] = 0
    assert np.array_equal(log_probs.numpy(), expected)


# --- all rules


def oracle_of_all(setting, z):
    """log q by the definition, and the smallest distance of anything from a cut."""
    nearest = np.inf
    z = z.copy()
    if setting.temperature == 0:
        z[by_logit(z)[1:]] = -np.inf
    else:
        z = (z - z.max()) / setting.temperature
    for name, oracle in ORACLES.items():  # in the order of the fields
        value = getattr(setting, name)
        if value != getattr(DecodingSettings(), name):
            kept, margin, _ = oracle(z, value)
            nearest = min(nearest, margin[np.isfinite(z)].min())
            z = np.where(kept, z, -np.inf)
    return log_softmax(z / setting.temperature_last), nearest


any_setting = st.builds(
    DecodingSettings,
    temperature=st.just(1.0) | st.just(0.0) | st.floats(0.2, 5),
    top_n_sigma=st.just(0.0) | st.floats(0.3, 4),
    top_h=st.just(1.0) | st.floats(0.3, 0.99),
    top_k=st.just(0) | st.integers(1, 12),
    top_p=st.just(1.0) | st.floats(0.3, 0.99),
    min_p=st.just(0.0) | st.floats(0.001, 0.5),
    typical_p=st.just(1.0) | st.floats(0.3, 0.99),
    epsilon_cutoff=st.just(0.0) | st.floats(1e-4, 0.2),
    eta_cutoff=st.just(0.0) | st.floats(1e-4, 0.5),
    p_less=st.just(0.0) | st.floats(0.01, 0.99),
    kl_budget=st.just(0.0) | st.floats(0.01, 1),
    temperature_last=st.just(1.0) | st.floats(0.2, 5),
)


@pytest.mark.parametrize(
    ("dtype", "near", "atol"), [(torch.float32, 1e-5, 1e-5), (torch.float64, 1e-11, 1e-10)]
)
@settings(checked, max_examples=300)
@given(setting=any_setting, z=grid_rows)
def test_log_probs_equal_all_rules_in_float64(dtype, near, atol, setting, z):
    expected, nearest = oracle_of_all(setting, z)
    assume(nearest > near)
    logits = torch.tensor(z).to(dtype)
    before = logits.clone()
    actual = setting.log_probs(logits)
    assert actual.dtype == dtype
    assert torch.equal(logits, before)
    assert_log_probs(actual.numpy(), expected, atol)


@pytest.mark.parametrize("vocab", [1000, 50257])
def test_log_probs_equal_all_rules_on_model_sized_rows(vocab):
    setting = DecodingSettings(
        temperature=1.3, top_k=400, top_p=0.97, min_p=1e-3, typical_p=0.9, epsilon_cutoff=2e-4,
        eta_cutoff=1e-3,
    )  # fmt: skip
    logits = 3 * torch.randn(2, 2, vocab, generator=torch.Generator().manual_seed(8)).double()
    actual = setting.log_probs(logits)
    for i in range(2):
        for j in range(2):
            expected, nearest = oracle_of_all(setting, logits[i, j].numpy())
            assert nearest > 1e-11
            assert_log_probs(actual[i, j].numpy(), expected, 1e-10)


def test_each_step_works_on_the_renormalised_result_of_the_one_before():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # After top_k=2 the probabilities are 4/7 and 3/7, so the first alone reaches one half.
    both = DecodingSettings(top_k=2, top_p=0.5)
    assert apply_settings(both, logits).isfinite().tolist() == [True, False, False, False]
    alone = DecodingSettings(top_p=0.5)
    assert apply_settings(alone, logits).isfinite().tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "setting",
    [
        "edt_theta=0.5,top_n_sigma=1",
        "temperature=1.2,edt_theta=2,edt_base=0.5,kl_budget=0.2",
        "temperature=1.5,dynatemp_range=1,dynatemp_exponent=2,top_h=0.7",
        "target_entropy=1.1,p_less=0.4",
        "top_k=20,xtc_probability=0.4,xtc_threshold=0.06",
        "temperature=0.8,min_p=0.02,xtc_probability=1,xtc_threshold=0.06",
        "dry_multiplier=0.8,dry_allowed_length=1,dry_breakers=3,temperature=0.7,top_p=0.9",
        "dry_multiplier=2,target_entropy=1,mirostat_tau=0.9",
        "greedy,dry_multiplier=9,dry_base=2",
    ],
)
def test_every_field_equals_its_definition_among_others(setting):
    settings = DecodingSettings.parse(setting)
    generator = torch.Generator().manual_seed(12)
    logits = 2 * torch.randn(40, 60, generator=generator).double()
    ids = torch.randint(6, (40, 25), generator=generator)
    history = History(ids) if settings.looks_back else None
    actual = settings.log_probs(logits, history).numpy()
    for z, row, past in zip(logits.numpy(), actual, ids.tolist(), strict=True):
        assert_log_probs(row, reference_log_q(z, settings, ids=past), 1e-5)


def test_raw_is_the_softmax():
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(9)).bfloat16()
    actual = DecodingSettings().log_probs(logits)
    assert actual.dtype == torch.float32
    for row, z in zip(actual.numpy(), logits.double().numpy(), strict=True):
        np.testing.assert_allclose(row, log_softmax(z), atol=1e-6)
