"""Traces on a page."""

from __future__ import annotations

from typing import Any

from decoding.showing.page import View
from decoding.showing.texts import page_text


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    tokens = record["tokens"]
    title = f"Trace of {len(tokens):,} token{'s' * (len(tokens) != 1)}"
    return {"title": title, "about": "", "texts": [page_text(tokens, title=title, about="")]}


TRACE = View("trace", frozenset({"tokens"}), _entry)
