"""`decoding perplexity`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs, input_options
from decoding_evals.shell.options import (
    model_options,
    output_options,
    read_model,
    read_windows,
    scoring_options,
)
from decoding_evals.shell.output import Interrupted, RecordFile, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from decoding_evals.perplexity.evaluation import PerplexityResult

PROTOCOLS = ("default", "huggingface", "lm-eval", "llama.cpp", "gpt2-paper")


@click.command()
@input_options
@model_options
@scoring_options
@click.option(
    "--protocol",
    type=click.Choice([*PROTOCOLS, "all"]),
    default="default",
    show_default=True,
    help="Whose rules: windows, BOS, and what is averaged.",
)
@click.option(
    "--errors",
    type=click.Choice(["auto", "documents", "blocks"]),
    default="auto",
    show_default=True,
    help="What the error is taken over; auto: documents from 20 on.",
)
@output_options
def perplexity(
    protocol: str, errors: str, as_json: bool, output: Path | None, **options: Any
) -> None:
    """Perplexity of the texts in FILES (or standard input) under a model.

    A text file is one document; each row of a .jsonl, .csv or .parquet file is one. The error bars
    allow for neighbouring tokens that depend on each other: they come from documents, or from
    blocks of tokens.
    """
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        inputs = Inputs.from_options(options)
        language_model = read_model(options)
        from decoding_evals.perplexity.evaluation import perplexity as evaluate
        from decoding_evals.shell.progress import ScoringProgress

        documents: Any = inputs.documents()
        if protocol == "all":
            # Each protocol reads them anew, and standard input can be read only once.
            documents = ["".join(document.text) for document in documents]
        windows = read_windows(options)
        results: list[PerplexityResult] = []
        interrupted = None
        for name in PROTOCOLS if protocol == "all" else (protocol,):
            with ScoringProgress() as progress:
                try:
                    result = evaluate(
                        language_model,
                        documents,
                        protocol=name,
                        windows=windows,
                        errors=errors,
                        on_progress=progress,
                    )
                except ValueError as error:
                    if protocol != "all":
                        raise
                    click.echo(f"{name}: {error}", err=True)
                    continue
                except KeyboardInterrupt:
                    if not results:
                        raise
                    interrupted = f"nothing was scored under {name} yet"
                    break
            results.append(result)
            record = result.record() | {"skipped_rows": inputs.skipped_rows}
            if file is not None:
                file.write(record)
            elif as_json:
                click.echo(to_json(record))
            if not result.complete:
                scored = result.account.tokens_scored
                interrupted = f"the figures are of the {scored} tokens scored until then"
                break
        if not results:
            raise click.ClickException("no protocol can be applied to these texts")
        if file is None and not as_json:
            from decoding_evals.showing.terminal import print_table

            for table in _protocols(results) if protocol == "all" else _report(results[0]):
                print_table(table)
        for note in inputs.notes():
            click.echo(note, err=True)
        if results[-1].full_logits is not None:
            click.echo(f"logits computed in full: {results[-1].full_logits}", err=True)
        if interrupted is not None:
            raise Interrupted(interrupted)


def _report(result: PerplexityResult) -> Iterator[Table]:
    """One result, a line for each measure."""
    from decoding_evals.showing.terminal import counted, harmless, number, titled

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
    yield table


def _protocols(results: list[PerplexityResult]) -> Iterator[Table]:
    """Figures of each protocol, of which what its tool reports is marked; and what it scores."""
    from decoding_evals.showing.terminal import number, titled

    names = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
    figures = titled(f"{results[0].model}; * is what the protocol's tool reports")
    figures.add_column("protocol")
    for name in names:
        figures.add_column(name.replace("_", " "), justify="right")
    tokens = titled("\ntokens")
    tokens.add_column("protocol")
    for label in ("scored", "context\nonly", "skipped"):
        tokens.add_column(label, justify="right")
    tokens.add_column("rules")
    for result in results:
        record, account = result.record(), result.account
        marks = ("*" if name == result.headline else " " for name in names)
        shown = (number(record[name]) + mark for name, mark in zip(names, marks, strict=True))
        figures.add_row(result.protocol, *shown)
        counts = (account.tokens_scored, account.tokens_context_only, account.tokens_skipped)
        tokens.add_row(result.protocol, *(f"{count:,}" for count in counts), result.rules)
    yield figures
    yield tokens
