"""How a command ends: exit codes, and one line for every failure that can be expected.

Wrong usage is exit code 2, anything else 1, Ctrl-C 130, and another signal that asks for an end 128
and its number: it keeps what is finished as Ctrl-C does. A reader that closes the pipe early ends
the command without a word.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from decoding_evals.showing.lines import note

INTERRUPTED = 130


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command as the program `name` and exit."""
    _open_streams()
    # Loaders show bars of their own. Read when tqdm is imported, which torch does.
    os.environ["TQDM_DISABLE"] = "1"
    signals: list[int] = []
    try:
        _listen(signals)
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        code = _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        code = _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except ValueError as error:
        code = _fail(str(error), 1)
    sys.exit(128 + signals[0] if signals and code == INTERRUPTED else code or 0)


def _open_streams() -> None:
    """Give every standard stream something to be, and let none fail at a character.

    One that the caller closed is None, and a file that is opened later would take its number. A
    closed standard output is opened so that writing to it is an error.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull)  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _listen(signals: list[int]) -> None:
    """From now on, a signal that asks for an end does what Ctrl-C does, and is written down."""

    def end(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored stays so, as under nohup.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector, and exempt everything that exists at the end.

    Importing torch and transformers makes a million objects that stay. Python would look through
    them many times meanwhile, and once more when it exits.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Make glibc keep blocks of up to 31 MiB when they are freed, for the rest of the process.

    The temporaries of a decoding step are a few megabytes each. By default, glibc hands such blocks
    back to the system, and the next step pays for every page anew: up to ten times its arithmetic.
    Freeing one large block, whose pages are never touched, raises the size from which it does so.

    Source: mallopt(3), M_MMAP_THRESHOLD: the threshold is dynamic, 32 MiB at most.
    """
    import torch

    torch.empty(31 << 20, dtype=torch.uint8)


def _fail(message: str, code: int) -> int:
    note(f"Error: {' '.join(message.split())}")
    return code
