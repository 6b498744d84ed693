"""The rows behind a text, packed for its page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.models.limits import positions, vocabulary
from decoding.passes.caches import Reader
from decoding.rows.packed import PackedRows
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.texts.detokenizing import spellings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from decoding.models.loading import LanguageModel


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
    """Packs rows while texts are scored.

    Args:
        detail: see `PackedRows`.
        language_model: whose rows they are.
    """

    def __init__(self, detail: int, language_model: LanguageModel) -> None:
        self.tokenizer = language_model.tokenizer
        self._format = PackedRows(vocabulary(language_model.model), detail)

    def pack(self, logits: Tensor, tokens: Tensor) -> NDArray[np.void]:
        """Pack rows `(rows, vocab)` with the tokens that came."""
        return self._format.pack(logits.detach().float().cpu().numpy(), tokens.cpu().numpy())

    def page(self, rows: Sequence[np.void], before: str = "") -> dict[str, Any]:
        """What a record needs for its page, under `page`.

        Args:
            rows: packed, in the order of the tokens.
            before: what stands before the first of them.
        """
        ids = sorted({int(id_) for row in rows for id_ in row["named_id"]})
        return {
            "format": format_of(self._format) if len(rows) else None,
            "rows": base64.b64encode(b"".join(row.tobytes() for row in rows)).decode(),
            "names": {str(id_): _name(self.tokenizer, id_) for id_ in ids},
            "before": before,
        }


def pages_of(
    language_model: LanguageModel,
    prompt: str,
    prompt_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    detail: int,
    *,
    reader: Reader | None = None,
) -> Iterator[dict[str, Any]]:
    """What the pages of finished continuations of one prompt need.

    Each is read once more, and the prompt once for all of them. The rows are those that the tokens
    were drawn from, to rounding.

    Args:
        language_model: that drew them.
        prompt: what the page shows before them.
        prompt_ids: what the model read of it.
        continuations: their ids.
        detail: see `PackedRows`.
        reader: keeps what the model reads of the prompt from call to call.
    """
    rows = PageRows(detail, language_model)
    length = len(prompt_ids) + max(map(len, continuations), default=0)
    limit = positions(language_model.model)
    context = max(1, length if limit is None else min(length, limit))

    def measure(block: LogitBlock) -> Mapping[str, NDArray[np.void]]:
        return {"row": rows.pack(block.logits, block.targets)}

    windows = Windows(context=context, bos="never")
    run = TeacherForcing(language_model, windows, reader=reader)
    documents = [TokenDocument(list(ids), tuple(prompt_ids)) for ids in continuations]
    found: list[list[np.void]] = [[] for _ in continuations]
    for window, columns in run.scan(documents, measure):
        found[window.document].extend(columns["row"])
    for packed in found:
        yield rows.page(packed, prompt)


def _name(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    """A token's text within a text; a special token's own name."""
    texts = spellings(tokenizer)
    text = texts[id_] if id_ < len(texts) else ""
    return text or str(tokenizer.convert_ids_to_tokens(id_) or f"token {id_}")
