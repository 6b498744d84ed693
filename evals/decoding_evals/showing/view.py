"""How records of an evaluation are shown: tables on a terminal, and an entry of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoding.showing.page import View
from decoding_evals.showing.html import plain
from decoding_evals.showing.terminal import Shown, table_of_rows


@dataclass(frozen=True)
class RecordView(View):
    """A view whose records have tables.

    Args:
        tables: tables and lines of a record, as a command prints them.
    """

    tables: Callable[[dict[str, Any]], Iterable[Shown]] = lambda record: ()


def table_view(
    name: str,
    keys: str,
    tables: Callable[[dict[str, Any]], Iterable[Shown]],
    *,
    script: Path | None = None,
    subject: Callable[[dict[str, Any]], str] | None = None,
    about: Callable[[dict[str, Any]], str] = lambda record: "",
) -> RecordView:
    """A view of which a page shows the tables, and what a script draws of the whole record.

    Args:
        name: of the kind of records, as the script knows it.
        keys: that each of them has, and no other record, separated by spaces.
        tables: of a record.
        script: that draws; none where tables are all.
        subject: what a record is of; default `subject_of`.
        about: a sentence on a record.
    """
    subject = subject or subject_of

    def entry(record: dict[str, Any]) -> dict[str, Any]:
        drawn = {} if script is None else {"data": record}
        return {
            "title": f"{name}: {subject(record)}", "about": about(record),
            "tables": plain(tables(record)), **drawn,
        }  # fmt: skip

    return RecordView(name, frozenset(keys.split()), entry, script, tables)


def _rows(record: dict[str, Any]) -> dict[str, Any]:
    table = table_of_rows(record["subject"], record["rows"])
    return {"title": record["subject"], "about": "", "tables": plain([table])}


ROWS = View("rows", frozenset({"subject", "rows"}), _rows)
"""Rows that stand in place of a record, as `--per` asks for."""


def title_of(record: dict[str, Any]) -> str:
    """The name of a record's text, or its number, from 1, where it has none."""
    return str(record["name"]) if "name" in record else f"text {record['index'] + 1}"


def subject_of(record: dict[str, Any]) -> str:
    """The text or the models that a record is of."""
    models = record.get("models") or [record["model"]] if "index" not in record else []
    return " · ".join(models) or title_of(record)
