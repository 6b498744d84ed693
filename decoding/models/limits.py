"""What a model can read: how many tokens at a time, and which ids."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from decoding.models.devices import embeddings

# In the order in which they are asked; the first that has a value says it.
NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length",
    "max_target_positions", "n_ctx",
)  # fmt: skip

# Rows of each model's table of positions that no token gets.
_unused: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read at a time, or None where its configuration sets no limit.

    A table of positions that holds one for padding, as RoBERTa's, is counted from behind it.
    """
    config = model.config.get_text_config()
    limit = next((n for name in NAMES if (n := getattr(config, name, None)) is not None), None)
    if not isinstance(limit, int) or limit < 1:
        return None
    if model not in _unused:
        _unused[model] = _padding_rows(model, limit)
    return limit - _unused[model]


def _padding_rows(model: PreTrainedModel, limit: int) -> int:
    words = embeddings(model)
    for table in model.modules():
        if not isinstance(table, torch.nn.Embedding) or table is words:
            continue
        if table.num_embeddings == limit and table.padding_idx is not None:
            return table.padding_idx + 1
    return 0


def vocabulary(model: PreTrainedModel) -> int:
    """How many ids a model can read and score: they are 0 to one less."""
    size: int = model.config.get_text_config().vocab_size
    return min(size, getattr(embeddings(model), "num_embeddings", size))


def check_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: ArrayLike, where: str
) -> None:
    """Refuse an id that the model has no row for.

    Some tokenizers have more tokens than their model has rows; what matters is whether they occur.

    Args:
        model: the model.
        tokenizer: its tokenizer, which can name the token.
        ids: `(tokens,)`.
        where: what to call the text in the error.

    Raises:
        ValueError: an id is out of range.
    """
    rows, given = vocabulary(model), np.asarray(ids, dtype=np.int64)
    wrong = given[(given < 0) | (given >= rows)]
    if not len(wrong):
        return
    first = int(wrong[0])
    message = f"token ids must be in [0, {rows}), got {first} in {where}"
    if 0 <= first < len(tokenizer):
        token: Any = tokenizer.convert_ids_to_tokens(first)
        message += (
            f" ({token!r}): the tokenizer has {len(tokenizer)} tokens, and the model {rows} rows "
            "for them"
        )
    raise ValueError(message)
