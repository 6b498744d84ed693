"""Which candidate wrote a text, against plain float64 loops over the model's own logits."""

import json
import math
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

from candidates import drawn, ids_of, parsed
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.identify.evaluation import identify
from oracle import CUT, plogp, reference_log_q, teacher_forced

NATS = 1e-4
SPECS = ["raw", "temperature=0.6", "top_p=0.8", "top_k=5", "min_p=0.2", "typical_p=0.6", "greedy"]
WIKI = "In 2006, the committee ratified its amended constitution; senators from Ohio dissented."


# What is computed.


@pytest.mark.parametrize("source", ["top_p=0.8", "temperature=1.3"])
def test_everything_follows_from_the_models_own_logits(stories260k, source):
    [document] = drawn(stories260k, source, tokens=60, prompt="Once upon a time")
    settings, prior = parsed(SPECS), [3, 1, 1, 1, 1, 1, 2]
    [got] = identify(stories260k, [document], settings, prior=prior, min_odds=5)
    record = got.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    rows = teacher_forced(stories260k.model, document.context, document.ids)
    log_likelihoods = []
    for k, setting in enumerate(settings):
        # A threshold quantity this near its cut may fall on either side.
        log_q = [reference_log_q(row, setting, CUT) for row in rows]
        own = np.array([row[token] for row, token in zip(log_q, document.ids, strict=True)])
        outside = np.flatnonzero(np.isneginf(own))
        log_likelihoods.append(own.sum())
        assert record["coverage"][k] == pytest.approx(1 - len(outside) / len(own))
        entry = next((e for e in record["ruled_out"] if e["candidate"] == k), None)
        if len(outside):
            first = int(outside[0])
            token = document.ids[first]
            assert record["log_likelihood_nats"][k] is record["z"][k] is None
            assert record["posterior"][k] == 0
            assert (entry["setting"], entry["token"], entry["id"]) == (SPECS[k], first, token)
            assert entry["rank"] == (rows[first] > rows[first][token]).sum()
            assert entry["kept"] == np.isfinite(log_q[first]).sum()
            assert not entry["retokenisation"]
            continue
        assert entry is None
        assert record["log_likelihood_nats"][k] == pytest.approx(own.sum(), abs=NATS)
        with np.errstate(invalid="ignore"):
            entropies = [plogp(row, -row) for row in log_q]
            spread = [
                plogp(row, (-row - entropy) ** 2)
                for row, entropy in zip(log_q, entropies, strict=True)
            ]
        z = (-own.sum() - sum(entropies)) / math.sqrt(sum(spread))
        assert record["z"][k] == pytest.approx(z, abs=1e-3)
    weights = np.array(prior) / sum(prior)
    joint = np.array(log_likelihoods) + np.log(weights)
    share = np.exp(joint - joint.max()) / np.exp(joint - joint.max()).sum()
    assert record["prior"] == pytest.approx(weights.tolist())
    assert record["posterior"] == pytest.approx(share.tolist(), rel=1e-3, abs=1e-12)
    assert sum(record["posterior"]) == pytest.approx(1)
    first, second = np.argsort(-share)[:2]
    assert (record["best"], record["runner_up"]) == (first, second)
    assert record["log_odds_nats"] == pytest.approx(
        math.log(share[first] / np.delete(share, first).sum()), abs=1e-3
    )
    factor = log_likelihoods[first] - log_likelihoods[second]
    assert record["log_bayes_factors_nats"][second] == pytest.approx(factor, abs=1e-3)
    assert record["tokens"] == len(document.ids) and record["tokens_skipped"] == 0
    ratios = got.log_q_nats[:, first] - got.log_q_nats[:, second]
    deciding = record["deciding_tokens"]
    assert [abs(each["log_ratio_nats"]) for each in deciding] == sorted(np.abs(ratios))[:-9:-1]
    assert all(each["text"] == got.tokens[each["token"]] for each in deciding)
    running = got.running_log_odds()
    assert running.shape == (len(document.ids) + 1, len(settings))
    assert_allclose(running[0], np.log(weights / (1 - weights)))
    assert running[-1, first] == pytest.approx(record["log_odds_nats"])


@pytest.mark.parametrize("spec", ["raw", "temperature=1.5,top_k=40", "top_p=0.9", "typical_p=0.5"])
def test_likelihoods_of_all_that_could_be_written_add_up_to_1(stories260k, spec):
    vocab = stories260k.model.config.vocab_size
    every = [TokenDocument([token], [1, 403]) for token in range(vocab)]
    results = identify(stories260k, every, parsed([spec, "greedy"]), windows=Windows(batch_size=64))
    totals = np.array([np.exp(each.log_q_nats[0]) for each in results]).sum(0)
    assert_allclose(totals, 1, atol=1e-5)


def test_the_setting_that_wrote_a_text_is_found(stories260k):
    specs = ["raw", "temperature=0.5", "temperature=1.5", "top_p=0.7"]
    settings = parsed(specs)
    right = named = 0
    texts = [
        (spec, document)
        for seed, spec in enumerate(specs)
        for document in drawn(stories260k, spec, samples=5, tokens=80, seed=seed)
    ]
    results = list(identify(stories260k, [each for _, each in texts], settings))
    z = []
    for (spec, _), result in zip(texts, results, strict=True):
        k = specs.index(spec)
        right += result.ranking()[0] == k
        decided = result.record()["decided"]
        named += decided is not None
        assert decided in (spec, None)
        assert result.candidates[k].ruled_out is None
        z.append(result.candidates[k].z)
    assert right >= 19 and named >= 17
    # N(0, 1): the mean of 20 of them within 3.4 standard errors.
    assert abs(np.mean(z)) < 0.75 and 0.6 < np.std(z) < 1.4


def test_posteriors_are_calibrated(stories260k):
    """Near neighbours and few tokens: what is held probable happens as often as that."""
    specs = ["raw", "temperature=0.8", "top_p=0.9", "top_k=20"]
    # With one seed, the texts of all settings would come from the same uniforms.
    texts = [
        document
        for seed, spec in enumerate(specs)
        for document in drawn(stories260k, spec, samples=60, tokens=15, seed=seed)
    ]
    results = list(identify(stories260k, texts, parsed(specs), windows=Windows(batch_size=60)))
    posterior = np.array([np.exp(each.log_posterior()) for each in results])
    truth = np.repeat(np.arange(4), 60)[:, None] == np.arange(4)
    assert 0.2 < posterior.max(1).mean() < 0.8
    # What the true one was given, and the hits of the best, are sums over independent texts.
    square = (posterior**2).sum(1)
    for stated, spread, came in (
        (square.sum(), ((posterior**3).sum(1) - square**2).sum(), posterior[truth].sum()),
        (posterior.max(1).sum(), (posterior.max(1) * (1 - posterior.max(1))).sum(),
         (posterior.argmax(1) == np.repeat(np.arange(4), 60)).sum()),
    ):  # fmt: skip
        assert abs(came - stated) < 4 * math.sqrt(spread)


# Abstention.


def test_text_that_no_candidate_explains_is_not_ascribed_to_any(stories):
    [result] = identify(stories, [WIKI * 3], parsed(["raw", "temperature=0.7", "top_k=50"]))
    record = result.record()
    assert record["decided"] is record["decided_model"] is None
    assert record["posterior"][0] > 0.99 and record["z"][0] > 4
    [deviations] = re.findall(r"under raw .* lies ([\d.]+) standard deviations above",
                              record["abstained_because"])  # fmt: skip
    assert float(deviations) == pytest.approx(record["z"][0], abs=0.05)
    assert [entry["setting"] for entry in record["ruled_out"]] == ["top_k=50"]
    assert record["coverage"][2] < 0.9


def test_where_all_are_ruled_out_there_is_no_posterior(stories):
    [result] = identify(stories, [WIKI], parsed(["greedy", "top_k=3", "top_p=0.3"]))
    record = result.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["posterior"] == record["log_likelihood_nats"] == [None] * 3
    assert record["log_bayes_factors_nats"] == record["z"] == [None] * 3
    assert record["decided"] is record["best"] is record["log_odds_nats"] is None
    assert record["abstained_because"] == "every candidate is ruled out"
    assert len(record["ruled_out"]) == 3 and record["deciding_tokens"] == []


def test_weak_evidence_names_none(stories260k):
    [document] = drawn(stories260k, "raw", tokens=8)
    settings = parsed(["raw", "temperature=0.99"])
    [result] = identify(stories260k, [document], settings)
    record = result.record()
    assert record["decided"] is None and abs(record["log_odds_nats"]) < math.log(10)
    assert "weak evidence: odds of 1.0" in record["abstained_because"]
    [result] = identify(stories260k, [document], settings, min_odds=1)
    assert result.record()["decided"] == str(settings[result.ranking()[0]])
    # Two names of one distribution can never be told apart.
    [result] = identify(stories260k, [document], parsed(["raw", "top_k=512"]), min_odds=1.001)
    assert result.record()["posterior"] == [0.5, 0.5] and result.record()["decided"] is None


def test_greedy_text_is_explained_by_greedy(stories260k):
    [document] = drawn(stories260k, "greedy", tokens=40)
    [result] = identify(stories260k, [document], parsed(["raw", "greedy"]))
    record = result.record()
    assert record["decided"] == "greedy" and record["z"][1] is None
    assert record["log_likelihood_nats"][1] == 0


# Documents and arguments.


def test_each_document_has_its_result_in_its_place(stories260k):
    texts = ["", "Once upon", "", "She saw a dog. " * 40, "end", ""]
    settings = parsed(["raw", "temperature=0.7", "top_k=50"])
    got = list(
        identify(stories260k, texts, settings, windows=Windows(context=64, stride=32, batch_size=3))
    )
    assert [result.index for result in got] == list(range(6))
    for text, result in zip(texts, got, strict=True):
        record = result.record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert "".join(result.tokens) == text
        if not text:
            assert record["posterior"] == pytest.approx([1 / 3] * 3)
            assert record["coverage"] == [None] * 3 and record["decided"] is None
            assert record["abstained_because"] == "the text has no token to score"
            continue
        [alone] = identify(stories260k, [text], settings, windows=Windows(context=64, stride=32))
        assert_allclose(result.log_q_nats, alone.log_q_nats, atol=NATS)
    [result] = identify(stories260k, ["Once upon"], settings, windows=Windows(bos="never"))
    assert result.tokens_skipped == 1
    assert len(result.tokens) == len(ids_of(stories260k, "Once upon")) - 1


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        (["raw"], {}, "candidates must be 2 to 1000, got 1"),
        (["raw", "raw"], {}, "candidates must differ, got .* raw twice"),
        (["raw", "greedy"], {"min_odds": 0.5}, "min_odds must be a finite number >= 1, got 0.5"),
        (["raw", "greedy"], {"min_odds": math.nan}, "min_odds must be"),
        (["raw", "greedy"], {"prior": [1]}, "one weight for each of the 2 candidates, got 1"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(stories260k, specs, options, message):
    with pytest.raises(ValueError, match=message):
        identify(stories260k, [], parsed(specs), **options)
