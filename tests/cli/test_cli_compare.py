"""The command `compare`: what it prints and writes, and how it fails."""

import csv
import itertools
import json
import re
from pathlib import Path

import pytest
from pyarrow import parquet

from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.compare import evaluation as module
from decoding_evals.compare.evaluation import compare

TEXT = (
    "Once upon a time, there was a little girl named Lily. She didn't like her red ball.\n"
    "One day, Tom and his dog went to the park. They saw a 日本 sign! They ran and played.\n"
)


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_json_is_the_record(run, story, stories):
    code, out, err = run(
        "compare", story, "--setting", "temperature=0.7", "--setting", "greedy",
        "--grid", "top_p=0.8:0.9:0.1,temperature=1|2", "--json", "--context", 32,
    )  # fmt: skip
    assert (code, err) == (0, "")
    settings = [
        "temperature=0.7", "greedy", "top_p=0.8", "temperature=2,top_p=0.8", "top_p=0.9",
        "temperature=2,top_p=0.9",
    ]  # fmt: skip
    want = compare(
        stories,
        [TEXT],
        [DecodingSettings.parse(spec) for spec in settings],
        windows=Windows(context=32),
    ).record()
    assert len(out.splitlines()) == 1
    assert json.loads(out) == want | {"skipped_rows": 0}


def test_the_table_shows_every_setting_and_pair(run, stories):
    code, out, err = run("compare", stdin=TEXT.encode())
    assert (code, err) == (0, "")
    record = compare(
        stories, [TEXT],
        [DecodingSettings.parse(s) for s in (
            "raw", "temperature=0.7", "top_k=50", "top_p=0.9", "min_p=0.05", "greedy",
        )],
    ).record()  # fmt: skip
    lines = out.splitlines()
    for i, spec in enumerate(record["settings"]):
        own, of_text = [line for line in lines if line.startswith(f"[{i + 1}]")][:2]
        error = record["entropy_standard_error"][i]
        assert own.split()[1] == spec
        assert f"{record['entropy_nats'][i]:.4f} ± {error:.4f}" in own
        assert f"{record['coverage'][i]:.4f} ± " in of_text
        assert ("infinite" in of_text) == (record["cross_entropy_nats"][i] is None)
    pairs = [line.split() for line in lines if re.match(r"\[\d\]\s+\[\d\]", line)]
    assert [cells[:2] for cells in pairs] == [
        [f"[{i}]", f"[{j}]"] for i, j in itertools.combinations(range(1, 7), 2)
    ]
    for cells in pairs:
        i, j = (int(cell[1:-1]) - 1 for cell in cells[:2])
        want = [record["kl_nats"][i][j], record["kl_nats"][j][i]]
        want += [record["js_nats"][i][j], record["total_variation"][i][j]]
        for cell, value in zip(cells[2:], want, strict=True):
            assert (
                cell == "infinite"
                if value is None
                else float(cell) == pytest.approx(value, abs=5e-5)
            )
    assert "nats" in out and f"{record['tokens_scored']} tokens scored" in out


def test_pairs_of_many_settings_are_said_to_be_left_out(run):
    code, out, err = run("compare", "--grid", "top_k=1:13:1", stdin=TEXT.encode())
    assert (code, err) == (
        0, "78 pairs of 13 settings: --json, --output or --plot shows them\n",
    )  # fmt: skip
    assert "KL(" not in out and "top_k=13" in out


def test_tables_fit_a_terminal_of_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    code, out, _ = run("compare", stdin=TEXT.encode())
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert code == 0 and max(map(len, lines)) <= 80 and "…" not in out
    assert sum("temperature=0.7" in line for line in lines) == 1


def read(path):
    """The record of a file, by other means than ours."""
    if path.suffix == ".parquet":
        [row] = parquet.read_table(path).to_pylist()
        return row
    if path.suffix == ".csv":
        [row] = csv.DictReader(path.open(encoding="utf-8", newline=""))
        return {name: _value(cell) for name, cell in row.items()}
    content = json.loads(path.read_text())
    return content[0] if path.suffix == ".json" else content


def _value(cell):
    try:
        return json.loads(cell)
    except ValueError:
        return cell or None


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_files_hold_the_record(run, story, stories, suffix):
    specs = ["raw", "greedy", "temperature=0.7"]
    flags = [part for spec in specs for part in ("--setting", spec)]
    code, out, err = run("compare", story, *flags, "--output", f"out{suffix}")
    assert (code, out, err) == (0, "", "")
    chosen = [DecodingSettings.parse(spec) for spec in specs]
    want = compare(stories, [TEXT], chosen).record() | {"skipped_rows": 0}
    assert read(Path(f"out{suffix}")) == want


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_plot_and_a_file_in_one_run(run, story, suffix):
    flags = ["--output", "out.json", "--plot", f"out{suffix}"]
    assert run("compare", story, *flags) == (0, "", "")
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        ["out.json", f"out{suffix}", "story.txt"]
    )
    assert Path(f"out{suffix}").stat().st_size > 5000


BAD = [
    (["--grid", ""], 2, "a grid is like temperature=0.5:1.5:0.1,top_p=0.9, got ''"),
    (["--grid", "top_k=1:1001:1"], 2, "a grid holds at most 1000 settings"),
    (["--grid", "top_k=1:1000:1", "--setting", "raw"], 2, "at most 1000 settings, got 1001"),
    (["--grid", "temperature=0.5:1:inf"], 2, "temperature takes start:stop:step"),
    (["--grid", "temperature=0.5:1:0"], 2, "start <= stop and step > 0"),
    (["--grid", "temprature=0.5:1:0.5"], 2, "did you mean 'temperature'"),
    (["--grid", "temperature=0.7|0.70"], 2, "setting 'temperature=0.7' is given twice"),
    (["--setting", "raw", "--setting", "temperature=1"], 2, "setting 'raw' is given twice"),
    (["--setting", "top_p=0.9", "--grid", "top_p=0.8:0.9:0.1"], 2, "'top_p=0.9' is given twice"),
    (["--setting", "topp=0.9"], 2, "did you mean 'top_p'"),
    (["--setting", "top_p=1.1"], 2, "top_p must be in (0, 1], got 1.1"),
    (["--models", "a", "b", "--setting", "raw"], 2, "give --models, or settings, not both"),
    (["--models", "a", "b", "--grid", "top_k=5"], 2, "give --models, or settings, not both"),
    (["--models", "a", "b", "--plot", "out.png"], 2, "--plot draws settings"),
    (["--plot", "out.gif"], 2, "--plot takes .png, .svg or .pdf, got 'out.gif'"),
    (["--plot", "no/out.png"], 1, "the folder of 'no/out.png' does not exist"),
    (["--output", "out.txt"], 2, "--output takes"),
    (["--context", "0"], 2, "--context"),
    (
        ["--context", "9", "--stride", "10"],
        2,
        "--stride must be from 1 to the context of 9, got 10",
    ),
    (["--context", "999999"], 2, "--context must be at least 1 and at most"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_no_file(run, story, arguments, code, message):
    if "--output" not in arguments:
        arguments = [*arguments, "--output", "out.json"]
    found, out, err = run("compare", story, *arguments)
    assert (found, out) == (code, "")
    assert message in err and len(err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["story.txt"]


@pytest.mark.parametrize("arguments", [BAD[0][0], BAD[2][0], BAD[6][0], BAD[14][0], BAD[15][0]])
def test_bad_input_is_found_before_any_work(run, story, monkeypatch, arguments):
    monkeypatch.setattr("decoding.models.loading.load_model", None)
    assert run("compare", story, *arguments)[0] in (1, 2)


@pytest.mark.parametrize("flags", [["--json"], ["--output", "out.csv"], ["--plot", "out.png"]])
def test_an_empty_text_is_one_line(run, flags):
    Path("empty.txt").touch()
    code, out, err = run("compare", "empty.txt", *flags)
    assert (code, out) == (1, "")
    assert err == "Error: 'empty.txt' is empty\n"
    assert [path.name for path in Path().iterdir()] == ["empty.txt"]


def test_a_missing_file_is_one_line(run):
    code, out, err = run("compare", "none.txt", "--output", "out.json")
    assert code in (1, 2) and out == "" and len(err.splitlines()) == 1 and "none.txt" in err
    assert [*Path().iterdir()] == []


def interrupting(monkeypatch, calls):
    """Ctrl-C at the given report of progress."""
    reports = []

    def stop(self, count, _):
        reports.append(count)
        if len(reports) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr("decoding_evals.shell.progress.ScoringProgress.__call__", stop)
    return reports


def test_ctrl_c_keeps_what_was_scored(run, story, monkeypatch):
    reports = interrupting(monkeypatch, 2)
    flags = ["--context", 8, "--stride", 8, "--batch-size", 1]
    code, out, err = run("compare", story, *flags, "--output", "out.jsonl", "--plot", "out.png")
    assert (code, out) == (130, "")
    assert err == (
        f"Error: interrupted; the figures are of the {reports[-1]} tokens scored until then"
        "; --resume goes on from there\n"
    )
    record = read(Path("out.jsonl"))
    assert record["complete"] is False and record["tokens_scored"] == reports[-1]
    assert record["tokens"] == (
        record["tokens_scored"] + record["tokens_context_only"] + record["tokens_skipped"]
    )
    assert Path("out.png").exists()


def test_ctrl_c_before_the_first_token_leaves_no_file(run, story, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "compare", interrupted)
    code, out, err = run("compare", story, "--output", "out.jsonl", "--plot", "out.png")
    assert (code, out, err.strip()) == (130, "", "Error: interrupted")
    assert [path.name for path in Path().iterdir()] == ["story.txt"]
