"""Error bars: against the textbook formulas, and how often they cover a known truth."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from decoding.inference.intervals import MAX_BLOCKS, BlockSums, ratio_of_sums, student_t

floats = st.floats(-100, 100)


@given(st.lists(floats, min_size=2, max_size=30))
def test_units_of_one_observation_give_the_textbook_error(values):
    got = ratio_of_sums(values, np.ones(len(values)))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.standard_error == pytest.approx(scipy.stats.sem(values), abs=1e-9)


@pytest.mark.parametrize("level", [1e-3, 0.5, 0.9, 0.95, 0.99, 0.9999])
def test_quantiles_are_students(level):
    for freedom in (*range(1, 41), 99, 100, 1000, 100_001):
        expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
        assert student_t(level, freedom) == pytest.approx(expected, rel=1e-9)


def test_interval_is_students():
    values = np.random.default_rng(0).normal(3, 2, 12)
    low, high = scipy.stats.t.interval(0.9, 11, values.mean(), scipy.stats.sem(values))
    assert ratio_of_sums(values, np.ones(12)).interval(0.9) == pytest.approx((low, high))


def test_equal_units_of_many_observations_give_the_error_of_their_means():
    values = np.random.default_rng(1).normal(size=(9, 50))
    got = ratio_of_sums(values.sum(1), np.full(9, 50))
    assert got.standard_error == pytest.approx(scipy.stats.sem(values.mean(1)))


def test_unequal_units_agree_with_the_bootstrap_over_units():
    rng = np.random.default_rng(2)
    counts = rng.integers(5, 60, 200)
    sums = np.array([rng.normal(rng.normal(2, 0.5), 1, n).sum() for n in counts])
    picks = rng.integers(0, 200, (4000, 200))
    bootstrap = (sums[picks].sum(1) / counts[picks].sum(1)).std()
    assert ratio_of_sums(sums, counts).standard_error == pytest.approx(bootstrap, rel=0.05)


def test_one_unit_has_no_error_and_none_is_refused():
    got = ratio_of_sums([6.0], [3])
    assert (got.mean, got.units) == (2.0, 1)
    assert np.isnan(got.standard_error) and np.isnan(got.interval()).all()
    with pytest.raises(ValueError, match="at least one unit"):
        ratio_of_sums([], [])


@given(st.lists(st.integers(0, 300), max_size=12))
def test_blocks_hold_the_series_in_order(sizes):
    n = sum(sizes)
    series = np.random.default_rng(n).integers(0, 1000, n).astype(float)
    blocks = BlockSums(1)
    for part in np.split(series, np.cumsum(sizes)[:-1]) if sizes else []:
        blocks.add(part)
    sums, counts = blocks.sums()
    want = [series[i : i + blocks.length] for i in range(0, n, blocks.length)]
    assert sums.tolist() == [part.sum() for part in want]
    assert counts.tolist() == [len(part) for part in want]
    assert len(sums) <= MAX_BLOCKS and (n < MAX_BLOCKS or len(sums) > MAX_BLOCKS // 2)


@pytest.mark.parametrize(("n", "sizes"), [(16, [16]), (17, [16, 1]), (512, [16] * 32)])
def test_a_short_series_has_blocks_of_16_and_no_error_from_one(n, sizes):
    """Blocks of one value would take neighbours as independent."""
    blocks = BlockSums()
    blocks.add(np.arange(n))
    assert blocks.sums()[1].tolist() == sizes
    assert np.isnan(ratio_of_sums(*blocks.sums()).standard_error) == (len(sizes) == 1)


def test_several_quantities_are_each_treated_alone():
    rng = np.random.default_rng(4)
    sums, counts = rng.normal(size=(7, 3, 2)), rng.integers(1, 9, (7, 3, 2))
    got = ratio_of_sums(sums, counts)
    for place in np.ndindex(3, 2):
        alone = ratio_of_sums(sums[:, *place], counts[:, *place])
        assert got.mean[place] == pytest.approx(alone.mean)
        assert got.standard_error[place] == pytest.approx(alone.standard_error)


def test_blocks_of_vectors_given_as_sums():
    series = np.random.default_rng(5).normal(size=(1000, 3))
    one, other = BlockSums(8), BlockSums(8)
    one.add(series)
    begin = 0
    for end in np.cumsum([*other.pieces(len(series))]):
        other.add_sum(series[begin:end].sum(0), end - begin)
        begin = end
    for a, b in zip(one.sums(), other.sums(), strict=True):
        assert np.allclose(a, b)
    assert one.sums()[0].sum(0) == pytest.approx(series.sum(0))


@pytest.mark.parametrize("sizes", [[700, 3], [5, 900, 16], [100] * 40, [3000, 1, 2000]])
def test_series_that_are_joined_keep_their_order_and_their_sums(sizes):
    """Blocks are sums over neighbours, whatever their lengths."""
    series = np.random.default_rng(6).normal(size=(sum(sizes), 2))
    joined, begin = BlockSums(), 0
    for size in sizes:
        part = BlockSums(16 if begin == 0 else 64)
        part.add(series[begin : begin + size])
        joined.join(part)
        begin += size
    sums, counts = joined.sums()
    assert joined.count == counts.sum() == len(series) and len(counts) <= 64
    assert joined.length >= counts.max()
    ends = np.cumsum(counts)
    for total, end, count in zip(sums, ends, counts, strict=True):
        assert total == pytest.approx(series[end - count : end].sum(0))


def test_the_first_series_that_is_joined_stays_as_it_is():
    part, joined = BlockSums(), BlockSums()
    part.add(np.arange(900.0))
    joined.join(part)
    assert [*map(list, joined.sums())] == [*map(list, part.sums())]
    assert joined.length == part.length == 32


def markov_surprisals(transition, length, repeats, seed):
    """Surprisals along paths of a chain, `(repeats, length)`, and its entropy rate."""
    states = len(transition)
    values, vectors = np.linalg.eig(transition.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    stationary /= stationary.sum()
    rate = -(stationary[:, None] * transition * np.log(transition)).sum()
    rng = np.random.default_rng(seed)
    state = rng.choice(states, repeats, p=stationary)
    surprisals = np.empty((repeats, length))
    cumulative = transition.cumsum(1)
    for step in range(length):
        following = (rng.random(repeats)[:, None] > cumulative[state]).sum(1).clip(max=states - 1)
        surprisals[:, step] = -np.log(transition[state, following])
        state = following
    return surprisals, rate


STICKY = np.array(
    [
        [0.97, 0.01, 0.01, 0.01],  # a calm regime of one state
        [0.01, 0.33, 0.33, 0.33],  # a lively one of three
        [0.01, 0.33, 0.33, 0.33],
        [0.01, 0.33, 0.33, 0.33],
    ]
)


def coverage(surprisals, rate):
    """Share of the block intervals, and of the naive ones, that contain the rate."""
    hits = naive_hits = 0
    for series in surprisals:
        blocks = BlockSums()
        blocks.add(series)
        low, high = ratio_of_sums(*blocks.sums()).interval()
        hits += low <= rate <= high
        low, high = ratio_of_sums(series, np.ones(len(series))).interval()
        naive_hits += low <= rate <= high
    return hits / len(surprisals), naive_hits / len(surprisals)


@pytest.mark.parametrize("length", [8192, 20_000])
def test_block_intervals_cover_the_entropy_rate_of_a_sticky_chain(length):
    blocks, naive = coverage(*markov_surprisals(STICKY, length, repeats=400, seed=3))
    assert 0.92 <= blocks <= 0.98
    assert naive < 0.6
