"""Texts on a page: tokens, and what is known of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RECORDED = (
    "surprisal_nats", "entropy_nats", "raw_surprisal_nats", "raw_entropy_nats", "residual",
    "q_surprisal_nats", "q_entropy_nats", "kl_nats", "kept", "kept_mass", "rank", "temperature",
)  # fmt: skip
"""Measures of tokens that a page shows as they were recorded."""


def page_text(
    tokens: Sequence[dict[str, Any]],
    *,
    title: str,
    about: str,
    before: str = "",
    setting: str | None = None,
    page: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A text for a page.

    With the rows behind it, the page computes what any setting makes of them; without, it shows
    what was recorded.

    Args:
        tokens: their records, each with `text`.
        title: by which it is chosen.
        about: a line on it.
        before: the text before the first token.
        setting: that it was drawn or scored under; the sliders begin there.
        page: the rows, from `PageRows.page`.
    """
    text: dict[str, Any] = {
        "title": title,
        "about": about,
        "before": before,
        "tokens": [token["text"] for token in tokens],
        "setting": setting,
        "page": page and {
            "format": page["format"], "names": dict(page["names"]), "rows": page["rows"],
        },
    }  # fmt: skip
    if page is None:
        text["recorded"] = {
            name: [token[name] for token in tokens]
            for name in RECORDED
            if tokens and all(name in token for token in tokens)
        }
        if tokens and all("alternatives" in token for token in tokens):
            text["alternatives"] = [token["alternatives"] for token in tokens]
    return text
