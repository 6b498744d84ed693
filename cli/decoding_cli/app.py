"""The command group, and what every command does when something goes wrong.

Expected failures are one line on stderr: exit code 2 for wrong usage, 1 for anything else, 130 for
Ctrl-C. A reader that closes the pipe early ends the command without a word.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

import decoding
from decoding_cli.generate import generate
from decoding_cli.settings import settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(decoding.__version__, prog_name="decoding")
@click.pass_context
def cli(context: click.Context) -> None:
    """Decode with a Hugging Face causal language model and see how sure it was."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


cli.add_command(generate)
cli.add_command(settings)


def main() -> NoReturn:
    """Run the command line and exit."""
    # A stream that the caller closed is None.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        code = cli.main(prog_name="decoding", standalone_mode=False)
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


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code
