"""How the checks of a set-up are shown."""

from pathlib import Path
from typing import Any

from decoding_evals.doctor.tables import summary, tables
from decoding_evals.showing.view import RecordView


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    return {"title": f"doctor: {record['model']}", "about": f"{summary(record)}.", "data": record}


VIEW = RecordView("doctor", frozenset({"passed", "checks"}), _entry,
                  Path(__file__).with_name("view.js"), tables)  # fmt: skip
VIEWS = (VIEW,)
