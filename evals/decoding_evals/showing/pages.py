"""Pages that recompute: a text's tokens, and rows from which any temperature and prefix follows."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from decoding.rows.packed import PackedRows
from decoding.texts.detokenizing import spellings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PARTS = Path(__file__).parent / "page"
SCRIPTS = ("rows.js", "view.js")


def format_of(packed: PackedRows) -> dict[str, Any]:
    """What stands where in a row, as the page's script reads it."""
    fields: Any = packed.layout.fields
    return {
        "vocab": packed.vocab,
        "named": packed.named,
        "places": packed.places.tolist(),
        "bytes": packed.layout.itemsize,
        "at": {name: fields[name][1] for name in packed.layout.names or () if name},
    }


class PageRows:
    """Packs rows while texts are scored, and hands on those of one text at a time.

    Args:
        detail: see `PackedRows`.
        tokenizer: names the tokens.
    """

    def __init__(self, detail: int, tokenizer: PreTrainedTokenizerBase) -> None:
        self.detail, self.tokenizer = detail, tokenizer
        self._format: PackedRows | None = None
        self._held: dict[int, NDArray[np.void]] = {}
        self._count = 0

    def add(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Pack rows `(rows, vocab)` with the tokens that came, and number them, `(rows,)`."""
        if self._format is None:
            self._format = PackedRows(logits.shape[-1], self.detail)
        numbers = range(self._count, self._count + len(tokens))
        rows = self._format.pack(logits.detach().float().cpu().numpy(), tokens.cpu().numpy())
        self._held |= zip(numbers, rows, strict=True)
        self._count = numbers.stop
        return tokens.new_tensor(numbers)

    def let_go(self, number: float | None) -> None:
        """Forget a row that is of no token."""
        if number is not None:
            del self._held[int(number)]

    def take(self, numbers: Iterable[float], before: str = "") -> dict[str, Any]:
        """What a record needs for its page; the rows are let go.

        Args:
            numbers: of the rows, in the order of the tokens.
            before: what stands before the first of them.
        """
        rows = [self._held.pop(int(number)) for number in numbers]
        ids = sorted({int(id_) for row in rows for id_ in row["named_id"]})
        return {
            "format": None if self._format is None else format_of(self._format),
            "rows": base64.b64encode(b"".join(row.tobytes() for row in rows)).decode(),
            "names": {str(id_): _name(self.tokenizer, id_) for id_ in ids},
            "before": before,
        }


def _name(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    """A token's text within a text; a special token's own name."""
    texts = spellings(tokenizer)
    text = texts[id_] if id_ < len(texts) else ""
    return text or str(tokenizer.convert_ids_to_tokens(id_) or f"token {id_}")


def write_page(records: Iterable[dict[str, Any]], file: TextIO) -> None:
    """Write a page of records that carry `page`, which `PageRows.take` makes.

    It holds all that it needs, and by its policy asks for nothing: a reader without network sees
    the same. Texts stand in it as JSON, in which nothing is markup.

    Args:
        records: of `decoding generate` or `decoding score`; taken one at a time.
        file: where to.
    """
    style = (PARTS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    file.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n<title>What the model expected</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n"
    )
    file.write((PARTS / "page.html").read_text(encoding="utf-8"))
    file.write('<script type="application/json" id="data">{"texts":[')
    names: dict[str, str] = {}
    format_ = None
    for number, record in enumerate(chain.from_iterable(map(_texts, records))):
        page = record["page"]
        names |= page["names"]
        format_ = format_ or page["format"]
        file.write((",\n" if number else "\n") + _json(_text(record)))
    file.write(f'],\n"format":{_json(format_)},\n"names":{_json(names)}}}</script>\n')
    file.write(f"<script>{script}</script>\n</body>\n</html>\n")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON in ASCII that ends no script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _texts(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record, or where it ranks choices, each of them."""
    for place, choice in enumerate(record.get("choices", ()), 1):
        yield {"name": f"{record.get('name', 'prompt')}, choice {place}", **choice}
    if "choices" not in record:
        yield record


def _text(record: dict[str, Any]) -> dict[str, Any]:
    """A text as the page's script reads it."""
    setting = record.get("settings", record.get("setting"))
    if "sample" in record:
        title = f"{record['index'] + 1}.{record['sample'] + 1}: {record['prompt'][:60]}"
        about = f"{record['model']} drew {len(record['tokens'])} tokens under {setting}"
        about += f", seed {record['seed']}; it ended by {record['finish_reason']}."
    else:
        title = str(record.get("name", f"text {record.get('index', 0) + 1}"))
        title = "standard input" if title == "-" else title
        about = f"{title}: {len(record['tokens'])} tokens scored"
        about += "." if setting is None else f" under {setting}."
        if record["tokens_not_scored"]:
            about += f" {record['tokens_not_scored']} tokens are not scored."
    return {
        "title": title,
        "about": about,
        "before": record["page"]["before"],
        "tokens": [token["text"] for token in record["tokens"]],
        "setting": setting,
        "rows": record["page"]["rows"],
    }
