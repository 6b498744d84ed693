"""The histogram that finds where a prefix ends, against sorting each row in NumPy."""

import math

import numpy as np
import pytest
import torch

from cuts_oracle import applied
from decoding import DecodingSettings
from decoding.rows.arrays import as_array
from decoding.rows.distribution import Distribution
from decoding.rows.prefix import _prefix, shortest_with_mass

VOCABULARIES = [1, 2, 3, 17, 1000, 50257, 151936]
# None is a multiple of 1/n for these n: a total of n that are alike is never right at the limit.
SHARES = [1e-9, 0.10037, 0.50041, 0.90043, 0.99917, 1 - 1e-7]


def noise(vocab, seed=0):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed))


def with_first(row, value):
    row[0] = value
    return row


KINDS = {
    "peaked": lambda v: 8 * noise(v),
    "flat": lambda v: 0.02 * noise(v),
    "all alike": lambda v: torch.full((v,), -7.25),
    "rounded": lambda v: (2 * noise(v)).bfloat16().float(),
    "two levels": lambda v: (noise(v) > 0).float(),
    "in equal steps": lambda v: -(torch.arange(v) % 2049) / 64,  # each at the edge of a bin
    "mostly excluded": lambda v: with_first(noise(v).masked_fill(noise(v, 1) > -1, -math.inf), 0.0),
    "one finite": lambda v: with_first(torch.full((v,), -math.inf), 3.0),
    "huge": lambda v: 1e30 * noise(v),
    "one huge": lambda v: with_first(noise(v), 1e30),
    "tiny range": lambda v: 5 + 1e-6 * noise(v),
    "smallest range": lambda v: 1e-38 * noise(v),
    "deep": lambda v: 100 * noise(v),  # most lie beyond the last bin's edge
    "double": lambda v: 3 * noise(v).double(),
    "double, tiny range": lambda v: 1e-12 * noise(v).double(),
}


def below(_, moment, limit):
    return moment <= limit


def depths_of(rows):
    return -np.asarray(rows.log_weights, np.float64).clip(-1000, None)


def by_sorting(rows, key, share, *, reaching):
    """The mask by definition, and how near the nearest total is to the limit."""
    probs, depths = np.asarray(rows.weights, np.float64), depths_of(rows)
    keys = depths if key is None else np.asarray(key, np.float64)
    order = np.lexsort((depths, keys))  # and then by id, since the sort is stable
    totals = np.cumsum(probs[order] if reaching else (probs * depths)[order])
    limit = share * totals[-1]
    count = 1 + (totals[:-1] < limit).sum() if reaching else max(1, (totals <= limit).sum())
    # Sums of zeros are exact.
    margin = np.abs(totals - limit).min() / totals[-1] if limit else np.inf
    kept = np.zeros(len(probs), dtype=bool)
    kept[order[:count]] = True
    return kept, limit, margin


def marked(rows, key, ends, *, reaching):
    """The prefix up to a mass, or up to a moment, from NumPy to NumPy."""
    key = None if key is None else as_array(torch.from_numpy(key))
    ends = as_array(torch.from_numpy(np.asarray(ends, np.float64)))
    of_rows = rows.log_weights, rows.weights, rows.total
    if reaching:
        return np.asarray(shortest_with_mass(*of_rows, ends[..., 0], key))
    return np.asarray(_prefix(*of_rows, below, ends, False, key))


def check(rows, share, *, reaching, key=None):
    kept, limit, margin = by_sorting(rows, key, share, reaching=reaching)
    assert margin > 1e-13  # or else float64 could not tell
    got = marked(rows, key, [limit], reaching=reaching)
    some = np.asarray(rows.weights) > 0  # what has no mass is excluded anyway
    np.testing.assert_array_equal(got & some, kept & some)


def from_the_mean(rows):
    log_weights = np.asarray(rows.log_weights)
    return np.abs(log_weights - log_weights.dtype.type(rows.mean_log_weight))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("reaching", [True, False])
def test_prefix_by_histogram_is_the_prefix_by_sorting(kind, vocab, reaching, arrays):
    if arrays == "of torch":
        vocab = min(vocab, 1013)  # sorts, however many there are
    row = KINDS[kind](vocab)
    # In float32 the products are rounded, and which prefix is right turns on that.
    rows = Distribution(row if reaching else row.double())
    shares = SHARES if vocab < 50_000 else SHARES[1:5:2]
    for share in shares:
        check(rows, share, reaching=reaching)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [2, 17, 1000, 50257])
@pytest.mark.usefixtures("arrays")
def test_the_key_may_be_another_than_the_depth(kind, vocab):
    rows = Distribution(KINDS[kind](vocab))
    for share in SHARES[1:4]:
        check(rows, share, reaching=True, key=from_the_mean(rows))


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_p", 0.9), ("top_p", 0.3), ("typical_p", 0.8), ("top_h", 0.5), ("top_h", 0.95)],
)
@pytest.mark.parametrize("vocab", [2, 17, 1000, 50257])
def test_rules_keep_the_same_by_either_way_and_alone_or_in_a_batch(name, value, vocab, monkeypatch):
    rows = torch.stack([make(vocab).float() for make in KINDS.values()])
    together = applied(name, rows, value) > -math.inf
    for row, kept in zip(rows, together, strict=True):
        assert torch.equal(applied(name, row, value) > -math.inf, kept)
    monkeypatch.setattr("decoding.rows.arrays.numpy_sees", lambda _: False)
    assert torch.equal(applied(name, rows, value) > -math.inf, together)


def test_ties_across_the_cut_go_to_the_lowest_ids():
    # Four levels of five tokens each, in turn; e^-0.5 = 0.607, e^-1 = 0.368, e^-1.5 = 0.223.
    logits = -(torch.arange(20) % 4) / 2
    # 5 · 1 + 3 · 0.607 = 6.82 of 5 · 2.198 = 10.99, so 0.62 of the mass is reached by the third.
    kept = applied("top_p", logits, 0.62).isfinite().nonzero().squeeze(-1)
    assert kept.tolist() == [0, 1, 4, 5, 8, 9, 12, 16]


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.5, 4), (0.5 + 1e-9, 5), (0.75, 6)])
@pytest.mark.usefixtures("arrays")
def test_a_total_right_at_the_limit_reaches_it(share, count):
    rows = Distribution(torch.full((8,), 3.0))  # all weigh 1, so all sums are exact
    kept = marked(rows, None, [8 * share], reaching=True)
    assert kept.tolist() == [True] * count + [False] * (8 - count)


# Beyond the first 32 octaves of weights; and in float32 without a bit that is looked at, so that
# only order within the last bin can tell them apart.
@pytest.mark.parametrize("first", [33.0, 95.0])
@pytest.mark.usefixtures("arrays")
def test_a_cut_far_from_the_first_token(first):
    depths = torch.cat([torch.zeros(1), torch.arange(first, first + 40)]).double()
    depths = depths[torch.randperm(41, generator=torch.Generator().manual_seed(3))]
    rows = Distribution(-depths)
    # The difference from the whole would be lost in the sum: let the limit be on Σ e^-x·x instead.
    ascending = np.sort(depths.numpy())
    moment = np.cumsum(np.exp(-ascending) * ascending)
    for count in (1, 2, 7, 20):
        limit = (moment[count - 1] + moment[count]) / 2
        kept = marked(rows, None, [limit], reaching=False)
        assert kept.sum() == count
        assert depths[kept].max() < depths[~kept].min()


@pytest.mark.usefixtures("arrays")
def test_equal_keys_go_by_depth_and_then_by_id():
    rows = Distribution(torch.tensor([-2.0, 0.0, -1.0, -2.0, 0.0]).double())
    key = np.abs(np.asarray(rows.log_weights) + 1)  # 1, 1, 0, 1, 1
    order = [2, 1, 4, 0, 3]
    mass = np.asarray(rows.weights)[order].cumsum()
    for count in range(1, 6):
        kept = marked(rows, key, [mass[count - 1] - 1e-6], reaching=True)
        assert kept.nonzero()[0].tolist() == sorted(order[:count])


@pytest.mark.usefixtures("arrays")
def test_the_first_token_is_kept_whatever_the_limit():
    rows = Distribution(torch.tensor([[0.0, 2.0, 2.0, -math.inf], [4.0, 4.0, 1.0, 1.0]]))
    for reaching in (True, False):
        kept = marked(rows, None, [[-1.0], [-1.0]], reaching=reaching)
        assert kept.tolist() == [[False, True, False, False], [True, False, False, False]]


@pytest.mark.usefixtures("arrays")
def test_all_that_have_mass_are_kept_where_there_is_no_limit():
    rows = Distribution(torch.tensor([[0.0, 2.0, 2.0, -math.inf], [4.0, 4.0, 1.0, 1.0]]))
    for reaching in (True, False):
        kept = marked(rows, None, [[math.inf], [math.inf]], reaching=reaching)
        assert (kept | (rows.logits == -math.inf).numpy()).all()


def test_no_rows_and_leading_axes():
    logits = noise(2 * 3 * 40).view(2, 3, 40)
    kept = applied("top_p", logits, 0.7).isfinite()
    for i in range(2):
        for j in range(3):
            assert torch.equal(applied("top_p", logits[i, j], 0.7).isfinite(), kept[i, j])
    for name in ("top_p", "top_h", "typical_p"):
        assert applied(name, logits[:0], 0.5).shape == (0, 3, 40)


@pytest.mark.parametrize(
    "setting", ["top_k=16,top_p=0.9999999999999999", "top_k=16,kl_budget=1e-17"]
)
@pytest.mark.parametrize("top", [9.35762297e-14, 1e-3, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("arrays")
def test_no_tied_token_is_lost_where_all_that_is_left_falls_short_by_rounding(setting, top, dtype):
    """The token that top_k leaves out is level with those that it keeps."""
    logits = torch.zeros(17, dtype=dtype)
    logits[3] = top
    kept = DecodingSettings.parse(setting).log_probs(logits).isfinite()
    assert kept.tolist() == [True] * 16 + [False]
