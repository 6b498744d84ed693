"""Truncation rules and the chain of a setting against Hugging Face and NumPy in float64."""

from functools import cache
from itertools import cycle
from typing import NamedTuple

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

from decoding.settings import DecodingSettings
from decoding.steps import CUTS, apply_settings
from decoding.truncation import temperature

RULES = {"temperature": temperature, **CUTS}

checked = settings(derandomize=True, deadline=None, max_examples=80)

NEAR = 1e-6
"""A token may fall on either side where its threshold quantity is this close to the cut."""


# --- the oracle: NumPy float64, one row at a time, tokens by logit descending, then id ascending


class Verdict(NamedTuple):
    kept: np.ndarray
    margin: np.ndarray  # how far each token's threshold quantity is from its cut
    tied: np.ndarray  # tokens level with the last kept one, where Hugging Face's choice differs


def softmax(z):
    weights = np.exp(z - z.max())
    return weights / weights.sum()


def entropy(p):
    return -np.sum(p * np.log(p, where=p > 0, out=np.zeros_like(p)))


def by_logit(z):
    return np.argsort(-z, kind="stable")


def shortest_prefix(p, order, value):
    """Kept mask, and distance from the cut, of the shortest prefix with mass at least `value`."""
    before = np.empty_like(p)
    before[order] = np.concatenate([[0.0], np.cumsum(p[order])[:-1]])
    return before < value, np.abs(before - value)


def threshold(z, quantity, cut):
    kept = quantity >= cut
    if not kept.any():
        kept[by_logit(z)[0]] = True
    return Verdict(kept, np.abs(quantity / cut - 1), z == z.max())


def oracle_top_k(z, value):
    first = by_logit(z)[:value]
    return Verdict(np.isin(np.arange(len(z)), first), np.full(len(z), np.inf), z == z[first[-1]])


def oracle_top_p(z, value):
    kept, margin = shortest_prefix(softmax(z), by_logit(z), value)
    return Verdict(kept, margin, z == z[kept].min())


def oracle_min_p(z, value):
    return threshold(z, np.exp(z - z.max()), value)


def oracle_typical_p(z, value):
    p = softmax(z)
    surprisal = -(z - z.max() - np.log(np.exp(z - z.max()).sum()))
    distance = np.abs(surprisal - entropy(p))
    kept, margin = shortest_prefix(p, np.lexsort((-z, distance)), value)
    last = distance[kept].max()
    gap = np.abs(np.where(np.isinf(distance), np.inf, distance - last))
    # The kept set turns on the mass before a token and on its place in the order of distances.
    inexact = np.where(distance == last, np.inf, gap)
    return Verdict(kept, np.minimum(margin, inexact), distance == last)


def oracle_epsilon_cutoff(z, value):
    return threshold(z, softmax(z), value)


def oracle_eta_cutoff(z, value):
    p = softmax(z)
    return threshold(z, p, min(value, np.sqrt(value) * np.exp(-entropy(p))))


ORACLES = {
    "top_k": oracle_top_k,
    "top_p": oracle_top_p,
    "min_p": oracle_min_p,
    "typical_p": oracle_typical_p,
    "epsilon_cutoff": oracle_epsilon_cutoff,
    "eta_cutoff": oracle_eta_cutoff,
}
WARPERS = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": lambda mass: TypicalLogitsWarper(mass=mass),
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
}
VALUES = {
    "top_k": (1, 3, 20, 50, 1000),
    "top_p": (0.1, 0.5, 0.9, 0.95, 0.999),
    "min_p": (0.01, 0.05, 0.1, 0.3, 0.9),
    "typical_p": (0.2, 0.5, 0.9, 0.95, 0.99),
    "epsilon_cutoff": (1e-5, 3e-4, 1e-3, 1e-2, 0.2),
    "eta_cutoff": (1e-4, 6e-4, 2e-3, 0.05, 0.3),
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


@pytest.mark.parametrize("name", ORACLES)
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
    assert as_float32 >= (
        995 if name == "typical_p" else 1000
    )  # its float32 entropy is off by 1e-5


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


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p"])
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


# --- temperature


def assert_log_probs(actual, expected, atol):
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=atol)


def log_softmax(z):
    z = z - z.max()
    return z - np.log(np.exp(z).sum())


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
    single = RULES["temperature"](torch.tensor(z).float(), value)
    double = RULES["temperature"](torch.tensor(z), value)
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


# --- the whole chain


def oracle_chain(setting, z):
    """log q by the definition, and the smallest distance of anything from a cut."""
    nearest = np.inf
    z = z.copy()
    if setting.temperature == 0:
        z[by_logit(z)[1:]] = -np.inf
    else:
        z = (z - z.max()) / setting.temperature
    for name, oracle in ORACLES.items():  # in the order of the chain
        value = getattr(setting, name)
        if value != getattr(DecodingSettings(), name):
            kept, margin, _ = oracle(z, value)
            nearest = min(nearest, margin[np.isfinite(z)].min())
            z = np.where(kept, z, -np.inf)
    return log_softmax(z), nearest


any_setting = st.builds(
    DecodingSettings,
    temperature=st.just(1.0) | st.just(0.0) | st.floats(0.2, 5),
    top_k=st.just(0) | st.integers(1, 12),
    top_p=st.just(1.0) | st.floats(0.3, 0.99),
    min_p=st.just(0.0) | st.floats(0.001, 0.5),
    typical_p=st.just(1.0) | st.floats(0.3, 0.99),
    epsilon_cutoff=st.just(0.0) | st.floats(1e-4, 0.2),
    eta_cutoff=st.just(0.0) | st.floats(1e-4, 0.5),
)


@pytest.mark.parametrize(
    ("dtype", "near", "atol"), [(torch.float32, 1e-5, 1e-5), (torch.float64, 1e-11, 1e-10)]
)
@settings(checked, max_examples=300)
@given(setting=any_setting, z=grid_rows)
def test_log_probs_equal_the_chain_in_float64(dtype, near, atol, setting, z):
    expected, nearest = oracle_chain(setting, z)
    assume(nearest > near)
    logits = torch.tensor(z).to(dtype)
    before = logits.clone()
    actual = setting.log_probs(logits)
    assert actual.dtype == dtype
    assert torch.equal(logits, before)
    assert_log_probs(actual.numpy(), expected, atol)


@pytest.mark.parametrize("vocab", [1000, 50257])
def test_log_probs_equal_the_chain_on_model_sized_rows(vocab):
    setting = DecodingSettings(
        temperature=1.3, top_k=400, top_p=0.97, min_p=1e-3, typical_p=0.9, epsilon_cutoff=2e-4,
        eta_cutoff=1e-3,
    )  # fmt: skip
    logits = 3 * torch.randn(2, 2, vocab, generator=torch.Generator().manual_seed(8)).double()
    actual = setting.log_probs(logits)
    for i in range(2):
        for j in range(2):
            expected, nearest = oracle_chain(setting, logits[i, j].numpy())
            assert nearest > 1e-11
            assert_log_probs(actual[i, j].numpy(), expected, 1e-10)


def test_each_step_works_on_the_renormalised_result_of_the_one_before():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # After top_k=2 the probabilities are 4/7 and 3/7, so the first alone reaches one half.
    both = DecodingSettings(top_k=2, top_p=0.5)
    assert finite(apply_settings(both, logits)).tolist() == [True, False, False, False]
    alone = DecodingSettings(top_p=0.5)
    assert finite(apply_settings(alone, logits)).tolist() == [True, True, False, False]


def test_raw_is_the_softmax():
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(9)).bfloat16()
    actual = DecodingSettings().log_probs(logits)
    assert actual.dtype == torch.float32
    for row, z in zip(actual.numpy(), logits.double().numpy(), strict=True):
        np.testing.assert_allclose(row, log_softmax(z), atol=1e-6)
