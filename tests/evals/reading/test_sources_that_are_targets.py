"""What a command writes is none of the files that it reads, under whatever name."""

import json
import os
from pathlib import Path

import pytest

ROW = {"text": "Once upon a time.", "prompt": "Once"}


@pytest.fixture
def files(elsewhere):
    """A file of rows and its other names, beside a text that has a picture's."""
    Path("texts").mkdir()
    rows = Path("texts/rows.jsonl")
    rows.write_text(json.dumps(ROW) + "\n")
    Path("link.jsonl").symlink_to(rows)
    os.link(rows, "hard.jsonl")
    Path("prompts.txt").write_text("Once\n")
    Path("text.svg").write_text("Once upon a time.")
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["score", "texts/rows.jsonl"], ["--output", "texts/rows.jsonl"]),
        (["score", "texts/../texts/rows.jsonl"], ["--output", "texts/rows.jsonl"]),
        (["perplexity", "texts/rows.jsonl"], ["--output", "link.jsonl"]),
        (["calibrate", "link.jsonl"], ["--output", "texts/rows.jsonl"]),
        (["compare", "prompts.txt", "hard.jsonl"], ["--output", "texts/rows.jsonl"]),
        (["identify", "texts"], ["--output", "hard.jsonl"]),
        (["attention", "texts/rows.jsonl"], ["--output", "hard.jsonl"]),
        (["score", "text.svg"], ["--plot", "text.svg"]),
        (["generate", "--prompts-file", "hard.jsonl"], ["--output", "link.jsonl"]),
        (["uncertainty", "--prompts-file", "link.jsonl"], ["--output", "hard.jsonl"]),
        (
            ["uncertainty", "--prompts-file", "judged.jsonl", "--output", "o.json"],
            ["--evaluation", "judged.jsonl"],
        ),
        (["perplexity", "--dataset", "texts"], ["--output", "texts/rows.jsonl"]),
    ],
)
def test_a_target_that_is_read_is_refused(run, files, arguments, target):
    if "judged.jsonl" in target:
        files[Path("judged.jsonl")] = json.dumps(ROW | {"references": ["a"]}).encode()
        Path("judged.jsonl").write_bytes(files[Path("judged.jsonl")])
    code, out, err = run(*arguments, *target)
    flag, name = target
    assert (code, out) == (2, "")
    assert err == f"Error: {flag} {name!r} is one of the files that are read\n"
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files


def test_another_file_is_written_and_written_over(run, files):
    for _ in range(2):
        code, _, err = run("score", "texts/rows.jsonl", "--output", "texts/scores.jsonl")
        assert (code, err) == (0, "")
    # Of a folder, all rows below it are read.
    code, _, err = run("score", "texts", "--output", "texts/scores.jsonl")
    assert code == 2 and "is one of the files that are read" in err
    assert run("score", "--output", "link.jsonl", stdin=b"Once upon")[0] == 0
