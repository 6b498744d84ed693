"""`decoding perplexity`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs, input_options, read_talk, talk_options
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.engines import check_engine, engine_options
from decoding_evals.shell.options import (
    Command,
    option,
    read_model,
    read_windows,
    reading_options,
)
from decoding_evals.shell.output import Interrupted
from decoding_evals.shell.resuming import resumable_options
from decoding_evals.shell.running import uncollected
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.scoring.windows import Windows
    from decoding_evals.perplexity.evaluation import PerplexityResult

PROTOCOLS = ("default", "huggingface", "lm-eval", "llama.cpp", "gpt2-paper")


@click.command(cls=Command)
@input_options
@reading_options
@talk_options
@option(
    f"--protocol [{'|'.join(PROTOCOLS)}|all]",
    "Whose rules: windows, BOS, and what is averaged.",
    default="default",
)
@option(
    "--errors [auto|documents|blocks]",
    "What the error is computed over; auto: documents if there are at least 20.",
    default="auto",
)
@option("--per [document]", "A record for each document instead of one for all.")
@engine_options
@resumable_options
def perplexity(protocol: str, errors: str, per: str | None, **options: Any) -> None:
    """Perplexity of the texts in FILES (or standard input) under a model.

    A text file is one document; each row of a .jsonl, .csv or .parquet file is one. Of a column of
    messages, what the assistant says is scored; of records of "decoding generate --json", the
    tokens that were drawn, after their prompts. The error bars allow for dependence between
    neighbouring tokens: they are computed over documents, or over blocks of tokens.
    """
    windows = read_windows(options)
    check_engine(options)
    if per is not None and protocol == "all":
        raise click.UsageError("--per document is of one protocol, not of all")
    if protocol not in ("default", "all"):
        _check(protocol, windows, per)
    with Destination(options) as destination:
        inputs = Inputs.from_options(options, records=True, talk=read_talk(options))
        language_model = read_model(options)
        from decoding_evals.perplexity.evaluation import perplexity as evaluate
        from decoding_evals.perplexity.tables import protocol_tables

        engine = destination.engine(language_model)
        how: Any = {"windows": windows, "errors": errors, "engine": engine}

        def measured(name: str, documents: Iterable[Any]) -> PerplexityResult:
            with destination.scoring() as progress:
                return evaluate(
                    language_model, documents, protocol=name, on_progress=progress, **how
                )

        if protocol == "all":
            # Each protocol reads them anew, and standard input can be read only once.
            texts = [*inputs.texts()]
            all_results = _all_protocols(lambda name: measured(name, texts))
            destination.deliver(all_results, inputs=inputs, together=protocol_tables)
        else:
            results = [measured(protocol, inputs.documents(language_model))]
            rows = None if per is None else lambda result: result.per_document(inputs.names)
            names = [language_model.name]
            destination.deliver(results, inputs=inputs, models=names, rows=rows)


def _check(protocol: str, windows: Windows, per: str | None) -> None:
    """Refuse what a protocol fixes with a ValueError."""
    from decoding_evals.shell.progress import status

    with status(f"loading protocol {protocol}"), uncollected():
        from decoding_evals.perplexity.protocols import PROTOCOLS as RULES
    RULES[protocol].check(windows)
    if per is not None and not RULES[protocol].keeps_documents:
        raise click.UsageError(f"--per document: protocol {protocol} joins or changes documents")


def _all_protocols(measured: Callable[[str], PerplexityResult]) -> Iterator[PerplexityResult]:
    """Results of the protocols that can be applied, up to an interruption."""
    found = 0
    for name in PROTOCOLS:
        try:
            result = measured(name)
        except ValueError as error:
            note(f"{name}: {error}")
            continue
        except KeyboardInterrupt:
            if not found:
                raise click.Abort from None
            raise Interrupted(f"nothing was scored under {name} yet") from None
        found += 1
        yield result
        if not result.complete:
            return
    if not found:
        raise click.ClickException("no protocol can be applied to these texts")
