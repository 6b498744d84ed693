"""How scores are shown."""

from __future__ import annotations

from typing import Any

from decoding.showing.texts import page_text
from decoding_evals.score.tables import choice_tables, token_tables
from decoding_evals.showing.html import plain
from decoding_evals.showing.view import RecordView, title_of


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    text = _text(record, title_of(record))
    return {"title": text["title"], "about": text["about"], "texts": [text]}


def _choices(record: dict[str, Any]) -> dict[str, Any]:
    texts = [
        _text(choice, f"choice {number}: {choice['text'][:60]}", record["prompt"])
        for number, choice in enumerate(record["choices"], 1)
    ]
    return {
        "title": title_of(record), "about": f"{len(texts)} choices after one prompt.",
        "texts": texts, "tables": plain(choice_tables(record)),
    }  # fmt: skip


def _text(record: dict[str, Any], title: str, before: str = "") -> dict[str, Any]:
    title = "standard input" if title == "-" else title
    page, setting = record.get("page"), record.get("setting")
    about = f"{title}: {record['tokens_scored']:,} tokens scored"
    about += "." if setting is None else f" under {setting}."
    if record["tokens_not_scored"]:
        about += f" {record['tokens_not_scored']:,} tokens are not scored."
    before = before if page is None else page["before"]
    return page_text(
        record["tokens"], title=title, about=about, before=before, setting=setting, page=page
    )


DOCUMENT = RecordView("score", frozenset({"tokens_scored", "tokens_not_scored", "tokens", "index"}),
                      _entry, None, token_tables)  # fmt: skip
CHOICES = RecordView("score-choices", frozenset({"ranking", "ranking_per_byte", "choices"}),
                     _choices, None, choice_tables)  # fmt: skip
VIEWS = (DOCUMENT, CHOICES)
