"""What a model expects behind a text: its end, or one of some named tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from decoding.texts.detokenizing import spellings
from decoding_evals.reading.rows import listed
from decoding_evals.showing.result import finite

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class NextToken(NamedTuple):
    """A named token that may follow a text."""

    id: int
    text: str
    log_prob_nats: float
    """log p(token | text), <= 0."""
    normalized_log_prob_nats: float | None
    """The same among the named tokens; None where none of them is possible."""

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite is None."""
        log_probs = self.log_prob_nats, self.normalized_log_prob_nats
        names = ("log_prob_nats", "normalized_log_prob_nats")
        return {
            "id": self.id,
            "text": self.text,
            **dict(zip(names, finite(log_probs), strict=True)),
        }


def named_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], vocab: int) -> list[int]:
    """The id of each text's token, as it stands within a text, of those that a model has.

    A special token is meant by its name, such as `</s>`. Of tokens with one text, that of a byte
    is not meant.

    Raises:
        ValueError: a text is not one token, or is named twice.
    """
    own = {added.content: id_ for id_, added in tokenizer.added_tokens_decoder.items()}
    found = []
    for text in texts:
        ids = [id_ for id_, said in enumerate(spellings(tokenizer)) if said == text and text]
        if len(ids) > 1:
            names = tokenizer.convert_ids_to_tokens(ids)
            ids = [id_ for id_, name in zip(ids, names, strict=True) if not _BYTE.fullmatch(name)]
        ids = [own[text]] if text in own else ids
        if len(ids) != 1 or ids[0] >= vocab:
            raise ValueError(
                f"{text!r} is not one token of this model: {_spelled(tokenizer, text)}"
            )
        found += ids
    if len({*found}) < len(found):
        raise ValueError(f"tokens must differ, got {'/'.join(texts)!r}")
    return found


def _spelled(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """How a text that is no token is cut."""
    if not text:
        return "it is empty"
    said = spellings(tokenizer)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return f"it is {listed([said[id_] for id_ in ids])}"


def next_tokens(
    ids: Sequence[int], texts: Sequence[str], log_probs: Sequence[float]
) -> tuple[NextToken, ...]:
    """The named tokens with their log-probabilities, in the order given."""
    among = float(np.logaddexp.reduce(log_probs))
    normalized = [None if np.isneginf(among) else value - among for value in log_probs]
    return tuple(map(NextToken, ids, texts, log_probs, normalized))
