"""Calibration against plain float64 loops, and the command `calibrate`."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch

import decoding_evals.calibrate.evaluation as module
from decoding import generate
from decoding.inference.temperature import LogNormalPrior
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import Document, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.calibrate.evaluation import calibrate
from decoding_evals.calibrate.figure import plot_calibration
from decoding_evals.calibrate.quality import prediction_columns, reliability
from oracle import ece, log_softmax, reference_log_q

STORIES = [
    "Once upon a time there was a small cat. The cat liked milk and a red ball.",
    "Tom and Sue went to the park. They saw a big dog and ran home.",
    "One day, it rained. Lily was sad, because she wanted to play outside.",
    "The bird sang a song. The tree was happy and gave it an apple.",
    "Mum made a cake. Ben ate it all, and his tummy hurt.",
    "There was a boat on the lake. A frog jumped in and said hello.",
]


@torch.no_grad()
def rows(language_model, document):
    """Float64 logits and targets of one short document, behind BOS or its context."""
    if isinstance(document, str):
        ids = language_model.tokenizer(document, add_special_tokens=False)["input_ids"]
        document = TokenDocument(ids)
    context = list(document.context) or [language_model.tokenizer.bos_token_id]
    logits = language_model.model(torch.tensor([[*context, *document.ids]])).logits[0].double()
    return logits[len(context) - 1 : -1].numpy(), np.array(document.ids)


def all_rows(language_model, documents):
    parts = [rows(language_model, document) for document in documents]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def likeliest(z, y):
    def nll(log_t):
        scaled = z / math.exp(log_t)
        return -sum(log_softmax(row)[token] for row, token in zip(scaled, y, strict=True))

    return math.exp(scipy.optimize.minimize_scalar(nll, bounds=(-3, 3)).x)


def quality(z, y, temperature):
    """NLL, Brier score, confidence and correctness from their definitions."""
    log_q = np.array([log_softmax(row / temperature) for row in z])
    q = np.exp(log_q)
    came = np.eye(z.shape[1])[y]
    return (
        -log_q[np.arange(len(y)), y].mean(),
        ((q - came) ** 2).sum(1).mean(),
        q.max(1),
        z.argmax(1) == y,
    )


# The numbers.


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_fit_and_figures_are_those_of_plain_loops(request, name):
    language_model = request.getfixturevalue(name)
    got = calibrate(language_model, STORIES, held_out=0.3, windows=Windows(batch_size=2))
    out = set(np.random.default_rng(0).permutation(6)[:2].tolist())
    fitted = [text for index, text in enumerate(STORIES) if index not in out]
    others = [STORIES[index] for index in sorted(out)]
    z, y = all_rows(language_model, fitted)
    assert got.fit.temperature == pytest.approx(likeliest(z, y), rel=1e-4)
    assert (got.fit.tokens, got.fit.documents) == (len(y), 4)
    z, y = all_rows(language_model, others)
    assert (got.held_out_tokens, got.held_out_documents, got.split) == (len(y), 2, True)
    for mine, temperature in ((got.before, 1), (got.after, got.setting.temperature)):
        nll, brier, confidence, correct = quality(z, y, temperature)
        assert mine.nll_nats == pytest.approx(nll, abs=1e-5)
        assert mine.brier == pytest.approx(brier, abs=1e-5)
        assert mine.accuracy == pytest.approx(correct.mean())
        assert mine.reliability.ece == pytest.approx(ece(confidence, correct), abs=1e-5)
    assert got.setting.temperature == float(f"{got.fit.temperature:.6g}")
    assert str(DecodingSettings.parse(str(got.setting))) == str(got.setting)
    record = got.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert sum(row["count"] for row in record["reliability_after"]) == len(y)


def test_of_favourites_alike_one_is_the_favourite():
    """Of V tokens alike, confidence is 1/V, and one in V is right: half precision has many ties."""
    targets = torch.arange(8).repeat(5)
    block = LogitBlock(torch.zeros(40, 8, dtype=torch.bfloat16), targets, [], 0)
    columns = prediction_columns(DecodingSettings(temperature=0.5), None, block)
    for prefix in ("", "fitted_"):
        confidence, correct = columns[f"{prefix}confidence"], columns[f"{prefix}correct"]
        assert confidence == pytest.approx(1 / 8)
        assert torch.equal(correct, targets == 0)
        assert reliability(confidence, correct).ece == pytest.approx(0, abs=1e-7)


def test_token_ids_and_their_text_give_the_same(stories):
    tokenizer = stories.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in STORIES]
    texts = calibrate(stories, [Document([text[:9], text[9:]]) for text in STORIES])
    tokens = calibrate(stories, [TokenDocument(np.array(some)) for some in ids])
    assert texts.record() == tokens.record()
    # What stands before is context, and not fitted.
    behind = [TokenDocument(some[4:], some[:4]) for some in ids]
    got = calibrate(stories, behind, held_out=0)
    z, y = all_rows(stories, behind)
    assert got.fit.tokens == len(y)
    assert got.fit.temperature == pytest.approx(likeliest(z, y), rel=1e-4)


def test_a_beginning_elsewhere_changes_nothing(stories, monkeypatch):
    plain = calibrate(stories, STORIES)
    monkeypatch.setattr(module, "WARM_TOKENS", 30)
    tokens = []
    warm = calibrate(stories, STORIES, on_progress=lambda count, _: tokens.append(count))
    assert warm.fit.temperature == pytest.approx(plain.fit.temperature, rel=1e-5)
    assert warm.record()["reliability_before"] == plain.record()["reliability_before"]
    assert tokens == sorted(tokens) and warm.fit.steps <= plain.fit.steps
    # What the beginning alone cannot fit, favourites only or an unlikely token, is no obstacle.
    favourite = generate(stories, "", DecodingSettings(temperature=0), max_new_tokens=40)[
        0
    ].trace.ids.tolist()
    for ids in (favourite, [2047]):
        documents = [TokenDocument(ids), *STORIES]
        monkeypatch.setattr(module, "WARM_TOKENS", len(ids))
        got = calibrate(stories, documents, held_out=0)
        assert got.fit.temperature == pytest.approx(
            likeliest(*all_rows(stories, documents)), rel=1e-4
        )


def test_without_a_split_the_fitted_text_is_measured(stories):
    for documents, share in (([" ".join(STORIES)], 0.2), (STORIES, 0.0), (["", STORIES[0]], 0.5)):
        got = calibrate(stories, documents, held_out=share)
        assert not got.split and got.held_out_tokens == got.fit.tokens
        assert got.after.nll_nats <= got.before.nll_nats
    assert calibrate(stories, STORIES[:2], held_out=0.99).fit.documents == 1
    assert calibrate(stories, STORIES[:2], held_out=0.01).held_out_documents == 1


@pytest.mark.parametrize("coverage", [0.5, 0.9, 1.0])
def test_top_p_covers_what_it_was_asked_to(stories, coverage):
    got = calibrate(stories, STORIES, coverage=coverage, held_out=0)
    z, y = all_rows(stories, STORIES)

    def covered(top_p):
        setting = DecodingSettings(temperature=got.setting.temperature, top_p=top_p)
        return np.mean(
            [
                np.isfinite(reference_log_q(row, setting)[token])
                for row, token in zip(z, y, strict=True)
            ]
        )

    # The last token of the nucleus may fall on either side by rounding.
    slack = 1 / len(y)
    assert coverage <= got.held_out_coverage < coverage + 2 * slack
    assert covered(got.setting.top_p) == pytest.approx(got.held_out_coverage, abs=slack)
    assert covered(got.setting.top_p - 1e-5) < coverage


def test_map_is_what_the_setting_takes(stories):
    got = calibrate(stories, STORIES, prior=LogNormalPrior(2, 0.05), use_map=True)
    assert got.setting.temperature == float(f"{got.fit.map_temperature:.6g}")
    assert got.fit.map_temperature > got.fit.temperature


@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_a_temperature_is_recovered(stories260k, temperature):
    generations = generate(
        stories260k, "", DecodingSettings(temperature=temperature),
        max_new_tokens=80, num_return_sequences=20, batch_size=20, seed=5,
    )  # fmt: skip
    documents = [TokenDocument(g.trace.ids.tolist(), [1]) for g in generations]
    got = calibrate(stories260k, documents, windows=Windows(batch_size=20))
    low, high = got.fit.confidence_interval
    assert low <= temperature <= high and high - low < 0.25 * temperature
    assert got.after.nll_nats < got.before.nll_nats
    assert got.after.reliability.ece < got.before.reliability.ece


def test_greedy_text_is_greedy(stories):
    greedy = DecodingSettings(temperature=0)
    [written] = generate(stories, "", greedy, max_new_tokens=40)
    # Of six documents, number 0 is held out; it is not the model's favourite.
    ids = [written.trace.ids.tolist()] * 6
    ids[int(np.random.default_rng(0).permutation(6)[0])] = [5, 9, 7]
    got = calibrate(stories, map(TokenDocument, ids), coverage=0.9)
    assert str(got.setting) == "greedy" and got.fit.confidence_interval[0] == 0
    record = json.loads(json.dumps(got.record(), allow_nan=False))
    assert record["nll_after_nats"] is None and record["nll_before_nats"] > 0
    assert record["brier_after"] == 2 * (1 - record["accuracy_after"])
    assert 0 < record["map_temperature"] < 1


# Bad input, and Ctrl-C.


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "no token to fit"),
        ([""], {}, "no token to fit"),
        (STORIES, {"held_out": 1.0}, r"held_out must be in \[0, 1\), got 1.0"),
        (STORIES, {"coverage": 0.0}, r"coverage must be in \(0, 1\], got 0.0"),
        (["a"], {"windows": Windows(bos="never")}, "no token to fit"),
        (STORIES, {"windows": Windows(stride=9999)}, "stride"),
    ],
)
def test_bad_input(stories, documents, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(stories, documents, **options)


def stopping(monkeypatch, when):
    """Ctrl-C at the first report for which `when(report, reading)` holds."""
    counts = {"reading": 0, "report": 0}
    scan = module._Reader._read

    def counted(self, *arguments):
        counts["reading"] += 1
        yield from scan(self, *arguments)

    monkeypatch.setattr(module._Reader, "_read", counted)

    def report(*_):
        counts["report"] += 1
        if when(counts["report"], counts["reading"]):
            raise KeyboardInterrupt

    return report


def test_interrupted_it_keeps_what_it_has(stories, monkeypatch):
    whole = calibrate(stories, STORIES)
    with pytest.raises(KeyboardInterrupt):
        calibrate(stories, STORIES, on_progress=stopping(monkeypatch, lambda n, _: n == 2))
    monkeypatch.setattr(module, "WARM_TOKENS", 30)
    first = calibrate(stories, STORIES)
    first_readings = first.fit.passes
    readings = []

    def late(_, reading):
        readings.append(reading)
        return False

    calibrate(stories, STORIES, on_progress=stopping(monkeypatch, late))
    last = max(readings)
    # In the first reading of everything.
    got = calibrate(
        stories, STORIES,
        on_progress=stopping(monkeypatch, lambda _, reading: reading == last - first_readings),
    )  # fmt: skip
    assert not got.complete and 20 <= got.fit.tokens < whole.fit.tokens
    record = json.loads(json.dumps(got.record(), allow_nan=False))
    assert record["ece_before"] is record["nll_after_nats"] is None and record["setting"]
    # While it measures.
    got = calibrate(
        stories, STORIES * 2, windows=Windows(batch_size=1),
        on_progress=stopping(monkeypatch, lambda _, reading: reading == last),
    )  # fmt: skip
    assert not got.complete and got.held_out_documents == 1
    assert got.fit.documents == 10 and got.before.nll_nats > 0


# The command.


def write_rows(path="texts.jsonl", texts=STORIES):
    Path(path).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_the_command_prints_the_result(run, stories):
    path = write_rows()
    want = calibrate(stories, STORIES, coverage=0.8).record()
    code, out, err = run("calibrate", path, "--coverage", 0.8, "--json")
    assert (code, err) == (0, "") and json.loads(out) == want | {"skipped_rows": 0}
    code, out, err = run("calibrate", path, "--coverage", 0.8, "--plot", "p.svg")
    assert (code, err) == (0, "") and Path("p.svg").stat().st_size > 1000
    lines = {parts[0]: parts[1:] for parts in (re.split("  +", x) for x in out.splitlines())}
    assert float(lines["temperature"][0]) == pytest.approx(want["temperature"], rel=1e-3)
    assert lines["setting"] == [want["setting"]]
    ece = [float(cell) for cell in lines["ECE"] if cell]
    assert ece == pytest.approx([want["ece_before"], want["ece_after"]], rel=1e-2)
    assert run("calibrate", path, "--json", "--output", "o.csv")[1] == ""
    assert "temperature" in Path("o.csv").read_text().splitlines()[0]


def test_records_of_generate_and_back_again(run, stories260k):
    model = ["--model", stories260k.name]
    flags = ["--temperature", 0.6, "--num-samples", 6, "--seed", 2, "--max-new-tokens", 60]
    _, records, _ = run("generate", "Once upon", "The", *flags, *model, "--json")
    Path("g.jsonl").write_text(records)
    code, out, err = run("calibrate", "g.jsonl", *model, "--json")
    record = json.loads(out)
    assert (code, err, record["documents"], record["held_out_documents"]) == (0, "", 10, 2)
    tokens = sum(len(json.loads(line)["tokens"]) for line in records.splitlines())
    assert record["tokens"] + record["held_out_tokens"] == tokens
    assert record["temperature"] == pytest.approx(0.6, rel=0.3)
    piped = run("calibrate", *model, "--json", stdin=records.encode())[1]
    assert json.loads(piped) == record
    setting = ["--setting", record["setting"], "--max-new-tokens", 3]
    code, out, _ = run("generate", "Once", *setting, *model, "--json")
    assert code == 0 and json.loads(out)["settings"] == record["setting"]


def test_one_document_is_said_to_be_one(run):
    code, out, err = run("calibrate", stdin=" ".join(STORIES).encode())
    assert code == 0 and "1 fitted document" in out
    assert err == "a single document: measured on the text that was fitted\n"
    code, out, err = run("calibrate", "--held-out", 0, stdin=" ".join(STORIES).encode())
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prior-scale", 0], 2, "--prior-scale"),
        (["--prior-median", -1], 2, "--prior-median"),
        (["--prior-scale", "nan"], 2, "nan is not a finite number"),
        (["--prior-scale", "1e300"], 2, "prior scale must be positive, from"),
        (["--held-out", 1], 2, "--held-out"),
        (["--coverage", 1.5], 2, "--coverage"),
        (["--cover", 1.5], 2, "--coverage"),
        (["--plot", "p.gif"], 2, ".png"),
        (["empty.txt"], 1, "empty"),
        (["none.txt"], 1, "none.txt"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, code, message):
    Path("empty.txt").touch()
    path = [] if arguments[0].endswith(".txt") else [write_rows()]
    got, out, err = run("calibrate", *path, *arguments)
    assert (got, out, err.count("\n")) == (code, "", 1) and message in err


def test_interrupted_the_record_is_kept(run, monkeypatch):
    monkeypatch.setattr(module, "WARM_TOKENS", 30)
    original = module.estimate_temperature
    calls = []

    def second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "estimate_temperature", second)
    code, out, err = run("calibrate", write_rows(), "--output", "o.json", "--plot", "p.png")
    [record] = json.loads(Path("o.json").read_text())
    assert (code, out, record["complete"]) == (130, "", False)
    assert err.startswith(f"Error: interrupted; the temperature is that of {record['tokens']} tok")
    assert not Path("p.png").exists()


def test_the_diagram_shows_the_bins(stories):
    record = calibrate(stories, STORIES).record()
    [axes] = plot_calibration(record).axes
    _, before, after = axes.lines
    for line, when in ((before, "before"), (after, "after")):
        bins = record[f"reliability_{when}"]
        assert [*line.get_xdata()] == [row["confidence"] for row in bins]
        assert [*line.get_ydata()] == [row["accuracy"] for row in bins]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1].startswith(record["setting"])
