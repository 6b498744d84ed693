"""Packed rows hold what they say they hold: depths within their rounding, ids, places, segments."""

import numpy as np
import pytest

from decoding.rows.packed import PackedRows

VOCAB = 3000


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    rows = (random.normal(size=(4, VOCAB)) * [[0.3], [1], [2], [4]]).astype(np.float32)
    rows[1] = np.round(rows[1] * 4) / 4
    rows[2, random.random(VOCAB) < 0.3] = -np.inf
    return rows


def in_order(row):
    """Tokens by logit descending, then id ascending, and their depths in float64."""
    order = np.array(sorted(range(len(row)), key=lambda id_: (-float(row[id_]), id_)))
    return order, float(row[order[0]]) - row[order].astype(np.float64)


def test_first_depths_and_ids(rows):
    format_ = PackedRows(VOCAB, 64)
    tokens = np.array([5, 17, 2000, 2999])
    rows[2, 2000] = -np.inf
    for packed, row, token in zip(format_.pack(rows, tokens), rows, tokens, strict=True):
        order, depth = in_order(row)
        assert packed["named_id"].tolist() == order[:12].tolist()
        known = [*packed["named_depth"].astype(np.float64)]
        for gap in packed["gap"].astype(np.float64):
            assert gap >= 0
            known.append(known[-1] + gap)
        # Each is off by what float16 rounds of its own step: errors do not add up.
        step = np.diff(depth[:64], prepend=0)
        assert (abs(np.array(known) - depth[:64]) <= 2**-11 * step + 1e-5).all()
        assert packed["place"] == order.tolist().index(token)
        assert packed["count"] == np.isfinite(row).sum()
        assert packed["depth"] == np.float32(row.max()) - row[token]


def test_segments_hold_their_bounds_and_means(rows):
    format_ = PackedRows(VOCAB, 64)
    for packed, row in zip(format_.pack(rows, np.zeros(4, int)), rows, strict=True):
        depth = in_order(row)[1]
        low = packed["named_depth"][-1] + packed["gap"].astype(np.float64).sum()
        for start, end, width, mean in zip(
            format_.places, format_.places[1:], packed["width"], packed["mean"], strict=False
        ):
            own = depth[start:end][np.isfinite(depth[start:end])]
            if len(own):
                high = low + float(width)
                assert abs(high - own[-1]) < 1e-3 * (own[-1] - low) + 1e-5
                assert (
                    abs(low + (high - low) * mean / 254 - own.mean()) <= (high - low) / 400 + 1e-5
                )
                low = high


def test_segments_cover_the_vocabulary():
    places = PackedRows(49_152).places
    assert places[0] == 192 and places[-1] == 49_152
    growth = np.diff(places)[:-1] / places[:-2]
    assert 0.04 < growth.min() <= growth.max() <= 0.05
    assert PackedRows(100).places.tolist() == [100]
    assert PackedRows(3).pack(np.zeros((1, 3)), np.array([2]))["place"] == 2


def test_a_row_is_small():
    base64 = {vocab: PackedRows(vocab).layout.itemsize * 4 / 3 for vocab in (50_257, 262_144)}
    assert base64[50_257] < 1200 and base64[262_144] < 1350


@pytest.mark.parametrize("detail", [15, 4097])
def test_a_detail_outside_its_range_is_refused(detail):
    with pytest.raises(ValueError, match=f"detail must be from 16 to 4096, got {detail}"):
        PackedRows(100, detail)


def test_rows_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"logits must be \(rows, 5\), got \(2, 6\)"):
        PackedRows(5).pack(np.zeros((2, 6)), np.array([0, 0]))
