"""`decoding calibrate`."""

from __future__ import annotations

from typing import Any

import click

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.engines import check_engine, engine_options
from decoding_evals.shell.options import (
    Between,
    Command,
    option,
    read_model,
    read_windows,
    reading_options,
)
from decoding_evals.shell.plots import plot_option
from decoding_evals.shell.resuming import resumable_options

POSITIVE = Between(min=0, min_open=True)


@click.command(cls=Command)
@input_options
@option(
    "--held-out SHARE",
    "Share of the documents to hold out and measure before and after.",
    type=Between(0, 1, max_open=True),
    default=0.2,
)
@option(
    "--coverage SHARE",
    "Also the smallest top-p that keeps this share of the true tokens.",
    type=Between(0, 1, min_open=True),
)
@click.option(
    "--map",
    "use_map",
    is_flag=True,
    help="Set the temperature to the posterior mode (MAP): for a few dozen tokens.",
)
@option(
    "--prior-median T",
    "Median of the log-normal prior on the temperature.",
    type=POSITIVE,
    default=1.0,
)
@option("--prior-scale S", "Standard deviation of its logarithm.", type=POSITIVE, default=0.5)
@reading_options
@engine_options
@resumable_options
@plot_option("Draw how reliable the probabilities are, before and after.")
def calibrate(prior_median: float, prior_scale: float, **options: Any) -> None:
    """Fit a temperature to the texts in FILES (or standard input).

    Shows the likeliest temperature with its error, and its effect on held-out documents: surprisal,
    Brier score, and expected calibration error (ECE). The printed setting is for "decoding generate
    --setting". Records of "decoding generate --json" are scored from their token ids; a text file
    is one document, each row of a .jsonl, .csv or .parquet file is one.
    """
    from decoding.inference.temperature import LogNormalPrior

    try:
        prior = LogNormalPrior(prior_median, prior_scale)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    check_engine(options)
    windows = read_windows(options)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options, records=True)
        language_model = read_model(options)
        from decoding_evals.calibrate.evaluation import calibrate as evaluate
        from decoding_evals.showing.terminal import counted

        with destination.scoring() as progress:
            result = evaluate(
                language_model,
                inputs.documents(language_model),
                prior=prior,
                windows=windows,
                engine=destination.engine(language_model),
                on_progress=progress,
                **{name: options[name] for name in ("held_out", "use_map", "coverage")},
            )
        notes = []
        if result.documents_skipped:
            notes.append(f"{counted(result.documents_skipped, 'document')} without text left out")
        if result.before is not None and not result.split and options["held_out"]:
            notes.append("a single document: measured on the text that was fitted")
        destination.deliver([result], inputs=inputs, models=[language_model.name], notes=notes)
