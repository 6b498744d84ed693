"""How a command ends: exit codes, and one line for every failure that can be expected.

Wrong usage is exit code 2, anything else 1, Ctrl-C 130. A reader that closes the pipe early ends
the command without a word.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command as the program `name` and exit."""
    # A stream that the caller closed is None.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        code = _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", 130)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        code = _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except ValueError as error:
        code = _fail(str(error), 1)
    sys.exit(code or 0)


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
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code
