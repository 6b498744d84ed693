"""Perplexity in tables: one result, or those of several protocols."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from decoding_evals.showing.result import taken_over
from decoding_evals.showing.terminal import counted, number, titled

COUNTS = ("tokens_scored", "tokens_context_only", "tokens_skipped", "documents_skipped")


def result_tables(record: dict[str, Any]) -> Iterator[Table]:
    """One result, a line for each measure."""
    protocol = f"protocol {record['protocol']}: {record['rules']}"
    table = titled(f"{record['model']} · {protocol}", show_header=False)
    of = taken_over(record)
    if record["confidence_interval"] is not None:
        low, high = map(number, record["confidence_interval"])
        of = f"95 %: {low} to {high} ({of})"
    table.add_row("perplexity", number(record["perplexity"]), of)
    nll = math.inf if record["nll_nats"] is None else record["nll_nats"]
    error, naive = record["standard_error"], record["naive_standard_error"]
    of = ""
    if error is not None and naive is not None:
        of = (
            f"± {error:.4f}; taking tokens as independent it would be ± {naive:.4f}, a factor of "
            f"{number(record['standard_error_ratio'])}"
        )
    table.add_row("nats per token", f"{nll:.4f}", of)
    mean, error = record["mean_document_nll_nats"], record["mean_document_nll_standard_error"]
    if mean is not None and record["documents"] - record["documents_skipped"] > 1:
        each = number(record["mean_document_perplexity"])
        of = "" if error is None else f"± {error:.4f}; "
        of += f"each document counts the same; mean of their perplexities {each}"
        table.add_row("mean of documents", f"{mean:.4f}", of)
    table.add_row("bits per token", f"{nll / math.log(2):.4f}")
    units = {"bits_per_byte": "byte", "byte_perplexity": "byte", "word_perplexity": "word"}
    for name, unit in units.items():
        if record[name] is not None:
            of = counted(record[f"{unit}s"], unit)
            table.add_row(name.replace("_", " "), number(record[name]), of)
    table.add_row("mean entropy", f"{record['mean_entropy_nats']:.4f}", "nats per token")
    scored, context_only, skipped, lost = (f"{record[name]:,}" for name in COUNTS)
    documents = counted(record["documents"], "document")
    of = f"and {context_only} context only, {skipped} skipped, of {documents} ({lost} skipped)"
    table.add_row("tokens scored", scored, of)
    bos = "no BOS"
    if record["bos"] is not None:
        bos = f"{record['bos']} in front ({counted(record['bos_tokens'], 'token')})"
    of = f"of up to {counted(record['context'], 'token')}, {record['stride']:,} apart, {bos}"
    table.add_row("windows", f"{record['windows']:,}", of)
    yield table


def protocol_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Figures of each protocol, of which what its tool reports is marked; and what it scores."""
    names = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
    title = f"{records[0]['model']}; * is what the protocol's tool reports"
    figures = titled(title, "protocol", *(">" + name.replace("_", " ") for name in names))
    tokens = titled("\ntokens", "protocol", ">scored", ">context\nonly", ">skipped", "rules")
    for record in records:
        marks = ("*" if name == record["headline"] else " " for name in names)
        shown = (number(record[name]) + mark for name, mark in zip(names, marks, strict=True))
        figures.add_row(record["protocol"], *shown)
        counts = (f"{record[name]:,}" for name in COUNTS[:3])
        tokens.add_row(record["protocol"], *counts, record["rules"])
    return [figures, tokens]
