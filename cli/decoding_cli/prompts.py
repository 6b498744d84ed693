"""Where prompts come from: arguments, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from decoding_evals.inputs import Inputs
from decoding_evals.rows import FORMATS, decoded, is_utf8, readable


def read_prompts(
    arguments: tuple[str, ...], file: Path | None, column: str | None = None
) -> list[str]:
    """The prompts, as they are written: nothing is stripped but the end of the line.

    Args:
        arguments: prompts from the command line.
        file: `.txt`, one a line, or rows as in `decoding_evals.rows`.
        column: the column of the rows; default `prompt`.

    Raises:
        click.UsageError: both arguments and a file, a file of another type, or a column of none.
        click.ClickException: nothing to read, not UTF-8, or a broken row.
    """
    if arguments and file is not None:
        raise click.UsageError("give prompts as arguments or with --prompts-file, not both")
    if column is not None and (file is None or file.suffix.lower() not in FORMATS):
        raise click.UsageError(f"--column needs a --prompts-file with rows ({', '.join(FORMATS)})")
    prompts = list(arguments) if file is None else _from_file(file, column)
    if not prompts:
        if sys.stdin.isatty():
            click.echo("Prompts, one a line; end with Ctrl-D:", err=True)
        prompts = _lines(sys.stdin.buffer, "standard input")
    for index, prompt in enumerate(prompts):
        if not is_utf8(prompt):
            raise click.ClickException(f"prompt {index} is not valid UTF-8")
    return prompts


def _from_file(file: Path, column: str | None) -> list[str]:
    if file.suffix.lower() in FORMATS:
        rows = Inputs([file], column="prompt" if column is None else column)
        return ["".join(row.pieces) for row in rows.documents()]
    if file.suffix.lower() != ".txt":
        *most, last = (".txt", *FORMATS)
        raise click.UsageError(
            f"--prompts-file takes {', '.join(most)} or {last}, got {str(file)!r}"
        )
    with readable(repr(str(file))), file.open("rb") as stream:
        return _lines(stream, repr(str(file)))


def _lines(stream: BinaryIO, source: str) -> list[str]:
    lines = "".join(decoded(stream, source)).replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        del lines[-1]
    if not lines:
        raise click.ClickException(f"no prompts in {source}: it is empty")
    return lines
