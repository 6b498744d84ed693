"""Data sets in a folder on disk: that they read nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A card in front of a text, and a card by itself, as the `datasets` library finds them.
CARD, BARE_CARD = "README.md", ".huggingface.yaml"

ARCHIVES = {"file", "zip", "tar", "gzip", "bz2", "lz4", "xz", "zstd", "7z", "rar"}
"""Protocols that read what lies in the folder."""


def check_card(folder: Path, name: str) -> None:
    """Refuse a data set whose card names files that would have to be fetched.

    Args:
        folder: where it lies.
        name: what to call it.

    Raises:
        ValueError: the card names an address.
    """
    for text in _strings([*_cards(folder)]):
        for part in text.split("::"):
            protocol, separator, _ = part.partition("://")
            if separator and protocol.lower() not in ARCHIVES:
                raise ValueError(f"its card names files that do not lie in {name!r} ({text!r})")


def _cards(folder: Path) -> Iterator[Any]:
    """The configurations that the cards of a folder describe."""
    import yaml

    for file, pattern in ((CARD, r"\A\s*---\r?\n(.*?)\r?\n---"), (BARE_CARD, r"\A(.*)\Z")):
        path = folder / file
        if path.is_file():
            found = re.search(pattern, path.read_text(encoding="utf-8-sig"), re.DOTALL)
            card = yaml.safe_load(found[1]) if found else None
            yield card.get("configs") if isinstance(card, dict) else None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
