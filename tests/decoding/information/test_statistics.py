"""Row statistics against NumPy in float64 and mpmath's derivatives."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.information import statistics
from decoding.information.statistics import row_statistics

checked = settings(derandomize=True, max_examples=100)

logit = st.floats(-10, 10) | st.floats(-1e4, 1e4) | st.sampled_from([-1e4, 1e4, -math.inf])
logit_rows = (
    st.lists(logit, min_size=1, max_size=8)
    .map(lambda row: np.array(row))
    .filter(lambda z: np.isfinite(z).any())
)


def oracle(logits, targets=None):
    """The definitions in NumPy float64; a dictionary of arrays of shape `(…)`."""
    z = logits.double().numpy()
    top = z.max(-1, keepdims=True)
    log_partition = top + np.log(np.exp(z - top).sum(-1, keepdims=True))
    p = np.exp(z - log_partition)
    z0 = np.where(np.isinf(z), 0, z)
    mean = (p * z0).sum(-1, keepdims=True)
    result = {
        "log_partition": log_partition[..., 0],
        "mean": mean[..., 0],
        "variance": (p * (z0 - mean) ** 2).sum(-1),
        "entropy": -(p * np.where(np.isinf(z), 0, z - log_partition)).sum(-1),
    }
    if targets is not None:
        chosen = np.take_along_axis(z, targets.numpy()[..., None], -1)
        result["target_log_prob"] = (chosen - log_partition)[..., 0]
        result["rank"] = (z > chosen).sum(-1)
    return result


def assert_matches(actual, expected, atol, rtol=0.0):
    for name in statistics.RowStatistics._fields:
        value = getattr(actual, name)
        if name not in expected:
            assert value is None, name
        elif name == "rank":
            assert value.dtype == torch.int64
            assert np.array_equal(value.numpy(), expected[name])
        else:
            np.testing.assert_allclose(
                value.numpy(), expected[name], atol=atol, rtol=rtol, err_msg=name
            )


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_targets(*shape, vocab, seed=1):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


# --- values


@pytest.mark.parametrize("with_targets", [True, False])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 0), (0,)])
def test_equals_numpy_for_any_leading_axes(shape, with_targets):
    logits = random_logits(*shape, 40)
    targets = random_targets(*shape, vocab=40) if with_targets else None
    actual = row_statistics(logits, targets)
    assert all(value.shape == shape for value in actual if value is not None)
    assert all(value.dtype == torch.float32 for value in actual[:4])
    # A variance near 10 carries 1e-6 of itself in float32, so it gets a relative part too.
    assert_matches(actual, oracle(logits, targets), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("rows_per_block", [0, 1, 3, 7, 100])
def test_blocks_do_not_show_in_the_result(monkeypatch, rows_per_block):
    logits, targets = random_logits(7, 33), random_targets(7, vocab=33)
    monkeypatch.setattr(statistics, "BLOCK_BYTES", rows_per_block * 33 * 4)
    assert_matches(row_statistics(logits, targets), oracle(logits, targets), atol=1e-5, rtol=1e-6)
    assert_matches(row_statistics(logits), oracle(logits), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.05, 3.0])
def test_a_vocabulary_of_a_large_model(scale):
    logits = random_logits(12, 151_936, scale=scale)
    targets = random_targets(12, vocab=151_936)
    assert_matches(row_statistics(logits, targets), oracle(logits, targets), atol=2e-5, rtol=2e-6)


@checked
@given(z=logit_rows, data=st.data())
def test_float64_equals_numpy_for_logits_of_any_size(z, data):
    logits = torch.tensor(z)
    target = torch.tensor(data.draw(st.integers(0, len(z) - 1)))
    actual = row_statistics(logits, target)
    assert actual.entropy.dtype == torch.float64
    assert_matches(actual, oracle(logits, target), atol=1e-10, rtol=1e-10)


@checked
@given(z=logit_rows, data=st.data())
def test_float32_is_right_for_logits_of_any_size_and_never_nan(z, data):
    logits = torch.tensor(z).float()
    target = torch.tensor(data.draw(st.integers(0, len(z) - 1)))
    actual = row_statistics(logits, target)
    expected = oracle(logits, target)
    # The absolute part holds whatever the size of the logits: entropy does not depend on it.
    assert float(actual.entropy) == pytest.approx(expected["entropy"], abs=1e-5)
    assert_matches(actual, expected, atol=1e-5, rtol=1e-6)
    assert 0 <= actual.entropy <= math.log(len(z)) + 1e-6
    assert actual.variance >= 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_get_float32_arithmetic(dtype):
    logits, targets = random_logits(4, 5000).to(dtype), random_targets(4, vocab=5000)
    before = logits.clone()
    actual = row_statistics(logits, targets)
    assert actual.entropy.dtype == torch.float32
    assert_matches(actual, oracle(logits, targets), atol=1e-5, rtol=1e-6)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_is_not_changed(dtype):
    logits, targets = random_logits(4, 20).to(dtype), random_targets(4, vocab=20)
    before = logits.clone(), targets.clone()
    row_statistics(logits, targets)
    assert torch.equal(logits, before[0])
    assert torch.equal(targets, before[1])


def test_strided_rows():
    logits = random_logits(30, 6).T  # the vocabulary is not the contiguous axis
    targets = random_targets(6, vocab=30)
    assert_matches(row_statistics(logits, targets), oracle(logits, targets), atol=1e-5, rtol=1e-6)


# --- rank and targets


def test_rank_counts_strictly_larger_logits():
    logits = torch.tensor([1.0, 3.0, 1.0, 3.0, 0.0, -math.inf]).expand(6, -1)
    assert row_statistics(logits, torch.arange(6)).rank.tolist() == [2, 0, 2, 0, 4, 5]


def test_an_excluded_target_is_infinitely_surprising():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    actual = row_statistics(logits, torch.tensor([1]))
    assert actual.target_log_prob.tolist() == [-math.inf]
    assert actual.entropy.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_targets_of_any_integer_type(dtype):
    logits, targets = random_logits(5, 20), random_targets(5, vocab=20)
    actual = row_statistics(logits, targets.to(dtype))
    assert torch.equal(actual.target_log_prob, row_statistics(logits, targets).target_log_prob)


@pytest.mark.parametrize("wrong", [(3,), (2, 1), (2, 4), (2, 3, 1), ()])
def test_a_wrong_shape_of_targets_is_refused(wrong):
    with pytest.raises(ValueError, match=r"targets must have the shape.*\(2, 3\)") as refusal:
        row_statistics(random_logits(2, 3, 8), torch.zeros(wrong, dtype=torch.long))
    assert str(wrong) in str(refusal.value)


# --- closed forms


@pytest.mark.parametrize("size", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("vocab", [1, 17, 50257])
def test_constant_logits_have_perplexity_of_the_vocabulary(vocab, size):
    """What a model with zeroed, tied embeddings returns."""
    logits = torch.full((4, vocab), size)
    actual = row_statistics(logits, random_targets(4, vocab=vocab))
    perplexity = actual.target_log_prob.double().mean().neg().exp().item()
    assert perplexity == pytest.approx(vocab, rel=1e-5)
    assert actual.entropy.tolist() == pytest.approx([math.log(vocab)] * 4, abs=1e-5)
    assert actual.variance.tolist() == [0] * 4
    assert actual.rank.tolist() == [0] * 4
    exact = row_statistics(logits.double(), random_targets(4, vocab=vocab))
    assert exact.target_log_prob.mean().neg().exp().item() == pytest.approx(vocab, rel=1e-12)


def test_one_token_support():
    logits = torch.full((9,), -math.inf)
    logits[4] = 1e4
    actual = row_statistics(logits, torch.tensor(4))
    assert [value.item() for value in actual] == [1e4, 1e4, 0, 0, 0, 0]


@settings(checked, max_examples=25)
@given(
    z=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    temperature=st.floats(0.2, 5),
)
def test_derivatives_of_the_log_partition_and_the_entropy(z, temperature):
    """dA/dβ = m; d²A/dβ² = v; H = A − βm; dH/dT = v/T³."""
    beta = 1 / temperature
    at_beta = row_statistics(beta * torch.tensor(z, dtype=torch.float64))
    mean, variance = float(at_beta.mean) / beta, float(at_beta.variance) / beta**2

    with mpmath.workdps(30):
        tokens = [mpmath.mpf(x) for x in z]

        def log_partition(b):
            return mpmath.log(mpmath.fsum(mpmath.exp(b * x) for x in tokens))

        def entropy(t):
            weights = [mpmath.exp(x / t) for x in tokens]
            total = mpmath.fsum(weights)
            return -mpmath.fsum(w / total * mpmath.log(w / total) for w in weights)

        close = {"rel": 1e-9, "abs": 1e-9}
        assert float(at_beta.log_partition) == pytest.approx(float(log_partition(beta)), **close)
        assert mean == pytest.approx(float(mpmath.diff(log_partition, beta)), **close)
        assert variance == pytest.approx(float(mpmath.diff(log_partition, beta, 2)), **close)
        assert float(at_beta.entropy) == pytest.approx(float(entropy(temperature)), **close)
        slope = float(mpmath.diff(entropy, temperature))
        assert variance / temperature**3 == pytest.approx(slope, **close)


@checked
@given(z=logit_rows)
def test_entropy_is_the_log_partition_minus_the_mean(z):
    actual = row_statistics(torch.tensor(z))
    difference = float(actual.log_partition - actual.mean)
    assert float(actual.entropy) == pytest.approx(difference, abs=1e-10)
