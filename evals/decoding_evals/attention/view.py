"""How the heads of a text are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decoding_evals.attention.tables import tables
from decoding_evals.showing.html import plain
from decoding_evals.showing.view import RecordView, title_of

DRAWN = (
    "layers", "heads", "entropy_nats", "normalized_entropy", "without_sink_normalized_entropy",
    "sink_weight", "collapsed_heads", "collapse_threshold",
)  # fmt: skip


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    page = record.get("page")
    count = record["tokens"]
    about = (
        f"{record['model']} on {count:,} token{'s' * (count != 1)}: how broadly each head looks."
    )
    if record["windows"] > 1:
        about += f" In {record['windows']:,} windows, each of which sees itself alone."
    data = {name: record[name] for name in DRAWN}
    data["tokens"] = [token["text"] for token in record["per_token"]]
    data |= {"front": [], "rows": None} if page is None else {"front": page["front"], "rows": page}
    return {
        "title": f"attention: {title_of(record)}", "about": about,
        "data": data, "tables": plain(tables(record)),
    }  # fmt: skip


VIEW = RecordView(
    "attention", frozenset({"layers", "heads", "collapsed_heads"}), _entry,
    Path(__file__).with_name("view.js"), tables,
)  # fmt: skip
VIEWS = (VIEW,)
