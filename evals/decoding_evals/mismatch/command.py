"""`decoding mismatch`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from decoding_evals.engines.rollouts import Rollout, rollouts
from decoding_evals.reading.placed import placed_rows
from decoding_evals.reading.prompts import STANDARD_INPUT
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    Between,
    Command,
    least,
    model_options,
    option,
    output_options,
    read_model,
    read_setting,
)


@click.command(cls=Command)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORDS]...")
@model_options
@option("--setting SPEC", "What the log-probabilities are said to be of.", default="raw")
@option("--batch-size N", "Sequences that run together.", type=least(1), default=8)
@option(
    "--tolerance NATS",
    "What a token may differ by; above it the exit code is 1.  [default: ten times the noise "
    "floor, at least 5e-4]",
    type=Between(min=0),
)
@output_options
def mismatch(
    files: tuple[Path, ...],
    setting: str,
    batch_size: int,
    tolerance: float | None,
    **options: Any,
) -> None:
    """Hold the log-probabilities in RECORDS (or standard input) against what a model says.

    RECORDS are request outputs of vLLM, responses of an OpenAI-style server with token ids,
    rollouts of TRL or verl, rows of prompt_token_ids, token_ids and logprobs, or records of
    "decoding generate --json" (.jsonl, .json, .parquet). Each sequence is scored by its ids, after
    those of its prompt. Of each token δ = log engine - log model; where they differ, the cause is
    looked for: another temperature or cut, BOS, places one off, the dtype.
    """
    settings = read_setting(setting, {})
    with Destination(options) as destination:
        found = [*_rollouts(files)]
        language_model = read_model(options)
        from decoding_evals.mismatch.evaluation import mismatch as evaluate
        from decoding_evals.shell.progress import status

        with status("scoring"):
            result = evaluate(
                language_model, found, settings, batch_size=batch_size, tolerance=tolerance
            )
        destination.deliver([result])
    if not result.agrees:
        raise click.exceptions.Exit(1)


def _rollouts(files: tuple[Path, ...]) -> Iterator[Rollout | str]:
    for path in files or (Path(STANDARD_INPUT),):
        for _, place, row in placed_rows(path, "mismatch"):
            try:
                yield from rollouts(row)
            except TypeError as error:
                raise click.ClickException(f"{place}: {error}") from None
