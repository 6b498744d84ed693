"""Selective prediction: pairs counted, orders enumerated, definitions written anew."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from decoding_evals.judging.bootstrap import bootstrap
from decoding_evals.judging.selective import (
    aurc,
    auroc,
    evaluate_estimators,
    prediction_rejection_ratio,
    risk_coverage,
)
from decoding_evals.uncertainty.figure import plot_risk_coverage

# Few values, so that ties are frequent.
uncertainties = st.sampled_from([-1.0, 0.0, 0.5, 2.0, math.inf])
answers = st.lists(st.tuples(uncertainties, st.booleans()), max_size=12)
graded = st.lists(st.tuples(uncertainties, st.sampled_from([0.0, 0.2, 0.5, 1.0])), max_size=6)


def columns(rows):
    return [u for u, _ in rows], [q for _, q in rows]


def every_order(uncertainty):
    """All orders, certain first, that agree with the uncertainties."""
    for order in itertools.permutations(range(len(uncertainty))):
        values = [uncertainty[i] for i in order]
        if values == sorted(values):
            yield list(order)


def area(order, quality, max_rejection):
    """Mean of the last prefix means, one at a time."""
    n = len(order)
    sizes = range(n - int(max_rejection * n) + 1, n + 1)
    return np.mean([np.mean([quality[i] for i in order[:k]]) for k in sizes])


def prr_from_definition(uncertainty, quality, max_rejection, chance):
    expected = np.mean([area(o, quality, max_rejection) for o in every_order(uncertainty)])
    best = area(sorted(range(len(quality)), key=lambda i: -quality[i]), quality, max_rejection)
    return (expected - chance) / (best - chance)


@given(answers)
def test_auroc_counts_pairs(rows):
    wrong = [u for u, right in rows if not right]
    right = [u for u, right in rows if right]
    got = auroc(*columns(rows))
    if not wrong or not right:
        assert got is None
    else:
        pairs = [(a > b) + (a == b) / 2 for a in wrong for b in right]
        assert got == pytest.approx(np.mean(pairs))


@settings(max_examples=40)
@given(graded)
def test_risk_coverage_is_the_mean_over_all_orders_of_ties(rows):
    uncertainty, quality = columns(rows)
    curve = risk_coverage(uncertainty, quality)
    n = len(rows)
    assert curve.coverage.tolist() == [k / n for k in range(1, n + 1)]
    orders = list(every_order(uncertainty))
    want = [
        np.mean([1 - np.mean([quality[i] for i in order[:k]]) for order in orders])
        for k in range(1, n + 1)
    ]
    assert curve.risk == pytest.approx(want)
    assert aurc(uncertainty, quality) == (pytest.approx(np.mean(want)) if n else None)


@settings(max_examples=40)
@given(graded, st.sampled_from([1.0, 0.5, 0.7]))
def test_prr_from_all_orders(rows, max_rejection):
    uncertainty, quality = columns(rows)
    got = prediction_rejection_ratio(uncertainty, quality, max_rejection=max_rejection)
    if len(set(quality)) < 2 or int(max_rejection * len(rows)) < 2:
        assert got is None
        return
    every = itertools.permutations(range(len(rows)))
    chance = np.mean([area(order, quality, max_rejection) for order in every])
    assert got == pytest.approx(
        prr_from_definition(uncertainty, quality, max_rejection, chance), abs=1e-9
    )


@pytest.mark.parametrize("max_rejection", [1.0, 0.5])
@pytest.mark.parametrize("binary", [True, False])
def test_prr_is_what_lm_polygraphs_random_orders_tend_to(max_rejection, binary):
    """Its random score: the mean area of one array shuffled 1,000 times."""
    rng = np.random.default_rng(3)
    quality = (rng.random(40) < 0.6).astype(float) if binary else rng.random(40)
    uncertainty = rng.normal(size=40) - quality
    areas = [area(rng.permutation(40), quality, max_rejection) for _ in range(1000)]
    best = area(np.argsort(-quality), quality, max_rejection)
    own = area(np.argsort(uncertainty), quality, max_rejection)
    got = prediction_rejection_ratio(uncertainty, quality, max_rejection=max_rejection)
    chance = (own - got * best) / (1 - got)
    assert abs(np.mean(areas) - chance) < 4 * np.std(areas) / math.sqrt(1000)


def test_the_perfect_order_has_1_and_chance_0():
    quality = [1.0, 0.9, 0.3, 0.0]
    assert prediction_rejection_ratio([1, 2, 3, 4], quality) == 1
    assert prediction_rejection_ratio([4, 3, 2, 1], quality) < -0.9


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), min_size=2), st.floats(0.5, 1))
def test_a_constant_uncertainty_gains_exactly_nothing(quality, max_rejection):
    constant = [0.3] * len(quality)
    got = prediction_rejection_ratio(constant, quality, max_rejection=max_rejection)
    assert got in (0, None)
    right = [value > 0.5 for value in quality]
    entry = evaluate_estimators({"c": constant}, right, quality, resamples=50)["estimators"]["c"]
    assert entry["prr_interval"] in ([0, 0], None)
    assert entry["auroc_interval"] in ([0.5, 0.5], None)


@settings(max_examples=60)
@given(st.lists(st.tuples(uncertainties, st.sampled_from([0.0, 0.2, 0.5, 1.0])), min_size=1),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_rows_changes_no_figure(rows, random):
    """Least of all where uncertainties tie, whose answers then have no order of their own."""

    def figures(rows):
        uncertainty, quality = columns(rows)
        right = [value >= 0.5 for value in quality]
        curve = risk_coverage(uncertainty, quality).risk
        ratio = prediction_rejection_ratio(uncertainty, quality, max_rejection=0.7)
        return [auroc(uncertainty, right), aurc(uncertainty, quality), ratio, *curve]

    shuffled = random.sample(rows, len(rows))
    assert figures(rows) == pytest.approx(figures(shuffled), abs=1e-9, nan_ok=False)


# The bootstrap.


def slowly(statistic):
    """The statistic of each resample, from the prompts that it holds."""

    def of_counts(counts):
        found = [statistic(np.repeat(np.arange(counts.shape[1]), row)) for row in counts]
        return np.array([math.nan if value is None else value for value in found])

    return of_counts


def sample(n, seed, shift=1.0):
    rng = np.random.default_rng(seed)
    correct = rng.random(n) < 0.6
    return np.round(rng.normal(size=n) - shift * correct, 1), correct, rng.random(n)


def test_intervals_are_those_of_resampled_prompts():
    found = sample(30, 1)
    uncertainty, correct, quality = (
        values[np.lexsort([*found[::2], found[1]])] for values in found
    )
    result = evaluate_estimators({"u": uncertainty}, correct, quality, resamples=200, seed=5)
    slow_auroc = bootstrap(
        slowly(lambda i: auroc(uncertainty[i], correct[i])), 30, resamples=200, seed=5
    )
    slow_prr = bootstrap(
        slowly(lambda i: prediction_rejection_ratio(uncertainty[i], quality[i])),
        30, resamples=200, seed=5,
    )  # fmt: skip
    got = result["estimators"]["u"]
    assert got["auroc_interval"] == pytest.approx(slow_auroc.ends())
    assert got["prr_interval"] == pytest.approx(slow_prr.ends())
    assert got["auroc"] == auroc(uncertainty, correct)
    assert got["prr"] == prediction_rejection_ratio(uncertainty, quality)
    assert got["aurc"] == aurc(uncertainty, quality)


def test_a_figure_lies_in_its_own_interval():
    """Of few answers and many, graded and not, told apart well, badly, not at all."""
    rng = np.random.default_rng(0)
    seen = 0
    for case in range(150):
        n = int(rng.integers(2, 60))
        quality = rng.random(n) if case % 2 else (rng.random(n) < rng.uniform(0.1, 0.9)) * 1.0
        uncertainty = rng.normal(size=n) - rng.uniform(-3, 3) * quality
        if case % 3 == 0:
            uncertainty = uncertainty.round()
        if case % 5 == 0:
            uncertainty = np.zeros(n)
        how = {"max_rejection": rng.uniform(0.3, 1), "seed": case}
        found = evaluate_estimators({"u": uncertainty}, quality >= 0.5, quality, **how)
        entry = found["estimators"]["u"]
        for name in ("auroc", "prr"):
            if entry[name] is not None:
                low, high = entry[f"{name}_interval"]
                assert low - 1e-12 <= entry[name] <= high + 1e-12, (name, case, entry)
                seen += 1
    assert seen > 200


def test_the_interval_of_an_auroc_is_as_wide_as_its_known_variance():
    """DeLong's variance, from the share of pairs that each answer wins."""
    uncertainty, correct, _ = sample(400, 2)
    wins = uncertainty[~correct][:, None] > uncertainty[correct][None, :]
    wins = wins + (uncertainty[~correct][:, None] == uncertainty[correct][None, :]) / 2
    variance = wins.mean(1).var(ddof=1) / len(wins) + wins.mean(0).var(ddof=1) / wins.shape[1]
    got = evaluate_estimators({"u": uncertainty}, correct)["estimators"]["u"]
    low, high = got["auroc_interval"]
    assert (high - low) / (2 * 1.96 * math.sqrt(variance)) == pytest.approx(1, abs=0.1)
    assert low < got["auroc"] < high


def test_every_resample_has_as_many_units_and_each_unit_its_turn():
    seen = []

    def remember(counts):
        assert (counts.sum(1) == 5).all()
        seen.append(counts)
        return counts[:, 0].astype(float)

    interval = bootstrap(remember, 5, resamples=4000, level=0.9)
    counts = np.concatenate(seen)
    assert counts.shape == (4000, 5)
    # Binomial(5, 1/5) of each unit: mean 1, variance 4/5.
    assert counts.mean(0) == pytest.approx(1, abs=5 * math.sqrt(0.8 / 4000))
    assert counts.var(0) == pytest.approx(0.8, abs=0.1)
    assert interval.ends() == [0, 3]  # P(X >= 3) = 0.058, P(X >= 4) = 0.007


def test_undefined_resamples_are_left_out_and_counted():
    # One wrong answer of four: a resample without it, or of it alone, has no AUROC.
    got = evaluate_estimators({"u": [1.0, 2.0, 3.0, 4.0]}, [True, True, True, False])
    entry = got["estimators"]["u"]
    missing = entry["auroc_undefined_resamples"]
    expected = (3 / 4) ** 4 + (1 / 4) ** 4
    spread = math.sqrt(expected * (1 - expected) * 1000)
    assert abs(missing - 1000 * expected) < 4 * spread
    assert entry["auroc_interval"] == [1, 1]
    nothing = bootstrap(lambda counts: np.full(len(counts), math.nan), 3, resamples=7)
    assert (nothing.low, nothing.high, nothing.undefined, nothing.ends()) == (None, None, 7, None)


# All estimators.


def test_the_order_of_prompts_changes_nothing_not_even_an_interval():
    uncertainty, correct, quality = sample(40, 8)
    other = [None if u > 0.5 else -u for u in uncertainty]
    shuffled = np.random.default_rng(1).permutation(40)
    one = evaluate_estimators({"u": uncertainty, "v": other}, correct, quality)
    two = evaluate_estimators(
        {"u": uncertainty[shuffled], "v": [other[i] for i in shuffled]},
        correct[shuffled], quality[shuffled],
    )  # fmt: skip
    assert one == two


def test_prompts_without_a_reference_or_an_uncertainty_are_left_out_and_counted():
    uncertainty, correct, quality = sample(20, 4)
    gaps = [None if i in (3, 4) else float(u) for i, u in enumerate(uncertainty)]
    judged = [None if i in (4, 7, 9) else bool(c) for i, c in enumerate(correct)]
    given_quality = [None if c is None else float(q) for c, q in zip(judged, quality, strict=True)]
    got = evaluate_estimators({"gaps": gaps, "u": uncertainty}, judged, given_quality)
    assert (got["prompts"], got["prompts_left_out"]) == (17, 3)
    rest = [i for i in range(20) if i not in (4, 7, 9)]
    assert got["accuracy"] == pytest.approx(correct[rest].mean())
    assert got["risk"] == pytest.approx(1 - quality[rest].mean())
    for name, rows in (("u", rest), ("gaps", [i for i in rest if i != 3])):
        entry = got["estimators"][name]
        assert entry["prompts"] == len(rows)
        assert entry["prompts_undefined"] == 17 - len(rows)
        assert entry["auroc"] == auroc(uncertainty[rows], correct[rows])
        assert entry["prr"] == prediction_rejection_ratio(uncertainty[rows], quality[rows])
        curve = risk_coverage(uncertainty[rows], quality[rows])
        assert entry["risk_coverage"]["risk"] == curve.risk.tolist()
        assert entry["risk_coverage"]["risk"][-1] == pytest.approx(1 - quality[rows].mean())
        assert entry["note"] is None
    assert got["oracle"]["aurc"] == aurc(-quality[rest], quality[rest])


@pytest.mark.parametrize(
    ("correct", "quality", "auroc_is_none", "note"),
    [
        ([True] * 3, None, True, "every answer is right: AUROC and PRR are undefined"),
        ([False] * 3, None, True, "every answer is wrong: AUROC and PRR are undefined"),
        ([True] * 3, [0.4, 0.5, 0.9], True, "every answer is right: AUROC is undefined"),
        ([True, False, True], [0.3] * 3, False, "every answer is of quality 0.3: PRR is undefined"),
        ([None] * 3, None, True, "no prompt to evaluate"),
    ],
)
def test_constant_correctness_is_said_and_no_nan_is_written(correct, quality, auroc_is_none, note):
    got = evaluate_estimators({"u": [0.1, 0.2, 0.3]}, correct, quality)
    entry = json.loads(json.dumps(got, allow_nan=False))["estimators"]["u"]
    assert entry["note"] == note
    for name in ("auroc", "auroc_interval"):
        assert (entry[name] is None) == auroc_is_none
    for name in ("prr", "prr_interval"):
        assert (entry[name] is None) == ("PRR" in note or note.startswith("no prompt"))


def test_an_estimator_undefined_everywhere_is_said_too():
    got = evaluate_estimators({"u": [None, None]}, [True, False])
    entry = json.loads(json.dumps(got, allow_nan=False))["estimators"]["u"]
    assert (entry["prompts"], entry["prompts_undefined"]) == (0, 2)
    assert entry["aurc"] is None and entry["note"] == "no prompt to evaluate"
    few = evaluate_estimators({"u": [1, 2, 3]}, [True, False, True], max_rejection=0.4)
    note = "max_rejection rejects none of 3 answers: PRR is undefined"
    assert few["estimators"]["u"]["note"] == note


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([1, 2], [True]), r"uncertainty must have a value for each of the answers"),
        (lambda: auroc([math.nan], [True]), "uncertainty must not be NaN"),
        (lambda: auroc([1], [0.5]), r"correct must hold booleans, got 0\.5"),
        (lambda: risk_coverage([1], [1.5]), r"quality must be in \[0, 1\], got 1\.5"),
        (lambda: aurc([1], [math.nan]), r"quality must be in \[0, 1\], got nan"),
        (
            lambda: prediction_rejection_ratio([1], [1], max_rejection=0),
            r"max_rejection must be in \(0, 1\], got 0",
        ),
        (lambda: evaluate_estimators({"PPL": [1]}, [True, False]), "PPL must have a value for"),
        (lambda: evaluate_estimators({}, [True], []), "quality must have a value for each of"),
        (lambda: bootstrap(lambda c: c[:, 0], 0), "units must be >= 1, got 0"),
        (lambda: bootstrap(lambda c: c[:, 0], 1, resamples=0), "resamples must be >= 1, got 0"),
        (lambda: bootstrap(lambda c: c[:, 0], 1, level=1), r"level must be in \(0, 1\), got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The picture.


def record(estimators=12, prompts=200):
    rng = np.random.default_rng(0)
    correct = rng.random(prompts) < 0.6
    scores = {
        f"Estimator{i}": (rng.normal(size=prompts) - 0.2 * i * correct).tolist()
        for i in range(estimators)
    }
    evaluation = evaluate_estimators(scores, correct.tolist(), resamples=10)
    return {"model": "builtin:stories", "evaluation": evaluation}


@pytest.mark.parametrize("estimators", [1, 3, 30])
def test_the_picture_has_every_curve_and_both_bounds(estimators):
    drawn = record(estimators)
    figure = plot_risk_coverage(drawn)
    FigureCanvasAgg(figure).draw()
    [axes] = figure.axes
    lines = {line.get_gid(): line for line in axes.lines}
    evaluation = drawn["evaluation"]
    for name, entry in evaluation["estimators"].items():
        curve = entry["risk_coverage"]
        assert lines[name].get_xdata().tolist() == curve["coverage"]
        assert lines[name].get_ydata().tolist() == curve["risk"]
    assert set(lines["random"].get_ydata()) == {evaluation["risk"]}
    assert lines["oracle"].get_ydata().tolist() == evaluation["oracle"]["risk_coverage"]["risk"]
    # The legend goes from the best to the worst.
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    areas = [float(text.split()[-1]) for text in shown]
    assert areas == sorted(areas) and len(shown) == estimators + 2
    # Told apart by form as well as by colour.
    forms = [(line.get_color(), line._unscaled_dash_pattern) for line in lines.values()]
    assert len({*map(str, forms)}) == len(forms)
    box = axes.get_legend().get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert axes.get_window_extent().width > 0.45 * figure.bbox.width


def test_the_picture_of_nothing_and_of_strange_names():
    empty = evaluate_estimators({"u": [None], "日本$x$\x1b[31m": [1.0]}, [True], resamples=2)
    figure = plot_risk_coverage({"model": "/m/$a_b$/日" * 9, "evaluation": empty})
    FigureCanvasAgg(figure).draw()
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any(text.startswith("\\u65e5\\u672c$x$\\x1b[31m") for text in shown)
    assert not any(text.startswith("u ") for text in shown)
    assert "$a_b$" in figure.axes[0].get_title(loc="left")
    nothing = evaluate_estimators({"u": [1.0]}, [None], resamples=2)
    FigureCanvasAgg(plot_risk_coverage({"model": "m", "evaluation": nothing})).draw()
