"""Shapes, sums and refusals of a comparison of many rows."""

import math

import numpy as np
import pytest
import torch

from decoding.information import comparison
from decoding.information.comparison import RowComparison, compare_rows, sum_rows
from decoding.settings.settings import DecodingSettings
from some_settings import THIRTY


def test_shapes_dtypes_and_symmetry():
    logits = torch.randn(4, 60, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = logits.detach().clone()
    compared = compare_rows(logits, torch.arange(4), THIRTY)
    assert torch.equal(logits, before)
    size = len(THIRTY)
    for name in RowComparison._fields:
        values = getattr(compared, name)
        pairs = name in ("kl", "js", "total_variation")
        assert values.shape == ((4, size, size) if pairs else (4, size)), name
        assert values.dtype == (np.int64 if name == "kept" else np.float64), name
        if pairs:
            assert (np.diagonal(values, axis1=1, axis2=2) == 0).all(), name
    for name in ("js", "total_variation"):
        values = getattr(compared, name)
        assert np.array_equal(values, values.transpose(0, 2, 1)), name


def test_rows_do_not_depend_on_their_block():
    logits = torch.randn(9, 500, generator=torch.Generator().manual_seed(0)) * 3
    targets = torch.arange(9)
    together = compare_rows(logits, targets, THIRTY)
    for row in range(9):
        alone = compare_rows(logits[row : row + 1], targets[row : row + 1], THIRTY)
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_rows[row])


def test_no_rows():
    compared = compare_rows(torch.empty(0, 7), torch.empty(0, dtype=torch.long), THIRTY[:3])
    assert compared.entropy.shape == (0, 3) and compared.kl.shape == (0, 3, 3)


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_sums_are_those_of_the_rows(block_bytes, monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK_BYTES", block_bytes)
    logits = torch.randn(11, 200, generator=torch.Generator().manual_seed(0)) * 3
    targets = torch.randint(200, (11,), generator=torch.Generator().manual_seed(1))
    sums = sum_rows(logits, targets, THIRTY)
    rows = compare_rows(logits, targets, THIRTY)
    for name in ("entropy", "kept", "kept_mass", "js", "total_variation"):
        expected = getattr(rows, name).sum(0)
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-12)
    for name, count in {"surprisal": "covered", "kl": "kl_finite"}.items():
        values = getattr(rows, name)
        finite = np.isfinite(values)
        assert 0 < finite.sum() < finite.size
        np.testing.assert_array_equal(getattr(sums, count), finite.sum(0))
        expected = np.where(finite, values, 0).sum(0)
        np.testing.assert_allclose(getattr(sums, name), expected, rtol=1e-12)
    assert not any(np.isnan(values).any() for values in sums)
    assert sums.kl_finite.dtype == sums.covered.dtype == sums.kept.dtype == np.int64


def test_wrong_arguments_are_named():
    logits, targets, raw = torch.zeros(2, 5), torch.tensor([0, 1]), [DecodingSettings()]
    with pytest.raises(ValueError, match=r"logits must be \(rows, vocab\), got shape \(5,\)"):
        compare_rows(logits[0], targets, raw)
    with pytest.raises(ValueError, match=r"targets must have shape \(2,\), got \(1,\)"):
        compare_rows(logits, targets[:1], raw)
    with pytest.raises(ValueError, match=r"targets must be in \[0, 5\), got 5"):
        compare_rows(logits, torch.tensor([0, 5]), raw)
    with pytest.raises(ValueError, match=r"targets must be in \[0, 5\), got -1"):
        compare_rows(logits, torch.tensor([-1, 5]), raw)
    with pytest.raises(ValueError, match="settings must not be empty"):
        compare_rows(logits, targets, [])
    for bad in (math.nan, math.inf):
        broken = logits.clone()
        broken[1, 3] = bad
        with pytest.raises(ValueError, match="row 1 of logits holds NaN or \\+inf"):
            compare_rows(broken, targets, raw)
    broken = logits.clone()
    broken[1] = -math.inf
    with pytest.raises(ValueError, match="row 1 of logits has no finite value"):
        compare_rows(broken, targets, raw)
