"""Evaluations on two workers of Ray: the numbers of one process, whatever happens to a worker."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from commands import finished, started

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

TEXTS = [
    f"Once upon a time there was a {animal}, who lived in a {place}. " * length
    for animal in ("dog", "cat", "bird", "fish")
    for place in ("house", "tree", "lake")
    for length in (1, 7, 110)
]
# One thread, as a worker has: with another number sums round otherwise.
ONE = {"OMP_NUM_THREADS": "1"}
ON_RAY = ["--engine", "ray", "--workers", 2]
COMMANDS = {
    "score": ["a.jsonl", "--setting", "top_p=0.9"],
    "perplexity": ["a.jsonl"],
    "compare": ["a.jsonl", "--setting", "raw", "--setting", "top_k=9"],
    "calibrate": ["a.jsonl", "--coverage", "0.9"],
    "uncertainty": [
        "--prompts-file", "p.txt", "--num-samples", 3, "--max-new-tokens", 5, "--seed", 3,
        "--batch-size", 4,
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    Path("p.txt").write_text("\n".join(text.strip() for text in TEXTS[::4]))


def differences(one, other, path=""):
    """Where two records differ by more than 1e-9."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for name in one:
            yield from differences(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif isinstance(one, float) and isinstance(other, float):
        if abs(one - other) > 1e-9 * max(1, abs(one)):
            yield path, one, other
    elif one != other:
        yield path, one, other


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_two_workers_give_the_numbers_of_one_process(command):
    flags = [command, *COMMANDS[command], "--output"]
    assert finished(*flags, "one.jsonl", environment=ONE).returncode == 0
    result = finished(*flags, "two.jsonl", *ON_RAY, environment=ONE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert [*differences(records("one.jsonl"), records("two.jsonl"))] == []


def workers_of(process):
    """Processes that work on units, below one."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    below = {str(process.pid)}
    for _ in range(6):
        below |= {pid for pid, parent, _ in rows if parent in below}
    return [int(pid) for pid, _, args in rows if pid in below and "MapWorker" in args]


def test_a_worker_that_is_killed_costs_nothing():
    Path("a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS * 8))
    flags = ["perplexity", "a.jsonl"]
    assert finished(*flags, "--output", "one.jsonl", environment=ONE).returncode == 0
    process = started(
        *flags, "--json", *ON_RAY, environment=ONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    killed = []

    def kill():
        while not (found := workers_of(process)) and process.poll() is None:
            time.sleep(0.2)
        time.sleep(6)
        for pid in workers_of(process)[:1] or found[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    out, err = process.communicate()
    thread.join()
    assert process.returncode == 0, err
    assert killed
    assert err.splitlines() and all(line.startswith(b"Ray: ") for line in err.splitlines())
    [line] = out.splitlines()
    assert [*differences(records("one.jsonl"), [json.loads(line)])] == []


def test_what_is_wrong_with_a_document_is_said_in_one_line():
    Path("b.jsonl").write_text('{"text": "Once"}\n{"text": 5}\n')
    result = finished("score", "b.jsonl", *ON_RAY, "--output", "o.jsonl", environment=ONE)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1 and "'b.jsonl', line 2" in result.stderr
    result = finished("perplexity", "a.jsonl", *ON_RAY, "--context", 10_000, environment=ONE)
    assert result.returncode == 2 and "--context must be at least 1" in result.stderr


def test_a_run_that_was_ended_goes_on():
    Path("a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS * 8))
    flags = ["score", "a.jsonl", *ON_RAY, "--output"]
    assert finished(*flags, "whole.jsonl", environment=ONE).returncode == 0
    process = started(*flags, "o.jsonl", environment=ONE, stderr=subprocess.PIPE)
    part = Path("o.jsonl.part")
    while not (part.exists() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert Path("o.jsonl.unfinished").exists() and not Path("o.jsonl").exists()
    result = finished(*flags, "o.jsonl", "--resume", environment=ONE)
    assert result.returncode == 0, result.stderr
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
