"""What doctor found, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from decoding_evals.showing.terminal import Shown, titled

MARKS = {"pass": ("pass", None), "fail": ("FAIL", "bold red"), "skipped": ("skipped", "dim")}


def tables(record: dict[str, Any]) -> Iterator[Shown]:
    """One line per check; and notes."""
    counts = [sum(check["status"] == status for check in record["checks"]) for status in MARKS]
    title = f"{record['model']}: {counts[0]} checks passed, {counts[1]} failed, {counts[2]} skipped"
    table = titled(title, "check", "result", ">figure", ">limit", "what it means")
    for check in record["checks"]:
        word, style = MARKS[check["status"]]
        table.add_row(
            check["name"],
            Text(word, style or ""),
            *("-" if check[key] is None else f"{check[key]:.3g}" for key in ("figure", "limit")),
            check["message"],
        )
    yield table
    if record["notes"]:
        yield "\nnotes"
    for note in record["notes"]:
        yield f"- {note}"
