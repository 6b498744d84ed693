"""The command group."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

import click

import decoding
from decoding_evals.shell.running import run

COMMANDS = {
    "generate": "Continue prompts and show where the model hesitated.",
    "score": "Surprisal, entropy and rank of every token of a text.",
    "perplexity": "Perplexity of a corpus, with error bars that hold.",
    "compare": "Decoding settings, or two models, on the same text.",
    "uncertainty": "How sure the model is of its answers to prompts.",
    "calibrate": "The temperature that fits a text, and what it mends.",
    "identify": "Which setting, or which model, wrote a text.",
    "attention": "Where the heads look, and how broadly.",
    "doctor": "Whether a model and set-up give right numbers.",
    "show": "Records of an earlier run, as tables or as a page.",
    "settings": "Explain a setting, and what a model's own would be.",
}
OWN = ("generate", "show", "settings")
"""Those that are defined here; the others are evaluations."""


class Commands(click.Group):
    """Imports a command when it is asked for, so that listing them all takes no time."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names, in the order of the list."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A command by its name, or None."""
        if name not in COMMANDS:
            return None
        module = f"decoding_cli.{name}" if name in OWN else f"decoding_evals.{name}.command"
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; of an unknown name, the nearest one is told."""
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            close = close or [name for name in COMMANDS if name.startswith(args[0])]
            if not close:
                raise
            meant = f"{error.message} Did you mean {close[0]!r}?"
            raise click.UsageError(meant, context) from error

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, each with its line."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(decoding.__version__, prog_name="decoding")
@click.pass_context
def cli(context: click.Context) -> None:
    """Decode with a Hugging Face causal language model and see how sure it was."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit."""
    run(cli, "decoding")
