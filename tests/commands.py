"""What tests of the command share."""

import csv
import gc
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import traceback

import torch
from pyarrow import parquet

from decoding_cli.app import main

COMMAND = [sys.executable, "-m", "decoding_cli"]
# A process whose signals are those of a command in the foreground.
FOREGROUND = {
    signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL, signal.SIGPIPE: signal.SIG_IGN, signal.SIGXFSZ: signal.SIG_IGN,
}  # fmt: skip


def forked(*arguments, closed=(), environment=(), before=None, **options):
    """A process of the command that need not import torch, being forked from this one.

    What the interpreter does before the command begins, and when it ends, is done by hand.

    Args:
        arguments: of the command.
        closed: standard streams that it does not have, by their numbers.
        environment: variables to add.
        before: what to call first.
        options: of `Popen`.
    """

    def begin():
        # The pipe over which Popen waits for a program to begin is among them.
        os.closerange(3, 1 << 16)
        for number in closed:
            os.close(number)
        if before is not None:
            before()
        gc.freeze()  # a look through what this process has would copy it
        os.environ.update(environment)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        # A fork builds torch's pool of threads anew, which two threads must not begin at once.
        torch.set_num_threads(torch.get_num_threads())
        os._exit(_in_this_process(arguments))

    return subprocess.Popen([sys.executable], preexec_fn=begin, **options)


def started(*arguments, environment=(), **options):
    """A process of the command from the start of its interpreter."""
    command = [*COMMAND, *map(str, arguments)]
    # Whoever runs the tests in the background may have them ignore Ctrl-C.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(command, env=os.environ | dict(environment), **options)


def _in_this_process(arguments):
    for number, action in FOREGROUND.items():
        signal.signal(number, action)
    sys.stdin, sys.stdout, sys.stderr = map(_stream, range(3))
    sys.argv = ["decoding", *map(str, arguments)]
    code = 0
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return code


def _stream(number):
    """A standard stream as the interpreter opens it, or None."""
    try:
        os.fstat(number)
    except OSError:
        return None
    buffering = 1 if number == 2 or os.isatty(number) else -1
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    errors = "backslashreplace" if number == 2 else "strict"
    return open(number, "w" if number else "r", buffering, encoding, errors, closefd=False)


def finished(*arguments, input="", text=True, **options):
    """What `subprocess.run` gives of such a process."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = forked(*arguments, text=text, **pipes | options)
    out, err = process.communicate(input if text else input.encode())
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def each_alone(imported, statements):
    """What each statement prints in a process that has imported no more than some modules."""
    script = (
        f"import gc, os, sys, {imported}\n"
        "gc.freeze()\n"
        "for statement in sys.argv[1:]:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        exec(statement)\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *statements], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def contents(path):
    """The records of an output file; in CSV, all values as text."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return json.loads(path.read_text()) if path.suffix == ".json" else records(path.read_text())


def on_terminal(*arguments, columns=80, begin=forked, **environment):
    """Run the command on a pseudo-terminal; gives exit code and all that it wrote."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    environment = {"TERM": "xterm-256color"} | environment
    process = begin(
        *arguments, environment=environment, start_new_session=True,
        **dict.fromkeys(("stdin", "stdout", "stderr"), follower),
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        written += chunk
    os.close(leader)
    return process.wait(), written.decode().replace("\r\n", "\n")


def plain(text):
    """What stays on the screen: without colours, and without lines that were erased."""
    text = re.sub(r"[^\n]*\n\x1b\[\?25h\r\x1b\[1A\x1b\[2K|[^\n]*\r\x1b\[2K", "", text)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
