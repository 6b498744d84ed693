"""A calibration in tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from decoding_evals.showing.terminal import Shown, counted, number, titled


def tables(record: dict[str, Any]) -> Iterator[Shown]:
    """The fit and the setting; and predictions before and after, where they were measured."""
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
    yield table
    # In the table, a long one would push everything aside.
    yield f"setting      {record['setting']}"
    if record["ece_before"] is not None:
        yield _quality(record)


def _quality(record: dict[str, Any]) -> Table:
    """Predictions before and after."""
    of = "held-out document" if record["held_out"] else "fitted document"
    table = titled(
        f"\nmeasured on {counted(record['held_out_tokens'], 'token')} of "
        f"{counted(record['held_out_documents'], of)}",
        "", ">before", ">after",
    )  # fmt: skip
    for label, key in (
        ("nats per token", "nll_{}_nats"),
        ("perplexity", "nll_{}_nats"),
        ("Brier score", "brier_{}"),
        ("favourite is right", "accuracy_{}"),
        ("ECE", "ece_{}"),
        ("  95 %, without its bias", "ece_{}_interval"),
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
    return "-" if interval is None else f"{number(interval[0])} to {number(interval[1])}"
