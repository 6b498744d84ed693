"""`decoding compare`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.score.human import human_options, read_human
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.engines import check_engine, engine_options
from decoding_evals.shell.options import (
    Command,
    candidate_options,
    option,
    read_candidates,
    read_model,
    read_windows,
    reading_options,
)
from decoding_evals.shell.plots import plot_option
from decoding_evals.shell.resuming import resumable_options

if TYPE_CHECKING:
    from decoding_evals.showing.result import Result


@click.command(cls=Command)
@input_options
@candidate_options
@option(
    "--models A B",
    "Two models with one vocabulary instead of settings; A is the reference.",
    nargs=2,
)
@reading_options
@option("--per [document]", "With --models: a record for each document instead of one for all.")
@human_options
@engine_options
@resumable_options
@plot_option("Draw cross-entropy against entropy, and KL between all pairs.")
def compare(
    specs: tuple[str, ...],
    grid: str | None,
    models: tuple[str, str] | None,
    per: str | None,
    **options: Any,
) -> None:
    """Compare decoding settings on the texts in FILES (or standard input).

    Every setting is measured on the same tokens, from one forward pass: its entropy, how many
    tokens it keeps, how many of the true tokens those cover; and for each pair KL both ways,
    Jensen-Shannon divergence and total variation. Without --setting and --grid, "raw" and "greedy"
    are compared with some usual settings. Records of "decoding generate --json" are read by the
    tokens that were drawn, after their prompts.

    Of two models, Binoculars is the mean surprisal under B over the cross-entropy H(A, B): low for
    texts that such models wrote. What is low is fitted on texts of people alone: --per document
    --human FILE.
    """
    if models is not None and (specs or grid is not None):
        raise click.UsageError("give --models, or settings, not both")
    settings = read_candidates(specs, grid)
    source = click.get_current_context().get_parameter_source("model")
    if models is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --model or --models, not both")
    if models is not None and options["plot"] is not None:
        raise click.UsageError("--plot draws settings; it cannot be used with --models")
    if per is not None and models is None:
        raise click.UsageError("--per document needs --models")
    if options["human"] is not None and per is None:
        raise click.UsageError("--human needs --models and --per document")
    check_engine(options)
    if models is not None and options["engine"] != "process":
        raise click.UsageError("--models are compared by --engine process")
    windows = read_windows(options)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options, records=True)
        human = read_human(options)
        loaded = [read_model(options, name) for name in models or (None,)]
        from decoding_evals.compare.evaluation import compare as compare_settings
        from decoding_evals.compare.models import compare_models
        from decoding_evals.compare.tables import MOST_PAIRED
        from decoding_evals.score.tables import threshold_line

        texts, notes = inputs.documents(loaded[0]), []
        result: Result
        with destination.scoring(entropy=models is None) as progress:
            how: Any = {"windows": windows, "on_progress": progress}
            if models is not None:
                threshold, how["journal"] = None, destination.begun(*loaded)
                if human is not None:
                    threshold = compare_models(
                        loaded[0], loaded[1], human.documents(loaded[0]), **how
                    ).fit_threshold(options["false_positives"])
                result = compare_models(loaded[0], loaded[1], texts, **how)
                result = replace(result, human=threshold)
                if threshold is not None:
                    notes.append(f"Binoculars: {threshold_line(threshold.record())}")
            else:
                engine = destination.engine(loaded[0])
                result = compare_settings(loaded[0], texts, settings, engine=engine, **how)
        count = 1 if models is not None else len(settings)
        if destination.on_screen and count > MOST_PAIRED:
            pairs = f"{math.comb(count, 2):,} pairs of {count:,} settings"
            notes.append(f"{pairs}: --json, --output or --plot shows them")
        names = [model.name for model in loaded]
        rows = None if per is None else lambda result: result.per_document(inputs.names)
        destination.deliver([result], inputs=inputs, models=names, notes=notes, rows=rows)
