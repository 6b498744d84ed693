"""`decoding compare`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.options import (
    candidate_options,
    model_options,
    output_options,
    read_candidates,
    read_model,
    read_windows,
    scoring_options,
)
from decoding_evals.shell.output import Interrupted, RecordFile, to_json
from decoding_evals.shell.plots import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table

MOST_PAIRED = 12
"""Settings of which a table shows every pair."""


@click.command()
@input_options
@candidate_options
@click.option(
    "--models",
    nargs=2,
    metavar="A B",
    help="Two models with one vocabulary instead of settings; A is the reference.",
)
@model_options
@scoring_options
@output_options
@plot_option("Draw the frontier of entropy and coverage, and KL between all pairs.")
def compare(
    specs: tuple[str, ...],
    grid: str | None,
    models: tuple[str, str] | None,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Compare decoding settings on the texts in FILES (or standard input).

    Every setting is measured on the same tokens, from one forward pass: its entropy, how many
    tokens it keeps, how many of the true tokens those cover; and for each pair KL both ways,
    Jensen-Shannon divergence and total variation. Without --setting and --grid, "raw" and "greedy"
    stand beside some usual settings.
    """
    if models is not None and (specs or grid is not None):
        raise click.UsageError("give --models, or settings, not both")
    settings = read_candidates(specs, grid)
    source = click.get_current_context().get_parameter_source("model")
    if models is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --model or --models, not both")
    if models is not None and plot is not None:
        raise click.UsageError("--plot draws settings; it cannot be used with --models")
    check_plot(plot)
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options)
        windows = read_windows(options)
        loaded = [read_model(options, name) for name in models or (None,)]
        from decoding_evals.shell.progress import ScoringProgress

        texts = inputs.documents()
        result: Any
        with ScoringProgress(entropy=models is None) as progress:
            if models is None:
                from decoding_evals.compare.evaluation import compare as compare_settings

                result = compare_settings(
                    loaded[0], texts, settings, windows=windows, on_progress=progress
                )
            else:
                from decoding_evals.compare.models import compare_models

                result = compare_models(
                    loaded[0], loaded[1], texts, windows=windows, on_progress=progress
                )
        record = result.record() | {"skipped_rows": inputs.skipped_rows}
        if plot is not None:
            from decoding_evals.compare.figure import plot_comparison
            from decoding_evals.shell.plots import write_plot

            write_plot(plot_comparison(record), plot)
        if file is not None:
            file.write(record)
        elif as_json:
            click.echo(to_json(record))
        else:
            from decoding_evals.showing.terminal import print_table

            for table in _models(record) if models is not None else _report(record):
                print_table(table)
            count = len(record.get("settings", ()))
            if count > MOST_PAIRED:
                click.echo(
                    f"{math.comb(count, 2):,} pairs of {count:,} settings: --json, --output or "
                    "--plot shows them",
                    err=True,
                )
        for note in inputs.notes():
            click.echo(note, err=True)
        if record.get("full_logits"):
            click.echo(f"logits computed in full: {record['full_logits']}", err=True)
        if not result.complete:
            scored = record["tokens_scored"]
            raise Interrupted(f"the figures are of the {scored} tokens scored until then")


def _report(record: dict[str, Any]) -> Iterator[Table]:
    """What each setting does to the model, how it fits the text, and each pair of few settings."""
    from decoding_evals.showing.terminal import number, titled

    def with_error(value: float, error: float | None) -> str:
        return number(value) if error is None else f"{value:.4f} ± {error:.4f}"

    own = titled(f"{record['model']} · {_scored(record)}")
    own.add_column("", justify="right")
    own.add_column("setting", overflow="fold")
    for label in ("entropy\n(nats)", "effective\nchoices", "kept\ntokens", "kept\nmass"):
        own.add_column(label, justify="right")
    of_text = titled("\nthe text's tokens")
    for label in ("", "covered", "cross-entropy\n(nats)", "of those covered\n(nats)"):
        of_text.add_column(label, justify="right")
    for index, setting in enumerate(record["settings"]):
        of = {name: values[index] for name, values in record.items() if isinstance(values, list)}
        exact = of["cross_entropy_nats"]
        own.add_row(
            f"[{index + 1}]",
            setting,
            with_error(of["entropy_nats"], of["entropy_standard_error"]),
            number(of["effective_choices"]),
            number(of["kept"]),
            number(of["kept_mass"]),
        )
        of_text.add_row(
            f"[{index + 1}]",
            with_error(of["coverage"], of["coverage_standard_error"]),
            "infinite" if exact is None else number(exact),
            number(of["covered_cross_entropy_nats"]),
        )
    yield own
    yield of_text
    count = len(record["settings"])
    if not 1 < count <= MOST_PAIRED:
        return
    pairs = titled("\npairs: KL both ways and Jensen-Shannon divergence in nats, total variation")
    for label in ("i", "j", "KL(i‖j)", "KL(j‖i)", "JS", "TV"):
        pairs.add_column(label, justify="right")
    kl, js, variation = (record[name] for name in ("kl_nats", "js_nats", "total_variation"))
    for i, j in combinations(range(count), 2):
        ways = ("infinite" if value is None else number(value) for value in (kl[i][j], kl[j][i]))
        pairs.add_row(f"[{i + 1}]", f"[{j + 1}]", *ways, number(js[i][j]), number(variation[i][j]))
    yield pairs


def _scored(record: dict[str, Any]) -> str:
    from decoding_evals.showing.terminal import counted

    scored = f"{counted(record['tokens_scored'], 'token')} scored · "
    if record["units"] < 2:
        return scored + "too few for an error"
    length = counted(record["block_length"], "token")
    return scored + f"± from {record['units']} blocks of {length}"


def _models(record: dict[str, Any]) -> Iterator[Table]:
    """One line per measure."""
    from decoding_evals.showing.terminal import number, titled

    a, b = record["models"]
    table = titled(f"A {a} · B {b} · {_scored(record)}", show_header=False)

    def plus_minus(value: float | None, error: float | None) -> str:
        return number(value) if error is None else f"{number(value)} ± {number(error)}"

    for place, name in enumerate("AB"):
        nll, error = record["nll_nats"][place], record["nll_standard_error"][place]
        table.add_row(f"perplexity {name}", number(record["perplexity"][place]))
        table.add_row(f"nats per token {name}", plus_minus(nll, error))
    interval = record["perplexity_ratio_confidence_interval"]
    table.add_row(
        "perplexity B / A",
        number(record["perplexity_ratio"])
        + ("" if interval is None else f" (95 %: {number(interval[0])} to {number(interval[1])})"),
    )
    for name, place in (("KL(A‖B), nats", 0), ("KL(B‖A), nats", 1)):
        table.add_row(
            name, plus_minus(record["kl_nats"][place], record["kl_standard_error"][place])
        )
    for name, key in (
        ("KL(A‖B)", "kl_percentiles_nats"),
        ("Δp of the true token", "delta_p_percentiles"),
    ):
        figures = record[key]
        shown = ("1", "10", "50", "90", "99", "99.9", "max")
        table.add_row(
            name, " · ".join(f"{q if q == 'max' else q + ' %'} {number(figures[q])}" for q in shown)
        )
    table.add_row("mean Δp, B - A", plus_minus(record["delta_p"], record["delta_p_standard_error"]))
    table.add_row("root mean square Δp", number(record["delta_p_rms"]))
    table.add_row(
        "same favourite token",
        plus_minus(record["same_top_share"], record["same_top_standard_error"]),
    )
    yield table
