"""Estimates from similarities, against closed forms, SciPy and float64 loops."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from pair_models import NLI, classifier

from decoding import DecodingSettings, generate
from decoding_evals.uncertainty.estimators.similarities import (
    cocoa_estimates,
    graph_estimates,
    sar_estimates,
)
from oracle import GREEDY


def by_scipy(weights):
    """The three of a graph whose rows have a sum above 0, one vector at a time."""
    size = len(weights)
    degrees = np.diag(weights.sum(1))
    # The generalised problem (D - W) x = λ D x has the eigenvalues of the normalised Laplacian.
    values = scipy.linalg.eigh(degrees - weights, degrees, eigvals_only=True)
    half = np.linalg.inv(scipy.linalg.sqrtm(degrees).real)
    own, vectors = scipy.linalg.eigh(half @ (degrees - weights) @ half)
    squares = 0.0
    for value, vector in zip(own, vectors.T, strict=True):
        if value < 0.9:
            squares += sum((x - vector.mean()) ** 2 for x in vector)
    return {
        "DegMat": sum(1 - weights[i, j] for i in range(size) for j in range(size)) / size**2,
        "EigValLaplacian": sum(max(0, 1 - value) for value in values),
        "Eccentricity": math.sqrt(squares),
    }


@given(st.integers(2, 8), st.integers(0, 999))
def test_graphs_are_those_of_scipy(size, seed):
    weights = np.random.default_rng(seed).uniform(0.05, 1, (size, size))
    weights = (weights + weights.T) / 2
    assert graph_estimates(weights) == pytest.approx(by_scipy(weights), abs=1e-9)


@pytest.mark.parametrize("sizes", [[4], [2, 2], [3, 1], [1, 1, 1, 1], [5, 2, 2, 1]])
def test_groups_of_equal_answers(sizes):
    """Of m groups that have nothing in common, m meanings at a distance of √(m - 1)."""
    size = sum(sizes)
    weights = scipy.linalg.block_diag(*(np.ones((one, one)) for one in sizes))
    assert graph_estimates(weights) == pytest.approx({
        "DegMat": 1 - sum(one**2 for one in sizes) / size**2,
        "EigValLaplacian": len(sizes),
        "Eccentricity": math.sqrt(len(sizes) - 1),
    }, abs=1e-7)  # fmt: skip


def test_samples_like_none_are_each_alone():
    """Without any overlap, and where a similarity is below 0."""
    alone = graph_estimates(np.eye(3))
    assert graph_estimates(np.zeros((3, 3))) == pytest.approx(alone)
    assert graph_estimates(np.where(np.eye(3), 1.0, -0.5)) == pytest.approx(alone)
    assert alone["EigValLaplacian"] == pytest.approx(3)


@pytest.mark.parametrize("size", [0, 1])
def test_a_graph_needs_two_samples(size):
    assert set(graph_estimates(np.ones((size, size))).values()) == {None}


def test_cocoa_by_hand():
    of_greedy = {"MaximumSequenceProbability": 6.0, "Perplexity": 2.0, "MeanTokenEntropy": 0.5}
    found = cocoa_estimates(of_greedy, np.array([1.0, 0.5, 0.0]))
    assert found == {"CocoaMSP": 3.0, "CocoaPPL": 1.0, "CocoaMTE": 0.25}
    assert set(cocoa_estimates(of_greedy, np.array([])).values()) == {None}
    assert cocoa_estimates(of_greedy | {"Perplexity": None}, np.ones(2))["CocoaPPL"] is None


class Scripted:
    """A similarity that loops can follow: the shorter the text that is left, the less alike."""

    def __init__(self, all_alike=False):
        self.all_alike, self.pairs = all_alike, []

    def of_pairs(self, pairs):
        self.pairs += pairs
        return np.array([self.of(*pair) for pair in pairs])

    def of(self, whole, part):
        return 1.0 if self.all_alike else len(part) / len(whole) * (0.9 if "a" in part else 1)


@pytest.fixture(scope="module")
def answered(stories):
    """Greedy answer and samples, some ended by EOS, one of a single token, two of them equal."""
    options = {"max_new_tokens": 9, "seed": 3}
    prompt = "And they all lived happily ever after."
    [greedy] = generate(stories, prompt, GREEDY, **options)
    settings = DecodingSettings(temperature=0.9)
    samples = generate(stories, prompt, settings, num_return_sequences=8, **options)
    [one] = generate(stories, "Tom", settings, max_new_tokens=1, seed=1)
    assert {sample.finish_reason for sample in samples} == {"eos", "length"}
    return greedy, [*samples, one, samples[0]]


def token_sar(asked, answer, surprisals, tokenizer, similarity):
    """One answer's, token by token."""
    ids = answer.trace.ids.tolist()
    relevances = []
    for place, id_ in enumerate(ids):
        whole, part = (
            asked + " " + tokenizer.decode(kept, skip_special_tokens=True)
            for kept in (ids, ids[:place] + ids[place + 1 :])
        )
        special = id_ == tokenizer.eos_token_id
        relevances.append(0.0 if special else 1 - similarity.of(whole, part))
    if len([id_ for id_ in ids if id_ != tokenizer.eos_token_id]) == 1:
        relevances = [float(id_ != tokenizer.eos_token_id) for id_ in ids]
    if not any(relevances):
        relevances = [1.0] * len(ids)
    return sum(r / sum(relevances) * s for r, s in zip(relevances, surprisals, strict=True))


@pytest.mark.parametrize("all_alike", [False, True])
def test_sar_is_that_of_loops(answered, stories, all_alike):
    greedy, samples = answered
    scores = np.random.default_rng(2).uniform(0.01, 1, (len(samples), len(samples)))
    similarity, tokenizer = Scripted(all_alike), stories.tokenizer
    found = sar_estimates(
        "What then?", greedy, samples, scores, tokenizer=tokenizer, similarity=similarity
    )
    assert len(similarity.pairs) == len(set(similarity.pairs))

    def sar(answer, surprisals):
        return token_sar("What then?", answer, surprisals, tokenizer, Scripted(all_alike))

    assert found["TokenSAR"] == pytest.approx(sar(greedy, greedy.trace.raw_surprisal_nats))
    own = [sample.trace.surprisal_nats for sample in samples]
    for name, surprisals in {
        "SentenceSAR": [math.fsum(values) for values in own],
        "SAR": [sar(sample, values) for sample, values in zip(samples, own, strict=True)],
    }.items():
        probs = [math.exp(-value) for value in surprisals]
        terms = []
        for i, prob in enumerate(probs):
            shared = sum(scores[i, j] * probs[j] for j in range(len(probs)) if j != i)
            terms.append(-math.log(prob + shared / 0.001))
        assert found[name] == pytest.approx(np.mean(terms)), name


def test_improbable_samples_have_a_sar_and_few_have_none(answered, stories):
    """e^-2000 is no float64; scores of 0 add nothing."""
    greedy, samples = answered
    ids = samples[0].trace.ids
    trace = SimpleNamespace(ids=ids, surprisal_nats=np.full(len(ids), 2000 / len(ids)))
    far = [SimpleNamespace(trace=trace)] * 2
    others = {"tokenizer": stories.tokenizer, "similarity": Scripted()}
    found = sar_estimates("Who?", greedy, far, np.zeros((2, 2)), **others)
    assert found["SentenceSAR"] == pytest.approx(2000)
    found = sar_estimates("Who?", greedy, far[:1], np.ones((1, 1)), **others)
    assert found["SentenceSAR"] is found["SAR"] is None and found["TokenSAR"] > 0


# At the shell.


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        "--similarity-model": classifier(tmp_path_factory.mktemp("scores"), ["score"]),
        "--nli-model": classifier(tmp_path_factory.mktemp("nli"), NLI),
    }


@pytest.mark.parametrize(
    ("given", "by"),
    [
        ([], "ROUGE-L"),
        (["--similarity-model"], "similarity by {--similarity-model}"),
        (["--nli-model"], "entailment by {--nli-model}"),
        (["--nli-model", "--similarity-model"], "entailment by {--nli-model}"),
    ],
)
def test_the_record_names_the_similarity(run, folders, given, by):
    options = [part for name in given for part in (name, folders[name])]
    code, out, _ = run(
        "uncertainty", "Tom", *options, "--num-samples", 3, "--max-new-tokens", 3, "--seed", 1,
        "--json",
    )  # fmt: skip
    record = json.loads(out)
    assert code == 0 and record["similarity"] == by.format(**folders)
    names = {"TokenSAR", "SentenceSAR", "SAR"} & record["estimators"].keys()
    assert len(names) == (3 if "--similarity-model" in given else 0)
    assert None not in record["estimators"].values()
    kept = {"DegMat", "EigValLaplacian", "Eccentricity", "CocoaMSP", "CocoaPPL", "CocoaMTE"}
    assert kept <= record["estimators"].keys()


def test_what_does_not_fit_a_cross_encoder_is_one_line(run, folders):
    code, _, err = run(
        "uncertainty", "Tom " * 30, "--similarity-model", folders["--similarity-model"],
        "--num-samples", 2, "--max-new-tokens", 3, "--seed", 1, "--json",
    )  # fmt: skip
    assert code == 1 and err.count("\n") == 1
    assert "prompt 1: two texts make" in err and "similarity model" in err
