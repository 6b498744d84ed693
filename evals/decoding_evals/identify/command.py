"""`decoding identify`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding.settings.grids import MOST_SETTINGS
from decoding_evals.reading.records import Recorded
from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import deliver
from decoding_evals.shell.options import (
    candidate_options,
    model_options,
    output_options,
    read_candidates,
    read_model,
    read_windows,
    scoring_options,
)
from decoding_evals.shell.output import RecordFile
from decoding_evals.shell.plots import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@input_options
@candidate_options
@click.option(
    "--models",
    "pairs",
    nargs=2,
    multiple=True,
    metavar="A B",
    help="Models instead of one; each setting of each is a candidate. Repeatable for more.",
)
@click.option(
    "--prior",
    metavar="P,P,…",
    help="Weights of the candidates in their order, those of the first model first.  "
    "[default: all alike]",
)
@click.option(
    "--min-odds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    metavar="ODDS",
    help="Name none unless the odds against all others together reach this.",
)
@model_options
@scoring_options
@output_options
@plot_option("Draw the odds of every candidate along the first text.")
def identify(
    specs: tuple[str, ...],
    grid: str | None,
    pairs: tuple[tuple[str, str], ...],
    prior: str | None,
    min_odds: float,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Find out which setting, or which model, wrote the texts in FILES (or standard input).

    Every text is scored under every candidate, and Bayes' rule turns the likelihoods into a
    posterior. A token outside a candidate's kept set rules it out. None is named where the odds
    are weak, or where the text is not as surprising as the best candidate's own are (|z| > 4).

    Records of "decoding generate --json" are scored by the tokens that were drawn, after their
    prompts. A plain text may have been written with other tokens than the tokenizer cuts it into;
    where that alone may rule a candidate out, it is said.

    Without --setting and --grid, the candidates are "raw", "greedy" and some usual settings.
    """
    settings = read_candidates(specs, grid)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    source = click.get_current_context().get_parameter_source("model")
    if names and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --model or --models, not both")
    size = len(settings) * max(1, len(names))
    if not 2 <= size <= MOST_SETTINGS:
        raise click.UsageError(f"2 to {MOST_SETTINGS} candidates are needed, got {size}")
    weights = None if prior is None else _weights(prior, size)
    check_plot(plot)
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options, records=True)
        models = [read_model(options, name) for name in names or (None,)]
        from decoding.scoring.teacher_forcing import Document
        from decoding_evals.identify.evaluation import identify as evaluate
        from decoding_evals.identify.figure import plot_identification
        from decoding_evals.shell.progress import ScoringProgress

        titles: list[str] = []

        def documents() -> Iterator[Any]:
            for item in inputs:
                titles.append(item.name)
                if isinstance(item, Recorded):
                    yield item.document(models[0])
                else:
                    yield Document(item.pieces)  # type: ignore[union-attr]

        windows = read_windows(options)
        on_screen = file is None and not as_json
        # A bar would get in the way of what is written to the same terminal.
        shown = not (on_screen and sys.stdout.isatty())
        with ScoringProgress(shown=shown, entropy=True) as progress:
            results = evaluate(
                models,
                documents(),
                settings,
                prior=weights,
                min_odds=min_odds,
                windows=windows,
                on_progress=progress,
            )
            deliver(
                (({"name": titles[r.index], **r.record()}, r) for r in results),
                inputs=inputs,
                file=file,
                as_json=as_json,
                show=_show,
                plot=plot,
                draw=lambda record, r: plot_identification(record, r.tokens, r.running_log_odds()),
                done="identified",
                models=[model.name for model in models],
            )


def _weights(text: str, size: int) -> list[float]:
    from decoding.inference.posterior import normalised_prior

    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--prior takes numbers, as in 0.5,0.3,0.2, got {text!r}") from None
    try:
        normalised_prior(size, weights)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return weights


def _show(record: dict[str, Any]) -> None:
    from decoding_evals.showing.terminal import print_table

    for table in _tables(record):
        print_table(table)


def _tables(record: dict[str, Any]) -> Iterator[Table]:
    """The verdict with one line per candidate, the best first; and the tokens that decided."""
    from decoding_evals.showing.terminal import counted, harmless, number, titled

    several = len(set(record["models"])) > 1
    labels = [
        f"{setting} · {harmless(model)}" if several else setting
        for setting, model in zip(record["settings"], record["models"], strict=True)
    ]
    ruled_out = {entry["candidate"]: entry for entry in record["ruled_out"]}

    def places(k: int) -> tuple[float, float]:
        return -(record["posterior"][k] or 0.0), -(record["coverage"][k] or 0.0)

    def cell(name: str, k: int, form: str) -> str:
        value = record[name][k]
        return "-" if value is None else f"{value:{form}}"

    unit = "shared piece" if record["pieces"] else "token"
    title = f"{record['name']}: {counted(record['tokens'], unit)} · {_verdict(record, labels)}"
    table = titled(title)
    table.add_column("candidate")
    for label in ("posterior", "log q\n(nats)", "log Bayes\nfactor\n(nats)", "coverage", "z"):
        table.add_column(label, justify="right")
    table.add_column("ruled out at token (from 0)")
    for k in sorted(range(len(labels)), key=places):
        entry = ruled_out.get(k)
        at = ""
        if entry is not None:
            text = harmless(repr(entry["text"]))
            at = f"{entry['token']} {text} (rank {entry['rank']:,}, {entry['kept']:,} kept)"
            at += " *" if entry["retokenisation"] else ""
        table.add_row(
            labels[k],
            cell("posterior", k, ".4f"),
            cell("log_likelihood_nats", k, ".2f"),
            "infinite" if entry and record["best"] is not None
            else cell("log_bayes_factors_nats", k, ".2f"),
            cell("coverage", k, ".4f"),
            cell("z", k, "+.2f"),
            at,
        )  # fmt: skip
    captions = []
    if any(entry["retokenisation"] for entry in record["ruled_out"]):
        captions.append("* unless the text was written with other tokens than it is cut into")
    if record["pieces"]:
        captions.append(
            "The models cut the text differently: a piece ends where all of them end a token. A "
            "token that rules out is counted, from 0, among those of its own model."
        )
    if captions:
        table.caption, table.caption_justify = "\n".join(captions), "left"
    yield table
    if not record["deciding_tokens"]:
        return
    best, runner_up = labels[record["best"]], labels[record["runner_up"]]
    table = titled(f"\nwhat moved the odds of {best} to {runner_up} most")
    table.add_column("piece" if record["pieces"] else "token", justify="right")
    table.add_column("text")
    table.add_column("log ratio (nats)", justify="right")
    for token in record["deciding_tokens"]:
        ratio = token["log_ratio_nats"]
        table.add_row(
            str(token["token"]),
            harmless(repr(token["text"])),
            ("+" if ratio > 0 else "") + number(ratio),
        )
    yield table


def _verdict(record: dict[str, Any], labels: list[str]) -> str:
    if record["decided"] is None:
        return f"none is named: {record['abstained_because']}"
    odds = record["log_odds_nats"]
    if odds is None:
        return f"{labels[record['best']]}; every other candidate is ruled out"
    shown = f"{math.exp(odds):,.0f}" if odds < 13 else f"10^{odds / math.log(10):.0f}"
    return f"{labels[record['best']]}, odds {shown} : 1"
