"""What follows from rows of logits, against NumPy in float64 and closed forms."""

import math

import numpy as np
import pytest
import torch

from decoding.rows.arrays import _FEW, _NUMPY_EXP, as_array, as_tensor
from decoding.rows.distribution import Distribution
from oracle import log_softmax, plogp


def rows_of(kind, vocab, dtype=torch.float32):
    noise = torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab))
    logits = {
        "peaked": 8 * noise,
        "flat": 0.05 * noise,
        "far from zero": 3 * noise - 4000,
        "masked": (3 * noise).masked_fill(noise > 1, -math.inf),
        "masked by the smallest number": (3 * noise).masked_fill(noise > 1, torch.finfo().min),
    }[kind]
    return logits.to(dtype)


KINDS = ["peaked", "flat", "far from zero", "masked", "masked by the smallest number"]
TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "atol"), TOLERANCES)
@pytest.mark.parametrize("vocab", [3, 50, 5000, 151936])
@pytest.mark.usefixtures("arrays")
def test_numbers_equal_float64(kind, dtype, atol, vocab):
    logits = rows_of(kind, vocab, dtype)
    rows = Distribution(logits)
    tokens = torch.arange(6) % vocab
    chosen = rows.log_prob(tokens)
    others = -(torch.arange(6 * vocab).reshape(6, vocab) % 7).to(dtype)
    means = rows.mean_log_weight_of(Distribution(others))
    for i, z in enumerate(logits.double().numpy()):
        log_p = log_softmax(z)
        p = np.exp(log_p)
        weights = np.asarray(rows.weights[i])
        np.testing.assert_allclose(weights / rows.total[i].item(), p, atol=5e-6)
        assert weights.max() == 1
        assert rows.top[i].item() == z.max()
        assert rows.log_total[i].item() == pytest.approx(-log_p.max(), abs=atol)
        with np.errstate(invalid="ignore"):
            entropy = plogp(log_p, -log_p)
            varentropy = plogp(log_p, np.square(-log_p - entropy))
        assert rows.entropy[i].item() == pytest.approx(entropy, abs=atol, rel=10 * atol)
        assert rows.varentropy[i].item() == pytest.approx(varentropy, abs=50 * atol, rel=50 * atol)
        mean = -entropy - log_p.max()
        assert rows.mean_log_weight[i].item() == pytest.approx(mean, abs=atol, rel=10 * atol)
        if np.isfinite(log_p[tokens[i]]):
            assert chosen[i].item() == pytest.approx(log_p[tokens[i]], abs=atol, rel=1e-6)
        else:
            assert chosen[i].item() == -math.inf
        below = others[i].double().numpy() - others[i].max().item()
        assert means[i].item() == pytest.approx((p * below).sum(), rel=1e-5)
        collision = math.exp(-rows.renyi_entropy(2)[i].item())
        assert collision == pytest.approx((p**2).sum(), rel=1e-5)


@pytest.mark.parametrize("vocab", [1, 2, 7, 50257])
@pytest.mark.parametrize("level", [0.0, -1e4, 1e30, 3e38, -3e38])
def test_flat_rows_have_the_logarithm_of_their_size(vocab, level):
    rows = Distribution(torch.full((vocab,), level))
    assert rows.entropy.item() == pytest.approx(math.log(vocab), abs=1e-5)
    assert rows.log_total.item() == pytest.approx(math.log(vocab), abs=1e-5)
    assert rows.varentropy.item() == pytest.approx(0, abs=1e-9)
    assert np.abs(rows.log_weights).max() == 0


@pytest.mark.parametrize("excluded", [-math.inf, -3e38, -1e30])
def test_one_token_has_no_entropy(excluded):
    rows = Distribution(torch.tensor([[excluded, 3e38, excluded]]))
    assert rows.entropy.tolist() == rows.varentropy.tolist() == rows.log_total.tolist() == [0]
    assert rows.log_prob(torch.tensor([1])).tolist() == [0]
    assert rows.weights.tolist() == [[0, 1, 0]]


def test_two_tokens_by_hand():
    # p = (3/4, 1/4): H = 2 ln 2 - 3/4 ln 3; the surprisals differ by ln 3, so the variance is
    # 3/4 · 1/4 · (ln 3)².
    rows = Distribution(torch.tensor([math.log(3), 0.0], dtype=torch.float64))
    assert rows.entropy.item() == pytest.approx(2 * math.log(2) - 0.75 * math.log(3))
    assert rows.varentropy.item() == pytest.approx(3 / 16 * math.log(3) ** 2)
    assert rows.mean_log_weight.item() == pytest.approx(-math.log(3) / 4)
    assert rows.log_total.item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.usefixtures("arrays")
def test_half_precision_is_raised_and_the_input_is_left_alone(dtype):
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = logits.clone()
    rows = Distribution(logits)
    for name in ("top", "log_weights", "weights", "mean_log_weight", "entropy", "varentropy"):
        assert as_tensor(getattr(rows, name)).isfinite().all()
    raised = torch.float64 if dtype == torch.float64 else torch.float32
    assert as_tensor(rows.weights).dtype == rows.logits.dtype == raised
    assert as_tensor(rows.entropy).dtype == as_tensor(rows.log_total).dtype == torch.float64
    assert torch.equal(logits, before)
    assert (rows.entropy == Distribution(logits.to(raised)).entropy).all()


def test_rows_are_taken_as_they_are():
    rows = Distribution(torch.zeros(2, 3))
    assert Distribution.of(rows) is rows
    assert torch.equal(Distribution.of(torch.zeros(2, 3)).logits, rows.logits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "atol"), TOLERANCES)
@pytest.mark.usefixtures("arrays")
def test_restricted_rows_are_those_of_masked_logits(kind, dtype, atol):
    logits = rows_of(kind, 300, dtype)
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(2, 6, 300, generator=generator) < 0.5
    masks |= torch.nn.functional.one_hot(logits.argmax(-1), 300).bool()
    once = Distribution(logits).restricted(as_array(masks[0]))
    twice = once.restricted(as_array(masks[1]))
    for ours, kept in (once, masks[0]), (twice, masks[0] & masks[1]):
        plain = Distribution(logits.masked_fill(~kept, -math.inf))
        assert torch.equal(ours.logits, plain.logits)
        assert np.asarray(ours.kept).tolist() == (plain.logits > -math.inf).sum(-1).tolist()
        for name in ("entropy", "varentropy", "log_total", "mean_log_weight"):
            np.testing.assert_allclose(
                getattr(ours, name), getattr(plain, name), atol=20 * atol, rtol=20 * atol
            )
        tokens = kept.int().argmax(-1)
        np.testing.assert_allclose(ours.log_prob(tokens), plain.log_prob(tokens), atol=atol)
        outside = (~kept).int().argmax(-1)
        assert np.isneginf(np.asarray(ours.log_prob(outside))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.01, 0.3, 0.8, 1.3, 3.0])
@pytest.mark.usefixtures("arrays")
def test_divided_rows_are_the_differences_divided(kind, temperature):
    """Each to float32's rounding of itself, however far from zero the logits are."""
    logits = rows_of(kind, 5000)
    per_row = torch.linspace(0.5, 1.5, 6) * temperature
    for divisor in (temperature, per_row):
        if kind.endswith("number") and temperature < 3:
            continue  # would overflow, and be excluded
        rows = Distribution(logits).tempered(divisor)
        exact = logits.double() - logits.double().amax(-1, keepdim=True)
        exact /= divisor if isinstance(divisor, float) else divisor.double().unsqueeze(-1)
        np.testing.assert_allclose(rows.log_weights, exact, rtol=3e-7)
        again = Distribution(rows.logits)
        for name in ("top", "log_weights", "weights", "entropy", "support"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(again, name))
        tokens = torch.arange(6)
        np.testing.assert_array_equal(rows.log_prob(tokens), again.log_prob(tokens))


@pytest.mark.usefixtures("arrays")
def test_autocast_changes_no_number():
    logits = rows_of("peaked", 5000)
    plain = Distribution(logits)
    for name in ("weights", "block_totals", "entropy", "varentropy"):
        number = getattr(plain, name)
        with torch.autocast("cpu", torch.bfloat16):
            rows = Distribution(logits)
            np.testing.assert_array_equal(getattr(rows, name), number)


@pytest.mark.parametrize("vocab", [1, 2, 8, 255, 256, 257, 511, 512, 513])
def test_blocks_hold_each_weight_once_and_no_more_memory_than_twice_the_rows(vocab):
    rows = Distribution(rows_of("peaked", vocab))
    sums = [rows.weights[:, i : i + 256].sum(-1) for i in range(0, vocab, 256)]
    np.testing.assert_allclose(rows.block_totals, np.stack(sums, -1), rtol=1e-6)
    for values in (rows.weights, rows.log_weights):
        assert values.shape == (6, vocab)
        memory = values if values.base is None else values.base
        assert memory.size <= 2 * values.size


@pytest.mark.parametrize("numpy_s", [False, True])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 5e-7), (torch.float64, 1e-15)])
def test_either_exponential_is_right(numpy_s, dtype, rtol, monkeypatch):
    monkeypatch.setattr("decoding.rows.arrays._NUMPY_EXP", numpy_s)
    monkeypatch.setattr("decoding.rows.arrays._FEW", 0)
    logits = rows_of("peaked", 5000, dtype).clamp(min=-80)
    weights = Distribution(logits).weights
    exact = np.exp((logits - logits.amax(-1, keepdim=True)).double().numpy())
    np.testing.assert_allclose(weights, exact, rtol=rtol, atol=1e-38)
    assert np.all(weights.max(-1) == 1)


@pytest.mark.parametrize("vocab", [300, 50257])
def test_a_row_alone_has_the_numbers_that_it_has_in_a_batch(vocab):
    logits = rows_of("peaked", vocab)
    batch = Distribution(logits)
    # Where few values have an exponential of their own, to its rounding.
    rtol = 0 if _NUMPY_EXP or batch.z.size <= _FEW else 5e-7
    for i in range(len(logits)):
        alone = Distribution(logits[i : i + 1])
        for name in ("weights", "block_totals", "total", "entropy"):
            in_batch = getattr(batch, name)[i]
            np.testing.assert_allclose(getattr(alone, name)[0], in_batch, rtol=rtol, atol=1e-38)


def test_gradients_pass_a_division_and_a_cut():
    logits = rows_of("peaked", 20).requires_grad_()
    rows = Distribution(logits).tempered(0.5)
    kept = np.asarray(rows.log_weights > -4)
    final = rows.restricted(kept)
    final.logits[torch.from_numpy(kept)].sum().backward()
    assert torch.equal(logits.grad, 2.0 * torch.from_numpy(kept))
