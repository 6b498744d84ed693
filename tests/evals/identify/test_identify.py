"""Which candidate wrote a text, against plain float64 loops over the model's own logits."""

import copy
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from conftest import shared
from decoding.generation.run import generate
from decoding.models.encoding import encode_prompt
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import LogitBlock, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.identify import evaluation as module
from decoding_evals.identify.evaluation import identify
from decoding_evals.identify.figure import plot_identification
from decoding_evals.identify.likelihoods import ROUNDING, _measured
from oracle import CUT, plogp, reference_log_q, teacher_forced

NATS = 1e-4
SPECS = ["raw", "temperature=0.6", "top_p=0.8", "top_k=5", "min_p=0.2", "typical_p=0.6", "greedy"]
WIKI = "In 2006, the committee ratified its amended constitution; senators from Ohio dissented."


def parsed(specs):
    return [DecodingSettings.parse(spec) for spec in specs]


def drawn(language_model, spec, samples=1, tokens=100, prompt="", seed=5):
    """Sequences of `tokens` drawn tokens at most, ready to be scored."""
    context = encode_prompt(language_model.tokenizer, prompt)
    settings = DecodingSettings.parse(spec)
    generations = generate(
        language_model.model, language_model.tokenizer, prompt, settings, max_new_tokens=tokens,
        num_return_sequences=samples, seed=seed, batch_size=32,
    )  # fmt: skip
    return [TokenDocument(each.trace.ids.tolist(), context) for each in generations]


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]


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


# Rounding, and tokens that the tokenizer would not choose.


def block(row):
    return LogitBlock(row, torch.tensor([2]), [], 0)


@pytest.mark.parametrize(
    ("spec", "edge"),
    [("greedy", 3.0), ("top_k=2", 2.0), ("min_p=0.2", 3 + math.log(0.2)),
     ("epsilon_cutoff=0.2", None)],
)  # fmt: skip
def test_a_token_that_rounding_may_have_moved_over_the_edge_is_inside(spec, edge):
    setting = DecodingSettings.parse(spec)
    z = torch.tensor([[3.0, 2.0, 0.0, -1.0]])
    if edge is None:  # p = 0.2 beside the others' mass
        edge = float(z[0, [0, 1, 3]].logsumexp(0) + math.log(0.2 / 0.8))
    slack = ROUNDING[torch.float32]
    for distance, inside in ((slack / 2, True), (slack * 4, False), (0.5, False)):
        row = z.clone()
        row[0, 2] = edge - distance
        log_q = _measured(block(row), [Follower([setting])])["log_q_nats 0"]
        assert bool(log_q.isfinite()) is inside
        half = _measured(block(row.bfloat16()), [Follower([setting])])["log_q_nats 0"]
        assert bool(half.isfinite()) is (distance < 0.1)


def explained_by_brute_force(language_model, ids, place, setting):
    """Whether another kept token writes the text at a token or up to 4 before: all are tried."""
    tokenizer = language_model.tokenizer

    def text(tokens):
        return tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    bos = tokenizer.bos_token_id
    rows = teacher_forced(language_model.model, [bos], ids)
    whole = text(ids)
    for position in range(max(0, place - 4), place + 1):
        log_q = reference_log_q(rows[position], setting)
        before = text(ids[:position])
        for other in np.flatnonzero(np.isfinite(log_q)):
            written = text([*ids[:position], int(other)])
            longer = len(written) > len(before)
            if other != ids[position] and whole.startswith(written) and longer:
                return True
    return False


def test_a_ruling_out_that_other_tokens_could_explain_is_marked(stories):
    specs = ["raw", "temperature=1.4,top_p=0.85", "top_k=20"]
    settings = parsed(specs)
    texts = ["The rockier boat was unhappiest.", "Tom Timmyed the sandcastles", "She playfully"]
    marks = []
    for text, result in zip(texts, identify(stories, texts, settings), strict=True):
        ids = ids_of(stories, text)
        for k in (1, 2):
            outside = np.flatnonzero(np.isneginf(result.log_q_nats[:, k]))[:8].tolist()
            firm = [
                i for i in outside if not explained_by_brute_force(stories, ids, i, settings[k])
            ]
            entry = result.candidates[k].ruled_out
            assert (entry is None) == (not outside)
            if entry is not None:
                assert entry.retokenisation is (not firm)
                assert entry.token == (firm or outside)[0]
                assert entry.retokenisation or entry.others_log_prob_nats == -math.inf
                assert entry.others_log_prob_nats <= 0
                marks.append(entry.retokenisation)
    assert True in marks and False in marks


def test_text_written_in_other_tokens_is_not_held_against_its_setting(stories):
    """Drawn under the setting, from BOS; the tokenizer cuts the name in it in another way."""
    setting = DecodingSettings(temperature=1.4, top_p=0.85)
    ids = [421, 429, 259, 386, 395, 437, 912, 500, 485, 311, 1796, 65, 291, 855, 266, 1331, 14, 622]
    text = stories.tokenizer.decode(ids)
    assert ids_of(stories, text) != ids
    settings = [DecodingSettings(), setting]
    [drawn] = identify(stories, [TokenDocument(ids, [stories.tokenizer.bos_token_id])], settings)
    assert drawn.candidates[1].ruled_out is None
    [read] = identify(stories, [text], settings)
    record = read.record()
    [entry] = record["ruled_out"]
    assert entry["retokenisation"] and entry["setting"] == str(setting)
    assert record["posterior"] == [1, 0] and record["log_odds_nats"] is None
    assert record["decided"] is None and "cut into other tokens" in record["abstained_because"]
    # Where the token could not be worth what it would have to be, it decides nothing.
    [read] = identify(stories, [text], settings, prior=[1, 1e-12])
    assert read.record()["decided"] == "raw"


# Several models.


@pytest.fixture(scope="module")
def sharper(stories260k):
    """The same model with its logits doubled."""
    model = copy.deepcopy(stories260k.model)
    head = torch.nn.Linear(64, 512, bias=False)
    head.weight.data = model.lm_head.weight.data * 2
    model.lm_head = head
    return dataclasses.replace(stories260k, model=model, name="sharper")


def test_models_are_candidates_too(stories260k, sharper):
    """A model with doubled logits is the other at half the temperature."""
    [document] = drawn(stories260k, "temperature=0.5", tokens=80)
    settings = parsed(["raw", "temperature=2"])
    [result] = identify([stories260k, sharper], [document], settings)
    record = result.record()
    assert record["settings"] == ["raw", "temperature=2"] * 2
    assert record["models"] == [stories260k.name] * 2 + ["sharper"] * 2
    raw, hot, sharp, again = record["log_likelihood_nats"]
    assert again == pytest.approx(raw, abs=1e-3) and sharp > raw > hot
    assert (record["decided"], record["decided_model"]) == ("raw", "sharper")
    shares = record["model_posterior"]
    assert shares[stories260k.name] == pytest.approx(sum(record["posterior"][:2]))
    assert shares["sharper"] == pytest.approx(sum(record["posterior"][2:]))


def test_models_that_cut_a_text_differently_meet_where_both_end_a_token(stories, stories260k):
    text = 'Once upon a time, Lily saw the 日本 cat 🙂. It unhappily said: "Blorp!"'
    settings = parsed(["raw", "temperature=1.3"])
    _, got = identify([stories, stories260k], ["", text], settings)
    assert "".join(got.tokens) == text
    bounds = np.cumsum([len(piece) for piece in got.tokens])
    for place, language_model in enumerate((stories, stories260k)):
        [alone] = identify(language_model, [text], settings)
        ends = np.cumsum([len(piece) for piece in alone.tokens])
        assert set(bounds) <= set(ends) and len(got.tokens) < len(alone.tokens)
        own = got.log_q_nats[:, 2 * place : 2 * place + 2]
        cumulative = alone.log_q_nats.cumsum(0)
        last = [np.flatnonzero(ends == bound)[-1] for bound in bounds]
        assert_allclose(own.cumsum(0), cumulative[last], atol=1e-3)
        for mine, theirs in zip(got.candidates[2 * place :], alone.candidates, strict=False):
            assert mine.z == pytest.approx(theirs.z, abs=1e-3)
    with pytest.raises(ValueError, match=r"the vocabularies of 'builtin:stories' and .* differ"):
        list(identify([stories, stories260k], [TokenDocument([5, 6])], settings))


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


# The command.


def test_the_command_reads_what_generate_records(run, stories):
    code, out, _ = run("generate", "Once upon a time", "--top-k", 3, "--json", "--num-samples", 2,
                       "--seed", 4, "--max-new-tokens", 60)  # fmt: skip
    assert code == 0
    Path("g.jsonl").write_text(out)
    specs = ["raw", "top_k=3"]
    options = [word for spec in specs for word in ("--setting", spec)]
    code, piped, err = run("identify", "--json", *options, stdin=out.encode())
    assert (code, err) == (0, "")
    code, out, err = run("identify", "g.jsonl", "--json", *options, "--prior", "3,1")
    assert (code, err) == (0, "")
    context = encode_prompt(stories.tokenizer, "Once upon a time")
    records = [json.loads(line) for line in Path("g.jsonl").read_text().splitlines()]
    documents = [TokenDocument([t["id"] for t in r["tokens"]], context) for r in records]
    for place, want in enumerate(identify(stories, documents, parsed(specs), prior=[3, 1])):
        got = json.loads(out.splitlines()[place])
        assert got.pop("name") == f"g.jsonl:{place + 1}"
        assert got == json.loads(json.dumps(want.record()))
        assert got["decided"] == "top_k=3" and json.loads(piped.splitlines()[place])["decided"]
    code, out, err = run("identify", "g.jsonl", "--output", "o.csv", "--plot", "o.svg", *options)
    assert (code, out) == (0, "") and err == "'o.svg' shows the first of 2 texts\n"
    assert Path("o.csv").read_text().count("top_k=3") and "</svg>" in Path("o.svg").read_text()


def test_the_table_says_who_wrote_it_and_what_ruled_the_others_out(run):
    code, out, err = run("identify", "--setting", "raw", "--setting", "top_k=2",
                         "--setting", "temperature=0.9", stdin=b"Once upon a zebra")  # fmt: skip
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("-: ") and "none is named: " in lines[0]
    [row] = [line for line in lines if line.startswith("top_k=2")]
    assert re.search(
        r"top_k=2 +0\.0000 +- +infinite +0\.\d+ +- +\d+ '.+' \(rank [\d,]+, 2 kept\)", row
    )
    assert any(line.startswith("what moved the odds of raw to temperature=0.9") for line in lines)
    _, out, _ = run("identify", "--setting", "raw", "--setting", "top_k=2", "--setting",
                    "temperature=0.9", "--json", stdin=b"Once upon a zebra")  # fmt: skip
    record = json.loads(out)
    [entry] = record["ruled_out"]
    assert f" {entry['token']} {entry['text']!r} (rank" in row
    begin = next(i for i, line in enumerate(lines) if line.startswith("token  text"))
    shown = [int(line.split()[0]) for line in lines[begin + 1 :]]
    assert shown == [token["token"] for token in record["deciding_tokens"]]
    code, out, _ = run(
        "identify", "--setting", "greedy", "--setting", "top_k=2", stdin=WIKI.encode()
    )
    assert code == 0 and "every candidate is ruled out" in out.splitlines()[0]


def test_pieces_that_two_tokenizers_share_are_not_called_tokens(run, stories, stories260k):
    text = "Once upon a zebra"
    arguments = ["identify", "--setting", "raw", "--models", "builtin:stories", stories260k.name]
    _, out, _ = run(*arguments, "--json", stdin=text.encode())
    record = json.loads(out)
    counts = [
        len(each.tokenizer(text, add_special_tokens=False)["input_ids"])
        for each in (stories, stories260k)
    ]
    assert record["pieces"] and record["tokens"] <= min(counts)
    _, out, _ = run(*arguments, stdin=text.encode())
    assert out.startswith(f"-: {record['tokens']} shared pieces · ")
    assert "\npiece " in out and "a piece ends where all of them end a token" in out
    _, out, _ = run("identify", "--json", stdin=text.encode())
    assert not json.loads(out)["pieces"]


def test_the_default_candidates_leave_foreign_text_alone(run, tmp_path):
    Path("wiki.txt").write_text(WIKI * 3)
    code, out, err = run("identify", "wiki.txt", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "") and "raw" in record["settings"] and record["decided"] is None
    code, out, err = run("identify", "wiki.txt", "--json", "--setting", "raw", "--models",
                         "builtin:stories", shared("models/stories260K"))  # fmt: skip
    record = json.loads(out)
    assert (code, err) == (0, "") and len(set(record["models"])) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--setting", "row"], "did you mean 'raw'?"),
        (["--setting", "raw"], "2 to 1000 candidates are needed, got 1"),
        (["--setting", "raw", "--setting", "raw"], "setting 'raw' is given twice"),
        (["--prior", "1,2"], "one weight for each of the 6 candidates, got 2"),
        (["--prior", "a"], "--prior takes numbers"),
        (["--prior", "1,1,1,1,1,0"], "positive, finite weights, got 0"),
        (["--min-odds", "0.5"], "'--min-odds'"),
        (["--grid", "temperature=1:0:1"], "holds no value"),
        (["--model", "a", "--models", "a", "b"], "give --model or --models, not both"),
        (["--plot", "a.gif"], "--plot takes"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, message):
    code, out, err = run("identify", *arguments, stdin=b"Once")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_ctrl_c_keeps_what_is_finished(run, monkeypatch):
    Path("a.jsonl").write_text('{"text": "Once upon"}\n' * 4)
    real = module.identify

    def interrupted(*args, **options):
        for place, result in enumerate(real(*args, **options)):
            if place == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(module, "identify", interrupted)
    code, out, err = run("identify", "a.jsonl", "--output", "o.jsonl")
    assert (code, out, err) == (130, "", "Error: interrupted; 2 texts identified\n")
    assert len(Path("o.jsonl").read_text().splitlines()) == 2


# The plot.


def plotted(language_model, text, specs):
    [result] = identify(language_model, [text], parsed(specs))
    record = {"name": "a/story.txt", **result.record()}
    figure = plot_identification(record, result.tokens, result.running_log_odds())
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return result, figure.axes[0]


def test_a_line_ends_where_its_candidate_is_ruled_out(stories260k):
    result, axes = plotted(stories260k, "Once upon a zebra", ["raw", "top_k=5", "temperature=0.9"])
    odds = result.running_log_odds() / math.log(10)
    lines = {line.get_label(): line for line in axes.lines}
    assert_allclose(lines["raw"].get_ydata(), odds[:, 0].clip(-6, 6))
    end = result.candidates[1].ruled_out.token
    assert len(lines["top_k=5"].get_ydata()) == end + 1 < len(odds)
    assert len(axes.get_xticklabels()) == len(result.tokens)


def test_odd_inputs_are_drawn_without_a_warning(stories260k, recwarn):
    grid = [f"temperature={0.5 + place / 10:g}" for place in range(12)]
    _, axes = plotted(stories260k, "She saw a dog. " * 30, grid)
    assert "5 more" in [text.get_text() for text in axes.get_legend().get_texts()]
    plotted(stories260k, "", ["raw", "greedy"])
    plotted(stories260k, WIKI, ["greedy", "top_k=2"])
    assert not recwarn.list
