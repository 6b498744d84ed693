"""`decoding compare`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.inputs import Inputs, input_options
from decoding_evals.options import (
    candidate_options,
    model_options,
    output_options,
    read_candidates,
    read_model,
    scoring_options,
)
from decoding_evals.output import Interrupted, RecordFile, to_json
from decoding_evals.plots import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table


@click.command(short_help="Decoding settings, or two models, on the same text.")
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
        given = {name: options[name] for name in ("context", "stride", "bos", "batch_size")}
        loaded = [read_model(options, name) for name in models or (None,)]
        from decoding.scoring import Document
        from decoding_evals.progress import ScoringProgress

        texts = (Document(item.pieces) for item in inputs.documents())
        result: Any
        with ScoringProgress(entropy=models is None) as progress:
            if models is None:
                from decoding_evals.compare import compare as compare_settings

                result = compare_settings(loaded[0], texts, settings, on_progress=progress, **given)
            else:
                from decoding_evals.compare_models import compare_models

                result = compare_models(loaded[0], loaded[1], texts, on_progress=progress, **given)
        record = result.record() | {"skipped_rows": inputs.skipped_rows}
        if plot is not None:
            from decoding_evals.plots import write_plot
            from decoding_evals.plots.comparison import plot_comparison

            write_plot(plot_comparison(record), plot)
        if file is not None:
            file.write(record)
        elif as_json:
            click.echo(to_json(record))
        else:
            from decoding_evals.terminal import print_table

            for table in _models(record) if models is not None else _report(record):
                print_table(table)
        for note in inputs.notes():
            click.echo(note, err=True)
        if record.get("full_logits"):
            click.echo(f"logits computed in full: {record['full_logits']}", err=True)
        if not result.complete:
            scored = record["tokens_scored"]
            raise Interrupted(f"the figures are of the {scored} tokens scored until then")


def _report(record: dict[str, Any]) -> list[Table]:
    """One line per setting; and, for few settings, one table of KL between them."""
    from rich.table import Table

    from decoding_evals.terminal import number

    title = (
        f"{record['model']} · {record['tokens_scored']:,} tokens scored"
        f" · ± from {record['units']} blocks of {record['block_length']:,} tokens"
    )
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("setting")
    for label in (
        "entropy\n(nats)", "effective\nchoices", "kept\ntokens", "kept\nmass", "coverage",
        "cross-entropy\n(nats)", "of covered\n(nats)",
    ):  # fmt: skip
        table.add_column(label, justify="right")
    for index, setting in enumerate(record["settings"]):

        def with_error(name: str, error: str, index: int = index) -> str:
            value, spread = record[name][index], record[error][index]
            return number(value) if spread is None else f"{value:.4f} ± {spread:.4f}"

        exact = record["cross_entropy_nats"][index]
        table.add_row(
            setting,
            with_error("entropy_nats", "entropy_standard_error"),
            number(record["effective_choices"][index]),
            number(record["kept"][index]),
            number(record["kept_mass"][index]),
            with_error("coverage", "coverage_standard_error"),
            "infinite" if exact is None else number(exact),
            number(record["covered_cross_entropy_nats"][index]),
        )
    tables = [table]
    if len(record["settings"]) > 12:
        return tables
    for title, name in (
        ("\nKL(row‖column), nats", "kl_nats"),
        ("\ntotal variation, row and column", "total_variation"),
        ("\nJensen–Shannon divergence, nats", "js_nats"),
    ):
        pairs = Table(
            box=None, pad_edge=False, title=title, title_justify="left", title_style="bold"
        )
        pairs.add_column("")
        for index in range(len(record["settings"])):
            pairs.add_column(f"[{index + 1}]", justify="right")
        for index, (setting, row) in enumerate(zip(record["settings"], record[name], strict=True)):
            cells = ["infinite" if value is None else f"{value:.4f}" for value in row]
            pairs.add_row(f"[{index + 1}] {setting}", *cells)
        tables.append(pairs)
    return tables


def _models(record: dict[str, Any]) -> list[Table]:
    """One line per measure."""
    from rich.table import Table

    from decoding_evals.terminal import number

    a, b = record["models"]
    title = (
        f"A {a} · B {b} · {record['tokens_scored']:,} tokens scored"
        f" · ± from {record['units']} blocks of {record['block_length']:,} tokens"
    )
    table = Table(
        box=None, pad_edge=False, show_header=False, title=title, title_justify="left",
        title_style="bold",
    )  # fmt: skip

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
    return [table]
