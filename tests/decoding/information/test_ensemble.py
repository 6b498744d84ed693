"""The uncertainty of mixtures against NumPy in float64 and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.information import ensembles as ensemble
from decoding.information.ensembles import Mixture
from decoding.information.measures import mutual_information
from oracle import log_softmax, plogp

logit = st.floats(-10, 10) | st.floats(-1e4, 1e4) | st.just(-math.inf)


@st.composite
def ensembles(draw):
    """`(members, positions, vocab)` logits, each row with a finite one."""
    shape = draw(st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 8)))
    flat = draw(st.lists(logit, min_size=math.prod(shape), max_size=math.prod(shape)))
    logits = np.array(flat).reshape(shape)
    logits[..., 0] = np.where(np.isfinite(logits).any(-1), logits[..., 0], 0.0)
    return logits


def mixed(logits):
    """The three quantities as arrays, of members along the first axis."""
    mixture = Mixture()
    for member in logits:
        mixture.add(torch.as_tensor(member))
    return [column.numpy() for column in mixture.uncertainty()]


def defined(logits):
    """The same of one position, from the definitions: total, mean entropy, mean KL."""
    log_p = np.array([log_softmax(row) for row in np.asarray(logits, dtype=np.float64)])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = np.log(np.exp(log_p).mean(0))
        kl = []
        for row in log_p:
            # A probability may be too small for the mean to hold; it adds nothing.
            excess = np.where(np.isneginf(log_mean), 0.0, row - log_mean)
            kl.append(plogp(row, excess))
        return plogp(log_mean, -log_mean), np.mean([plogp(row, -row) for row in log_p]), np.mean(kl)


@settings(derandomize=True, max_examples=100)
@given(ensembles())
def test_parts_are_their_definitions_and_add_up(logits):
    total, aleatoric, information = mixed(logits)
    for position in range(logits.shape[1]):
        want = defined(logits[:, position])
        got = total[position], aleatoric[position], information[position]
        assert got == pytest.approx(want, abs=1e-10)
    assert np.abs(total - aleatoric - information).max() <= 1e-12
    assert (information >= 0).all()
    assert (information <= math.log(len(logits))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_sizes_in_blocks_and_any_dtype(dtype, monkeypatch):
    # Seven rows in blocks of two, with leading axes.
    monkeypatch.setattr(ensemble, "BLOCK_BYTES", 2 * 8 * 5000)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(4, 7, 1, 5000, generator=generator) * 4).to(dtype)
    total, aleatoric, information = mixed(logits)
    assert total.shape == (7, 1)
    exact = logits.double()
    for position in range(7):
        want = defined(exact[:, position, 0].numpy())
        got = total[position, 0], aleatoric[position, 0], information[position, 0]
        assert got == pytest.approx(want, abs=1e-10)
    by_kl = mutual_information(exact.log_softmax(-1).permute(1, 2, 0, 3))
    assert np.abs(information - by_kl.numpy()).max() <= 1e-10


def test_identical_members_disagree_about_nothing():
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)) * 5
    _, aleatoric, information = mixed([logits] * 7)
    assert information.max() <= 1e-12
    assert aleatoric == pytest.approx([plogp(p, -p) for p in map(log_softmax, logits.numpy())])


def test_members_sure_of_different_tokens_disagree_about_everything():
    logits = torch.full((5, 8), -math.inf).fill_diagonal_(0.0)
    total, aleatoric, information = mixed(logits)
    assert (total, aleatoric, information) == pytest.approx((math.log(5), 0, math.log(5)))
    assert information <= math.log(5)


def test_memory_is_one_row_a_position_however_many_members():
    mixture = Mixture()
    logits = torch.randn(3, 100)
    for _ in range(10):
        before = logits.clone()
        mixture.add(logits)
        assert torch.equal(logits, before)
    tensors = [value for value in vars(mixture).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.numel() for tensor in tensors) == 3 * 100 + 3
    assert not any(isinstance(value, list) for value in vars(mixture).values())


def test_uncertainty_can_be_read_between_members():
    logits = np.random.default_rng(0).normal(size=(4, 2, 9)) * 3
    mixture = Mixture()
    for count, member in enumerate(logits, 1):
        mixture.add(torch.as_tensor(member))
        if count > 1:
            want = [defined(logits[:count, position])[2] for position in range(2)]
            assert mixture.uncertainty().mutual_information.numpy() == pytest.approx(want)


@pytest.mark.parametrize("members", [0, 1])
def test_fewer_than_two_members_are_refused(members):
    mixture = Mixture()
    for _ in range(members):
        mixture.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=f"members must be at least 2, got {members}"):
        mixture.uncertainty()


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,)])
def test_another_shape_is_refused(shape):
    mixture = Mixture()
    mixture.add(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\), got .* of member 1"):
        mixture.add(torch.zeros(shape))


@pytest.mark.parametrize("row", [[0.0, math.nan], [0.0, math.inf], [-math.inf] * 2])
def test_a_row_that_is_no_distribution_is_refused(row):
    with pytest.raises(ValueError, match="of member 0"):
        Mixture().add(torch.tensor([[0.0, 1.0], row]))


def test_a_refused_member_leaves_no_trace():
    """Also where the fault lies in a later block of rows than the first."""
    torch.manual_seed(0)
    first, second, broken = torch.randn(3, 200, 50_000).unbind()
    broken[-1, 7] = math.nan
    mixture = Mixture()
    mixture.add(first)
    mixture.add(second)
    want = mixture.uncertainty()
    with pytest.raises(ValueError, match="member 2"):
        mixture.add(broken)
    for got, value in zip(mixture.uncertainty(), want, strict=True):
        assert torch.equal(got, value)
