"""`decoding compare`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    Command,
    candidate_options,
    option,
    output_options,
    read_candidates,
    read_model,
    read_windows,
    reading_options,
)
from decoding_evals.shell.plots import plot_option

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
@output_options
@plot_option("Draw cross-entropy against entropy, and KL between all pairs.")
def compare(
    specs: tuple[str, ...], grid: str | None, models: tuple[str, str] | None, **options: Any
) -> None:
    """Compare decoding settings on the texts in FILES (or standard input).

    Every setting is measured on the same tokens, from one forward pass: its entropy, how many
    tokens it keeps, how many of the true tokens those cover; and for each pair KL both ways,
    Jensen-Shannon divergence and total variation. Without --setting and --grid, "raw" and "greedy"
    are compared with some usual settings.
    """
    if models is not None and (specs or grid is not None):
        raise click.UsageError("give --models, or settings, not both")
    settings = read_candidates(specs, grid)
    source = click.get_current_context().get_parameter_source("model")
    if models is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --model or --models, not both")
    if models is not None and options["plot"] is not None:
        raise click.UsageError("--plot draws settings; it cannot be used with --models")
    windows = read_windows(options)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options)
        loaded = [read_model(options, name) for name in models or (None,)]
        from decoding_evals.compare.evaluation import compare as compare_settings
        from decoding_evals.compare.models import compare_models
        from decoding_evals.compare.tables import MOST_PAIRED

        texts, notes = inputs.documents(), []
        result: Result
        with destination.scoring(entropy=models is None) as progress:
            how: Any = {"windows": windows, "on_progress": progress}
            if models is not None:
                result = compare_models(loaded[0], loaded[1], texts, **how)
            else:
                result = compare_settings(loaded[0], texts, settings, **how)
        count = 1 if models is not None else len(settings)
        if destination.on_screen and count > MOST_PAIRED:
            pairs = f"{math.comb(count, 2):,} pairs of {count:,} settings"
            notes.append(f"{pairs}: --json, --output or --plot shows them")
        destination.deliver([result], inputs=inputs, notes=notes)
