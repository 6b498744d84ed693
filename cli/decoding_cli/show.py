"""`decoding show`: what an earlier run recorded, as tables or as a page."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.errors import ConsoleError

from decoding_cli.trees import picture
from decoding_evals.reading.placed import placed_rows
from decoding_evals.reading.prompts import STANDARD_INPUT
from decoding_evals.shell.options import Command, option
from decoding_evals.shell.output import PAGE, RecordFile
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
    found = (
        (place, _view_of(known, place, record), record)
        for path in files or (Path(STANDARD_INPUT),)
        for _, place, record in placed_rows(path, "show")
    )
    if output is None:
        for place, (name, view, record) in enumerate(found):
            if place:
                click.echo()
            _print(name, view, record)
        return
    with RecordFile(output, page=True) as file:
        for name, view, record in found:
            try:
                _check_numbers(record)
                file.write(record, view)
            except _BROKEN as error:
                raise _broken(name, view) from error
    if opened and click.launch(output.absolute().as_uri()) != 0:
        note(f"no browser was found; the page is {str(output)!r}")


_BROKEN = (
    ArithmeticError, AttributeError, ConsoleError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What views raise of records that are not as commands write them."""


def _views() -> list[View]:
    """The views of all records."""
    modules = ["decoding.generation.view", *(f"decoding_evals.{name}.view" for name in RECORDED)]
    return [view for module in modules for view in import_module(module).VIEWS]


def _view_of(known: list[View], where: str, record: dict[str, Any]) -> View:
    view = next((view for view in known if view.knows(record)), None)
    if view is None:
        raise click.ClickException(f"{where} is no record of a decoding command")
    return view


def _broken(where: str, view: View) -> click.ClickException:
    return click.ClickException(f"{where} is a broken record of {view.name}")


def _check_numbers(value: Any) -> None:
    """Refuse NaN and infinite numbers, which no record holds, by a ValueError."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_numbers(one)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number is not finite")


def _print(where: str, view: View, record: dict[str, Any]) -> None:
    """Show a record on the terminal."""
    from decoding_evals.showing.terminal import console, print_table, wants_color
    from decoding_evals.showing.view import RecordView

    try:
        _check_numbers(record)
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
