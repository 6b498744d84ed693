"""Where programs begin. Nothing is imported before Ctrl-C is taken care of: it takes time."""

# What `signal` is made of; the enumerations around it take longer to import than all before.
import _signal  # type: ignore[import-not-found]


def enter(command: str, program: str) -> None:
    """Run a click command as a program and exit.

    While modules are imported, Ctrl-C ends the process without a word, as it does where nobody
    listens; after that it is `run` that listens.

    Args:
        command: as in `module:name`.
        program: its name in help.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from importlib import import_module

    from decoding_evals.shell.running import run

    module, name = command.split(":")
    run(getattr(import_module(module), name), program)
