"""Pages of records: one file each, which needs neither a server nor a network.

A page holds entries, one for each record. What an entry shows is known to its `View`: a title and
lines, texts whose tokens can be looked at, tables, and a drawing by a script of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

PARTS = Path(__file__).parent / "parts"
SCRIPTS = tuple(
    PARTS / name for name in ("elements.js", "chart.js", "rows.js", "text.js", "page.js")
)


@dataclass(frozen=True)
class View:
    """How records of one kind are shown on a page.

    Args:
        name: of the kind, as the page's script knows it.
        keys: that each record of the kind has, and none of other kinds.
        entry: makes of a record what the page shows, all of it plain values: `title` and `about`,
            both texts; and, each where there is one, `texts` (see `decoding.showing.texts`),
            `tables` (lines, and dictionaries of `title`, `caption`, `head`, `numeric` and `rows`),
            and `data`, which the script draws.
        script: that draws: JavaScript which sets `views[name]`; see `parts/elements.js`.
    """

    name: str
    keys: frozenset[str]
    entry: Callable[[dict[str, Any]], dict[str, Any]]
    script: Path | None = None

    def knows(self, record: dict[str, Any]) -> bool:
        """Whether a record is of this kind."""
        return self.keys <= record.keys()

    def shown(self, record: dict[str, Any]) -> dict[str, Any]:
        """The entry of a record."""
        return {"view": self.name, **self.entry(record)}


def write_page(views: Iterable[View], entries: Iterable[dict[str, Any]], file: TextIO) -> None:
    """Write a page.

    It holds all that it needs, and by its policy asks for nothing: a reader without network sees
    the same. Texts stand in it as JSON, in which nothing is markup.

    Args:
        views: that made the entries.
        entries: from `View.shown`; taken one at a time.
        file: where to.
    """
    own = sorted({view.script for view in views if view.script is not None})
    style = (PARTS / "page.css").read_text(encoding="utf-8")
    # The last one starts the page.
    scripts = [path.read_text(encoding="utf-8") for path in (*SCRIPTS[:-1], *own, SCRIPTS[-1])]
    script = "\n".join(scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    file.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n<title>decoding</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n"
    )
    file.write((PARTS / "page.html").read_text(encoding="utf-8"))
    file.write('<script type="application/json" id="data">{"entries":[')
    vocabularies = _Vocabularies()
    for number, entry in enumerate(entries):
        file.write((",\n" if number else "\n") + _json(vocabularies.shared(entry)))
    file.write(f'],\n"vocabularies":{_json(vocabularies.known)}}}</script>\n')
    file.write(f"<script>{script}</script>\n</body>\n</html>\n")


class _Vocabularies:
    """Formats of rows and names of tokens, which the texts of one model share."""

    def __init__(self) -> None:
        self.known: list[dict[str, Any]] = []

    def shared(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry, its texts naming the vocabulary of their rows by its place."""
        if "texts" not in entry:
            return entry
        return {**entry, "texts": [*map(self._placed, entry["texts"])]}

    def _placed(self, text: dict[str, Any]) -> dict[str, Any]:
        page = text["page"]
        if page is None or page["format"] is None:
            return {**text, "page": None}
        place = next((i for i, one in enumerate(self.known) if _fits(one, page)), len(self.known))
        if place == len(self.known):
            self.known.append({"format": page["format"], "names": {}})
        self.known[place]["names"] |= page["names"]
        return {**text, "page": {"vocabulary": place, "rows": page["rows"]}}


def _fits(vocabulary: dict[str, Any], page: dict[str, Any]) -> bool:
    names = vocabulary["names"]
    same = all(names.get(id_, name) == name for id_, name in page["names"].items())
    return same and bool(vocabulary["format"] == page["format"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON in ASCII that ends no script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
