"""The command: what it prints, where, and how it fails."""

import gc
import json
import os
import resource
from functools import partial
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from commands import contents, finished, records
from decoding import generate
from decoding.generation import run as generation
from decoding.settings.settings import DecodingSettings

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_text_alone_in_a_pipe(run, stories):
    code, out, err = run("generate", "Once upon a time", "--seed", 3, "--max-new-tokens", 12)
    [expected] = generate(stories, "Once upon a time", seed=3, max_new_tokens=12)
    assert (code, out, err) == (0, expected.text + "\n", "")


def test_json_lines_are_the_records(run, stories):
    arguments = ["Once", "Lily saw", "--num-samples", 2, "--seed", 5, "--max-new-tokens", 8]
    code, out, _ = run("generate", *arguments, "--json", "--top-p", 0.9, "--alternatives", 2)
    expected = generate(
        stories, ["Once", "Lily saw"], DecodingSettings(top_p=0.9),
        num_return_sequences=2, seed=5, max_new_tokens=8, alternatives=2,
    )  # fmt: skip
    got = records(out)
    assert code == 0
    assert [(r["index"], r["sample"]) for r in got] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert got == [json.loads(json.dumps(each.record())) for each in expected]
    first = got[0]
    assert first["settings"] == "top_p=0.9" and first["model"] == "builtin:stories"
    assert "".join(token["text"] for token in first["tokens"]) == first["text"]
    assert not first["text"].startswith("Once")
    assert len(first["tokens"][0]["alternatives"]) == 2


def test_a_run_without_seed_reports_one_that_repeats_it(run):
    arguments = ["generate", "Once", "--json", "--max-new-tokens", 8]
    first = records(run(*arguments)[1])[0]
    again = records(run(*arguments, "--seed", first["seed"])[1])[0]
    assert again == first


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", b"One\r\n  two \nthree"),
        (
            "p.jsonl",
            b'{"prompt": "One"}\n\n{"prompt": "  two "}\n{"prompt": ""}\n{"prompt": "three"}',
        ),
        ("p.csv", b'n,prompt\n1,One\n2,  two \n3,""\n4,three\n'),
        (None, "\ufeffOne\n  two \nthree\n".encode()),
    ],
)
def test_prompts_are_read_as_they_are(run, name, content):
    arguments = ["generate", "--json", "--max-new-tokens", 1]
    if name:
        Path(name).write_bytes(content)
        arguments += ["--prompts-file", name]
    code, out, _ = run(*arguments, stdin=content)
    assert code == 0
    # Only a row can hold an empty prompt.
    empty = [""] * (name in ("p.jsonl", "p.csv"))
    assert [record["prompt"] for record in records(out)] == ["One", "  two ", *empty, "three"]


def test_prompts_from_a_column_of_parquet(run):
    table = pyarrow.table({"prompt": ["x", "y"], "question": ["One", "two\n"]})
    parquet.write_table(table, "p.parquet")
    arguments = ["--prompts-file", "p.parquet", "--column", "question", "--max-new-tokens", 1]
    _, out, _ = run("generate", *arguments, "--json")
    assert [record["prompt"] for record in records(out)] == ["One", "two\n"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_output_file_is_whole_and_stdout_silent(run, suffix):
    path = Path(f"out{suffix}")
    path.write_text("what was there before")
    arguments = ["generate", "One", "Two", "--max-new-tokens", 2, "--seed", 2**64 - 1]
    expected = records(run(*arguments, "--json")[1])
    code, out, _ = run(*arguments, "--output", path)
    assert (code, out) == (0, "")
    got = contents(path)
    if suffix == ".csv":
        expected = [
            {
                key: "" if value is None else value if isinstance(value, str) else json.dumps(value)
                for key, value in r.items()
            }
            for r in expected
        ]
    assert got == expected
    assert os.listdir() == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file(run, monkeypatch):
    Path("out.jsonl").write_text("old")
    arguments = ["generate", "One", "--max-new-tokens", 60, "--output", "out.jsonl"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1024, 1024))
    result = finished(*arguments, before=limit)
    assert result.returncode == 1
    assert result.stderr == "Error: cannot write 'out.jsonl': File too large\n"
    assert os.listdir() == ["out.jsonl"] and Path("out.jsonl").read_text() == "old"


def test_beams(run, stories):
    code, out, _ = run(
        "generate", "Once", "--json", "--num-beams", 3, "--num-samples", 2, "--max-new-tokens", 6
    )
    expected = generate(
        stories, "Once",
        num_beams=3, num_return_sequences=2, max_new_tokens=6,
    )  # fmt: skip
    assert code == 0
    assert [r["text"] for r in records(out)] == [each.text for each in expected]


def wrong(*arguments, code=1, says, files=None, stdin=b""):
    identity = " ".join(map(str, arguments)) or says
    return pytest.param(arguments, code, says, files or {}, stdin, id=identity)


@pytest.mark.parametrize(
    ("arguments", "code", "says", "files", "stdin"),
    [
        wrong("x", "--temperature", -1, code=2, says="must be a finite number >= 0, got -1"),
        wrong("x", "--temperature", "nan", code=2, says="temperature must be a finite number"),
        wrong("x", "--temperature", "warm", code=2, says="must be a number, got 'warm'"),
        wrong("x", "--top-p", 0, code=2, says="--top-p must be in (0, 1], got 0.0"),
        wrong("x", "--top-p", 1.5, code=2, says="--top-p must be in (0, 1], got 1.5"),
        wrong("x", "--top-k", -2, code=2, says="--top-k must be >= 0, got -2"),
        wrong("x", "--setting", "temprature=1", code=2, says="did you mean 'temperature'?"),
        wrong("x", "--setting", "top_p", code=2, says="'top_p' needs a value"),
        wrong("x", "--temprature", 1, code=2, says="--temperature"),
        wrong("x", "--max-new-tokens", 0, code=2, says="--max-new-tokens"),
        wrong("x", "--max-new-tokens", 600, says="at most 511"),
        wrong("x" * 3000, says="shorten the prompt"),
        wrong("x", "--num-beams", 2, "--temperature", 0, code=2, says="temperature=0 cannot"),
        wrong("x", "--num-beams", 2, "--num-samples", 3, code=2, says="--num-beams"),
        wrong("x", "--setting", "target_entropy=-1", code=2, says="target_entropy must be a"),
        wrong("x", "--setting", "xtc_threshold=0.2", code=2, says="a parameter of xtc_probability"),
        wrong("x", "--setting", "target_entropy=2,edt_theta=1", code=2, says="both set the temper"),
        wrong("x", "--setting", "target_entropy=two bits", code=2, says="must be a number"),
        wrong("x", "--setting", "dry_multiplier=1,dry_breakers=a/b", code=2, says="ids or texts"),
        wrong("x", "--setting", "raw while entropy<2 else stop", code=2, says="a policy is like"),
        wrong("x", "--setting", "raw while entropy<=two else stop", code=2, says="a number"),
        wrong("x", "--setting", "raw while entropy<=2 else halt", code=2, says="'halt'"),
        wrong("x", "--setting", "raw while entropy<=2 else stop", "--num-beams", 2, code=2,
              says="a policy follows single sequences"),
        wrong("x", "--setting", "mirostat_tau=2", "--num-beams", 2, code=2, says="mirostat_tau"),
        wrong("x", "--setting", "raw while entropy<=2 else branch", code=2, says="--branch-at"),
        wrong("x", "--branch-at-entropy", "much", code=2, says="'much' is not a valid float"),
        wrong("x", "--stop", "", code=2, says="--stop needs a text"),
        wrong("x", "--chat", code=2, says="chat template"),
        wrong("x", "--device", "tpu9", says="unknown device 'tpu9'"),
        wrong("x", "--model", "./nowhere", says="'./nowhere' does not exist"),
        wrong("x", "--model", "builtin:poems", says="builtin:stories"),
        wrong("x", "--model", "no/such-model", says="use a local folder"),
        wrong("x", "--model", "./bare", files={"bare/config.json": b'{"model_type": "gpt2"}'},
              says="model './bare'"),
        wrong("x", "--output", "nowhere/o.jsonl", says="of 'nowhere/o.jsonl' does not exist"),
        wrong("x", "--output", "o.txt", code=2, says=".parquet, .html or an empty folder"),
        wrong("x", "--prompts-file", "p.txt", code=2, says="not both"),
        wrong("--prompts-file", "p.txt", says="cannot read 'p.txt'"),
        wrong("--prompts-file", "p.md", code=2, says=".txt, .jsonl, .json, .csv or .parquet"),
        wrong("--prompts-file", "p.csv", says="cannot read 'p.csv'"),
        wrong("--prompts-file", "p.csv", files={"p.csv": b"id,text\n1,a\n"},
              says="'p.csv' has no column 'prompt'; it has 'id', 'text'"),
        wrong("--prompts-file", "p.txt", "--column", "q", code=2, says="--column needs a"),
        wrong("x", "--column", "q", code=2, says="--column needs a --prompts-file with rows"),
        wrong("--prompts-file", "p.txt", files={"p.txt": b"a\nb\0"}, says="line 2 holds a NUL"),
        wrong("--prompts-file", "p.txt", files={"p.txt": b""}, says="it is empty"),
        wrong("--prompts-file", "p.txt", files={"p.txt": b"a\n\xff"}, says="not UTF-8 (line 2)"),
        wrong("--prompts-file", "p.jsonl", files={"p.jsonl": b'{"prompt": "a"}\n{"prompt": "b"\n'},
              says="'p.jsonl', line 2: broken JSON"),
        wrong("--prompts-file", "p.jsonl", files={"p.jsonl": b'{"text": "a"}\n'},
              says="'p.jsonl', line 1: no column 'prompt'; it has 'text'"),
        wrong(says="no prompts in standard input"),
        wrong(says="standard input is not UTF-8 (line 1)", stdin=b"\xe9"),
        wrong("--prompts-file", "p.jsonl", files={"p.jsonl": b'{"prompt": "\\ud800"}'},
              says="'p.jsonl', line 1: 'prompt' is not valid UTF-8"),
        wrong("--prompts-file", "p.jsonl", files={"p.jsonl": b"[" * 100_000}, says="broken JSON"),
        wrong("\udce9", says="prompt 1 is not valid UTF-8"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_written(run, arguments, code, says, files, stdin):
    for name, content in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    before = sorted(Path().rglob("*"))
    got, out, err = run("generate", *arguments, stdin=stdin)
    assert (got, out) == (code, "")
    assert says in err
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_late_bad_prompt_is_found_before_anything_is_written(run):
    Path("p.txt").write_text("fine\n" * 300 + "x" * 3000)
    code, out, err = run("generate", "--prompts-file", "p.txt", "--json")
    assert (code, out) == (1, "") and "prompt 301 has" in err


def test_ctrl_c_keeps_what_is_finished(run, monkeypatch):
    batch = generation.Run.batch
    calls = []

    def interrupted(self, jobs):
        calls.append(jobs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, jobs)

    monkeypatch.setattr(generation.Run, "batch", interrupted)
    arguments = ["generate", *["Once"] * 9, "--max-new-tokens", 2, "--batch-size", 2]
    code, out, err = run(*arguments, "--output", "o.jsonl")
    assert (code, out) == (130, "")
    assert err == "Error: interrupted; 4 sequences of 9 finished; --resume goes on from there\n"
    assert [record["index"] for record in records(Path("o.jsonl").read_text())] == [0, 1, 2, 3]
    assert sorted(os.listdir()) == ["o.jsonl", "o.jsonl.unfinished"]
    monkeypatch.setattr(generation.Run, "batch", batch)
    assert run(*arguments, "--output", "o.jsonl", "--resume")[0] == 0
    assert run(*arguments, "--output", "whole.jsonl", "--seed", 1)[0] == 0


def test_alternatives_need_records(run):
    code, out, err = run("generate", "x", "--alternatives", 2)
    assert (code, out) == (2, "") and "give --json or --output too" in err


def test_model_from_the_environment(run, monkeypatch):
    monkeypatch.setenv("DECODING_MODEL", "./nowhere")
    assert "'./nowhere' does not exist" in run("generate", "x")[2]


@pytest.mark.parametrize("arguments", [["generate", "Once", "--max-new-tokens", "1"],
                                       ["generate", "Once", "--model", "no/such"]])  # fmt: skip
def test_garbage_is_collected_again_once_the_model_is_there(run, arguments):
    code, *_ = run(*arguments)
    assert gc.isenabled() and gc.get_freeze_count() > 0
    assert code == (0 if "--model" not in arguments else 1)
