"""What a command makes of its streams and of signals: closed, narrow, not UTF-8, ended early."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from commands import COMMAND, finished, forked, on_terminal, plain, records, started

pytestmark = pytest.mark.usefixtures("elsewhere")

ONE = ["generate", "Once", "--max-new-tokens", "1", "--seed", "1"]


def shell(redirection, *arguments, **options):
    """Run the command with a redirection of the shell."""
    command = ["bash", "-c", f'"$@" {redirection}', "-", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    "arguments",
    [ONE, [*ONE, "--json"], ["score"], ["generate", "x", "--branch-at-entropy", "1"], ["settings"],
     ["perplexity", "--json"], ["uncertainty", "x"], ["doctor"]],
    ids=" ".join,
)  # fmt: skip
def test_a_closed_standard_output_is_an_error(arguments):
    run = partial(shell, ">&-") if arguments == ["settings"] else partial(finished, closed=[1])
    result = run(*arguments, input="Once upon a time")
    assert result.returncode == 1
    assert re.fullmatch(r"Error: standard output(: not writable| is closed)\n", result.stderr)


def test_where_nothing_is_written_to_it_standard_output_may_be_closed():
    result = finished(*ONE, "--output", "o.jsonl", closed=[1])
    assert (result.returncode, result.stderr) == (0, "")
    assert len(records(Path("o.jsonl").read_text())) == 1


@pytest.mark.parametrize(("redirection", "closed"), [("2>&-", [2]), ("2>&- <&-", [0, 2])])
def test_a_closed_standard_error_changes_nothing_else(redirection, closed):
    for result, code in (
        (finished(*ONE, closed=closed), 0),
        (finished(*ONE, "--output", "o.csv", closed=closed), 0),
        (shell(redirection, "generate", "--x"), 2),
    ):
        assert (result.returncode, result.stderr) == (code, "")
        assert "Error" not in result.stdout
    assert Path("o.csv").read_text().startswith("prompt,")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-16"])
def test_a_pipe_that_is_not_utf8_is_no_error(encoding):
    Path("p.txt").write_text("你好 naïve 🦊")
    environment = {"PYTHONIOENCODING": encoding}
    for arguments in (
        ["score", "p.txt"],
        ["generate", "--prompts-file", "p.txt", "--color", "--max-new-tokens", "2"],
        ["uncertainty", "--prompts-file", "p.txt", "--max-new-tokens", "2"],
    ):
        result = finished(*arguments, environment=environment, text=False)
        assert result.returncode == 0 and result.stdout
        assert b"Traceback" not in result.stderr and b"codec" not in result.stderr
    process = started(
        "score", "你好", environment=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, err = process.communicate()
    assert process.returncode == 1 and b"Error" in err.replace(b"\0", b"")
    assert b"Traceback" not in err and b"codec" not in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_what_is_finished_stays_when_a_signal_ends_the_command(number, code):
    process = forked(
        "generate", *["Once"] * 5000, "--output", "o.jsonl", "--max-new-tokens", 5,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (Path("o.jsonl.part").exists() and Path("o.jsonl.part").stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, b"")
    done = len(records(Path("o.jsonl").read_text()))
    assert err.decode() == (
        f"Error: interrupted; {done} sequences of 5,000 finished; --resume goes on from there\n"
    )
    assert 0 < done < 5000 and sorted(os.listdir()) == ["o.jsonl", "o.jsonl.unfinished"]


def test_a_sum_over_texts_that_a_signal_ends_has_its_exit_code_too():
    Path("a.txt").write_text("Once upon a time there was a dog. " * 30_000)
    leader, follower = pty.openpty()
    process = forked("perplexity", "a.txt", "--output", "o.json", "--stride", 64, stderr=follower)
    os.close(follower)
    written = b""
    while b"perplexity" not in written:
        written += os.read(leader, 65536)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    os.close(leader)
    [record] = json.loads(Path("o.json").read_text())
    assert record["complete"] is False


@pytest.mark.parametrize("module", ["decoding_cli", "decoding_evals.score"])
@pytest.mark.parametrize("imported", ["click", "decoding_evals.shell.running"])
def test_ctrl_c_while_the_program_is_imported_shows_no_traceback(module, imported):
    """The signal comes when a module is looked for that every command imports."""
    script = (
        "import os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {imported!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("", "")
    assert result.returncode in (-signal.SIGINT, 130)


def test_a_signal_that_is_ignored_stays_so():
    """As under nohup, or in the background of a script."""
    script = 'trap "" INT HUP; "$@" & sleep 0.3; kill -INT $!; kill -HUP $!; wait $!'
    result = subprocess.run(
        ["bash", "-c", script, "-", *COMMAND, *ONE], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["generate", "Once upon a time there was", "--seed", 1, "--max-new-tokens", 120], 6),
        (["uncertainty", "Once upon a time there was " * 5, "--max-new-tokens", 20, "--seed", 1,
          "--num-samples", 3], 8),
        (["score", "nowhere " * 20], 2),
        (["settings", "edt_theta=1"], 2),
    ],
)  # fmt: skip
def test_a_terminal_of_80_columns_breaks_lines_between_words(arguments, texts):
    _, written = on_terminal(*arguments)
    lines = plain(written).rstrip("\n").split("\n")
    assert len(lines) >= texts and max(map(len, map(str.rstrip, lines))) <= 80
    long = [line for line in lines if len(line) > 60]
    assert long  # text fills the lines


def test_nothing_is_said_of_loading_in_a_pipe(run):
    code, out, err = run(*ONE)
    assert (code, err) == (0, "") and "loading" not in out


def test_an_answer_in_a_chat_begins_on_a_line_of_its_own(stories, monkeypatch, capsys):
    from decoding import generate
    from decoding_cli.screen import Screen

    expected = generate(stories, ["One", "Two"], seed=1, max_new_tokens=4)
    screen = Screen(["One", "Two"], color=False, streaming=False, chat=True)
    for generation in expected:
        screen.finished(generation)
    texts = [f"{g.prompt}\n{g.text}\n" for g in expected]
    assert capsys.readouterr().out == "\n".join(texts)


def test_a_run_without_seed_says_in_a_pipe_which_one_it_took(run):
    arguments = ["generate", "Once", "--max-new-tokens", 8]
    code, out, err = run(*arguments)
    seed = re.fullmatch(r"seed (\d+)\n", err)[1]
    assert run(*arguments, "--seed", seed) == (code, out, "")
    tree = ["generate", "Once", "--branch-at-entropy", 2, "--max-new-tokens", 6]
    _, out, err = run(*tree)
    assert run(*tree, "--seed", re.fullmatch(r"seed (\d+)\n", err)[1])[1] == out
    # Records carry it.
    assert run(*arguments, "--json")[2] == "" == run(*arguments, "--output", "o.csv")[2]


def test_a_billion_samples_begin_at_once():
    process = forked(
        "generate", "Once", "--num-samples", 10**9, "--max-new-tokens", 1, "--json",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert json.loads(process.stdout.readline())["sample"] == 0
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130 and b" of 1,000,000,000 finished" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "x", "--max-new-tokens", 10**9], "1<=x<=1000000"),
        (["uncertainty", "x", "--num-samples", 10**9], "2<=x<=10000"),
        (["uncertainty", "x", "--mc-dropout", 10**9], "2<=x<=10000"),
        (["uncertainty", "x", "--max-new-tokens", 10**9], "1<=x<=1000000"),
        (["score", "--context", 10, "--stride", 20], "stride must be from 1 to the context of 10"),
        (["identify", "--context", 10, "--stride", 20], "stride must be from 1 to the context"),
        (["gen", "x"], "Did you mean 'generate'?"),
        (["generate", "x", "--setting", "temp=0.7"], "did you mean 'temperature'?"),
        (["score", "--setting", "raw while entropy<=2 else temp=1"], "did you mean 'temperature'"),
        (["perplexity", "--protocol", "huggingface", "--bos", "always"], "huggingface fixes it"),
        (["compare", "--grid", "temperature=0:1e999999:1"], "at most 1000 settings"),
        (["generate", "-", "x", "-"], "standard input ('-') can be read only once"),
    ],
)
def test_wrong_usage_is_found_before_the_model_is_loaded(run, arguments, says):
    code, out, err = run(*arguments, "--model", "./nowhere", stdin=b"Once")
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        (["-"], ["One", " two"]),
        (["--prompts-file", "-"], ["One", " two"]),
        (["Zero", "-", "Three"], ["Zero", "One", " two", "Three"]),
        ([], ["One", " two"]),
    ],
)
@pytest.mark.parametrize("command", ["generate", "uncertainty"])
def test_a_dash_is_standard_input_and_blank_lines_are_no_prompts(run, command, arguments, prompts):
    options = ["--max-new-tokens", 1, "--json"]
    code, out, err = run(command, *arguments, *options, stdin=b"\r\nOne\r\n\n two\n \t\n")
    assert (code, err) == (0, "3 blank lines of standard input skipped\n")
    got = records(out)
    assert [record["prompt"] for record in got] == prompts
    assert [record["index"] for record in got] == list(range(len(prompts)))


def test_where_every_line_is_blank_there_is_no_prompt(run):
    for stdin in (b"\n", b" \n\n\t", b"\r\n"):
        code, out, err = run("generate", "-", stdin=stdin)
        assert (code, out) == (1, "")
        assert err == "Error: no prompts in standard input: every line is blank\n"


@pytest.mark.parametrize("command", ["score", "perplexity", "doctor"])
def test_a_dash_is_the_text_of_standard_input(run, command):
    assert run(command, "-", "--json", stdin=b"Once upon a time there was a dog.")[0] == 0
