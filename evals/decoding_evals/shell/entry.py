"""Where programs begin, before anything is imported that takes time."""

import signal
from importlib import import_module
from typing import NoReturn


def enter(command: str, program: str) -> NoReturn:
    """Run a click command as a program and exit.

    While modules are imported, Ctrl-C ends the process without a word, as it does where nobody
    listens; after that it is `run` that listens.

    Args:
        command: as in `module:name`.
        program: its name in help.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from decoding_evals.shell.running import run

    module, name = command.split(":")
    run(getattr(import_module(module), name), program)
