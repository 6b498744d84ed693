"""The results of texts, one after the other, to where the user wants them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.output import Interrupted, RecordFile, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def deliver(
    results: Iterable[tuple[dict[str, Any], Any]],
    *,
    inputs: Inputs,
    file: RecordFile | None,
    as_json: bool,
    show: Callable[[dict[str, Any]], None],
    plot: Path | None,
    draw: Callable[[dict[str, Any], Any], Figure],
    done: str,
    models: Collection[str] = (),
) -> None:
    """Write the record of each text as it comes, and a picture of the first.

    Args:
        results: pairs of a record and the result that it is of, taken lazily.
        inputs: where the texts come from.
        file: takes the records, if any.
        as_json: write them to standard output as JSON; else they are shown there.
        show: shows a record.
        plot: where the picture goes, if any.
        draw: draws it from a record and its result.
        done: what happened to a text, as in "scored".
        models: names of those that records are scored with.

    Raises:
        Interrupted: on Ctrl-C; what is finished stays.
    """
    count = 0
    try:
        for record, result in results:
            if file is not None:
                file.write(record)
            elif as_json:
                click.echo(to_json(record))
            else:
                show(record)
            if plot is not None and count == 0:
                from decoding_evals.showing.figures import write_plot

                write_plot(draw(record, result), plot)
            count += 1
    except KeyboardInterrupt:
        raise Interrupted(f"{count} texts {done}") from None
    if plot is not None and count > 1:
        click.echo(f"{str(plot)!r} shows the first of {count} texts", err=True)
    for note in inputs.notes(models):
        click.echo(note, err=True)
