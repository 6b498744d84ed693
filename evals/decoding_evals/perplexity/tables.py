"""Perplexity in tables: one result, or those of several protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from decoding_evals.showing.terminal import counted, harmless, number, titled


def result_table(record: dict[str, Any]) -> Table:
    """One result, a line for each measure."""
    table = titled(
        f"{record['model']} · protocol {record['protocol']}: {record['rules']}", show_header=False
    )
    interval = record["confidence_interval"]
    if interval is None:
        table.add_row("perplexity", number(record["perplexity"]), "too few tokens for an error")
    else:
        unit = record["error_unit"]
        if record["block_length"] is not None:
            unit += f" of {counted(record['block_length'], 'token')}"
        table.add_row(
            "perplexity",
            number(record["perplexity"]),
            f"95 %: {number(interval[0])} to {number(interval[1])} ({record['units']} {unit})",
        )
    error = ""
    if record["standard_error"] is not None and record["naive_standard_error"] is not None:
        error = (
            f"± {record['standard_error']:.4f}; taking tokens as independent it would be "
            f"± {record['naive_standard_error']:.4f}, a factor of "
            f"{number(record['standard_error_ratio'])}"
        )
    nll = math.inf if record["nll_nats"] is None else record["nll_nats"]
    table.add_row("nats per token", f"{nll:.4f}", error)
    table.add_row("bits per token", f"{nll / math.log(2):.4f}")
    for name, per in (
        ("bits_per_byte", "byte"),
        ("byte_perplexity", "byte"),
        ("word_perplexity", "word"),
    ):
        if record[name] is not None:
            label = name.replace("_", " ")
            count = record[f"{per}s"]
            table.add_row(label, number(record[name]), counted(count, per))
    table.add_row("mean entropy", f"{record['mean_entropy_nats']:.4f}", "nats per token")
    skipped = f"{record['documents_skipped']:,} skipped"
    table.add_row(
        "tokens scored",
        f"{record['tokens_scored']:,}",
        f"and {record['tokens_context_only']:,} context only, {record['tokens_skipped']:,} skipped"
        f", of {counted(record['documents'], 'document')} ({skipped})",
    )
    bos = "no BOS" if record["bos"] is None else f"{harmless(record['bos'])} in front"
    table.add_row(
        "windows",
        f"{record['windows']:,}",
        f"of up to {counted(record['context'], 'token')}, {record['stride']:,} apart, {bos}",
    )
    return table


def protocol_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Figures of each protocol, of which what its tool reports is marked; and what it scores."""
    names = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
    figures = titled(f"{records[0]['model']}; * is what the protocol's tool reports")
    figures.add_column("protocol")
    for name in names:
        figures.add_column(name.replace("_", " "), justify="right")
    tokens = titled("\ntokens")
    tokens.add_column("protocol")
    for label in ("scored", "context\nonly", "skipped"):
        tokens.add_column(label, justify="right")
    tokens.add_column("rules")
    for record in records:
        marks = ("*" if name == record["headline"] else " " for name in names)
        shown = (number(record[name]) + mark for name, mark in zip(names, marks, strict=True))
        figures.add_row(record["protocol"], *shown)
        counts = (record["tokens_scored"], record["tokens_context_only"], record["tokens_skipped"])
        tokens.add_row(record["protocol"], *(f"{count:,}" for count in counts), record["rules"])
    return [figures, tokens]
