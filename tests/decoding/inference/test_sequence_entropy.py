"""Both estimates of a sequence's entropy against exhaustive enumeration of a toy model."""

import math

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, generate
from decoding.inference.sequences import sequence_entropy
from oracle import plogp, reference_log_q

STEPS = 3
PROMPT = [5]


def paths(model, settings, end):
    """Every sequence of at most STEPS tokens: log q, and surprisal and entropy of each step."""
    open_paths = [(0.0, [], [], [])]
    for step in range(STEPS):
        inputs = torch.tensor([[*PROMPT, *ids] for _, ids, _, _ in open_paths])
        with torch.no_grad():
            rows = model(inputs).logits[:, -1].double().numpy()
        grown = []
        for (log_q, ids, surprisals, entropies), row in zip(open_paths, rows, strict=True):
            log_p = reference_log_q(row, settings)
            entropy = plogp(log_p, np.where(np.isneginf(log_p), 0.0, -log_p))
            for token in np.flatnonzero(np.isfinite(log_p)):
                path = (
                    log_q + log_p[token], [*ids, int(token)],
                    [*surprisals, -log_p[token]], [*entropies, entropy],
                )  # fmt: skip
                if token == end or step == STEPS - 1:
                    yield path
                else:
                    grown.append(path)
        open_paths = grown


@pytest.fixture(scope="module", params=["raw", "temperature=0.7,top_k=5"])
def enumerated(request, toy_gpt2):
    settings = DecodingSettings.parse(request.param)
    return settings, list(paths(toy_gpt2, settings, end=0))


def test_both_are_unbiased(enumerated):
    """The expectation over all paths of either estimate is the exact entropy."""
    _, every = enumerated
    weights = np.exp([log_q for log_q, *_ in every])
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    exact = -sum(w * log_q for w, (log_q, *_) in zip(weights, every, strict=True))
    for column in (2, 3):
        one_sample = [math.fsum(path[column]) for path in every]
        assert weights @ one_sample == pytest.approx(exact, abs=1e-9)


def test_samples_agree_with_the_exact_entropy(enumerated):
    """The means of 200 times 50 samples lie within their errors, which have the right size."""
    _, every = enumerated
    weights = np.exp([log_q for log_q, *_ in every])
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(every), size=(200, 50), p=weights / weights.sum())
    exact = -sum(w * log_q for w, (log_q, *_) in zip(weights, every, strict=True))
    surprisals = [path[2] for path in every]
    entropies = [path[3] for path in every]
    scores = {"monte_carlo": [], "rao_blackwellised": []}
    for draw in chosen:
        result = sequence_entropy([surprisals[i] for i in draw], [entropies[i] for i in draw])
        for name, found in scores.items():
            estimate = getattr(result, name)
            found.append((estimate.mean - exact) / estimate.standard_error)
            assert estimate.units == 50
    for found in scores.values():
        assert abs(np.mean(found)) < 4 / math.sqrt(200)
        assert 0.85 < np.std(found) < 1.2


def test_better_is_the_one_with_the_smaller_error():
    calm, wild = [[1.0], [1.1], [0.9]], [[0.1], [3.0], [1.0]]
    result = sequence_entropy(wild, calm)
    assert result.better is result.rao_blackwellised
    result = sequence_entropy(calm, wild)
    assert result.better is result.monte_carlo
    assert result.better.mean == pytest.approx(1.0)
    assert result.better.standard_error == pytest.approx(0.1 / math.sqrt(3))


def test_the_samples_of_generate_are_what_it_takes(stories):
    found = generate(stories, "Tom", num_return_sequences=4, max_new_tokens=8, seed=2)
    traces = [generation.trace for generation in found]
    result = sequence_entropy(
        [trace.surprisal_nats for trace in traces], [trace.entropy_nats for trace in traces]
    )
    want = np.mean([trace.summary()["surprisal_nats"] for trace in traces])
    assert result.monte_carlo.mean == pytest.approx(want)


@pytest.mark.parametrize(
    ("surprisals", "entropies", "problem"),
    [
        ([[1.0]], [[1.0]], "at least 2"),
        ([[1.0], [2.0, 3.0]], [[1.0], [2.0]], "one value for each token"),
        ([[1.0], [2.0]], [[1.0]], "one value for each token"),
    ],
)
def test_what_cannot_be_estimated_is_refused(surprisals, entropies, problem):
    with pytest.raises(ValueError, match=problem):
        sequence_entropy(surprisals, entropies)
