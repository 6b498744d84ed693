"""`--output` that names a folder: a run that was ended goes on there too."""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import forked
from decoding.passes import journal
from decoding_evals.shell import output

ROWS = [
    {"text": f"Once upon a time there was a {word}. " * 3} for word in ("dog", "cat", "sun", "bed")
]


@pytest.fixture(autouse=True)
def small(elsewhere, monkeypatch):
    """Texts and a folder, whose files hold two records."""
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 3))
    Path("o").mkdir()
    monkeypatch.setattr(output, "PART_CHARACTERS", 5000)


def command(*arguments, target="o", before=None):
    """Score the texts in a process of its own: exit code and standard error."""
    process = forked(
        "score", "a.jsonl", "--batch-size", 1, "--output", target, *arguments,
        before=before, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return process.communicate()[1].decode(), process.returncode


def ending(number, after):
    """Makes a process end behind so many steps."""

    def before():
        steps = itertools.count()
        keep = journal.FileJournal.keep

        def until(self, record):
            keep(self, record)
            if next(steps) >= after:
                os.kill(os.getpid(), number)
                time.sleep(9)

        journal.FileJournal.keep = until

    return before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_the_files_are_those_of_an_undisturbed_run(number, after):
    assert command(target="whole.jsonl") == ("", 0)
    err, code = command(before=ending(number, after))
    assert code == (-9 if number == signal.SIGKILL else 143), err
    assert len([*Path("o").glob("*.jsonl")]) >= (after > 5) and Path("o.unfinished").exists()
    if any(Path("o").glob("*.jsonl")):
        err, code = command()
        assert code == 2 and "'o' is a folder that is not empty" in err
    assert command("--resume") == ("", 0)
    names = sorted(os.listdir("o"))
    assert len(names) > 2 and names == [f"part-{n:06}.jsonl" for n in range(len(names))]
    parts = [Path("o", name).read_bytes() for name in names]
    assert b"".join(parts) == Path("whole.jsonl").read_bytes()
    assert sorted(os.listdir()) == ["a.jsonl", "o", "whole.jsonl"]
    err, code = command("--resume")
    assert code == 0 and "'o' is finished" in err
    assert parts == [Path("o", name).read_bytes() for name in names]


def test_what_an_ended_run_left_in_part_is_gone():
    Path("o/part-000007.jsonl.part").write_text("{")
    assert command() == ("", 0)
    assert not [name for name in os.listdir("o") if name.endswith(".part")]


def test_a_folder_with_anything_else_is_refused():
    Path("o/notes").touch()
    for more in ([], ["--resume"]):
        err, code = command(*more)
        assert code == 2 and "'o' is a folder that is not empty" in err
    assert os.listdir("o") == ["notes"] and sorted(os.listdir()) == ["a.jsonl", "o"]


def test_two_runs_with_one_folder_refuse_each_other():
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS * 2000))
    first = forked("score", "a.jsonl", "--output", "o", stderr=subprocess.PIPE)
    while len(os.listdir("o")) < 3:
        time.sleep(0.05)
    for more in ([], ["--resume"]):
        err, code = command(*more)
        assert code != 0 and err.splitlines()[-1].startswith("Error: ")
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 143
