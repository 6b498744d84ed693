"""The commands of evaluations as processes: modules, interruptions, pipes, real use."""

import json
import os
import pty
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import shared

COMMAND = [sys.executable, "-m", "decoding_cli"]
TEXT = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad!"


pytestmark = pytest.mark.usefixtures("elsewhere")


def records(text):
    return [json.loads(line) for line in text.splitlines()]


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


def child(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        # A background job inherits SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def test_ctrl_c_leaves_the_perplexity_of_what_was_scored(stories):
    text = "Once upon a time there was a dog. " * 30_000
    Path("a.txt").write_text(text)
    leader, follower = pty.openpty()
    process = child(
        "perplexity", "a.txt", "--output", "o.json", "--stride", 64,
        stderr=follower, stdout=subprocess.PIPE, env=os.environ | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(follower)
    written = b""
    while b"perplexity" not in written:
        written += os.read(leader, 65536)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            written += os.read(leader, 65536)
        except OSError:
            break
    os.close(leader)
    assert process.stdout is not None and process.stdout.read() == b""
    assert process.wait() == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).splitlines()
    [record] = json.loads(Path("o.json").read_text())
    scored = record["tokens_scored"]
    assert shown[-1] == (
        f"Error: interrupted; the figures are of the {scored} tokens scored until then"
    )
    assert record["complete"] is False and 0 < scored < record["tokens"]
    places = ("tokens_scored", "tokens_context_only", "tokens_skipped")
    assert sum(record[place] for place in places) == record["tokens"]
    # Nine words a sentence, of 34 bytes; the text scored is a prefix.
    prefix = text.encode()[: record["bytes"]].decode()
    assert record["words"] == len(prefix.split())
    assert len(stories.tokenizer(prefix)["input_ids"]) == pytest.approx(scored, abs=2)
    assert sorted(os.listdir()) == ["a.txt", "o.json"]


def test_ctrl_c_keeps_the_texts_that_are_scored():
    Path("a.csv").write_text("text\n" + '"' + "Once upon a time. " * 40 + '"\n' * 1 +
                             ('"' + "Once upon a time. " * 40 + '"\n') * 20_000)  # fmt: skip
    process = child("score", "a.csv", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(r"Error: interrupted; \d+ texts scored\n", err.decode())


def test_a_closed_pipe_is_quiet():
    Path("a.csv").write_text("text\n" + "Once upon a time\n" * 2000)
    script = '"$@" 2>err.txt | head -1 >/dev/null'
    arguments = ["score", "a.csv", "--json"]
    subprocess.run(["bash", "-c", script, "-", *COMMAND, *arguments], check=True)
    assert Path("err.txt").read_text() == ""


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
