"""Runs command lines, each in a process forked from this one, which has loaded what they need."""

import functools
import gc
import io
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import commands
from decoding.models import loading
from decoding_cli.app import main

SECONDS, OF_PROCESSOR = 300, 30
"""What no command here takes, by the clock and of the processor; one that does hangs."""
FILE_BYTES = 1 << 28


class Ran(NamedTuple):
    """What a command left."""

    code: int | None
    """None where it had to be ended."""
    out: bytes
    err: bytes
    before: dict[str, bytes]
    """Contents of what it found."""
    after: dict[str, bytes]
    temporary: list[str]
    """Left in the folder for temporary files."""


LINKS = {"link.jsonl": "target.jsonl", "loop.json": "loop.json"}


def run(case, seconds=SECONDS):
    """A case, from files to files."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        folder, temporary = place / "here", place / "tmp"
        for one in (folder, temporary):
            one.mkdir()
        for name, content in case.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, target in LINKS.items():
            (folder / name).symlink_to(target)
        (place / "in").write_bytes(case.stdin)
        before = contents(folder)
        code = _waited(_forked(case, place), seconds)
        out, err = ((place / name).read_bytes() for name in ("out", "err"))
        left = [str(path.relative_to(temporary)) for path in temporary.rglob("*")]
        return Ran(code, out, err, before, contents(folder), left)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def contents(folder):
    """What lies below a folder, links aside."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {os.fsdecode(path.relative_to(folder)): path.read_bytes() for path in paths}


def _forked(case, place):
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        _begin(place)
        os._exit(commands._in_this_process(case.arguments))
    finally:
        os._exit(99)


def _begin(place):
    """In the child: its streams, folders and limits."""
    os.setsid()
    for number, (name, how) in enumerate(
        [("in", os.O_RDONLY), ("out", os.O_RDWR | os.O_CREAT), ("err", os.O_RDWR | os.O_CREAT)]
    ):
        os.dup2(os.open(place / name, how | os.O_APPEND * (number > 0)), number)
    os.closerange(3, 1 << 10)
    os.chdir(place / "here")
    os.environ |= {
        "TMPDIR": str(place / "tmp"),
        "TOKENIZERS_PARALLELISM": "false",
        "BROWSER": "false",
    }
    tempfile.tempdir = None
    # As an interpreter has them; this one's are of whoever it runs for.
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.showwarning = _shown
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (OF_PROCESSOR, OF_PROCESSOR))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _shown(message, category, filename, lineno, file=None, line=None):
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _waited(child, seconds):
    """Its exit code; below 0, minus the signal that ended it."""
    descriptor = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([descriptor], [], [], seconds)
        if not ended:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return code if ended and code not in (-signal.SIGXCPU, -signal.SIGKILL) else None


@contextmanager
def warmed(command_lines):
    """Within it, what commands need is loaded, once; gives what some record, as lines of JSON.

    Args:
        command_lines: those to record; where one says "| ", of what the first recorded.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in ("NO_COLOR", "DECODING_MODEL"):
            patch.delenv(name, raising=False)
        import datasets  # noqa: F401
        import matplotlib.pyplot  # noqa: F401

        load_model = loading.load_model
        kept = functools.cache(load_model)

        def loaded(name, **how):
            return (kept if name == "builtin:stories" else load_model)(name, **how)

        patch.setattr(loading, "load_model", loaded)
        patch.setattr("click.launch", lambda url: 1)
        recorded: list[bytes] = []
        first = b""
        for line in command_lines:
            found = _recorded(line.removeprefix("| "), first if line[:2] == "| " else STORY)
            first = first or b"\n".join(found)
            recorded += found
        yield recorded


def _recorded(line, stdin):
    """What a command writes, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        out = io.TextIOWrapper(io.BytesIO())
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", io.StringIO())
        patch.setattr(sys, "argv", ["decoding", *line.split(" "), "--json"])
        listening = {number: signal.getsignal(number) for number in commands.FOREGROUND}
        with pytest.raises(SystemExit):
            main()
        for number, action in listening.items():
            signal.signal(number, action)
        gc.unfreeze()  # this process goes on
        out.seek(0)
        lines = out.read().encode().splitlines()
        assert lines, line
        return lines


ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
STORY = b"Once upon a time there was a dog named Max. He ran."
RECORDED = [
    "generate --num-samples 2 --max-new-tokens 4 --seed 1",
    "generate --max-new-tokens 4 --seed 1 --page-data --alternatives 2",
    "generate --max-new-tokens 4 --seed 1 --branch-at-entropy 1",
    "generate --max-new-tokens 3 --num-beams 2", "score", "score --per token", "score --per word",
    "score --page-data", "perplexity", "perplexity --protocol huggingface", "compare",
    "compare --models builtin:stories builtin:stories", "identify", "identify --page-data",
    "calibrate --coverage 0.9", "attention", "attention --page-data", "| mismatch", "| score",
    "| identify",
]  # fmt: skip
SLOWLY = [
    "doctor", "uncertainty --max-new-tokens 4 --num-samples 3 --seed 1",
    "uncertainty --max-new-tokens 4 --num-samples 3 --seed 1 --page-data",
]  # fmt: skip
