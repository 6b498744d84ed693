"""Scores of tokens, texts and choices, against plain float64 loops."""

import copy
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.score.evaluation import score, score_choices
from oracle import CUT, LOGIT_NOISE, log_softmax, plogp, reference_log_q

NATS = 2e-5  # between float32 passes over other batches
TEXT = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad!"
SETTINGS = [
    "temperature=0.7",
    "top_k=5",
    "temperature=1.4,top_p=0.8",
    "min_p=0.1",
    "typical_p=0.6",
    "epsilon_cutoff=0.01",
    "greedy",
]


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@torch.no_grad()
def rows_of(language_model, sequence, context=512, stride=256):
    """Float64 logits that predict each token but the first; DESIGN's windows, one at a time."""
    rows = {}
    for begin in range(0, len(sequence), stride):
        window = sequence[begin : begin + context + 1]
        if len(window) > 1:
            logits = language_model.model(torch.tensor([window[:-1]])).logits[0].double().numpy()
            for place, row in enumerate(logits, begin + 1):
                rows.setdefault(place, row)
    return [rows[place] for place in range(1, len(sequence))]


def varentropy(log_p):
    entropy = plogp(log_p, -log_p)
    return plogp(log_p, np.where(np.isneginf(log_p), 0, -log_p - entropy) ** 2)


def bos_of(language_model):
    return language_model.tokenizer.bos_token_id


@pytest.fixture(scope="module")
def wiki(wikitext):
    return wikitext(700)


# Every token's numbers.


@pytest.mark.parametrize(("context", "stride"), [(None, None), (32, 8), (64, 64)])
@pytest.mark.parametrize("name", ["stories260k", "stories"])
def test_columns_are_those_of_a_plain_loop(request, name, context, stride, wiki):
    language_model = request.getfixturevalue(name)
    text = wiki if name == "stories260k" else TEXT * 4
    [got] = score(language_model, [text], windows=Windows(context=context, stride=stride))
    ids = ids_of(language_model, text)
    rows = rows_of(language_model, [bos_of(language_model), *ids], context or 512, stride or 256)
    log_p = [log_softmax(row) for row in rows]
    surprisal = np.array([-row[token] for row, token in zip(log_p, ids, strict=True)])
    entropy = np.array([plogp(row, -row) for row in log_p])
    spread = np.array([varentropy(row) for row in log_p])
    assert got.ids.tolist() == ids
    assert_allclose(got.surprisal_nats, surprisal, atol=NATS)
    assert_allclose(got.entropy_nats, entropy, atol=NATS)
    assert_allclose(got.varentropy_nats2, spread, atol=NATS, rtol=NATS)
    for row, token, rank in zip(rows, ids, got.rank, strict=True):
        assert (row > row[token] + LOGIT_NOISE).sum() <= rank
        assert (row > row[token] - LOGIT_NOISE).sum() > rank
    assert_allclose(got.residual, (surprisal - entropy) / np.sqrt(spread), atol=1e-3, rtol=1e-3)
    totals = got.totals()
    z = (surprisal - entropy).sum() / math.sqrt(spread.sum())
    assert totals["surprisal_nats"] == pytest.approx(surprisal.sum(), rel=NATS)
    assert totals["nll_nats"] == pytest.approx(surprisal.mean(), rel=NATS)
    assert totals["perplexity"] == pytest.approx(math.exp(surprisal.mean()), rel=1e-4)
    assert totals["mean_entropy_nats"] == pytest.approx(entropy.mean(), rel=NATS)
    assert totals["z"] == pytest.approx(z, abs=1e-4)
    bits = surprisal.sum() / len(text.encode()) / math.log(2)
    assert totals["bits_per_byte"] == pytest.approx(bits, rel=NATS)
    assert (totals["tokens_scored"], totals["tokens_not_scored"]) == (len(ids), 0)


@pytest.mark.parametrize("spec", SETTINGS)
def test_columns_under_a_setting_are_those_of_its_rules(stories260k, wiki, spec):
    setting = DecodingSettings.parse(spec)
    text = wiki[:250]
    [got] = score(stories260k, [text], setting=setting)
    q = got.under_setting
    ids = ids_of(stories260k, text)
    columns = got.columns()
    ambiguous = 0
    for index, (row, token) in enumerate(zip(rows_of(stories260k, [1, *ids]), ids, strict=True)):
        # A threshold quantity this near its cut may fall on either side.
        choices = [reference_log_q(row, setting, slack) for slack in (0.0, -CUT, CUT)]
        log_q = next((c for c in choices if np.isfinite(c).sum() == q.kept[index]), choices[0])
        ambiguous += log_q is not choices[0]
        assert q.kept[index] == np.isfinite(log_q).sum()
        covered = bool(np.isfinite(log_q[token]))
        assert columns["covered"][index] is covered
        if covered:
            assert q.surprisal_nats[index] == pytest.approx(-log_q[token], abs=NATS)
            assert columns["q_surprisal_nats"][index] == q.surprisal_nats[index]
        else:
            assert q.surprisal_nats[index] == math.inf
            assert columns["q_surprisal_nats"][index] is None
        with np.errstate(invalid="ignore"):
            assert q.entropy_nats[index] == pytest.approx(plogp(log_q, -log_q), abs=NATS)
            assert q.varentropy_nats2[index] == pytest.approx(varentropy(log_q), abs=NATS, rel=NATS)
    assert ambiguous <= 1
    # p is what it is without a setting.
    [alone] = score(stories260k, [text])
    assert alone.columns().items() <= columns.items()
    inside = q.surprisal_nats[np.isfinite(q.surprisal_nats)]
    totals = got.totals()
    coverage = len(inside) / len(ids)
    assert totals["setting"] == spec and totals["coverage"] == coverage
    assert totals["covered_q_nll_nats"] == pytest.approx(inside.mean())
    assert totals["q_nll_nats"] == (pytest.approx(inside.mean()) if coverage == 1 else None)
    assert totals["mean_q_entropy_nats"] == pytest.approx(q.entropy_nats.mean(), abs=1e-9)
    record = got.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_cut_off_token_is_null_and_not_covered(stories260k):
    [got] = score(stories260k, ["Once upon a zebra"], setting=DecodingSettings(top_k=1))
    tokens = got.record()["tokens"]
    covered = [token["rank"] == 0 for token in tokens]
    assert not all(covered) and any(covered)
    assert [token["covered"] for token in tokens] == covered
    assert [token["q_surprisal_nats"] == 0 for token in tokens] == covered
    assert [token["q_surprisal_nats"] is None for token in tokens] == [not c for c in covered]
    assert all(token["kept"] == 1 for token in tokens)


@pytest.mark.parametrize("setting", [None, "top_k=3"])
def test_an_impossible_token_makes_its_surprisal_null(stories260k, setting):
    """A head with a bias of -inf, as some models have for tokens that must not occur."""
    token = ids_of(stories260k, "Once upon a time")[2]
    model = copy.deepcopy(stories260k.model)
    head = torch.nn.Linear(64, 512)
    head.weight.data = model.lm_head.weight.data.clone()
    head.weight.data[token] = 0
    head.bias.data.zero_()[token] = -math.inf
    model.lm_head = head
    twin = dataclasses.replace(stories260k, model=model)
    setting = None if setting is None else DecodingSettings.parse(setting)
    [got] = score(twin, ["Once upon a time"], setting=setting)
    record = got.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert got.surprisal_nats[2] == math.inf and np.isfinite(got.entropy_nats).all()
    assert record["tokens"][2]["surprisal_nats"] is None
    assert record["tokens"][2]["residual"] is None
    assert all(record[key] is None for key in ("surprisal_nats", "nll_nats", "perplexity", "z"))
    assert record["bits_per_byte"] is None
    [choices] = score_choices(twin, [("Once", [" upon a time", " there"])], setting=setting)
    record = choices.record()
    assert record["ranking"] == record["ranking_per_byte"] == [1, 0]
    assert record["choices"][0]["log_prob_nats"] is None
    json.dumps(record, allow_nan=False)


# Spans.


@pytest.mark.parametrize(
    "text", [TEXT, " a", "\n\n日", "🙂🙂🙂", "e\u0301 naïve\t\r\nœuvre", "\ufeffx"]
)
@pytest.mark.parametrize("name", ["stories260k", "stories", "random_gpt2"])
@pytest.mark.parametrize("bos", ["auto", "never"])
def test_spans_partition_the_text(request, name, text, bos):
    language_model = request.getfixturevalue(name)
    [got] = score(language_model, [text], windows=Windows(bos=bos))
    ids = ids_of(language_model, text)
    scored = ids if bos == "auto" else ids[1:]
    assert got.ids.tolist() == scored
    assert (got.tokens, len(got)) == (len(ids), len(scored))
    if not len(got):
        return
    starts, ends = got.starts.tolist(), got.ends.tolist()
    assert starts[1:] == ends[:-1]
    assert all(0 <= start <= end for start, end in zip(starts, ends, strict=True))
    assert ends[-1] == len(text)
    assert starts[0] == 0 or bos == "never"
    assert "".join(got.texts()) == text[starts[0] :]
    record = got.record()
    assert [token["text"] for token in record["tokens"]] == [
        text[token["start"] : token["end"]] for token in record["tokens"]
    ]


def test_bos_in_the_text_is_no_token_of_it(stories260k):
    [plain], [begun] = (list(score(stories260k, [text])) for text in ("Once upon", "<s>Once upon"))
    assert begun.ids.tolist() == plain.ids.tolist()
    assert_allclose(begun.surprisal_nats, plain.surprisal_nats, atol=1e-6)
    assert begun.starts[0] == 3
    assert "".join(begun.texts()) == "Once upon"
    assert begun.totals()["bits_per_byte"] == pytest.approx(plain.totals()["bits_per_byte"])


# Documents.


def test_each_document_has_its_result_in_its_place(stories260k):
    texts = ["", "Once upon", "", "", "a", "She saw a dog. " * 80, "", "end", ""]
    got = list(score(stories260k, texts, windows=Windows(context=64, stride=32, batch_size=3)))
    assert [scores.index for scores in got] == list(range(len(texts)))
    assert [scores.text for scores in got] == texts
    for scores, text in zip(got, texts, strict=True):
        [alone] = score(stories260k, [text], windows=Windows(context=64, stride=32))
        assert len(scores) == len(ids_of(stories260k, text)) if text else not len(scores)
        assert_allclose(scores.surprisal_nats, alone.surprisal_nats, atol=NATS)
        assert scores.starts.tolist() == alone.starts.tolist()
        record = scores.record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert (record["nll_nats"] is None) == (text == "")


def test_documents_in_pieces_score_as_whole(stories260k, wiki):
    [whole] = score(stories260k, [wiki])
    [pieces] = score(stories260k, [Document(iter(wiki))])
    assert pieces.text == wiki
    assert_allclose(pieces.surprisal_nats, whole.surprisal_nats, atol=NATS)


def test_documents_are_taken_as_they_are_scored(stories260k):
    taken = itertools.count()

    def endless():
        for number in taken:
            yield "Once upon a time " * (number % 3)

    found = list(itertools.islice(score(stories260k, endless(), windows=Windows(batch_size=2)), 50))
    assert [scores.index for scores in found] == list(range(50))
    assert next(taken) < 50 + 2 * 16 * 2 * 3


def test_a_text_that_the_model_expects_exactly_has_no_residual(stories260k):
    """Logits so far apart that the varentropy is 0."""
    model = copy.deepcopy(stories260k.model)
    head = torch.nn.Linear(64, 512)
    head.weight.data.zero_()
    head.bias.data.zero_()[7] = 1000.0
    model.lm_head = head
    sure = dataclasses.replace(stories260k, model=model)
    [got] = score(sure, ["Once"])
    record = got.record()
    assert np.isnan(got.residual).all() and got.z() is None and record["z"] is None
    assert all(token["residual"] is None for token in record["tokens"])
    assert record["nll_nats"] == pytest.approx(1000) and record["perplexity"] is None
    json.dumps(record, allow_nan=False)


def test_arguments_are_checked_before_anything_is_scored(stories260k):
    with pytest.raises(ValueError, match="512 positions, got 513"):
        list(score(stories260k, ["a"], windows=Windows(context=513)))
    with pytest.raises(ValueError, match="bos must be auto, always, never or every"):
        list(score(stories260k, ["a"], windows=Windows(bos="no")))


def test_progress_is_told(stories260k):
    calls = []
    [got] = score(
        stories260k, ["She saw a dog. " * 9], windows=Windows(context=16, stride=16),
        on_progress=lambda *values: calls.append(values),
    )  # fmt: skip
    assert calls[-1][0] == len(got)
    assert calls[-1][1] == pytest.approx(got.totals()["nll_nats"])
    assert [tokens for tokens, _ in calls] == sorted(tokens for tokens, _ in calls)
