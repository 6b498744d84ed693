"""Generated sequences on a page."""

from __future__ import annotations

from typing import Any

from decoding.showing.page import View
from decoding.showing.texts import page_text


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    count = len(record["tokens"])
    about = (
        f"{record['model']} drew {count:,} token{'s' * (count != 1)} under {record['settings']}, "
        f"seed {record['seed']}; it ended by {record['finish_reason']}."
    )
    title = f"{record['index'] + 1}.{record['sample'] + 1}: {record['prompt'][:60]}"
    text = page_text(
        record["tokens"], title=title, about=about, before=record["prompt"],
        setting=record["settings"], page=record.get("page"),
    )  # fmt: skip
    return {"title": title, "about": about, "texts": [text]}


GENERATION = View(
    "generate", frozenset({"prompt_ids", "sample", "finish_reason", "tokens"}), _entry
)


def _tree(record: dict[str, Any]) -> dict[str, Any]:
    about = f"{record['model']} under {record['settings']}, seed {record['seed']}."
    title = f"tree {record['index'] + 1}: {record['prompt'][:60]}"
    return {"title": title, "about": about, "data": record}


TREE = View("tree", frozenset({"tree", "leaves", "entropy_above_nats"}), _tree)
VIEWS = (GENERATION, TREE)
