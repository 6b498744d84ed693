"""What the page of answers needs: their tokens, and the rows behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding.generation.result import Generation
from decoding.models.loading import LanguageModel
from decoding.passes.caches import Reader
from decoding.showing.packing import pages_of


def answer_pages(
    answers: Sequence[Generation],
    language_model: LanguageModel | None,
    detail: int,
    *,
    reader: Reader | None = None,
) -> tuple[dict[str, Any], ...]:
    """The tokens of answers to one prompt, each with its rows where they can be made.

    Args:
        answers: to one prompt, which the model read as the same ids.
        language_model: computes the rows; without it, there are none.
        detail: of the rows; see `decoding.rows.packed.PackedRows`.
        reader: keeps what was read of the prompt.

    Returns:
        Of each answer `tokens`, with what is known of all of them (one that holds the whole text
        where they are not known), `finish_reason` and `page`, the rows or None.
    """
    pages: list[dict[str, Any] | None] = [None] * len(answers)
    known = [at for at, one in enumerate(answers) if one.prompt_ids and one.trace.texts is not None]
    if language_model is not None and known:
        first = answers[known[0]]
        ids = [answers[at].trace.ids.tolist() for at in known]
        made = pages_of(
            language_model, first.prompt, first.prompt_ids, ids, detail, reader=reader
        )  # fmt: skip
        for at, page in zip(known, made, strict=True):
            pages[at] = page
    return tuple(
        {"tokens": _tokens(one), "finish_reason": one.finish_reason, "page": page}
        for one, page in zip(answers, pages, strict=True)
    )


def _tokens(answer: Generation) -> list[dict[str, Any]]:
    """Records of an answer's tokens, without what is not known of all of them."""
    if answer.trace.texts is None:
        return [{"text": answer.text}]
    columns = answer.trace.columns()
    unknown = {
        name for name, values in columns.items()
        if isinstance(values, np.ndarray) and not np.isfinite(values).all()
    }  # fmt: skip
    return [
        {name: value for name, value in token.items() if name not in unknown}
        for token in answer.trace.records()
    ]
