"""`--plot FILE`: refused before any work, or written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from decoding_evals.shell.files import Target, check_target, is_stream, writing
from decoding_evals.shell.options import Option, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def plot_option(text: str) -> Option:
    """`--plot FILE`."""
    return option("--plot FILE", f"{text} FILE is .png, .svg or .pdf.")


def check_plot(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done.

    Raises:
        click.UsageError: another suffix, or a folder.
        click.ClickException: no matplotlib, or no such folder, or one that cannot be written.
    """
    if path is None:
        return
    check_target("--plot", path, FORMATS)
    if not (is_stream(path) or os.access(Path(os.path.realpath(path)).parent, os.W_OK)):
        raise click.ClickException(f"cannot write {str(path)!r}: Permission denied")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "--plot needs matplotlib: pip install 'decoding-toolkit[plot]'"
        ) from None


def write_plot(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    with writing(path), Target(path) as target:
        temporary = target.temporary()
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=160)
        target.publish(temporary)
