"""`decoding score`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs, Prompted, input_options
from decoding_evals.shell.delivery import deliver
from decoding_evals.shell.options import (
    model_options,
    output_options,
    read_model,
    read_setting_of_text,
    read_windows,
    scoring_options,
)
from decoding_evals.shell.output import RecordFile
from decoding_evals.showing.figures import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@input_options
@click.option(
    "--prompt-column",
    metavar="NAME",
    help="Column of prompts that the texts continue; a text may be a list of choices.",
)
@model_options
@scoring_options
@click.option(
    "--setting",
    metavar="SPEC",
    help='Score also under this setting, as in "temperature=0.7,top_p=0.9".',
)
@output_options
@plot_option("Draw entropy and surprisal along the first text.")
def score(
    setting: str | None, as_json: bool, output: Path | None, plot: Path | None, **options: Any
) -> None:
    """Score every token of the texts in FILES (or standard input).

    A text file is one document; each row of a .jsonl, .csv or .parquet file is one. With
    --prompt-column, texts are scored as continuations of their prompts, and the choices of a row
    are ranked by probability.

    The residual is (surprisal - entropy) / √varentropy: large where the model was sure of
    something else.
    """
    asked = None if setting is None else read_setting_of_text(setting)
    if plot is not None and options["prompt_column"] is not None:
        raise click.UsageError("--plot draws a text; it cannot be used with --prompt-column")
    check_plot(plot)
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options)
        language_model = read_model(options)
        from decoding.scoring.teacher_forcing import Document
        from decoding_evals.score import evaluation
        from decoding_evals.score.figure import plot_scores
        from decoding_evals.shell.progress import ScoringProgress

        names: list[str] = []

        def texts() -> Iterator[Any]:
            item: Any
            for item in inputs:
                names.append(item.name)
                if isinstance(item, Prompted):
                    yield item.prompt, item.choices
                else:
                    yield Document(item.pieces)

        evaluate: Any = evaluation.score
        if inputs.prompt_column is not None:
            evaluate = evaluation.score_choices
        windows = read_windows(options)
        on_screen = file is None and not as_json
        # A bar would get in the way of what is written to the same terminal.
        with ScoringProgress(shown=not (on_screen and sys.stdout.isatty())) as progress:
            results = evaluate(
                language_model, texts(), windows=windows, setting=asked, on_progress=progress
            )
            deliver(
                (({"name": names[r.index], **r.record()}, r) for r in results),
                inputs=inputs,
                file=file,
                as_json=as_json,
                show=_show,
                plot=plot,
                draw=lambda record, _: plot_scores(record),
                done="scored",
            )


def _show(record: dict[str, Any]) -> None:
    from decoding_evals.showing.terminal import print_table

    if "choices" in record:
        print_table(_choices(record))
    else:
        print_table(_tokens(record))


def _tokens(record: dict[str, Any]) -> Table:
    """One line per token."""
    from decoding_evals.showing.terminal import counted, number, shaded, titled

    title = f"{record['name']}: {counted(record['tokens_scored'], 'token')} scored"
    if record["tokens_not_scored"]:
        title += f", {record['tokens_not_scored']:,} not"
    if record["perplexity"] is not None:
        title += (
            f" · perplexity {number(record['perplexity'])} · mean entropy "
            f"{record['mean_entropy_nats']:.3f} nats"
        )
    if record["z"] is not None:
        title += f" · z {record['z']:+.2f}"
    table = titled(title)
    table.add_column("token")
    measures = ["surprisal_nats", "entropy_nats", "varentropy_nats2", "residual", "rank"]
    if "setting" in record:
        measures += ["q_surprisal_nats", "q_entropy_nats", "kept"]
    for name in measures:
        label = name.replace("_nats2", "\n(nats²)").replace("_nats", "\n(nats)").replace("_", "\n")
        label = label.replace("q\nsurp", "q surp").replace("surp", "sur-\np")
        label = label.replace("varent", "var-\nent")
        table.add_column(label, justify="right")
    for token in record["tokens"]:
        cells = [number(token[name]) for name in measures]
        if token.get("covered") is False:
            cells[measures.index("q_surprisal_nats")] = "cut off"
        surprisal = token["surprisal_nats"]
        shade = math.inf if surprisal is None else surprisal
        table.add_row(shaded(repr(token["text"])[1:-1], shade), *cells)
    return table


def _choices(record: dict[str, Any]) -> Table:
    """One line per choice, best first."""
    from decoding_evals.showing.terminal import harmless, number, titled

    title = f"{record['name']}: {record['prompt']}"
    table = titled(title)
    for name in ("rank", "by byte", "log p (nats)", "per byte", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("choice", overflow="fold")
    for place, index in enumerate(record["ranking"], 1):
        choice = record["choices"][index]
        table.add_row(
            str(place),
            str(record["ranking_per_byte"].index(index) + 1),
            number(choice["log_prob_nats"]),
            number(choice["log_prob_nats_per_byte"]),
            str(choice["tokens_scored"]),
            harmless(choice["text"]),
        )
    return table
