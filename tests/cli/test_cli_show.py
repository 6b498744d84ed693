"""`decoding show`: records of every command, as tables and as a page."""

import json
import re
from pathlib import Path

import click
import pytest

from decoding_cli.show import _views

TEXT = "Once upon a time there was a little dog."
COMMANDS = {
    "score": ["score", "a.txt"],
    "score-choices": ["score", "c.jsonl", "--prompt-column", "p"],
    "perplexity": ["perplexity", "a.txt"],
    "compare": ["compare", "a.txt"],
    "compare-models": ["compare", "a.txt", "--models", *["builtin:stories"] * 2],
    "uncertainty": ["uncertainty", "Once", "--max-new-tokens", "3", "--num-samples", "2"],
    "calibrate": ["calibrate", "a.txt"],
    "identify": ["identify", "a.txt"],
    "attention": ["attention", "a.txt"],
    "doctor": ["doctor"],
    "generate": ["generate", "Once", "--max-new-tokens", "3"],
    "tree": ["generate", "Once", "--max-new-tokens", "3", "--branch-at-entropy", "0.1"],
}


def data_of(path):
    html = Path(path).read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])


@pytest.fixture
def texts(run):
    Path("a.txt").write_text(TEXT)
    row = {"p": "Once", "text": [" upon", " dog"]}
    Path("c.jsonl").write_text(json.dumps(row))
    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_record_is_shown_as_its_command_shows_it(texts, name):
    run = texts
    code, shown, _ = run(*COMMANDS[name])
    again = [*COMMANDS[name], "--output", "r.jsonl"]
    # What is drawn at random is drawn from the same seed.
    code_of_file, _, _ = run(*again, *(["--seed", "1"] if name in ("uncertainty", "tree") else []))
    assert (code, code_of_file) == (0, 0)
    record = json.loads(Path("r.jsonl").read_text())
    assert [view.name for view in _views() if view.knows(record)] == [name]
    code, out, _ = run("show", "r.jsonl")
    assert code == 0
    if name == "generate":
        assert out == record["prompt"] + record["text"] + "\n"
    elif name == "tree":
        assert record["tree"]["text"] in out
    elif name == "uncertainty":
        assert out.startswith("Once\n")
    else:
        assert out.strip() and shown.startswith(out.rstrip("\n"))
    assert run("show", "r.jsonl", "-o", "p.html")[0] == 0
    [entry] = data_of("p.html")["entries"]
    assert entry["view"] == name
    assert run(*again[:-1], "q.html")[0] == 0
    assert [one["view"] for one in data_of("q.html")["entries"]] == [name]


@pytest.mark.parametrize("command", ["score", "generate", "uncertainty", "identify", "attention"])
def test_with_page_data_it_is_the_page_of_the_command(texts, command):
    run = texts
    arguments = [*COMMANDS[command]]
    arguments += ["--detail", "32"] if command not in ("identify", "attention") else []
    arguments += ["--seed", "3"] if command in ("generate", "uncertainty") else []
    assert run(*arguments, "--output", "page.html")[0] == 0
    _, out, _ = run(*arguments, "--json", "--page-data")
    code, _, err = run("show", "-o", "shown.html", stdin=out.encode())
    assert (code, err) == (0, "")
    assert Path("page.html").read_text() == Path("shown.html").read_text()
    entry = data_of("page.html")["entries"][0]
    if command in ("identify", "attention"):
        assert entry["data"][{"identify": "page", "attention": "rows"}[command]]
    else:
        assert entry["texts"][0]["page"]["rows"]


def test_several_records_are_one_page(texts):
    run = texts
    for number, name in enumerate(("score", "generate", "doctor")):
        run(*COMMANDS[name], "--output", f"{number}.jsonl")
    assert run("show", "0.jsonl", "1.jsonl", "2.jsonl", "-o", "p.html")[0] == 0
    views = [entry["view"] for entry in data_of("p.html")["entries"]]
    assert views == ["score", "generate", "doctor"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.jsonl"], 1, "cannot read 'none.jsonl': No such file or directory"),
        (["x.csv"], 2, "show takes .jsonl, .json, .parquet or -, got 'x.csv'"),
        (["other.jsonl"], 1, "'other.jsonl', line 2 is no record of a decoding command"),
        (["broken.jsonl"], 1, "'broken.jsonl', line 1 is a broken record of perplexity"),
        (["broken.jsonl", "-o", "p.html"], 1, "line 1 is a broken record of perplexity"),
        (["torn.jsonl"], 1, "'torn.jsonl', line 1: broken JSON"),
        (["empty.jsonl", "-o", "p.html"], 1, "no rows in 'empty.jsonl'"),
        (["empty.jsonl"], 1, "no rows in 'empty.jsonl'"),
        ([], 1, "no rows in standard input"),
        (["empty.jsonl", "-o", "p.pdf"], 2, "--output takes FILE.html, got 'p.pdf'"),
        (["empty.jsonl", "--open"], 2, "--open needs a page: give --output FILE.html too"),
    ],
)
def test_what_cannot_be_shown_says_so(run, arguments, code, says):
    headline = {"perplexity": None, "headline": None, "protocol": None}
    Path("broken.jsonl").write_text(json.dumps(headline))
    Path("other.jsonl").write_text('\n{"a": 1}\n')
    Path("torn.jsonl").write_text('{"a": ')
    Path("empty.jsonl").write_text("")
    got, out, err = run("show", *arguments)
    assert got == code and says in " ".join(err.split()) and not out
    assert not Path("p.html").exists()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("perplexity", "headline", float("nan")),
        ("perplexity", "tokens_scored", float("-inf")),
        ("perplexity", "tokens_scored", 1e999),
        ("identify", "settings", [1.5] * 6),
        ("identify", "prior", [float("nan")] * 6),
    ],
)
def test_a_number_or_value_that_no_record_has_is_one_line(texts, name, field, value):
    texts(*COMMANDS[name], "--output", "r.jsonl")
    record = json.loads(Path("r.jsonl").read_text())
    assert field in record
    Path("r.jsonl").write_text(json.dumps(record | {field: value}))
    for page in [], ["-o", "p.html"]:
        code, out, err = texts("show", "r.jsonl", *page)
        assert (code, out) == (1, "") and not Path("p.html").exists()
        assert err == f"Error: 'r.jsonl', line 1 is a broken record of {name}\n"


def test_a_number_that_nothing_holds_is_no_json(texts):
    texts(*COMMANDS["perplexity"], "--output", "r.jsonl")
    record = json.loads(Path("r.jsonl").read_text())
    Path("r.jsonl").write_text(json.dumps(record | {"perplexity": 10**400}))
    code, _, err = texts("show", "r.jsonl", "-o", "p.html")
    assert (code, err) == (
        1, "Error: 'r.jsonl', line 1: broken JSON (a whole number of 401 digits)\n"
    )  # fmt: skip


@pytest.mark.parametrize("page", [10**299, {"names": 1}, {"names": 1, "format": None, "rows": ""}])
def test_broken_data_of_a_page_is_one_line(texts, page):
    texts(*COMMANDS["generate"], "--output", "r.jsonl")
    record = json.loads(Path("r.jsonl").read_text())
    Path("r.jsonl").write_text(json.dumps(record | {"page": page}))
    code, _, err = texts("show", "r.jsonl", "-o", "p.html")
    assert (code, err) == (1, "Error: 'r.jsonl', line 1 is a broken record of generate\n")
    assert not Path("p.html").exists()


@pytest.mark.parametrize(("gone", "says"), [(0, ""), (1, "no browser was found")])
def test_it_opens_the_page(texts, monkeypatch, gone, says):
    run = texts
    asked = []
    monkeypatch.setattr(click, "launch", lambda url: asked.append(url) or gone)
    run(*COMMANDS["perplexity"], "--output", "r.jsonl")
    code, _, err = run("show", "r.jsonl", "-o", "p q.html", "--open")
    assert code == 0 and says in err
    assert asked == [Path("p q.html").absolute().as_uri()]
