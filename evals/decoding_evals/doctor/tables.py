"""What doctor found, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from decoding_evals.showing.terminal import Shown, titled

MARKS = {"pass": ("pass", None), "fail": ("FAIL", "bold red"), "skipped": ("skipped", "dim")}


def summary(record: dict[str, Any]) -> str:
    """How many checks passed."""
    counts = [sum(check["status"] == status for check in record["checks"]) for status in MARKS]
    return f"{counts[0]} checks passed, {counts[1]} failed, {counts[2]} skipped"


def tables(record: dict[str, Any]) -> Iterator[Shown]:
    """One line per check; and notes."""
    title = f"{record['model']}: {summary(record)}"
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
