"""`decoding calibrate`."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.records import Recorded
from decoding_evals.reading.texts import Inputs, Prompted, Text, input_options
from decoding_evals.shell.options import (
    model_options,
    output_options,
    read_model,
    read_windows,
    scoring_options,
)
from decoding_evals.shell.output import Interrupted, RecordFile, to_json
from decoding_evals.shell.plots import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table

    from decoding.models.loading import LanguageModel
    from decoding.scoring.teacher_forcing import Document, TokenDocument

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@input_options
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    metavar="SHARE",
    help="Documents that are not fitted but measured, before and after.",
)
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Also the smallest top-p that keeps this share of the true tokens.",
)
@click.option(
    "--map",
    "use_map",
    is_flag=True,
    help="Set the temperature to the posterior mode (MAP): for a few dozen tokens.",
)
@click.option(
    "--prior-median",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    metavar="T",
    help="Median of the log-normal prior on the temperature.",
)
@click.option(
    "--prior-scale",
    type=POSITIVE,
    default=0.5,
    show_default=True,
    metavar="S",
    help="Standard deviation of its logarithm.",
)
@model_options
@scoring_options
@output_options
@plot_option("Draw how reliable the probabilities are, before and after.")
def calibrate(
    held_out: float,
    coverage: float | None,
    use_map: bool,
    prior_median: float,
    prior_scale: float,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Fit a temperature to the texts in FILES (or standard input).

    The likeliest temperature, with its error; and what it does to held-out documents: surprisal,
    Brier score, and expected calibration error (ECE). The setting that is printed is for
    "decoding generate --setting". Records of "decoding generate --json" are scored from their token
    ids; a text file is one document, each row of a .jsonl, .csv or .parquet file is one.
    """
    check_plot(plot)
    from decoding.inference.temperature import LogNormalPrior

    try:
        prior = LogNormalPrior(prior_median, prior_scale)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options, records=True)
        language_model = read_model(options)
        from decoding_evals.calibrate.evaluation import calibrate as evaluate
        from decoding_evals.shell.progress import ScoringProgress

        documents = (_document(item, language_model) for item in inputs)
        with ScoringProgress() as progress:
            result = evaluate(
                language_model,
                documents,
                held_out=held_out,
                prior=prior,
                use_map=use_map,
                coverage=coverage,
                windows=read_windows(options),
                on_progress=progress,
            )
        record = result.record() | {"skipped_rows": inputs.skipped_rows}
        measured = record["ece_before"] is not None
        if plot is not None and measured:
            from decoding_evals.calibrate.figure import plot_calibration
            from decoding_evals.shell.plots import write_plot

            write_plot(plot_calibration(record), plot)
        if file is not None:
            file.write(record)
        elif as_json:
            click.echo(to_json(record))
        else:
            from decoding_evals.showing.terminal import print_table

            print_table(_fit(record))
            # In the table, a long one would push everything aside.
            click.echo(f"setting      {record['setting']}")
            if measured:
                print_table(_quality(record))
        for note in inputs.notes([language_model.name]):
            click.echo(note, err=True)
        if result.documents_skipped:
            click.echo(f"{result.documents_skipped} documents without text left out", err=True)
        if result.full_logits is not None:
            click.echo(f"logits computed in full: {result.full_logits}", err=True)
        if measured and not result.split and held_out:
            click.echo("a single document: measured on the text that was fitted", err=True)
        if not result.complete:
            from decoding_evals.showing.terminal import counted

            raise Interrupted(f"the temperature is that of {counted(result.fit.tokens, 'token')}")


def _document(
    item: Text | Prompted | Recorded, language_model: LanguageModel
) -> Document | TokenDocument:
    from decoding.scoring.teacher_forcing import Document

    if isinstance(item, Recorded):
        return item.document(language_model)
    assert isinstance(item, Text)
    return Document(item.pieces)


def _fit(record: dict[str, Any]) -> Table:
    """What was found."""
    from decoding_evals.showing.terminal import counted, number, titled

    table = titled(
        f"{record['model']} · fitted to {counted(record['tokens'], 'token')} of "
        f"{counted(record['documents'], 'document')}",
        show_header=False,
    )
    table.add_row(
        "temperature",
        number(record["temperature"]),
        f"95 %: {_interval(record['confidence_interval'])} (Fisher information)",
    )
    if record["bootstrap_interval"] is not None:
        interval = _interval(record["bootstrap_interval"])
        table.add_row("", "", f"95 %: {interval} (bootstrap over documents)")
    table.add_row(
        "MAP",
        number(record["map_temperature"]),
        f"95 %: {_interval(record['map_interval'])} "
        f"(prior: median {record['prior_median']:g}, scale {record['prior_scale']:g})",
    )
    return table


def _quality(record: dict[str, Any]) -> Table:
    """Predictions before and after."""
    from decoding_evals.showing.terminal import counted, number, titled

    of = "held-out document" if record["held_out"] else "fitted document"
    table = titled(
        f"\nmeasured on {counted(record['held_out_tokens'], 'token')} of "
        f"{counted(record['held_out_documents'], of)}"
    )
    table.add_column("")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for label, key in (
        ("nats per token", "nll_{}_nats"),
        ("perplexity", "nll_{}_nats"),
        ("Brier score", "brier_{}"),
        ("favourite is right", "accuracy_{}"),
        ("ECE", "ece_{}"),
        ("  95 %", "ece_{}_interval"),
        ("  if it were calibrated", "ece_{}_if_calibrated"),
    ):
        values = [record[key.format(when)] for when in ("before", "after")]
        if label == "perplexity":
            values = [value if value is None else math.exp(min(value, 709)) for value in values]
        show = _interval if key == "ece_{}_interval" else number
        table.add_row(label, *map(show, values))
    if record["coverage"] is not None:
        table.add_row("covered by the setting", "", number(record["held_out_coverage"]))
    return table


def _interval(interval: list[float | None] | None) -> str:
    from decoding_evals.showing.terminal import number

    return "-" if interval is None else f"{number(interval[0])} to {number(interval[1])}"
