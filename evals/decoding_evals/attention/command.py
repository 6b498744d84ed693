"""`decoding attention`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.delivery import deliver
from decoding_evals.shell.options import (
    bos_option,
    context_option,
    model_options,
    output_options,
    read_model,
    read_windows,
)
from decoding_evals.shell.output import RecordFile
from decoding_evals.shell.plots import check_plot, plot_option

if TYPE_CHECKING:
    from rich.table import Table

EXTREME_HEADS = 5


@click.command()
@input_options
@model_options
@context_option
@bos_option
@output_options
@plot_option("Draw the first text's entropy by layer and head.")
def attention(as_json: bool, output: Path | None, plot: Path | None, **options: Any) -> None:
    """Entropy of each head's attention over the texts in FILES (or standard input).

    Entropy is divided by ln(keys that the token may look at), so 0 is a look at one key and 1 an
    even look at all. "Without the sink" leaves out the first token, on which many heads rest. A
    head is collapsed where its mean is below 0.05. --json has every head and every token.
    """
    check_plot(plot)
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options)
        language_model = read_model(options)
        from decoding_evals.attention import evaluation
        from decoding_evals.attention.figure import plot_attention
        from decoding_evals.shell.progress import ScoringProgress

        names: list[str] = []

        def texts() -> Iterator[str]:
            for item in inputs:
                names.append(item.name)
                yield "".join(item.pieces)  # type: ignore[union-attr]

        with ScoringProgress(shown=file is not None or as_json, entropy=True) as progress:
            results = evaluation.attention(
                language_model, texts(), windows=read_windows(options), on_progress=progress
            )
            deliver(
                (({"name": names[r.index], **r.record()}, r) for r in results),
                inputs=inputs,
                file=file,
                as_json=as_json,
                show=_show,
                plot=plot,
                draw=lambda record, _: plot_attention(record),
                done="measured",
            )


def _show(record: dict[str, Any]) -> None:
    from decoding_evals.showing.terminal import print_table

    print_table(_layers(record))
    for note in record["notes"]:
        click.echo(note)
    if any(value is not None for heads in record["normalized_entropy"] for value in heads):
        print_table(_heads(record))


def _layers(record: dict[str, Any]) -> Table:
    """One line per layer: its heads' mean, narrowest and broadest."""
    from decoding_evals.showing.terminal import counted, number, titled

    title = f"{record['name']}: {counted(record['tokens'], 'token')}"
    if record["windows"] > 1:
        title += f" in {record['windows']:,} windows"
    if record["collapsed_share"] is not None:
        measured = sum(value is not None for row in record["normalized_entropy"] for value in row)
        title += (
            f" · {len(record['collapsed_heads'])} of {measured} heads collapsed "
            f"(normalised entropy below {record['collapse_threshold']:g})"
        )
    table = titled(title)
    for label in (
        "layer", "entropy\n(nats)", "normalised:\nmean", "\nnarrowest", "\nbroadest",
        "without\nsink", "sink\nweight", "\ncollapsed",
    ):  # fmt: skip
        table.add_column(label, justify="right")
    for layer in range(record["layers"]):
        columns = {
            name: [value for value in record[name][layer] if value is not None]
            for name in (
                "entropy_nats", "normalized_entropy", "without_sink_normalized_entropy",
                "sink_weight",
            )
        }  # fmt: skip
        mean = {
            name: sum(values) / len(values) if values else None for name, values in columns.items()
        }
        normalized = columns["normalized_entropy"]
        collapsed = sum(place[0] == layer for place in record["collapsed_heads"])
        table.add_row(
            str(layer),
            number(mean["entropy_nats"]),
            *map(
                _share,
                (
                    mean["normalized_entropy"],
                    min(normalized, default=None),
                    max(normalized, default=None),
                    mean["without_sink_normalized_entropy"],
                    mean["sink_weight"],
                ),
            ),
            f"{collapsed} of {len(record['normalized_entropy'][layer])}",
        )
    return table


def _heads(record: dict[str, Any]) -> Table:
    """The narrowest and the broadest heads."""
    from decoding_evals.showing.terminal import number, titled

    order = sorted(
        (value, layer, head)
        for layer, heads in enumerate(record["normalized_entropy"])
        for head, value in enumerate(heads)
        if value is not None
    )
    few = len(order) <= 2 * EXTREME_HEADS
    title = "\nheads, narrowest first" if few else "\nnarrowest and broadest heads"
    table = titled(title)
    for label in (
        "layer",
        "head",
        "entropy\n(nats)",
        "normalised",
        "without\nsink",
        "sink\nweight",
    ):
        table.add_column(label, justify="right")
    table.add_column("")
    for place, (value, layer, head) in enumerate(order):
        if not few and place == EXTREME_HEADS:
            table.add_row("…")
        if not few and EXTREME_HEADS <= place < len(order) - EXTREME_HEADS:
            continue
        sink = record["sink_weight"][layer][head]
        remark = ""
        if [layer, head] in record["collapsed_heads"]:
            remark = "collapsed" + (" onto the first token" if sink > 0.5 else "")
        table.add_row(
            str(layer),
            str(head),
            number(record["entropy_nats"][layer][head]),
            _share(value),
            _share(record["without_sink_normalized_entropy"][layer][head]),
            _share(sink),
            remark,
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
