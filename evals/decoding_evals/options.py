"""Options that several commands share, and how a setting is read from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from decoding.settings import DecodingSettings

Command = TypeVar("Command", bound=Callable[..., Any])

FLAGS = {
    "temperature": (float, "T", "Divide logits by T; 0 is greedy."),
    "top_k": (int, "K", "Keep the K most probable tokens; 0 keeps all."),
    "top_p": (float, "P", "Keep the shortest prefix of mass P; 1 keeps all."),
    "min_p": (float, "M", "Keep tokens with M times the largest probability; 0 keeps all."),
    "typical_p": (float, "P", "Keep the most typical tokens up to mass P; 1 keeps all."),
}


def model_option(required_help: str) -> Callable[[Command], Command]:
    """`--model`, with the embedded model as its default."""
    return click.option(
        "--model",
        default="builtin:stories",
        show_default=True,
        envvar="DECODING_MODEL",
        show_envvar=True,
        metavar="NAME|FOLDER",
        help=required_help,
    )


trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."
)


def setting_options(command: Command) -> Command:
    """`--setting` and one flag for each of its common fields."""
    for name, (kind, metavar, text) in reversed(FLAGS.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, type=kind, metavar=metavar, help=text)(command)
    return click.option(
        "--setting",
        default="raw",
        show_default=True,
        metavar="SPEC",
        help='Decoding setting, as in "temperature=0.7,top_p=0.9"; flags override its fields.',
    )(command)


def read_setting(spec: str, flags: dict[str, Any]) -> DecodingSettings:
    """The setting of `--setting` with the given flags on top.

    Raises:
        click.UsageError: a field is unknown or out of its range.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return replace(DecodingSettings.parse(spec), **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def quiet_transformers() -> None:
    """Keep Hugging Face's loading bars, advice and warnings off the user's terminal."""
    import warnings

    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    hub_logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    warnings.simplefilter("ignore")
