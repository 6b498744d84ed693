"""The command group."""

from __future__ import annotations

from typing import NoReturn

import click

import decoding
from decoding_cli.generate import generate
from decoding_cli.settings import settings
from decoding_evals.command import run
from decoding_evals.commands.attention import attention
from decoding_evals.commands.calibrate import calibrate
from decoding_evals.commands.compare import compare
from decoding_evals.commands.doctor import doctor
from decoding_evals.commands.identify import identify
from decoding_evals.commands.perplexity import perplexity
from decoding_evals.commands.score import score
from decoding_evals.commands.uncertainty import uncertainty


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(decoding.__version__, prog_name="decoding")
@click.pass_context
def cli(context: click.Context) -> None:
    """Decode with a Hugging Face causal language model and see how sure it was."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    generate,
    score,
    perplexity,
    compare,
    uncertainty,
    calibrate,
    identify,
    attention,
    doctor,
    settings,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit."""
    run(cli, "decoding")
