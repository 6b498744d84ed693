"""How tables, and text shaded by entropy, look on a terminal and in a pipe."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.style import Style
from rich.table import Table
from rich.text import Text

from decoding_evals.showing.lines import harmless, in_a_line

# Upper bounds in nats and backgrounds, from certain to hesitant: a sequential scale (ColorBrewer
# YlOrBr) that stays ordered for colour-blind readers and in greyscale.
SHADES: tuple[tuple[float, Style | None], ...] = (
    (1.0, None),
    (2.0, Style(color="#000000", bgcolor="#fee391")),
    (3.0, Style(color="#000000", bgcolor="#fec44f")),
    (4.0, Style(color="#000000", bgcolor="#fe9929")),
    (float("inf"), Style(color="#ffffff", bgcolor="#b84a08")),
)

NARROWEST = 12
"""What a column of text may fold to."""
WIDEST = 10_000
"""Columns of a pipe."""

Shown = Table | str
"""What a result is shown as: a table, or a line."""


def shaded(text: str, entropy_nats: float) -> Text:
    """A token shaded by its entropy; line breaks have no background, which would fill the line."""
    style = next((style for bound, style in SHADES if entropy_nats < bound), SHADES[-1][1])
    result = Text()
    for piece in re.split("(\n)", harmless(text)):
        result.append(piece, None if piece == "\n" else style)
    return result


def legend() -> Text:
    """The shades with their bounds in nats."""
    result = Text("entropy in nats ")
    lower = 0.0
    for bound, style in SHADES:
        label = f"{lower:g}–{bound:g}" if bound != float("inf") else f"{lower:g}+"
        result.append(f" {label} ", style)
        lower = bound
    return result


class _Console(Console):
    """Shows every string harmless: a line, a title, the head of a column, a cell."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)


def console(color: bool, *, stderr: bool = False, file: TextIO | None = None) -> Console:
    """A console that writes text as it is: no wrapping, no markup, colour as told.

    Strings become harmless; a `Text` has to be made of harmless ones.
    """
    return _Console(
        stderr=stderr,
        file=file,
        color_system="truecolor" if color else None,
        force_terminal=color or None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def wants_color() -> bool:
    """Whether standard output is a terminal whose user has not declined colour."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def titled(title: str | None = None, *columns: str, show_header: bool = True) -> Table:
    """An empty table under a title.

    Args:
        title: the title.
        *columns: the heads of columns, those of figures, which align on the right, behind ">".
        show_header: whether the heads are shown.
    """
    table = Table(
        box=None,
        pad_edge=False,
        show_header=show_header,
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for head in columns:
        table.add_column(head.removeprefix(">"), justify="right" if head[:1] == ">" else "left")
    return table


def table_of_rows(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A table of rows that have the same keys, those with objects left out."""
    first = {key: value for key, value in (rows or [{}])[0].items() if not isinstance(value, dict)}
    heads = (f"{'>' * (not isinstance(value, str))}{key}" for key, value in first.items())
    table = titled(title, *heads)
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in first))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return in_a_line(value) if isinstance(value, str) else number(value)


def print_table(*parts: Shown, stderr: bool = False) -> None:
    """Write tables and lines: within a terminal, or as wide as they are in a pipe.

    Nothing is cut: text folds, figures do not, and where a table is still too wide for a terminal,
    lines run over its edge.

    Args:
        *parts: the tables and lines.
        stderr: to standard error, plain, instead of standard output.
    """
    screen = console(wants_color() and not stderr, stderr=stderr)
    _write(screen, parts, screen.width if screen.is_terminal else WIDEST)


def to_text(parts: Iterable[Shown], width: int = 100) -> str:
    """Tables and lines without colour; text folds where it is wider than `width`."""
    file = io.StringIO()
    _write(console(False, file=file), parts, width)
    return file.getvalue().removesuffix("\n")


def _write(screen: Console, parts: Iterable[Shown], width: int) -> None:
    def line(text: Any, style: Any = None) -> None:
        screen.width = width
        screen.print(text, style=style, soft_wrap=width == WIDEST)

    for part in parts:
        if isinstance(part, str):
            line(part)
            continue
        # A title may be wider than its table.
        if part.title:
            line(part.title, part.title_style)
        screen.width = max(width, _narrowed(screen, part))
        table = copy(part)
        table.title = table.caption = None
        screen.print(table, soft_wrap=False)
        if part.caption:
            line(part.caption, part.caption_style)


def _narrowed(screen: Console, table: Table) -> int:
    """Let text fold and figures not; return the width that the table then needs."""
    wide = screen.options.update(width=WIDEST)
    least = Measurement.get(screen, wide, table).maximum
    for column in table.columns:
        if column.justify == "right":
            column.no_wrap = True
        elif not column.no_wrap:
            column.overflow = "fold"
            widths = [Measurement.get(screen, wide, cell).maximum for cell in column.cells]
            least -= max(0, max(widths, default=0) - NARROWEST)
    return least


def counted(count: int, name: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{count:,} {name}" + "s" * (count != 1)


def number(value: float | None) -> str:
    """A figure for a table: counts as they are, others with five digits or four decimals."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100_000:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    # Trailing zeros stay, so that columns line up; what rounds to -0 is 0.
    return f"{value:#.5g}".rstrip(".") if abs(value) >= 1 else f"{value:z.4f}"
