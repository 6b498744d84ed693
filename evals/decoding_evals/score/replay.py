"""The rows of finished sequences for their pages, from one reading of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from decoding.models.limits import positions
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.showing.pages import PageRows

if TYPE_CHECKING:
    from decoding.generation.result import Generation
    from decoding.models.loading import LanguageModel


def with_page(language_model: LanguageModel, generation: Generation, detail: int) -> dict[str, Any]:
    """The record of a sequence with what its page needs, `page`.

    The sequence is read once more, whole: the rows are those that it was drawn from, to rounding.

    Args:
        language_model: that drew it.
        generation: the sequence.
        detail: see `PackedRows`.
    """
    rows = PageRows(detail, language_model.tokenizer)
    ids = generation.trace.ids.tolist()
    length = len(generation.prompt_ids) + len(ids)
    limit = positions(language_model.model)
    context = length if limit is None else min(length, limit)
    windows = Windows(context=max(1, context), bos="never", batch_size=1)

    def measure(block: LogitBlock) -> Mapping[str, Tensor]:
        return {"row": rows.add(block.logits, block.targets)}

    run = TeacherForcing(language_model, windows)
    document = TokenDocument(ids, generation.prompt_ids)
    numbers = [
        number
        for _, columns in run.scan([document] if ids else [], measure)
        for number in columns["row"]
    ]
    page = rows.take(numbers, generation.prompt)
    return {**generation.record(), "page": page}
