"""Words of sorted rows against those of rows as they come, and against NumPy."""

from itertools import islice, product

import numpy as np
import pytest
import torch

from cuts_oracle import CUTS, ORACLES, VALUES, by_logit, entropy, finite
from decoding.rows.distribution import Distribution
from decoding.rows.sorted import ScaledRow, SortedRows
from decoding.rules import RULES

ORDERS = [0, 0.5, 1, 1.5, 2, 3, 7]


def sorted_rows(z, temperature, bounds):
    depth = np.sort(z.max() - z[np.isfinite(z)])
    scaled = ScaledRow.of(depth, 1 / temperature, np.empty(len(depth) + 1))
    return SortedRows(scaled, np.array(bounds, np.int64))


def whole(z, temperature, sets):
    n = int(np.isfinite(z).sum())
    return sorted_rows(z, temperature, [(0, n, n, n)] * sets)


def places(bounds):
    a, b, c, d = bounds
    return [*range(a, b), *range(c, d)]


def rows_of_any_kind():
    """Random, peaked, tied and masked rows, float64."""
    rng = np.random.default_rng(4)
    for size, scale in product((1, 2, 9, 60, 400), (0.3, 2.0, 8.0)):
        noise = scale * rng.standard_normal(size)
        yield noise
        yield np.round(noise)
        masked = noise.copy()
        masked[rng.random(size) < 0.4] = -np.inf
        masked[0] = 0.0
        yield masked


def kept_ids(z, bounds):
    return {int(by_logit(z)[place]) for place in places(bounds)}


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_of_sorted_rows_is_the_cut_of_rows(name, temperature):
    values, compared = np.array(VALUES[name], float), 0
    for z in rows_of_any_kind():
        rows = whole(z, temperature, len(values))
        many = RULES[name](VALUES[name][0]).keep(rows, values).bounds
        for value, bounds in zip(VALUES[name], many, strict=True):
            if ORACLES[name]((z - z.max()) / temperature, value).margin.min() < 1e-9:
                continue  # where rounding may decide
            given = Distribution(torch.from_numpy(z)).tempered(temperature)
            kept = finite(RULES[name](value).keep(given, value).logits)
            assert kept_ids(z, bounds) == set(np.flatnonzero(kept)), (value, len(z))
            compared += 1
    assert compared > 100


@pytest.mark.parametrize(("first", "second"), [*product(CUTS, CUTS)])
def test_a_cut_works_on_what_the_cut_before_has_left(first, second):
    compared = 0
    # Every second one: of each size some are random, tied and masked.
    for z in islice(rows_of_any_kind(), 0, None, 2):
        pairs = list(product(VALUES[first][1:4], VALUES[second][1:4]))
        one, other = (RULES[name](VALUES[name][1]) for name in (first, second))
        rows = one.keep(whole(z, 1.0, len(pairs)), np.array([float(a) for a, _ in pairs]))
        amounts = np.array([float(b) for _, b in pairs])
        if first == second == "typical_p":
            if (rows.bounds[:, 0] > 0).any():
                with pytest.raises(ValueError, match="typical of a typical set"):
                    other.keep(rows, amounts)
                compared += len(pairs)
            continue
        for (a, b), bounds in zip(pairs, other.keep(rows, amounts).bounds, strict=True):
            before = one.keep(Distribution(torch.from_numpy(z)), a)
            left = before.logits.numpy()
            margins = ORACLES[first](z, a).margin.min(), ORACLES[second](left, b).margin.min()
            if min(margins) < 1e-9:
                continue
            kept = finite(other.keep(before, b).logits)
            assert kept_ids(z, bounds) == set(np.flatnonzero(kept)), (a, b, len(z))
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("count", [*range(1, 130), 1000, 50257])
def test_p_less_keeps_all_of_equal_tokens(count):
    """p = Σ p² exactly, so rounding may not decide; also of those that a typical set holds."""
    for temperature in (1.0, 0.7):
        rows = whole(np.full(count, 2.5), temperature, 1)
        assert RULES["p_less"](1).keep(rows, np.ones(1)).bounds.tolist() == rows.bounds.tolist()
        above = np.concatenate([[3.3], np.zeros(count), [-9.0]])
        middle = sorted_rows(above, temperature, [(1, count + 1, count + 1, count + 1)])
        kept = RULES["p_less"](1).keep(middle, np.ones(1)).bounds
        assert places(kept[0]) == list(range(1, count + 1))


def sets_of_any_kind(n, rng, count=40):
    """Bounds of prefixes, of intervals, and of two intervals, none empty."""
    for kind in range(count):
        a, b, c, d = sorted(rng.choice(n + 1, 4, replace=False).tolist())
        yield [(0, b, b, b), (a, d, d, d), (a, b, c, d)][kind % 3]


def sets_and_probabilities(temperature, rounded):
    rng = np.random.default_rng(9)
    z = 2 * rng.standard_normal(120)
    z = np.sort(np.round(z) if rounded else z)[::-1]
    all_bounds = list(sets_of_any_kind(len(z), rng))
    for bounds in all_bounds:
        own = z[places(bounds)] / temperature
        weights = np.exp(own - z.max() / temperature)
        yield z, bounds, own, weights / weights.sum(), weights.sum()


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_numbers_of_sets_are_those_of_numpy(temperature, rounded):
    for z, bounds, own, p, total in sets_and_probabilities(temperature, rounded):
        rows = sorted_rows(z, temperature, [bounds])
        assert rows.mass[0] == pytest.approx(total)
        assert rows.log_mass[0] == pytest.approx(np.log(total))
        assert rows.log_total[0] == pytest.approx(-np.log(p[0]), abs=1e-10)
        depth = (z.max() - z)[places(bounds)]
        assert rows.mean_depth[0] == pytest.approx((p * depth).sum())
        # The mass of a set deep in the row is a small difference of prefix sums.
        assert rows.entropy[0] == pytest.approx(entropy(p), abs=1e-10)
        assert rows.deviation[0] == pytest.approx(np.std(own), abs=1e-12)
        for order in ORDERS:
            assert rows.renyi_entropy(order)[0] == pytest.approx(renyi(p, order), abs=1e-10)


def renyi(p, order):
    """By its definition, and its limits at 0 and 1."""
    if order == 1:
        return entropy(p)
    return np.log((p[p > 0] ** order).sum()) / (1 - order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.usefixtures("arrays")
def test_renyi_entropies_of_rows_are_those_of_numpy(order, dtype, atol):
    for z in rows_of_any_kind():
        logits = torch.from_numpy(z).to(dtype)
        got = Distribution(logits.unsqueeze(0)).renyi_entropy(order)
        weights = np.exp(logits.double().numpy() - logits.max().item())
        want = renyi(weights / weights.sum(), order)
        assert got.shape == (1,)
        assert got.item() == pytest.approx(want, abs=atol, rel=atol)
        assert want - atol <= Distribution(logits).renyi_entropy(order) <= want + atol


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_words_on_sets_keep_what_numpy_keeps(temperature, rounded):
    share = 0.50041
    for z, bounds, own, p, _ in sets_and_probabilities(temperature, rounded):
        rows, some = sorted_rows(z, temperature, [bounds]), places(bounds)
        running = np.cumsum(p)
        kept = {
            "first": np.arange(len(p)) < 3,
            "with_mass": np.concatenate([[0.0], running[:-1]]) < share,
            "with_entropy": prefix_entropies(p) <= share * entropy(p),
            "within_depth": own.max() - own <= 1.70031,
            "within_surprisal": -np.log(p) <= 4.10017,
        }
        amounts = {
            "first": 3.0,
            "with_mass": share,
            "with_entropy": share * entropy(p),
            "within_depth": 1.70031,
            "within_surprisal": 4.10017,
        }
        for word, mask in kept.items():
            mask[0] = True  # the first of each set always
            got = getattr(rows, word)(np.array([amounts[word]])).bounds[0]
            assert places(got) == [some[i] for i in np.flatnonzero(mask)], (word, bounds)


def prefix_entropies(p):
    return np.array([entropy(p[:n] / p[:n].sum()) for n in range(1, len(p) + 1)])
