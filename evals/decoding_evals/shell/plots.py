"""`--plot FILE`: refused before any work, or written whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from decoding_evals.shell.output import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = (".png", ".svg", ".pdf")


def plot_option(text: str) -> Callable[[Command], Command]:
    """`--plot FILE`."""
    return click.option(
        "--plot",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"{text} FILE is .png, .svg or .pdf.",
    )


def check_plot(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done.

    Raises:
        click.UsageError: another suffix, or a folder.
        click.ClickException: no matplotlib, or no such folder, or one that cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise click.UsageError(f"--plot takes {', '.join(most)} or {last}, got {str(path)!r}")
    if path.is_dir():
        raise click.UsageError(f"--plot {str(path)!r} is a folder")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise click.ClickException(f"the folder of {str(path)!r} does not exist")
    if not os.access(folder, os.W_OK):
        raise click.ClickException(f"cannot write {str(path)!r}: Permission denied")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "--plot needs matplotlib: pip install 'decoding-toolkit[plot]'"
        ) from None


def write_plot(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    import tempfile

    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=160)
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.getvalue())
        publish(Path(name), path.resolve())
    finally:
        Path(name).unlink(missing_ok=True)
