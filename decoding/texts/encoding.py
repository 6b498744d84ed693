"""Texts into token ids, also texts that are too long to be held at once.

A long text is encoded in overlapping chunks. Two neighbours are joined in the middle of a stretch
that both encode alike, far from either's edge; where there is none, the chunks are encoded as one.
So the ids are those of the whole text for every tokenizer whose tokens depend on their
neighbourhood alone, and memory does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from decoding.texts.chats import Span, control_pattern
from decoding.texts.detokenizing import token_texts

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
            current = _Encoding(tokenizer, chunk, 0)
            continue
        tail = current.text[-OVERLAP:]
        following = _Encoding(tokenizer, tail + chunk, current.stop - len(tail))
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


def encode_whole(
    tokenizer: PreTrainedTokenizerBase, text: str, plain: Sequence[Span] = ()
) -> Segment:
    """Encode a text without special tokens around it, at once.

    Args:
        tokenizer: as for `encode`.
        text: the text.
        plain: stretches in which what is spelled as a control token is no control token.

    Raises:
        ValueError: as for `encode`, or the tokenizer cannot tell such control tokens apart.
    """
    controls = control_pattern(tokenizer)
    spelled = [] if controls is None or not plain else [*controls.finditer(text)]
    real = [
        control
        for control in spelled
        if not any(control.start() < end and begin < control.end() for begin, end in plain)
    ]
    if len(real) == len(spelled):
        return _Encoding(tokenizer, text, 0).segment(None)
    parts = []
    begin = 0
    for control in [*real, None]:
        end = len(text) if control is None else control.start()
        if begin < end:
            parts.append(_Encoding(tokenizer, text[begin:end], begin, split_special_tokens=True))
        if control is not None:
            parts.append(_Encoding(tokenizer, control[0], end))
            begin = control.end()
    segments = [part.segment(None) for part in parts]
    ids, ends, reaches = (
        np.concatenate([getattr(segment, name) for segment in segments])
        for name in ("ids", "ends", "reaches")
    )
    # A tokenizer that puts a space before whatever it encodes would put one before each part.
    said = [
        tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for some in (ids, _Encoding(tokenizer, text, 0).ids)
    ]
    if said[0] != said[1]:
        raise ValueError(
            f"a message holds the control token {next(m[0] for m in spelled if m not in real)!r}, "
            "which this tokenizer cannot read as plain text"
        )
    return Segment(ids, ends, 0, text, reaches)


class _Encoding:
    """The tokens of `text`, which begins at `start` of the whole; those before `first` belong to
    the encoding before."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, start: int, first: int = 0, **how: Any
    ) -> None:
        self.text, self.start, self.stop, self.first = text, start, start + len(text), first
        how |= {"add_special_tokens": False, "verbose": False}
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a text is not valid UTF-8: it holds a lone surrogate") from None
        if tokenizer.is_fast:
            encoded = tokenizer(text, return_offsets_mapping=True, **how)
            self.ids = np.array(encoded["input_ids"], dtype=np.int64)
            offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start
            self.starts, self.ends = offsets[:, 0], offsets[:, 1]
        else:
            ids = tokenizer(text, **how)["input_ids"]
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
