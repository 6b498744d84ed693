"""Generated sequences on a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
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
    ends = sorted(_ends(record["tree"]), key=lambda end: -end[1])
    about = (
        f"{record['model']} under {record['settings']}, seed {record['seed']}: it forks where H(p) "
        f"exceeds {record['entropy_above_nats']:g} nats, into up to {record['branches']} branches."
    )
    texts = [
        page_text(
            tokens,
            title=f"{_percent(probability)} {''.join(token['text'] for token in tokens)[:60]}",
            about=f"One of {len(ends):,} ends, of probability {_percent(probability)}.",
            before=record["prompt"],
        )
        for tokens, probability, _ in ends
    ]
    data = {
        "tree": record["tree"],
        "prompt": record["prompt"],
        # Of each end the numbers of the branches that lead there.
        "ends": [{"path": path, "probability": share} for _, share, path in ends],
    }
    title = f"tree {record['index'] + 1}: {record['prompt'][:60]}"
    return {"title": title, "about": about, "data": data, "texts": texts}


End = tuple[list[dict[str, Any]], float, list[int]]


def _ends(root: dict[str, Any]) -> Iterator[End]:
    """The tokens of each end, the product of its probabilities, and its branches by number."""
    waiting: list[tuple[dict[str, Any], End]] = [(root, ([], 1.0, []))]
    while waiting:
        node, (tokens, probability, path) = waiting.pop()
        tokens, probability = tokens + node["tokens"], probability * node["probability"]
        if not node["children"]:
            yield tokens, probability, path
        children = [*enumerate(node["children"])]
        waiting += [(child, (tokens, probability, [*path, at])) for at, child in children[::-1]]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 or not share else "<0.05%"


TREE = View(
    "tree", frozenset({"tree", "leaves", "entropy_above_nats"}), _tree,
    Path(__file__).with_name("tree.js"),
)  # fmt: skip
VIEWS = (GENERATION, TREE)
