"""`decoding show`: what an earlier run recorded, as tables or as a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_cli.trees import picture
from decoding_evals.reading.rows import FORMATS, Row, file_rows, json_lines
from decoding_evals.shell.options import Command, option
from decoding_evals.shell.output import PAGE, RecordFile, check_source
from decoding_evals.showing.lines import harmless, note

if TYPE_CHECKING:
    from rich.text import Text

    from decoding.showing.page import View

RECORDED = ("score", "perplexity", "compare", "uncertainty", "calibrate", "identify", "attention",
            "mismatch",
            "doctor")  # fmt: skip
"""Evaluations whose records can be shown, beside those of `generate`."""


@click.command(cls=Command)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@option("--output FILE", "Write a page for a browser (.html) instead of tables.", "-o")
@click.option("--open", "opened", is_flag=True, help="Open the page of --output.")
def show(files: tuple[Path, ...], output: Path | None, opened: bool) -> None:
    """Show the records in FILES (or standard input), of whatever command, without a model.

    Records are those of --json and --output (.jsonl, .json, .parquet). A page of what was generated
    or scored with --page-data has sliders, which show what another setting would have done.
    """
    if output is None and opened:
        raise click.UsageError(f"--open needs a page: give --output FILE{PAGE} too")
    if output is not None and output.suffix.lower() != PAGE:
        raise click.UsageError(f"--output takes FILE{PAGE}, got {str(output)!r}")
    known = _views()
    found = ((*_viewed(known, where, record), record) for where, record in _records(files))
    if output is None:
        for place, (name, view, record) in enumerate(found):
            if place:
                click.echo()
            _print(name, view, record)
        return
    with RecordFile(output, page=True) as file:
        for name, view, record in found:
            try:
                file.write(record, view)
            except _BROKEN as error:
                raise _broken(name, view) from error
        if not file.count:
            raise click.ClickException("there are no records to show")
    if opened and click.launch(output.absolute().as_uri()) != 0:
        note(f"no browser was found; the page is {str(output)!r}")


_BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError)


def _views() -> list[View]:
    """The views of all records."""
    modules = ["decoding.generation.view", *(f"decoding_evals.{name}.view" for name in RECORDED)]
    return [view for module in modules for view in import_module(module).VIEWS]


def _records(files: tuple[Path, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each record with where it stands."""
    for path in files or (Path("-"),):
        for number, row in _rows(path):
            where = f"{'standard input' if str(path) == '-' else path}, record {number}"
            if isinstance(row, str):
                raise click.ClickException(f"{where}: {row}")
            yield where, row


def _rows(path: Path) -> Iterator[Row]:
    if str(path) == "-":
        return json_lines(sys.stdin)
    suffixes = [suffix for suffix in FORMATS if suffix != ".csv"]
    if path.suffix.lower() not in suffixes:
        raise click.ClickException(
            f"{str(path)!r} holds no records that can be shown: those are {', '.join(suffixes)}"
        )
    check_source(path)
    return file_rows(path).read(None)


def _viewed(known: list[View], where: str, record: dict[str, Any]) -> tuple[str, View]:
    view = next((view for view in known if view.knows(record)), None)
    if view is None:
        raise click.ClickException(f"{where} is no record of a decoding command")
    return where, view


def _broken(where: str, view: View) -> click.ClickException:
    return click.ClickException(f"{where} is a broken record of {view.name}")


def _print(where: str, view: View, record: dict[str, Any]) -> None:
    """Show a record on the terminal."""
    from decoding_evals.showing.terminal import console, print_table, wants_color
    from decoding_evals.showing.view import RecordView

    try:
        if isinstance(view, RecordView):
            print_table(*view.tables(record))
            return
        shown = picture(record) if view.name == "tree" else _sequence(record)
    except _BROKEN as error:
        raise _broken(where, view) from error
    console(wants_color()).print(shown)


def _sequence(record: dict[str, Any]) -> Text:
    """A prompt and the tokens behind it, shaded by entropy."""
    from rich.text import Text

    from decoding_evals.showing.terminal import shaded

    pieces = (shaded(token["text"], token["entropy_nats"]) for token in record["tokens"])
    return Text.assemble((harmless(record["prompt"]), "bold"), *pieces)
