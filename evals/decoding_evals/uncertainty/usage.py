"""Which options of `decoding uncertainty` go together."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from decoding.settings.settings import DecodingSettings
from decoding_evals.reading import prompts as reading
from decoding_evals.reading.chats import read_chat
from decoding_evals.shell.engines import check_engine
from decoding_evals.shell.options import FLAGS, read_setting
from decoding_evals.shell.plots import check_plot

_DRAWING = (
    "num_samples", "max_new_tokens", "seed", "stop", "members", "mc_dropout", "similarity_model",
    "paraphrases_column", "incorrect_column", "context_column", "engine",
)  # fmt: skip
"""Parameters that stored answers have no use for."""
_SCORING = (
    "setting", "chat", "system", "chat_template_options", "control_tokens", "batch_size",
    "device", "dtype", "revision", "subfolder", "base",
)  # fmt: skip
"""Parameters that they have a use for where a model scores them."""


def read_usage(options: dict[str, Any]) -> DecodingSettings:
    """The setting that samples are drawn under; checks that the options go together."""
    settings = read_setting(options["setting"], options)
    if not isinstance(settings, DecodingSettings):
        raise click.UsageError("uncertainty draws whole answers under one setting, not a policy")
    if settings.greedy:
        raise click.UsageError("samples of a greedy setting are all the same")
    _check_abstention(options)
    check_engine(options)
    if options["answers"] is not None:
        _check_stored(options)
    if len(options["members"]) == 1:
        raise click.UsageError("--members needs at least two models: give it again")
    if options["separator"] == "":
        raise click.UsageError("--separator needs a text, not empty")
    options["stop"] = reading.read_stop(options["stop"])
    options["chat"] = read_chat(options)
    check_plot(options["plot"])
    paths = (options[name] for name in ("output", "evaluation", "plot"))
    files = [os.path.realpath(path) for path in paths if path is not None]
    if len(set(files)) < len(files):
        raise click.UsageError("--output, --evaluation and --plot must be different files")
    return settings


def _check_abstention(options: dict[str, Any]) -> None:
    """Refuse options of abstaining that do not go together."""
    source = click.get_current_context().get_parameter_source
    if options["risk"] is not None and options["abstain_by"] is not None:
        raise click.UsageError("--risk finds a threshold and --abstain-by applies one: give one")
    if options["risk"] is not None and options["estimator"] is None:
        raise click.UsageError("--risk needs --estimator: whose threshold?")
    if options["risk"] is None and source("confidence") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--confidence needs --risk")
    if options["estimator"] is not None and options["risk"] is options["abstain_by"] is None:
        raise click.UsageError("--estimator needs --risk or --abstain-by")


def _check_stored(options: dict[str, Any]) -> None:
    """Refuse options that stored answers have no use for."""
    context = click.get_current_context()
    flags = {p.name: p.opts[0] for p in context.command.params}
    given = [
        name for name in flags
        if name and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    for name in given:
        if name in _DRAWING:
            raise click.UsageError(f"{flags[name]} is for answers to be drawn, not for --answers")
        if name in (*_SCORING, *FLAGS) and "model" not in given:
            raise click.UsageError(f"{flags[name]} needs --model, which scores --answers anew")
    if options["correct_by"] == "likelihood":
        raise click.UsageError("--correct-by likelihood judges given answers, not --answers")


def chosen_rule(rows: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """What makes an answer correct: as chosen, or by the shape of the references."""
    from decoding_evals.judging.correctness import usual_rule

    return options["correct_by"] or usual_rule(text for row in rows for text in row["references"])


def can_be_judged(rows: list[dict[str, Any]], options: dict[str, Any]) -> bool:
    """Whether any answer can be judged; what asks for judgement needs one. Where only some can, the
    number of the others is said."""
    likelihood = options["correct_by"] == "likelihood"
    needed = ("references", "incorrect") if likelihood else ("references",)
    of = "references and incorrect answers" if likelihood else "references"
    given = [row for row in rows if all(row[name] for name in needed)]
    judged = len(given)
    if given:
        from decoding_evals.judging.correctness import comparable

        rule = chosen_rule(rows, options)
        judged = sum(bool(comparable(row["references"], rule)) for row in given)
        if judged < len(given):
            of += f" with a word that {rule} compares"
    source = click.get_current_context().get_parameter_source
    for name in ("correct_by", "plot", "evaluation", "risk"):
        if source(name) is ParameterSource.COMMANDLINE and not judged:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} needs prompts with {of}")
    if 0 < judged < len(rows):
        from decoding_evals.showing.terminal import counted

        left_out = len(rows) - judged
        click.echo(f"{counted(left_out, 'prompt')} of {len(rows):,} not judged: no {of}", err=True)
    if options["risk"] is not None:
        from decoding_evals.judging.abstention import tried_ranks

        tried_ranks(judged, options["risk"], options["confidence"])
    return judged > 0
