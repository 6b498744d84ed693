"""How tables look in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from rich.text import Text

from decoding_evals.showing.lines import harmless
from decoding_evals.showing.terminal import Shown, console

if TYPE_CHECKING:
    from rich.table import Table


def to_html(parts: Iterable[Shown]) -> str:
    """Tables and lines as HTML, every text escaped and harmless, in the colours of a terminal."""
    return "\n".join(
        f'<div style="white-space: pre-wrap">{_inline(part)}</div>'
        if isinstance(part, str)
        else _table(part)
        for part in parts
    )


def plain(parts: Iterable[Shown]) -> list[Any]:
    """Tables and lines as plain values, for a page: every text harmless, without its colours."""
    return [_plain(part) if isinstance(part, str) else _plain_table(part) for part in parts]


def _plain(text: Any) -> str:
    return text.plain if isinstance(text, Text) else harmless(str(text)).strip("\n")


def _plain_table(table: Table) -> dict[str, Any]:
    columns = table.columns
    cells = zip(*(column.cells for column in columns), strict=True)
    return {
        "title": _plain(table.title or ""),
        "caption": _plain(table.caption or ""),
        "head": [_plain(column.header) for column in columns] if table.show_header else None,
        "numeric": [column.justify == "right" for column in columns],
        "rows": [[*map(_plain, row)] for row in cells],
    }


def _table(table: Table) -> str:
    lines = ['<table style="white-space: pre-wrap">']
    if table.title:
        lines.append(f'<caption style="text-align: left">{_inline(table.title)}</caption>')
    if table.show_header:
        lines.append(_row("th", [(column.header, column.justify) for column in table.columns]))
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = zip(row, (column.justify for column in table.columns), strict=True)
        lines.append(_row("td", cells))
    lines.append("</table>")
    if table.caption:
        lines.append(f'<div style="white-space: pre-wrap">{_inline(table.caption)}</div>')
    return "\n".join(lines)


def _row(tag: str, cells: Iterable[tuple[Any, str]]) -> str:
    shown = (
        f'<{tag} style="text-align: {justify}">{_inline(cell)}</{tag}>' for cell, justify in cells
    )
    return f"<tr>{''.join(shown)}</tr>"


def _inline(text: Any) -> str:
    """A text with its styles."""
    if not isinstance(text, Text):
        return escape(harmless(str(text)).strip("\n"))
    screen = console(False)
    pieces = []
    for piece, style, _ in text.render(screen):
        css = (style or screen.get_style(text.style)).get_html_style()
        pieces.append(f'<span style="{css}">{escape(piece)}</span>' if css else escape(piece))
    return "".join(pieces)
