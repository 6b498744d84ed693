"""Votes of samples, counted by hand."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from decoding import DecodingSettings, generate
from decoding_evals.uncertainty.votes import elected, evaluate_votes, sample_weights


def test_the_heaviest_cluster_wins_whatever_the_labels():
    labels = [5, 2, 2, 9, 5, 2]
    weights = {"a": [0.5, 0.1, 0.1, 0.3, 0.0, 0.1], "b": [0, 0, 0, 1, 0, 0], "even": [1] * 6}
    assert elected(labels, weights) == {"MostCommon": 1, "a": 0, "b": 3, "even": 1}


def test_every_small_vote_is_counted_right():
    for labels in product(range(3), repeat=4):
        weights = [3, 1, 2, 2]
        sums = {one: sum(w for w, x in zip(weights, labels, strict=True) if x == one)
                for one in labels}  # fmt: skip
        found = elected(labels, {"w": weights})
        best = max(dict.fromkeys(labels), key=sums.__getitem__)  # max takes the first
        assert found["w"] == labels.index(best)
        common = max(dict.fromkeys(labels), key=labels.count)
        assert found["MostCommon"] == labels.index(common)


def test_weights_are_the_samples_own_probabilities(stories):
    settings = DecodingSettings(temperature=0.8)
    samples = generate(
        stories, "Tom was", settings, num_return_sequences=3, max_new_tokens=6, seed=2, stop=".",
        certainty=True,
    )  # fmt: skip
    found = sample_weights(samples)
    q = [math.prod(math.exp(-s) for s in one.trace.surprisal_nats) for one in samples]
    assert found["SequenceProbability"] == pytest.approx([one / max(q) for one in q])
    mean = [p ** (1 / len(one.trace)) for p, one in zip(q, samples, strict=True)]
    assert found["MeanTokenLogProbability"] == pytest.approx(mean)
    certain = [one.trace.certainty for one in samples]
    even = [one.self_certainty_nats.mean() for one in certain]
    assert found["SelfCertainty"] == pytest.approx(even)
    groups = [one.confidence_nats.mean() for one in certain]  # all shorter than a window
    assert found["GroupConfidence"] == pytest.approx(groups)


def test_accuracies_and_paired_differences():
    correct = {
        "Greedy": [True, False, False, None],
        "MostCommon": [True, True, False, True],
        "none": [None] * 4,
    }
    found = evaluate_votes(correct)
    assert list(found) == ["Greedy", "MostCommon"]
    greedy, common = found.values()
    assert greedy["accuracy"] == pytest.approx(1 / 3) and greedy["difference"] is None
    assert (common["prompts"], common["accuracy"]) == (4, 0.75)
    assert common["difference"] == pytest.approx(1 / 3)  # of the three that both have
    del correct["Greedy"]
    assert evaluate_votes(correct)["MostCommon"]["difference"] is None
    assert evaluate_votes({}) == {}


def test_intervals_are_those_of_all_resamples():
    """Three prompts drawn three times: the 27 ways, against many random ones."""
    correct = {"Greedy": [True, False, False], "Other": [True, True, False]}
    rows = [*product(range(3), repeat=3)]
    difference = [Fraction(sum((0, 1, 0)[i] for i in row), 3) for row in rows]
    found = evaluate_votes(correct, resamples=20_000)["Other"]
    low, high = np.quantile([float(d) for d in difference], [0.025, 0.975], method="inverted_cdf")
    assert found["difference_interval"] == pytest.approx([low, high])
    shuffled = {name: values[::-1] for name, values in correct.items()}
    assert evaluate_votes(shuffled) == evaluate_votes(correct)
