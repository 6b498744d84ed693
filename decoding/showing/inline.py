"""Pages within the page of a notebook, and what stands there where frames are stripped."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from decoding.models.faults import visible
from decoding.showing.page import View, write_page
from decoding.showing.texts import RECORDED

LEAST, MOST = 200, 800  # pixels of a frame, which its reader can pull larger
DARKEST = 5.0  # nats: entropies from here on have one shade
# What a page's parts take, in pixels of a notebook's width.
_HEAD, _TABLE, _ROW, _DRAWING, _READING, _SLIDERS, _LINE = 110, 70, 28, 460, 400, 340, 34
_CHARACTERS = 80  # of a line
_STYLE = (
    "<style>.decoding-view:has(iframe) > .decoding-static { display: none } "
    "@media (scripting: none) { .decoding-view iframe { display: none } "
    ".decoding-view:has(iframe) > .decoding-static { display: block } }</style>"
)


def inline(view: View, records: Iterable[dict[str, Any]], static: str) -> str:
    """A page within a notebook's, in a frame that can neither see nor reach what is around it.

    Args:
        view: of the records.
        records: to show, one at least.
        static: HTML that is shown where frames or scripts are stripped, as in a notebook that is
            not trusted.
    """
    entries = [*map(view.shown, records)]
    page = io.StringIO()
    write_page([view], entries, page)
    title = escape(visible(entries[0]["title"]))
    height = max(map(_height, entries))
    return (
        f'<div class="decoding-view">{_STYLE}<iframe sandbox="allow-scripts" '
        f'title="{title}" srcdoc="{escape(page.getvalue())}" '
        f'style="width: 100%; height: {height}px; border: 0; resize: vertical"></iframe>'
        f'<div class="decoding-static">{static}</div></div>'
    )


def static_text(tokens: Sequence[dict[str, Any]], before: str = "") -> str:
    """Tokens shaded by their entropy, and a table of their measures, as HTML without a script.

    Args:
        tokens: their records, each with `text`.
        before: the text before the first token.
    """
    prompt = f'<span style="opacity: 0.7">{_escaped(before)}</span>' if before else ""
    text = "".join(map(_shaded, tokens))
    columns = [name for name in RECORDED if tokens and all(name in token for token in tokens)]
    heads = ["token", *(name.replace("_nats", " (nats)").replace("_", " ") for name in columns)]
    rows = [[_cell(token[name]) for name in columns] for token in tokens]
    lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    for token, row in zip(tokens, rows, strict=True):
        cells = "".join(f"<td>{cell}</td>" for cell in row)
        lines.append(
            f'<tr><td style="text-align: left">{_escaped(token["text"], "")}</td>{cells}</tr>'
        )
    return (
        f'<div style="white-space: pre-wrap">{prompt}{text}</div>'
        "<details><summary>Measures of each token; the darker it is, the higher its entropy"
        f'</summary><table style="white-space: pre-wrap">{"".join(lines)}</table></details>'
    )


def _height(entry: dict[str, Any]) -> int:
    """Pixels in which most of an entry can be seen."""
    height = _HEAD + _DRAWING * ("data" in entry)
    for part in entry.get("tables", ()):
        height += _LINE if isinstance(part, str) else _TABLE + _ROW * len(part["rows"])
    for text in entry.get("texts", ())[:1]:
        said = text["before"] + "".join(text["tokens"])
        lines = sum(1 + len(line) // _CHARACTERS for line in said.split("\n"))
        height += _READING + _SLIDERS * (text["page"] is not None) + _LINE * lines
    return min(max(height, LEAST), MOST)


def _shaded(token: dict[str, Any]) -> str:
    """A token behind which the ground shows, so that it reads on light and on dark."""
    shade = 0.6 * min((token.get("entropy_nats") or 0) / DARKEST, 1)
    colour = f"rgba(33, 113, 181, {shade:.2f})"
    return f'<span style="background-color: {colour}">{_escaped(token["text"])}</span>'


def _escaped(text: str, kept: str = "\n\t") -> str:
    return escape(visible(text, kept=kept))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
