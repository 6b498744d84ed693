"""Perplexity in tables: one result, or those of several protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from decoding_evals.showing.terminal import counted, harmless, number, titled

if TYPE_CHECKING:
    from decoding_evals.perplexity.evaluation import PerplexityResult


def result_table(result: PerplexityResult) -> Table:
    """One result, a line for each measure."""
    record = result.record()
    account = result.account
    table = titled(
        f"{result.model} · protocol {result.protocol}: {result.rules}", show_header=False
    )
    interval = result.confidence_interval
    if interval is None:
        table.add_row("perplexity", number(record["perplexity"]), "too few tokens for an error")
    else:
        unit = result.error_unit
        if result.block_length is not None:
            unit += f" of {counted(result.block_length, 'token')}"
        table.add_row(
            "perplexity",
            number(record["perplexity"]),
            f"95 %: {number(interval[0])} to {number(interval[1])} ({result.units} {unit})",
        )
    error = ""
    if result.standard_error is not None and result.naive_standard_error is not None:
        error = (
            f"± {result.standard_error:.4f}; taking tokens as independent it would be "
            f"± {result.naive_standard_error:.4f}, a factor of "
            f"{number(record['standard_error_ratio'])}"
        )
    table.add_row("nats per token", f"{result.nll_nats:.4f}", error)
    table.add_row("bits per token", f"{result.nll_nats / math.log(2):.4f}")
    for name, per in (
        ("bits_per_byte", "byte"),
        ("byte_perplexity", "byte"),
        ("word_perplexity", "word"),
    ):
        if record[name] is not None:
            label = name.replace("_", " ")
            count = record[f"{per}s"]
            table.add_row(label, number(record[name]), counted(count, per))
    table.add_row("mean entropy", f"{result.mean_entropy_nats:.4f}", "nats per token")
    table.add_row(
        "tokens scored",
        f"{account.tokens_scored:,}",
        f"and {account.tokens_context_only:,} context only, {account.tokens_skipped:,} skipped, "
        f"of {counted(account.documents, 'document')} ({account.documents_skipped:,} skipped)",
    )
    bos = "no BOS" if result.bos is None else f"{harmless(result.bos)} in front"
    table.add_row(
        "windows",
        f"{account.windows:,}",
        f"of up to {counted(result.context, 'token')}, {result.stride:,} apart, {bos}",
    )
    return table


def protocol_tables(results: Sequence[PerplexityResult]) -> list[Table]:
    """Figures of each protocol, of which what its tool reports is marked; and what it scores."""
    names = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
    title = f"{results[0].model}; * is what the protocol's tool reports"
    figures = titled(title, "protocol", *(">" + name.replace("_", " ") for name in names))
    tokens = titled("\ntokens", "protocol", ">scored", ">context\nonly", ">skipped", "rules")
    for result in results:
        record, account = result.record(), result.account
        marks = ("*" if name == result.headline else " " for name in names)
        shown = (number(record[name]) + mark for name, mark in zip(names, marks, strict=True))
        figures.add_row(result.protocol, *shown)
        counts = (account.tokens_scored, account.tokens_context_only, account.tokens_skipped)
        tokens.add_row(result.protocol, *(f"{count:,}" for count in counts), result.rules)
    return [figures, tokens]
