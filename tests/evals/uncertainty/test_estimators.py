"""Estimators of a prompt's uncertainty against their formulas on float64 rows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from decoding import DecodingSettings, generate
from decoding.inference.sequences import sequence_entropy
from decoding.tracing.trace import Certainty
from decoding_evals.uncertainty.estimators.probabilities import (
    answer,
    certainty_estimates,
    cluster_estimates,
    greedy_estimates,
    most_common,
    sample_estimates,
    surprisals,
)
from oracle import TOLERANCE, log_softmax, plogp, reference_log_q, teacher_forced

PROMPT = "And they all lived happily ever after."


@pytest.fixture(scope="module", params=["raw", "temperature=0.7,top_k=20"])
def answered(request, stories):
    """Greedy answer and samples, some of which end by themselves, with their float64 rows."""
    settings = DecodingSettings.parse(request.param)

    def run(settings, **options):
        options |= {"max_new_tokens": 24, "seed": 3, "certainty": True}
        return generate(stories, PROMPT, settings, **options)

    [greedy] = run(DecodingSettings(temperature=0))
    samples = run(settings, num_return_sequences=8)
    assert {sample.finish_reason for sample in samples} == {"eos", "length"}
    rows = [
        teacher_forced(stories.model, found.prompt_ids, found.trace.ids.tolist())
        for found in (greedy, *samples)
    ]
    return settings, greedy, samples, rows[0], rows[1:]


def entropy_of(samples):
    traces = [sample.trace for sample in samples]
    return sequence_entropy(
        [trace.surprisal_nats for trace in traces], [trace.entropy_nats for trace in traces]
    )


def test_of_the_greedy_answer(answered):
    _, greedy, _, rows, _ = answered
    log_p = [log_softmax(row) for row in rows]
    surprisal = [-log_p[i][token] for i, token in enumerate(greedy.trace.ids)]
    entropies = [plogp(row, -row) for row in log_p]
    want = {
        "MaximumSequenceProbability": sum(surprisal),
        "Perplexity": np.mean(surprisal),
        "MeanTokenEntropy": np.mean(entropies),
        "MaxTokenEntropy": max(entropies),
    }
    confidence = [-np.sort(row)[-20:].mean() for row in log_p]
    tempered = [row / 2 - np.log(np.exp(row / 2).sum()) for row in log_p]
    renyi = [2 * np.log(np.exp(row / 2).sum()) for row in tempered]
    best = [np.sort(np.exp(row))[-2:] for row in log_p]
    want |= {
        "SelfCertainty": np.mean([row.mean() + np.log(len(row)) for row in log_p]),
        "RenyiNeg": np.mean(renyi) - np.log(2048),
        "GroupConfidence": -min(
            np.mean(confidence[begin : begin + 16]) for begin in range(max(1, len(rows) - 15))
        ),
        "Margin": np.mean([second - first for second, first in best]),
    }
    found = greedy_estimates(greedy)
    assert list(found) == list(want)
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE * len(rows)), name


def test_a_group_is_of_sixteen_tokens_or_all_there_are():
    """The least of the windows, not the mean of all tokens, and nothing outside the answer."""
    low = [4.0] * 10 + [1.0] * 16 + [4.0] * 10
    for confidence, least in ((low, 1.0), (low[:18], (8 * 4 + 8) / 16), (low[8:12], 2.5)):
        column = np.array(confidence)
        found = certainty_estimates(Certainty(column, column, column, column / 4))
        assert found["GroupConfidence"] == pytest.approx(-least)


def test_what_was_not_recorded_is_none(stories):
    [greedy] = generate(stories, PROMPT, DecodingSettings(temperature=0), max_new_tokens=2)
    found = greedy_estimates(greedy)
    assert {name for name, value in found.items() if value is None} == {
        "SelfCertainty", "RenyiNeg", "GroupConfidence", "Margin"
    }  # fmt: skip


def test_of_samples(answered):
    settings, _, samples, _, rows = answered
    total, per_token, entropies = [], [], []
    for sample, of_sample in zip(samples, rows, strict=True):
        log_q = [reference_log_q(row, settings) for row in of_sample]
        total.append(-sum(row[token] for row, token in zip(log_q, sample.trace.ids, strict=True)))
        length = len(log_q) - (sample.finish_reason == "eos")
        if length:
            per_token.append(total[-1] / length)
        kept = [np.where(np.isneginf(row), 0.0, -row) for row in log_q]
        entropies.append(sum(plogp(row, value) for row, value in zip(log_q, kept, strict=True)))
    assert_allclose(surprisals(samples), total, atol=24 * TOLERANCE)
    found = sample_estimates(samples, entropy_of(samples))
    want = {
        "MonteCarloSequenceEntropy": np.mean(total),
        "RaoBlackwellSequenceEntropy": np.mean(entropies),
        "MonteCarloNormalizedSequenceEntropy": np.mean(per_token),
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=24 * TOLERANCE), name
    assert -1 <= found["LexicalSimilarity_rougeL"] <= 0


def test_an_answer_that_only_ends_has_no_length(stories):
    """Such samples are left out of what is per token; where there are no others, it is None."""
    ends = [
        found
        for found in generate(
            stories, "Once. The end.", num_return_sequences=64,
            max_new_tokens=2, seed=5, batch_size=64,
        )
        if len(found.trace) == 1
    ]  # fmt: skip
    assert len(ends) >= 2 and answer(ends[0]) == ""
    found = sample_estimates(ends, entropy_of(ends))
    assert found["MonteCarloNormalizedSequenceEntropy"] is None
    assert found["LexicalSimilarity_rougeL"] == 0


def test_of_clusters_by_hand():
    """Three samples of two meanings, with probabilities 1/2, 1/4 and 1/8."""
    found = cluster_estimates([0, 1, 0], [math.log(2), math.log(4), math.log(8)])
    assert found == {
        # Of 7/8 in all, 5/8 and 2/8.
        "SemanticEntropy": pytest.approx(-(5 / 7) * math.log(5 / 7) - 2 / 7 * math.log(2 / 7)),
        "SemanticEntropyEmpirical": pytest.approx(math.log(3) - 2 / 3 * math.log(2)),
        "LabelProb": pytest.approx(1 / 3),
        "NumberOfDistinctAnswers": 2.0,
    }


@pytest.mark.parametrize(
    ("labels", "entropy"),
    [([0, 0, 0, 0], 0), ([0, 1, 2, 3], math.log(4)), ([7, 7, 2, 2], math.log(2))],
)
def test_empirical_entropy_of_even_clusters(labels, entropy):
    found = cluster_estimates(labels, [1.0, 2.0, 3.0, 4.0])
    assert found["SemanticEntropyEmpirical"] == pytest.approx(entropy)
    assert math.copysign(1, found["SemanticEntropyEmpirical"]) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2000)), min_size=1, max_size=20))
def test_semantic_entropy_is_that_of_normalised_shares(samples):
    """From 0 to ln N, however improbable the samples are; against a loop over scaled weights."""
    labels, surprisals = zip(*samples, strict=True)
    least = min(surprisals)
    weights = dict.fromkeys(labels, 0.0)
    for label, surprisal in samples:
        weights[label] += math.exp(least - surprisal)
    shares = [weight / math.fsum(weights.values()) for weight in weights.values()]
    found = cluster_estimates(labels, surprisals)["SemanticEntropy"]
    want = -math.fsum(share * math.log(share) for share in shares if share)
    assert found == pytest.approx(want, abs=1e-12)
    assert 0 <= found <= math.log(len(samples)) + 1e-12
    if len(weights) == 1:
        assert found == 0


def test_equal_samples_count_each_time():
    """Two samples of one text, of probability 1/4, weigh as much as one of 1/2."""
    found = cluster_estimates([0, 0, 1], [math.log(4), math.log(4), math.log(2)])
    assert found["SemanticEntropy"] == pytest.approx(math.log(2))


def test_the_most_common_answer_is_the_first_of_the_largest_cluster(answered):
    _, _, samples, _, _ = answered
    assert most_common(samples[:5], [0, 1, 1, 2, 1]) == (answer(samples[1]), 0.6)
