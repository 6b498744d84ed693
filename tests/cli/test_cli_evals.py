"""The commands `score` and `perplexity`: what they print, where, and how they fail."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from commands import contents, records
from conftest import shared
from decoding.scoring.windows import Windows
from decoding_evals.perplexity.evaluation import perplexity
from decoding_evals.score.evaluation import score, score_choices

TEXT = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad!"


pytestmark = pytest.mark.usefixtures("elsewhere")


def plain(record):
    return json.loads(json.dumps(record, allow_nan=False))


def as_csv(record):
    cells = {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
             for name, value in record.items()}  # fmt: skip
    return {name: "" if record[name] is None else cell for name, cell in cells.items()}


# What is printed.


def test_score_of_standard_input_is_a_table_of_its_tokens(run, stories):
    code, out, err = run("score", stdin=TEXT.encode())
    [want] = score(stories, [TEXT])
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith(f"-: {len(want)} tokens scored · perplexity ")
    rows = lines[-len(want) :]
    for row, token in zip(rows, want.record()["tokens"], strict=True):
        assert row.lstrip().startswith(repr(token["text"])[1:-1].strip())
        assert row.split()[-1] == f"{token['rank']:,}"


def test_score_under_a_setting_says_what_is_cut_off(run):
    code, out, _ = run("score", "--setting", "top_k=1", stdin=b"Once upon a zebra")
    assert code == 0 and "cut off" in out and "kept" in out


def test_json_is_the_record(run, stories):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    code, out, err = run("score", "a.txt", "--json")
    [want] = score(stories, [TEXT])
    assert (code, err) == (0, "")
    assert records(out) == [{"name": "a.txt", **plain(want.record())}]
    code, out, err = run("perplexity", "a.txt", "--json", "--context", 16, "--stride", 4)
    want = perplexity(stories, [TEXT], windows=Windows(context=16, stride=4))
    assert (code, err) == (0, "")
    assert records(out) == [plain(want.record()) | {"skipped_rows": 0}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("command", ["score", "perplexity"])
def test_output_is_whole_and_stdout_silent(run, command, suffix):
    Path("a.jsonl").write_text('{"text": "Once upon"}\n{"text": "日本 🙂"}\n')
    path = Path(f"out{suffix}")
    path.write_text("what was there before")
    options = ["--setting", "top_k=2"] if command == "score" else []
    expected = records(run(command, "a.jsonl", "--json", *options)[1])
    code, out, err = run(command, "a.jsonl", "--output", path, *options)
    assert (code, out, err) == (0, "", "")
    got = contents(path)
    if suffix == ".csv":
        expected = [as_csv(record) for record in expected]
    if suffix == ".parquet":
        got = plain(got)
    assert got == expected
    assert sorted(os.listdir()) == ["a.jsonl", path.name]


def test_perplexity_table(run, stories):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    code, out, err = run("perplexity", "a.txt")
    want = perplexity(stories, [TEXT]).record()
    cells = [re.split("  +", line.strip()) for line in out.splitlines()]
    lines = {name: " ".join(rest).split() for name, *rest in cells}
    assert (code, err) == (0, "")
    assert lines["perplexity"][0] == f"{want['perplexity']:.5g}"
    assert lines["nats per token"][0] == f"{want['nll_nats']:.4f}"
    assert lines["word perplexity"][1:] == [f"{len(TEXT.split())}", "words"]
    assert lines["byte perplexity"][1:] == [f"{len(TEXT.encode())}", "bytes"]
    assert lines["tokens scored"][0] == str(want["tokens_scored"])
    [ratio] = re.findall(r"a factor of ([\d.]+)", out)
    assert float(ratio) == pytest.approx(want["standard_error_ratio"], rel=1e-3)


def test_a_perplexity_without_spread_has_a_table_too(run):
    """One token, and texts all alike: no error, or one of 0."""
    Path("a.csv").write_text("text\n" + "Once\n" * 25)
    for arguments in (["a.csv"], ["a.csv", "--errors", "blocks"]):
        code, out, err = run("perplexity", *arguments)
        assert (code, err) == (0, "") and "perplexity" in out
    for command, options, needed in (
        ("perplexity", [], "more than 16 tokens"),
        ("perplexity", ["--errors", "documents"], "two documents"),
        ("compare", [], "more than 16 tokens"),
    ):
        code, out, err = run(command, *options, stdin=b"a")
        assert (code, err) == (0, "") and f"no error: it needs {needed}" in out


def test_every_protocol_in_one_table(run, stories260k):
    Path("a.txt").write_text("Once upon a time there was a dog. " * 12)
    model = ["--model", stories260k.name, "--context", 32]
    code, out, err = run("perplexity", "a.txt", "--protocol", "all", "--json", *model)
    assert (code, err) == (0, "")
    got = records(out)
    names = ["default", "huggingface", "lm-eval", "llama.cpp", "gpt2-paper"]
    assert [record["protocol"] for record in got] == names
    for record in got:
        alone = run("perplexity", "a.txt", "--protocol", record["protocol"], "--json", *model)[1]
        assert records(alone) == [record]
        places = ("tokens_scored", "tokens_context_only", "tokens_skipped")
        assert sum(record[place] for place in places) == record["tokens"]
    code, out, err = run("perplexity", "a.txt", "--protocol", "all", *model)
    assert (code, err) == (0, "")
    for record in got:
        figures, tokens = [
            line for line in out.splitlines() if line.startswith(f"{record['protocol']} ")
        ]
        assert figures.count("*") == 1 and f"{record['tokens_scored']:,} " in tokens


def test_protocols_that_cannot_be_applied_are_named_and_left_out(run):
    code, out, err = run("perplexity", "--protocol", "all", "--json", stdin=b"Once upon a time.")
    assert code == 0
    assert [record["protocol"] for record in records(out)] == [
        "default", "huggingface", "lm-eval", "gpt2-paper",
    ]  # fmt: skip
    assert err.startswith("llama.cpp: ") and err.count("\n") == 1


# Where texts come from.


def test_texts_of_a_folder_and_their_names(run):
    for name, content in (
        ("d/b.txt", "Two"), ("d/a/x.md", "One"), ("d/r.csv", "text\nThree\nFour\n"),
        ("d/.hidden.txt", "no"), ("d/pic.png", "no"),
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    got = records(run("score", "d", "--json")[1])
    assert [record["name"] for record in got] == ["d/a/x.md", "d/b.txt", "d/r.csv:2", "d/r.csv:3"]
    texts = ["".join(token["text"] for token in record["tokens"]) for record in got]
    assert texts == ["One", "Two", "Three", "Four"]
    [record] = records(run("perplexity", "d", "--json")[1])
    assert (record["documents"], record["words"]) == (4, 4)


def test_columns_of_rows(run, stories):
    table = pyarrow.table({"body": ["Once upon", TEXT], "text": ["x", "y"]})
    parquet.write_table(table, "p.parquet")
    got = records(run("score", "p.parquet", "--column", "body", "--json")[1])
    for record, text in zip(got, ["Once upon", TEXT], strict=True):
        assert "".join(token["text"] for token in record["tokens"]) == text


@pytest.mark.parametrize("command", ["score", "perplexity"])
def test_broken_rows_are_skipped_and_counted(run, command):
    rows = ['{"text": "Once"}', '{"text": 3}', "broken", '{"text": "upon a"}', '{"t": 1}']
    Path("a.jsonl").write_text("\n".join(rows))
    code, out, err = run(command, "a.jsonl", "--skip-bad-rows", "--json")
    assert (code, err) == (0, "3 broken rows skipped\n")
    got = records(out)
    if command == "perplexity":
        assert [(r["skipped_rows"], r["documents"]) for r in got] == [(3, 2)]
    else:
        assert [r["name"] for r in got] == ["a.jsonl:1", "a.jsonl:4"]


def test_a_data_set_in_a_local_folder(run, stories):
    pytest.importorskip("datasets")
    Path("data").mkdir()
    Path("data/test.jsonl").write_text('{"text": "Once upon"}\n{"text": "a time"}\n')
    code, out, err = run("perplexity", "--dataset", "data", "--json")
    assert (code, err) == (0, "")
    want = perplexity(stories, ["Once upon", "a time"])
    assert records(out)[0]["nll_nats"] == pytest.approx(want.nll_nats)


def test_choices_are_ranked(run, stories):
    Path("r.jsonl").write_text('{"prompt": "Once upon a", "text": [" dog", " time"]}\n')
    [got] = records(run("score", "r.jsonl", "--prompt-column", "prompt", "--json")[1])
    [want] = score_choices(stories, [("Once upon a", [" dog", " time"])])
    assert got == {"name": "r.jsonl:1", **plain(want.record())}
    assert got["ranking"] == [1, 0]
    code, out, _ = run("score", "r.jsonl", "--prompt-column", "prompt")
    assert code == 0 and out.index(" time") < out.index(" dog")


def test_what_would_steer_a_terminal_is_spelt_out(run):
    nasty = "Once \x1b[31mred\x07\x9b2J \u202eback\u200b \x08end"
    name = "na\x1b[31mme.txt"
    Path(name).write_text(nasty, encoding="utf-8")
    code, out, err = run("score", name)
    assert code == 0 and "\\x1b" in out
    Path("r.jsonl").write_text(json.dumps({"prompt": nasty, "text": [nasty, "b"]}))
    choices = run("score", "r.jsonl", "--prompt-column", "prompt")[1]
    missing = run("score", "x\x1b[31m.txt")[2]
    column = run("score", "r.jsonl", "--column", "\x1b[31m")[2]
    table = run("perplexity", name)[1]
    for shown in (out, err, choices, missing, column, table):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", shown), ascii(shown)


# What goes wrong.


def wrong(*arguments, code=1, says, files=None, stdin=b""):
    identity = " ".join(map(str, arguments)) + " " + says
    return pytest.param(arguments, code, says, files or {}, stdin, id=identity)


A = {"a.txt": b"Once upon a time"}
PERPLEXITY = [
    wrong(says="standard input is empty"),
    wrong("a.txt", files={"a.txt": b""}, says="'a.txt' is empty"),
    wrong(
        "a.txt",
        "--bos",
        "never",
        files={"a.txt": b"a"},
        says="nothing to score: 1 document with 1 token",
    ),
    wrong("a.txt", "--protocol", "llama.cpp", files=A, says="llama.cpp needs a text of two chunks"),
    wrong(
        "a.txt", "--protocol", "lm-eval", "--bos", "never", code=2, files=A, says="lm-eval fixes it"
    ),
    wrong(
        "a.txt", "--protocol", "lm-eval", "--stride", 4, code=2, files=A, says="lm-eval fixes it"
    ),
    wrong(
        "a.txt",
        "--protocol",
        "huggingface",
        "--context",
        513,
        code=2,
        files=A,
        says="512 positions",
    ),
    wrong("a.txt", "--protocol", "megatron", code=2, files=A, says="'megatron' is not one of"),
    wrong("a.txt", "--errors", "tokens", code=2, files=A, says="'tokens' is not one of"),
]
BOTH = [
    wrong("a.txt", "--context", 8, "--stride", 9, code=2, files=A, says="context of 8, got 9"),
    wrong("a.txt", "--stride", 0, code=2, files=A, says="0 is not in the range x>=1"),
    wrong("a.txt", "--context", 513, code=2, files=A, says="the model's 512 positions, got 513"),
    wrong("a.txt", "--bos", "maybe", code=2, files=A, says="'maybe' is not one of"),
    wrong("a.txt", "--batch-size", 0, code=2, files=A, says="0 is not in the range"),
    wrong("none.txt", says="cannot read 'none.txt': No such file"),
    wrong("d", files={"d/a.png": b"x"}, says="no file below 'd' ends in"),
    wrong("a.csv", files={"a.csv": b"id,body\n1,a\n"},
          says="'a.csv' has no column 'text'; it has 'id', 'body'"),
    wrong("a.jsonl", "--column", "q", files={"a.jsonl": b'{"text": "a", "id": 1}\n'},
          says="no column 'q'; it has 'text', 'id'"),
    wrong("a.txt", "--column", "q", code=2, files=A, says="--column needs rows"),
    wrong("a.txt", files={"a.txt": b"fine\n\x00\x01"}, says="not text (line 2 holds a NUL byte)"),
    wrong("a.txt", files={"a.txt": b"fine\n\n\xff\xfe"}, says="'a.txt' is not UTF-8 (line 3)"),
    wrong("a.jsonl", files={"a.jsonl": b'{"text": "Once"}\n{"text": "upon"\n'},
          says="'a.jsonl', line 2: broken JSON"),
    wrong("a.csv", files={"a.csv": b"text,n\nOnce,1\nupon\n"}, says="'a.csv', line 3: broken CSV"),
    wrong("a.jsonl", "--skip-bad-rows", files={"a.jsonl": b"x\ny\n"}, says="every row is broken"),
    wrong("a.txt", "--model", "./nowhere", files=A, says="'./nowhere' does not exist"),
    wrong("a.txt", "--model", "builtin:poems", files=A, says="builtin:stories"),
    wrong("a.txt", "--output", "nowhere/o.json", files=A, says="'nowhere/o.json' does not exist"),
    wrong("a.txt", "--output", "o.txt", code=2, files=A, says=".parquet, .html or an empty folder"),
    wrong("a.txt", "--dataset", "d", code=2, files=A, says="give FILES or --dataset, not both"),
    wrong("--dataset", "./d", says="'./d' does not exist"),
    wrong("-", "-", code=2, says="standard input ('-') can be read only once"),
    wrong("--frobnicate", code=2, says="--frobnicate"),
]  # fmt: skip
SCORE = [
    wrong("a.txt", "--setting", "top_q=1", code=2, files=A, says="did you mean 'top_p'"),
    wrong("a.txt", "--prompt-column", "q", code=2, files=A, says="--prompt-column needs rows"),
    wrong("a.jsonl", "--prompt-column", "q", files={"a.jsonl": b'{"q": "Once", "text": ["a", ""]}'},
          says="'a.jsonl', line 1: 'text' is empty, or holds an empty choice"),
    wrong("a.jsonl", "--prompt-column", "q", files={"a.jsonl": b'{"q": "Once", "text": []}'},
          says="'text' is an empty list"),
    wrong("a.jsonl", "--prompt-column", "text", files={"a.jsonl": b"{}"}, code=2,
          says="both 'text'"),
]  # fmt: skip
FAILURES = [
    pytest.param(command, *case.values, id=f"{command} {case.id}")
    for command, cases in (("perplexity", PERPLEXITY + BOTH), ("score", BOTH + SCORE))
    for case in cases
]


@pytest.mark.parametrize(("command", "arguments", "code", "says", "files", "stdin"), FAILURES)
def test_bad_input_is_one_line_and_nothing_written(
    run, command, arguments, code, says, files, stdin
):
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    before = sorted(Path().rglob("*"))
    output = [] if "--output" in arguments else ["--output", "out.jsonl"]
    got, out, err = run(command, *arguments, *output, stdin=stdin)
    assert (got, out) == (code, "")
    assert says in err
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


# Modules, interruptions, and use.


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["decoding_evals.score", "decoding_evals.perplexity"])
def test_modules_are_the_commands(module, run, monkeypatch, capsys):
    Path("a.txt").write_text("Once upon a time")
    want = run(module.split(".")[1], "a.txt", "--json")
    monkeypatch.setattr(sys, "argv", [module, "a.txt", "--json"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(module, run_name="__main__")
    out, err = capsys.readouterr()
    assert (exit_.value.code or 0, out, err) == want


def test_interrupted_between_protocols_the_finished_ones_are_kept(run, monkeypatch):
    from decoding_evals.perplexity import evaluation as module

    evaluate = module.perplexity

    def interrupted(*arguments, **options):
        if options["protocol"] == "lm-eval":
            raise KeyboardInterrupt  # before anything is scored
        return evaluate(*arguments, **options)

    monkeypatch.setattr(module, "perplexity", interrupted)
    arguments = ["perplexity", "--protocol", "all", "--output", "o.jsonl"]
    code, out, err = run(*arguments, stdin=b"Once upon a time")
    assert (code, out) == (130, "")
    assert err.startswith("Error: interrupted; ") and err.count("\n") == 1
    got = records(Path("o.jsonl").read_text())
    assert [record["protocol"] for record in got] == ["default", "huggingface"]


def test_readme_like_use(run):
    Path("story.txt").write_text("Once upon a time there was a dog.")
    code, out, err = run("score", "story.txt", "--setting", "top_p=0.9", "--json")
    assert (code, err) == (0, "") and records(out)[0]["setting"] == "top_p=0.9"
    code, out, err = run("perplexity", "story.txt", "--bos", "never", "--output", "result.json")
    assert (code, out, err) == (0, "", "")
    [record] = json.loads(Path("result.json").read_text())
    assert record["bos"] is None and record["tokens_context_only"] == 1


def test_a_real_corpus(run, stories260k):
    with shared("data/wikitext2/wiki.test.raw").open(encoding="utf-8", newline="") as lines:
        Path("w.txt").write_text(lines.read(5000), encoding="utf-8", newline="")
    code, out, err = run("perplexity", "w.txt", "--model", stories260k.name, "--json")
    [record] = records(out)
    assert (code, err) == (0, "")
    low, high = record["confidence_interval"]
    assert low < record["perplexity"] < high
    assert record["bytes"] == Path("w.txt").stat().st_size
