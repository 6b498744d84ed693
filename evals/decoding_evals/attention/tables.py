"""Attention in tables: by layer, and the narrowest and the broadest heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from decoding_evals.showing.terminal import Shown, counted, number, titled
from decoding_evals.showing.view import title_of

EXTREME_HEADS = 5


def tables(record: dict[str, Any]) -> Iterator[Shown]:
    """One line per layer; and the narrowest and the broadest heads."""
    yield layer_table(record)
    yield from record["notes"]
    if any(value is not None for heads in record["normalized_entropy"] for value in heads):
        yield head_table(record)


def layer_table(record: dict[str, Any]) -> Table:
    """One line per layer: its heads' mean, narrowest and broadest."""
    title = f"{title_of(record)}: {counted(record['tokens'], 'token')}"
    if record["windows"] > 1:
        title += f" in {counted(record['windows'], 'window')}"
    if record["collapsed_share"] is not None:
        measured = sum(value is not None for row in record["normalized_entropy"] for value in row)
        title += (
            f" · {len(record['collapsed_heads'])} of {counted(measured, 'head')} collapsed "
            f"(normalised entropy below {record['collapse_threshold']:g})"
        )
    table = titled(
        title, ">layer", ">entropy\n(nats)", ">normalised:\nmean", ">\nnarrowest", ">\nbroadest",
        ">without\nsink", ">sink\nweight", ">\ncollapsed",
    )  # fmt: skip
    for layer in range(record["layers"]):

        def known(name: str, layer: int = layer) -> list[float]:
            return [value for value in record[name][layer] if value is not None]

        normalized = known("normalized_entropy")
        shares = (
            _mean(normalized),
            min(normalized, default=None),
            max(normalized, default=None),
            _mean(known("without_sink_normalized_entropy")),
            _mean(known("sink_weight")),
        )
        collapsed = sum(place[0] == layer for place in record["collapsed_heads"])
        table.add_row(
            str(layer),
            number(_mean(known("entropy_nats"))),
            *map(_share, shares),
            f"{collapsed} of {len(record['normalized_entropy'][layer])}",
        )
    return table


def head_table(record: dict[str, Any]) -> Table:
    """The narrowest and the broadest heads."""
    order = sorted(
        (value, layer, head)
        for layer, heads in enumerate(record["normalized_entropy"])
        for head, value in enumerate(heads)
        if value is not None
    )
    few = len(order) <= 2 * EXTREME_HEADS
    title = "\nheads, narrowest first" if few else "\nnarrowest and broadest heads"
    table = titled(
        title, ">layer", ">head", ">entropy\n(nats)", ">normalised", ">without\nsink",
        ">sink\nweight", "",
    )  # fmt: skip
    for place, (value, layer, head) in enumerate(order):
        if not few and place == EXTREME_HEADS:
            table.add_row("…")
        if not few and EXTREME_HEADS <= place < len(order) - EXTREME_HEADS:
            continue
        sink = record["sink_weight"][layer][head]
        remark = ""
        if [layer, head] in record["collapsed_heads"]:
            remark = "collapsed" + (" onto the first token" if sink > 0.5 else "")
        shares = (value, record["without_sink_normalized_entropy"][layer][head], sink)
        entropy = number(record["entropy_nats"][layer][head])
        table.add_row(str(layer), str(head), entropy, *map(_share, shares), remark)
    return table


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
