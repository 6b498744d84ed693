"""Rows of records, each with the place where it stands, for whoever refuses one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from decoding_evals.reading import rows
from decoding_evals.reading.prompts import STANDARD_INPUT
from decoding_evals.shell.output import check_source
from decoding_evals.showing.lines import note


def placed_rows(file: Path, argument: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each row of a file, or for `-` each line of standard input, with its number and its place.

    Args:
        file: `.jsonl`, `.json` or `.parquet`; CSV holds no records as they were.
        argument: that names it, for errors.

    Raises:
        click.UsageError: another kind of file.
        click.ClickException: nothing to read, or a row that is broken; it says which.
    """
    if str(file) == STANDARD_INPUT:
        name, unit = "standard input", "line"
        if sys.stdin.isatty():
            note("Records, JSON, one a line; end with Ctrl-D:")
        read = rows.json_lines(rows.lines_of(rows.decoded(sys.stdin.buffer, name), name))
    else:
        if file.suffix.lower() not in (".jsonl", ".json", ".parquet"):
            raise click.UsageError(
                f"{argument} takes .jsonl, .json, .parquet or -, got {str(file)!r}"
            )
        check_source(file)
        source = rows.file_rows(file)
        name, unit, read = repr(str(file)), source.unit, source.read(None)
    empty = True
    for number, values in read:
        empty, place = False, f"{name}, {unit} {number}"
        if isinstance(values, str):
            raise click.ClickException(f"{place}: {values}")
        yield number, place, values
    if empty:
        raise click.ClickException(f"no rows in {name}")
