"""A run that was ended goes on; its file at the end is that of an undisturbed run."""

import itertools
import json
import os
import resource
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from commands import forked
from decoding.passes import journal as module

TEXTS = [
    "Once upon a time there was a dog.",
    "The cat sat.",
    "",
    "A girl named Lily had a ball. " * 9,
]
READ = ["a.jsonl", "--batch-size", 1, "--context", 24]
DRAWN = ["a", "b c", "Once upon a time", "Lily", "--max-new-tokens", 5, "--batch-size", 2]
COMMANDS = {
    "generate": [*DRAWN, "--num-samples", 2, "--alternatives", 2],
    "generate mirostat": [*DRAWN, "--setting", "mirostat_tau=3", "--num-samples", 2],
    "generate beams": [*DRAWN, "--num-beams", 2],
    "generate tree": [*DRAWN[:-2], "--branch-at-entropy", 1],
    "uncertainty": [*DRAWN, "--num-samples", 2],
    "score": [*READ, "--setting", "top_p=0.9"],
    "score word": [*READ, "--per", "word"],
    "perplexity": READ,
    "perplexity gpt2-paper": [*READ, "--protocol", "gpt2-paper"],
    "compare": [*READ, "--setting", "raw", "--setting", "top_k=5"],
    "compare models": [*READ, "--models", "builtin:stories", "builtin:stories"],
    "calibrate": READ,
    "identify": [*READ, "--setting", "raw", "--setting", "top_p=0.9"],
    "attention": ["a.jsonl"],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))


def told(arguments):
    name, *rest = arguments
    return [name.split()[0], *rest]


def output(*arguments, resume=(), before=None):
    """Run a command in a process of its own."""
    process = forked(
        *told(arguments), *resume, before=before, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate()
    return process.returncode, out.decode(), err.decode()


def dying(after):
    """Makes a process end as by kill -9, in the middle of a record, behind so many steps."""

    def before():
        steps = itertools.count()
        keep = module.FileJournal.keep

        def until(self, record):
            if next(steps) >= after:
                self.file.write(b"\1\0\0\0torn")
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            keep(self, record)

        module.FileJournal.keep = until

    return before


@pytest.mark.parametrize("end", ["jsonl", "html", "parquet"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_step_it_is_finished_byte_for_byte(name, end):
    if end != "jsonl" and name not in ("generate", "score", "uncertainty", "attention"):
        pytest.skip("one way to write a record is enough")
    arguments = [name, *COMMANDS[name]]
    drawn = name.split()[0] in ("generate", "uncertainty")
    seed = ["--seed", 7] if drawn else []
    assert output(*arguments, *seed, "--output", f"whole.{end}")[0] == 0
    whole = Path(f"whole.{end}").read_bytes()
    assert not Path(f"whole.{end}.unfinished").exists()
    for after in (1, 3, 5):
        path = f"{after}.{end}"
        flags = [*arguments, *seed, "--output", path]
        code, _, _ = output(*flags, before=dying(after))
        if code == 0:  # it has fewer steps
            assert after > 1 and Path(path).read_bytes() == whole
            continue
        assert code == -signal.SIGKILL and not Path(path).exists()
        assert Path(f"{path}.unfinished").exists()
        code, out, err = output(*flags, resume=["--resume"])
        assert (code, out) == (0, ""), err
        assert Path(path).read_bytes() == whole
        assert sorted(p.name for p in Path().glob(f"{path}*")) == [path]


def test_killed_again_and_again():
    flags = ["generate", *COMMANDS["generate"], "--seed", 7, "--output"]
    assert output(*flags, "whole.jsonl")[0] == 0
    code, killed = None, 0
    while code != 0:
        code, _, err = output(*flags, "o.jsonl", resume=["--resume"], before=dying(2))
        assert code in (0, -signal.SIGKILL), err
        killed += code != 0
    assert killed >= 2 and Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["generate", "score", "perplexity"])
@pytest.mark.parametrize("room", [3000, 6000])
def test_on_a_full_disk_it_ends_and_goes_on_where_there_is_room(name, room):
    flags = [name, *COMMANDS[name], *(["--seed", 7] if name == "generate" else []), "--output"]
    assert output(*flags, "whole.jsonl")[0] == 0
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
    code, out, err = output(*flags, "o.jsonl", before=full)
    if code == 0:  # there was room for all
        assert room > 3000 and name == "perplexity"
        return
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "cannot write 'o.jsonl'" in err and not Path("o.jsonl").exists()
    assert output(*flags, "o.jsonl", resume=["--resume"])[0] == 0
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert sorted(os.listdir()) == ["a.jsonl", "o.jsonl", "whole.jsonl"]


def test_a_seed_that_a_run_picked_is_picked_once(run):
    flags = ["generate", *COMMANDS["generate"], "--output", "o.jsonl"]
    assert output(*flags, before=dying(3))[0] == -signal.SIGKILL
    assert output(*flags, resume=["--resume"])[0] == 0
    [seed] = {json.loads(line)["seed"] for line in Path("o.jsonl").read_text().splitlines()}
    assert output(*flags[:-1], "p.jsonl", "--seed", seed)[0] == 0
    assert Path("o.jsonl").read_bytes() == Path("p.jsonl").read_bytes()


@pytest.mark.parametrize("command", ["generate", "score", "perplexity"])
def test_a_signal_keeps_rows_and_the_rest_comes_later(command):
    # Those of one length are read in their order.
    Path("a.jsonl").write_text((json.dumps({"text": TEXTS[0]}) + "\n") * 9)
    flags = [command, *COMMANDS[command], *(["--seed", 7] if command == "generate" else [])]

    def before():
        steps = itertools.count()
        keep = module.FileJournal.keep

        def until(self, record):
            keep(self, record)
            if next(steps) == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        module.FileJournal.keep = until

    assert output(*flags, "--output", "whole.jsonl")[0] == 0
    code, out, err = output(*flags, "--output", "o.jsonl", before=before)
    assert (code, out) == (143, "")
    assert err.startswith("Error: interrupted; ")
    assert err.endswith("; --resume goes on from there\n") and err.count("\n") == 1
    assert Path("o.jsonl").exists()
    assert output(*flags, "--output", "o.jsonl", resume=["--resume"])[0] == 0
    assert Path("o.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_ctrl_c_before_there_is_a_result():
    # The longest window is read first, and is not the first of the text.
    flags = ["perplexity", *READ, "--output", "o.jsonl"]

    def before():
        steps = itertools.count()
        keep = module.FileJournal.keep

        def until(self, record):
            keep(self, record)
            if next(steps) == 2:
                raise KeyboardInterrupt

        module.FileJournal.keep = until

    code, out, err = output(*flags, before=before)
    assert (code, out) == (130, "")
    assert err == "Error: interrupted; there is no result yet; --resume goes on from there\n"
    assert not Path("o.jsonl").exists()
    assert output(*flags, resume=["--resume"])[0] == 0


def test_what_is_finished_is_left_as_it_is(run):
    flags = ["score", *COMMANDS["score"], "--output", "o.jsonl"]
    assert run(*flags)[0] == 0
    before = Path("o.jsonl").stat()
    code, out, err = run(*flags, "--resume")
    assert (code, out, err) == (0, "", "'o.jsonl' is finished: nothing is left to do\n")
    after = Path("o.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_with_nothing_recorded_it_begins(run):
    flags = ["score", *COMMANDS["score"], "--output"]
    assert run(*flags, "o.jsonl")[0] == 0
    assert run(*flags, "p.jsonl", "--resume") == (0, "", "")
    assert Path("o.jsonl").read_bytes() == Path("p.jsonl").read_bytes()


def changed_input():
    Path("a.jsonl").write_text(json.dumps({"text": "Another text."}) + "\n")


def changed_weights():
    from decoding.models import loading

    load = loading.load_model

    def other(*arguments, **options):
        language_model = load(*arguments, **options)
        language_model.model.get_input_embeddings().weight.data[0, 0] += 1
        return language_model

    loading.load_model = other


@pytest.mark.parametrize(
    ("arguments", "before", "says"),
    [
        (["score", "a.jsonl", "--batch-size", 2], None, "batch_size=1"),
        (["score", *READ, "--setting", "top_p=0.9"], None, "setting=None, and this is"),
        (["perplexity", *READ], None, "begun with the command 'score'"),
        (["score", *READ], changed_input, "other content of 'a.jsonl'"),
        (["score", *READ], changed_weights, "other weights"),
    ],
)
def test_another_run_is_refused(arguments, before, says):
    assert output("score", *READ, "--output", "o.jsonl", before=dying(2))[0] == -signal.SIGKILL
    left = Path("o.jsonl.unfinished").read_bytes()
    code, out, err = output(*arguments, "--output", "o.jsonl", "--resume", before=before)
    assert (code, out) == (1, "") and err.count("\n") == 1 and says in err
    assert err.startswith("Error: --resume: 'o.jsonl' was begun with ")
    # What it left is for the right command.
    if before is changed_input:
        return
    assert Path("o.jsonl.unfinished").read_bytes()[: len(left) - 8] == left[:-8]
    assert output("score", *READ, "--output", "o.jsonl", resume=["--resume"])[0] == 0


def test_other_standard_input_is_refused(run):
    def until(self, record, steps=itertools.count()):  # noqa: B008
        if next(steps) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, record)

    keep = module.FileJournal.keep

    def before():
        module.FileJournal.keep = until

    text = "Once upon a time there was a dog. " * 30
    flags = ["score", "--context", 16, "--batch-size", 1, "--output", "o.jsonl"]

    def piped(text, *more, before=None):
        process = forked(
            *flags, *more, before=before, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        _, err = process.communicate(text.encode())
        return process.returncode, err.decode()

    assert piped(text, before=before)[0] == -signal.SIGKILL
    code, err = piped(text.replace("dog", "cat"), "--resume")
    assert (code, err) == (1, "Error: the input is not that of the run that was begun\n")
    assert piped(text, "--resume")[0] == 0


def test_without_resume_it_begins_anew_and_says_so(run):
    assert output("score", *READ, "--output", "o.jsonl", before=dying(2))[0] == -signal.SIGKILL
    code, out, err = output("score", *READ, "--output", "o.jsonl")
    assert (code, out) == (0, "")
    assert "o.jsonl.unfinished', left by a run that was ended, is replaced" in err
    assert sorted(os.listdir()) == ["a.jsonl", "o.jsonl"]


def test_two_runs_with_one_output_refuse_each_other():
    flags = ["generate", *["Once"] * 3000, "--max-new-tokens", 5, "--output", "o.jsonl"]
    first = forked(*flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not Path("o.jsonl.part").exists():
        time.sleep(0.05)
    for more in ([], ["--resume"]):
        code, out, err = output(*flags, resume=more)
        assert (code, out) == (1, "")
        assert "o.jsonl' is being written by another run" in err and err.count("\n") == 1
    first.send_signal(signal.SIGTERM)
    first.communicate()
    assert first.returncode == 143


def test_resume_needs_a_file(run):
    code, out, err = run("score", *READ, "--resume")
    assert (code, out) == (2, "") and "--resume needs --output FILE" in err


def test_notes_that_are_no_journal_are_kept(run):
    Path("o.jsonl.unfinished").write_text("notes of somebody")
    code, out, err = run("score", *READ, "--output", "o.jsonl", "--resume")
    assert (code, out) == (1, "") and "was not left by an unfinished run" in err
    assert Path("o.jsonl.unfinished").read_text() == "notes of somebody"
