"""Options that several commands share, and how a setting is read from them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding.settings.grids import MOST_SETTINGS, parse_grid
from decoding.settings.policy import EntropyPolicy, Setting, parse_setting
from decoding.settings.settings import RULES_IN_ORDER
from decoding_evals.shell.running import keep_freed_memory, uncollected
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding.rules.rule import Field
    from decoding.scoring.windows import Windows

Option = Callable[[Any], Any]
"""A decorator of a function or command."""

FLAGS = {rule.field: rule for rule in RULES_IN_ORDER}


def stacked(*options: Option) -> Option:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class _Here(click.Path):
    """A path on this machine."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The path, or a click.UsageError."""
        if "://" in str(value):
            self.fail(f"{str(value)!r} is an address, not a file on this machine", param, ctx)
        return super().convert(value, param, ctx)


TYPES = {"FILE": _Here(path_type=Path), "N": click.IntRange(min=1)}
"""What the word that stands for a value means, where an option has no type of its own."""


class Command(click.Command):
    """A command that speaks of options where a ValueError speaks of arguments."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it.

        Raises:
            click.UsageError: a ValueError, as in "context must be at least 1", about an option of
                the command line.
            click.ClickException: another ValueError.
        """
        try:
            return super().invoke(ctx)
        except OSError:  # some are ValueErrors as well
            raise
        except ValueError as error:
            kind, message = click.ClickException, str(error)
            options = [p for p in self.params if isinstance(p, click.Option)]
            # Fields of settings are written as they are; what a model lacks is no wrong usage.
            flags = {p.name: p.opts[0] for p in options if p.name not in (*FLAGS, "model")}
            refused = re.match("([a-z_]+) (must|cannot|needs) ", message)
            name = "" if refused is None else refused[1]
            if name in flags and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                kind, message = click.UsageError, flags[name] + message.removeprefix(name)
            for name, flag in flags.items():
                if "_" in name:  # others may be plain words
                    message = message.replace(f"{name}=", f"{flag} ").replace(name, flag)
            raise kind(message) from error


class SingleOption(click.Option):
    """An option that may be given once; click would take the last value and drop the others."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Have the parser keep every value."""
        self.multiple = True
        super().add_to_parser(parser, ctx)
        self.multiple = False

    def consume_value(self, ctx: click.Context, opts: Any) -> Any:
        """The value; a click.UsageError where there are several."""
        given = opts.get(self.name, ())
        if len(given) > 1:
            raise click.UsageError(f"{self.opts[0]} is given {len(given)} times, and may be once")
        return super().consume_value(ctx, {self.name: given[0]} if given else {})


def option(declared: str, text: str | None = None, *names: str, **attributes: Any) -> Option:
    """An option with a value, which may be given once unless it is `multiple`.

    Args:
        declared: as help shows it, `--name WORD`, where WORD may stand in `TYPES`, or
            `--name [ONE|OTHER]`; without WORD, help names the type.
        text: its help.
        *names: the argument that it becomes, where that has another name.
        **attributes: of `click.option`; a default is shown.
    """
    flag, _, word = declared.partition(" ")
    kind = click.Choice(word[1:-1].split("|")) if word[:1] == "[" else TYPES.get(word)
    cls = click.Option if attributes.get("multiple") else SingleOption
    attributes = {"type": kind, "show_default": "default" in attributes} | attributes
    return click.option(flag, *names, metavar=word or None, help=text, cls=cls, **attributes)


def least(number: int) -> click.IntRange:
    """Whole numbers from one on."""
    return click.IntRange(min=number)


class Between(click.FloatRange):
    """Finite numbers of a range; click lets NaN through."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The number, or a click.UsageError."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


MOST_TOKENS = 1_000_000
"""Of a sequence: each needs its uniform in memory, also where a model has no longest context."""

# How a model is found besides its name; `WHERE` are the arguments.
WHERE = ("trust_remote_code", "revision", "subfolder", "base")
where_options = stacked(
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."
    ),
    option("--revision NAME", "Branch, tag or commit of a model on the hub."),
    option(
        "--subfolder FOLDER", "Folder inside that holds the model.", default="", show_default=False
    ),
    option("--base NAME|FOLDER", "Model that an adapter changes.  [default: the one it names]"),
)


def _field_option(field: Field, text: str) -> Option:
    """A flag for a field of a setting, whose value is read as in the setting's text form."""

    def read(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else field.read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    kind = {int: "INTEGER", float: "FLOAT"}[type(field.default)]
    flag = f"--{field.name.replace('_', '-')}"
    return option(f"{flag} {kind}", text, type=str, callback=read)


setting_options = stacked(
    option(
        "--setting SPEC",
        'Decoding setting, as in "temperature=0.7,top_p=0.9"; flags override its fields.',
        default="raw",
    ),
    *(_field_option(rule.fields()[0], rule.summary()) for rule in FLAGS.values()),
)


def of_text(setting: Setting) -> Setting:
    """A setting that is to be measured on a given text; a policy that would end it is refused with
    a click.UsageError."""
    if isinstance(setting, EntropyPolicy) and isinstance(setting.then, str):
        raise click.UsageError(f"{setting.then!r} ends a sequence, and the text is given")
    return setting


def read_setting(spec: str, flags: dict[str, Any]) -> Setting:
    """The setting of `--setting`, with the fields that flags override; other keys are ignored.

    Raises:
        click.UsageError: a field is unknown or out of its range.
    """
    given = {name: flags[name] for name in FLAGS if flags.get(name) is not None}
    try:
        setting = parse_setting(spec)
        if isinstance(setting, EntropyPolicy):
            if setting.then == "branch":
                raise ValueError("branches are grown with generate --branch-at-entropy")
            return replace(setting, settings=replace(setting.settings, **given))
        return replace(setting, **given)
    except ValueError as error:
        field, space, rest = str(error).partition(" ")
        flag = f"--{field.replace('_', '-')}" if field in given else field
        raise click.UsageError(flag + space + rest) from error


USUAL = ("raw", "temperature=0.7", "top_k=50", "top_p=0.9", "min_p=0.05", "greedy")

# What `read_candidates` takes.
candidate_options = stacked(
    option(
        "--setting SPEC",
        'A setting, as in "temperature=0.7,top_p=0.9"; repeatable.',
        "specs",
        multiple=True,
    ),
    option(
        "--grid GRID",
        'All settings of a grid, as in "temperature=0.5:1.5:0.1,top_p=0.8|0.9|1".',
    ),
)


def read_candidates(specs: tuple[str, ...], grid: str | None) -> list[Setting]:
    """The settings of `--setting` and `--grid`; some usual ones if neither is given.

    Raises:
        click.UsageError: one that cannot be read, one that is given twice, or too many.
    """
    try:
        settings: list[Setting] = [parse_setting(spec) for spec in specs]
        if grid is not None:
            settings += parse_grid(grid)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    settings = [*map(of_text, settings)] or [parse_setting(spec) for spec in USUAL]
    if len(settings) > MOST_SETTINGS:
        raise click.UsageError(f"at most {MOST_SETTINGS} settings, got {len(settings)}")
    [(most, times)] = Counter(settings).most_common(1)
    if times > 1:
        raise click.UsageError(f"setting {str(most)!r} is given twice")
    return settings


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


# What `read_model` takes.
model_options = stacked(
    option(
        "--model NAME|FOLDER",
        "A hub name, a folder, a GGUF file, an adapter, or the embedded model.",
        default="builtin:stories",
        envvar="DECODING_MODEL",
        show_envvar=True,
    ),
    option("--device DEVICE", "cpu, cuda, cuda:1, …, or auto: all.  [default: cuda if any]"),
    option(
        "--dtype [float32|bfloat16|float16]",
        "[default: float32 on a CPU, else the checkpoint's own]",
    ),
    where_options,
)


def read_model(options: dict[str, Any], name: str | None = None) -> LanguageModel:
    """The model that `model_options` ask for, or of another `name`."""
    from decoding_evals.shell.progress import status

    name = options["model"] if name is None else name
    with status(f"loading {name}"), uncollected():
        quiet_transformers()
        from decoding.models.loading import load_model

        keep_freed_memory()
        how = {option: options[option] for option in ("device", "dtype", *WHERE)}
        language_model = load_model(name, **how)
    unused = language_model.unused_weights
    if unused:
        note(f"{name!r}: weights that are not used: {len(unused):,}, among them {unused[0]}")
    return language_model


context_option = option(
    "--context N",
    "Tokens that the model reads at a time.  [default: all its positions, at most 2,048]",
)

BOS_HELP = (
    "What stands in front of each document: what the tokenizer puts there, else BOS or EOS; auto: "
    "unless it is there already"
)

bos_option = option("--bos [auto|always|never]", f"{BOS_HELP}.", default="auto")

# What `read_windows` takes.
scoring_options = stacked(
    context_option,
    option(
        "--stride N",
        "Tokens between the starts of windows; fewer give longer contexts and take longer.  "
        "[default: half the context]",
    ),
    option(
        "--bos [auto|always|never|every]",
        f"{BOS_HELP}; every: in front of every window.",
        default="auto",
    ),
    option(
        "--batch-size N",
        "Windows that run together, on a CPU fewer where they are long.",
        default=8,
    ),
)


reading_options = stacked(model_options, scoring_options)


def read_windows(options: dict[str, Any]) -> Windows:
    """The windows that `scoring_options` ask for, or those of them that a command has.

    Raises:
        ValueError: one is outside its range.
    """
    from decoding.scoring.windows import Windows

    names = ("context", "stride", "bos", "batch_size")
    windows = Windows(**{name: options[name] for name in names if name in options})
    if windows.context is not None:
        windows.within(None)
    return windows


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
output_options = stacked(
    json_option,
    option(
        "--output FILE",
        "Write the records to FILE (.jsonl, .json, .csv, .parquet), or a page for a browser "
        "(.html), instead; an empty folder gets files of JSON Lines.",
    ),
)
