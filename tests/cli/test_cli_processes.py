"""Commands as processes: on terminals, interrupted, and behind closed pipes."""

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from commands import COMMAND, forked, on_terminal, plain, records, started
from decoding import generate

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_on_a_terminal_text_is_shaded_with_legend_and_summary(stories):
    arguments = ["generate", "Once upon a time", "--seed", 1, "--max-new-tokens", 30]
    code, written = on_terminal(*arguments, begin=started)
    [expected] = generate(stories, "Once upon a time", seed=1, max_new_tokens=30)
    assert code == 0
    # What is loaded is said at once, and gone when it is there.
    assert written.index("loading builtin:stories") < written.index("Once")
    assert "\x1b[38;2;0;0;0;48;2;" in written
    shown = plain(written)
    assert "loading" not in shown
    # Lines break between words.
    words = " ".join(shown.split())
    assert words.startswith(" ".join(("Once upon a time" + expected.text).split()))
    assert "entropy in nats" in shown
    summary = expected.trace.summary()
    assert (
        f"30 tokens · mean entropy {summary['mean_entropy_nats']:.2f} nats "
        f"({summary['effective_choices']:.1f} effective choices) · "
        f"raw perplexity {summary['raw_perplexity']:.2f} · " in words
    )
    assert words.endswith("tokens/s · seed 1")


def test_several_sequences_stream_one_after_the_other(run, stories):
    prompts = ["Lily saw a", "Tom"]
    _, out, err = run("generate", *prompts, "--num-samples", 2, "--seed", 1, "--color",
                      "--max-new-tokens", 6)  # fmt: skip
    expected = generate(stories, prompts, num_return_sequences=2, seed=1, max_new_tokens=6)
    assert plain(out) == "\n".join(f"{g.prompt}{g.text}\n" for g in expected)
    assert "24 tokens" in err


def test_a_progress_bar_for_many_prompts_where_only_stderr_is_a_terminal():
    leader, follower = pty.openpty()
    arguments = ["generate", "One", "Two", "--max-new-tokens", "2", "--json"]
    process = forked(
        *arguments, stdout=subprocess.PIPE, stderr=follower, environment={"TERM": "xterm-256color"}
    )
    os.close(follower)
    out, _ = process.communicate()
    written = os.read(leader, 65536).decode()
    os.close(leader)
    assert len(records(out.decode())) == 2
    assert "2/2 sequences" in written
    assert plain(written.replace("\r\n", "\n")).lstrip().startswith("4 tokens · ")


@pytest.mark.parametrize(("flag", "no_color"), [("--no-color", ""), (None, "1")])
def test_no_color_is_honoured(flag, no_color):
    flags = [flag] if flag else []
    code, written = on_terminal(
        "generate", "Once", "--max-new-tokens", 5, *flags, NO_COLOR=no_color
    )
    assert code == 0 and not re.search(r"\x1b\[[0-9;]*m", written)
    assert plain(written).startswith("Once")


def test_ctrl_c_while_a_token_is_drawn():
    process = started(
        "generate", "Once upon a time", "--color", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and out.endswith(b"\n")
    assert err.decode() == "Error: interrupted; 0 sequences of 1 finished\n"


def test_a_closed_pipe_is_quiet():
    Path("p.txt").write_text("Once upon a time\n" * 9)
    script = '"$@" 2>err.txt | head -c 1 >/dev/null'
    arguments = ["generate", "--prompts-file", "p.txt", "--json", "--max-new-tokens", "40"]
    subprocess.run(["bash", "-c", script, "-", *COMMAND, *arguments], check=True)
    assert Path("err.txt").read_text() == ""


def test_ctrl_c_leaves_the_perplexity_of_what_was_scored(stories):
    text = "Once upon a time there was a dog. " * 30_000
    Path("a.txt").write_text(text)
    leader, follower = pty.openpty()
    process = forked(
        "perplexity", "a.txt", "--output", "o.json", "--stride", 64,
        stderr=follower, stdout=subprocess.PIPE, environment={"TERM": "xterm-256color"},
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
    assert " ".join(" ".join(shown).split()).endswith(
        f"Error: interrupted; the figures are of the {scored:,} tokens scored until then; "
        "--resume goes on from there"
    )
    assert record["complete"] is False and 0 < scored < record["tokens"]
    places = ("tokens_scored", "tokens_context_only", "tokens_skipped")
    assert sum(record[place] for place in places) == record["tokens"]
    # Nine words a sentence, of 34 bytes; the text scored is a prefix.
    prefix = text.encode()[: record["bytes"]].decode()
    assert record["words"] == len(prefix.split())
    assert len(stories.tokenizer(prefix)["input_ids"]) == pytest.approx(scored, abs=2)
    assert sorted(os.listdir()) == ["a.txt", "o.json", "o.json.unfinished"]


def test_ctrl_c_keeps_the_texts_that_are_scored():
    Path("a.csv").write_text("text\n" + '"' + "Once upon a time. " * 40 + '"\n' * 1 +
                             ('"' + "Once upon a time. " * 40 + '"\n') * 20_000)  # fmt: skip
    process = forked("score", "a.csv", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(r"Error: interrupted; \d+ texts? scored\n", err.decode())


def test_a_closed_pipe_is_quiet_for_scores_too():
    Path("a.csv").write_text("text\n" + "Once upon a time\n" * 2000)
    process = forked("score", "a.csv", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
