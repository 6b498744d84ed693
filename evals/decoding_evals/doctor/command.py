"""`decoding doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.options import model_options, read_model
from decoding_evals.shell.output import to_json

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {"pass": ("pass", None), "fail": ("FAIL", "bold red"), "skipped": ("skipped", "dim")}


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@model_options
@click.option("--json", "as_json", is_flag=True, help="JSON, one object.")
def doctor(file: Path | None, as_json: bool, **options: Any) -> None:
    """Check that a model, its tokenizer and this installation give right numbers.

    Numbers that must agree are computed in two ways: logits and the head's product, one row and a
    batch, padded and unpadded, cached steps and a whole pass, sampler and scorer. FILE is a text
    that the model should find probable, instead of a short story. The exit code is 1 where a
    check fails; what is merely surprising is a note.
    """
    text = None
    if file is not None:
        text = next(Inputs([file]).texts())
    language_model = read_model(options)
    from decoding_evals.doctor import evaluation
    from decoding_evals.showing.terminal import print_table

    with _Progress() as progress:
        result = evaluation.doctor(
            language_model, evaluation.REFERENCE if text is None else text, on_check=progress
        )
    record = result.record()
    if as_json:
        click.echo(to_json(record))
    else:
        print_table(_checks(record))
        if record["notes"]:
            click.echo("\nnotes")
        for note in record["notes"]:
            click.echo(f"- {note}")
    failed = [check["name"] for check in record["checks"] if check["status"] == "fail"]
    if failed:
        count = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
        raise click.ClickException(f"{count} failed: {', '.join(failed)}")


class _Progress:
    """The name of the running check, on a terminal's standard error."""

    def __enter__(self) -> _Progress:
        import sys

        from rich.status import Status

        from decoding_evals.showing.terminal import console

        self._status = (
            Status("loading", console=console(False, stderr=True)) if sys.stderr.isatty() else None
        )
        if self._status is not None:
            self._status.start()
        return self

    def __call__(self, name: str) -> None:
        if self._status is not None:
            self._status.update(name)

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _checks(record: dict[str, Any]) -> Table:
    """One line per check."""
    from rich.text import Text

    from decoding_evals.showing.terminal import harmless, titled

    counts = [sum(check["status"] == status for check in record["checks"]) for status in MARKS]
    title = f"{record['model']}: {counts[0]} checks passed, {counts[1]} failed, {counts[2]} skipped"
    table = titled(title)
    table.add_column("check")
    table.add_column("result")
    table.add_column("figure", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("what it means", overflow="fold")
    for check in record["checks"]:
        word, style = MARKS[check["status"]]
        table.add_row(
            check["name"],
            Text(word, style or ""),
            *("-" if check[key] is None else f"{check[key]:.3g}" for key in ("figure", "limit")),
            harmless(check["message"]),
        )
    return table
