"""Read a model's tokenizer so that it gives the same ids for a text every time."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from decoding.models.sources import Source

CHANCE = ("dropout", "alpha", "nbest_size")
"""What makes a tokenizer draw how it cuts a text, to train a model on: of BPE, and of Unigram."""


def read_tokenizer(source: Source, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """A model's tokenizer, without the chance that some have in them for training.

    Args:
        source: where it lies.
        trust_remote_code: run code that comes with it.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location, trust_remote_code=trust_remote_code, **source.options
    )
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    for name in CHANCE:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    return tokenizer
