"""Texts into token ids, also texts that are too long to be held at once.

A long text is encoded in overlapping chunks. Two neighbours are joined in the middle of a stretch
that both encode alike, far from either's edge; where there is none, the chunks are encoded as one.
So the ids are those of the whole text for every tokenizer whose tokens depend on their
neighbourhood alone, and memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from decoding.models.detokenizing import token_texts

CHUNK = 1 << 16
OVERLAP = 2048


class Segment(NamedTuple):
    """A stretch of a text with its tokens; the stretches of a text concatenate to it."""

    ids: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Index in the whole text behind each token's last character, `(tokens,)`. A token's text
    begins where the one before ends, the first one's at `start`; a character of several tokens
    belongs to the last of them."""
    start: int
    """Index in the whole text of the stretch's first character."""
    text: str
    reaches: NDArray[np.int64]
    """Index behind the last character of which a token holds any part, `(tokens,)`; beyond its
    end for all but the last of a character's tokens."""


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool = False, name: str = "the prompt"
) -> list[int]:
    """The ids, one or more, that a model reads of a prompt before it continues it.

    Args:
        tokenizer: its own special tokens are added, and an empty prompt becomes BOS.
        prompt: the prompt.
        chat: put it into the tokenizer's chat template as the user's message.
        name: what to call it in an error.

    Raises:
        ValueError: an empty prompt, and the tokenizer has no BOS.
    """
    if chat:
        message = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids = list(tokenizer(prompt, add_special_tokens=not chat, verbose=False)["input_ids"])
    if ids:
        return ids
    if tokenizer.bos_token_id is None:
        raise ValueError(f"{name} is empty and the tokenizer has no BOS token")
    return [tokenizer.bos_token_id]


def encode(tokenizer: PreTrainedTokenizerBase, text: str | Iterable[str]) -> Iterator[Segment]:
    """Encode a text without special tokens, in segments of bounded size.

    Args:
        tokenizer: any Hugging Face tokenizer; one that gives no offsets must round-trip.
        text: a text, or its pieces in their order.

    Returns:
        The text's segments; none for an empty text.

    Raises:
        ValueError: the tokenizer neither gives offsets nor round-trips, or cuts a long text
            differently in a longer stretch.
    """
    current: _Encoding | None = None
    for chunk in _chunks([text] if isinstance(text, str) else text):
        if current is None:
            current = _Encoding(tokenizer, chunk, 0, 0)
            continue
        tail = current.text[-OVERLAP:]
        following = _Encoding(tokenizer, tail + chunk, current.stop - len(tail), 0)
        joint = _joint(current, following)
        if joint is None:
            current = _Encoding(tokenizer, current.text + chunk, current.start, current.first)
        else:
            before, after = joint
            yield current.segment(before)
            following.first = int(following.starts[after])
            current = following
    if current is not None:
        yield current.segment(None)


class _Encoding:
    """The tokens of `text`, which begins at `start` of the whole; those before `first` belong to
    the encoding before."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, start: int, first: int
    ) -> None:
        self.text, self.start, self.stop, self.first = text, start, start + len(text), first
        if tokenizer.is_fast:
            encoded = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            self.ids = np.array(encoded["input_ids"], dtype=np.int64)
            offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start
            self.starts, self.ends = offsets[:, 0], offsets[:, 1]
        else:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            pieces = token_texts(tokenizer, ids)
            if "".join(pieces) != text:
                raise ValueError(
                    "tokenizer must give offsets or decode to the text that it encoded, got "
                    f"{type(tokenizer).__name__}, which does neither"
                )
            self.ids = np.array(ids, dtype=np.int64)
            stops = start + np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
            self.starts = np.concatenate([[start], stops[:-1]]).astype(np.int64)
            # A token without text holds part of the character that the next text completes.
            later = np.searchsorted(stops, self.starts, side="right")
            self.ends = stops[np.minimum(later, len(stops) - 1)]

    def segment(self, token: int | None) -> Segment:
        """From `first` to the start of a token, or to the end of the text."""
        begin = int(np.searchsorted(self.starts, self.first)) if self.first else 0
        if self.first and (begin == len(self.ids) or self.starts[begin] != self.first):
            raise ValueError(
                "tokenizer must cut a text alike whatever surrounds it: around character "
                f"{self.first} it cuts differently in a longer stretch"
            )
        # White space that no token covers goes with the token behind it.
        start = int(self.ends[begin - 1]) if begin else self.start
        until = self.stop if token is None else int(self.ends[token - 1])
        # Part of a character ends where it begins, so that its last token holds all of it.
        starts = np.append(self.starts[begin:token], until)
        ends = np.minimum(self.ends[begin:token], starts[1:])
        if token is None and len(ends):
            ends[-1] = until
        text = self.text[start - self.start : until - self.start]
        ids, reaches = self.ids[begin:token], self.ends[begin:token]
        return Segment(ids, np.maximum.accumulate(ends), start, text, reaches)


def _chunks(pieces: Iterable[str]) -> Iterator[str]:
    parts: list[str] = []
    size = 0
    for piece in pieces:
        for begin in range(0, len(piece), CHUNK):
            parts.append(piece[begin : begin + CHUNK])
            size += len(parts[-1])
            if size >= CHUNK:
                yield "".join(parts)
                parts, size = [], 0
    if parts:
        yield "".join(parts)


def _joint(before: _Encoding, after: _Encoding) -> tuple[int, int] | None:
    """Index in either encoding of a token where they can be joined, or None."""
    margin = OVERLAP // 4
    low, high = after.start + margin, before.stop - margin
    (first, last), (first_after, last_after) = (
        (int(of.starts.searchsorted(low)), int(of.ends.searchsorted(high, side="right")))
        for of in (before, after)
    )
    here, there = slice(first, last), slice(first_after, last_after)
    for name in ("ids", "starts", "ends"):
        if not np.array_equal(getattr(before, name)[here], getattr(after, name)[there]):
            return None
    # A character of several tokens must not be cut.
    whole = before.starts[first + 1 : last] >= before.ends[first : last - 1]
    candidates = np.flatnonzero(whole) + 1
    if len(candidates) < 8:
        return None
    middle = int(candidates[len(candidates) // 2])
    if before.starts[first + middle] <= before.first:
        return None
    return first + middle, first_after + middle
