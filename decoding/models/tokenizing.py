"""Read a model's tokenizer so that it gives the same ids for a text every time."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from decoding.models.sources import Source


def read_tokenizer(source: Source, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the dropout that some BPE has to train a model on.

    Args:
        source: where it lies.
        trust_remote_code: run code that comes with it.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location, trust_remote_code=trust_remote_code, **source.options
    )
    pieces: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if hasattr(pieces, "dropout"):
        pieces.dropout = None
    return tokenizer
