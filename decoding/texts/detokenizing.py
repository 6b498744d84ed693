"""Text of single tokens, such that the pieces concatenate to the text of the whole.

A token may hold part of a character, and some tokenizers treat the start of a text specially. So a
token's text is what it adds to the decoded text before it; a character that spans several tokens
belongs to the one that completes it, and special tokens have no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token for a single byte, as tokenizers with byte fallback spell it."""
_ODD_BYTE = re.compile("[\udc80-\udcff]")
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns a stream of ids into pieces of text.

    Args:
        tokenizer: the tokenizer that made the ids.
        prompt_ids: the ids that stand before the stream; their text is not returned.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # The tokens since the last whole piece, after that piece (at first: the prompt) as context.
        self._ids = list(prompt_ids)
        self._done = len(self._ids)

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._pending()
        # Without text there is no new context: the next token still needs the one before.
        if not text or text.endswith(_INCOMPLETE):
            return ""
        del self._ids[: self._done]
        self._done = len(self._ids)
        return text

    def fork(self) -> Detokenizer:
        """One that goes on from here by itself."""
        other = Detokenizer(self._tokenizer)
        other._ids, other._done = list(self._ids), self._done
        return other

    def flush(self) -> str:
        """What is left when the stream ends: replacement characters for an incomplete one."""
        text = self._pending()
        self._done = len(self._ids)
        return text

    def _pending(self) -> str:
        return text_of(self._tokenizer, self._ids[self._done :], self._ids[: self._done])


def text_of(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    prompt_ids: Sequence[int] = (),
    *,
    special: bool = False,
) -> str:
    """What tokens add to the text of a prompt; with `special`, special tokens are spelled out."""
    before, whole = (
        _decoded(tokenizer, list(some), special) for some in (prompt_ids, [*prompt_ids, *ids])
    )
    return whole[len(before) :]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int], special: bool) -> str:
    """The text of ids, in which a byte that is part of no character spoils no other."""

    def plain(ids: list[int]) -> str:
        text: str = tokenizer.decode(
            ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    tokens = tokenizer.convert_ids_to_tokens(ids)
    of_byte = [_BYTE.fullmatch(token or "") for token in tokens]
    first = next((i for i, byte in enumerate(of_byte) if byte), None)
    if first is None or plain([ids[first]]) == tokens[first]:  # a token of that very text
        return plain(ids)
    text = ""
    for is_byte, group in groupby(range(len(ids)), lambda i: of_byte[i] is not None):
        places = list(group)
        run = [ids[i] for i in places]
        if is_byte:
            values = bytes(int(tokens[i][3:5], 16) for i in places)
            # One mark for each byte that is part of no character, as tokenizers have it.
            text += _ODD_BYTE.sub(_INCOMPLETE, values.decode(errors="surrogateescape"))
            continue
        # Behind something, as some tokenizers drop the space before the first word.
        context = ids[places[0] - 1 : places[0]]
        text += plain([*context, *run])[len(plain(context)) :]
    return text


def token_texts(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], prompt_ids: Sequence[int] = ()
) -> tuple[str, ...]:
    """The text of each token after a prompt; joined, the text of the sequence."""
    detokenizer = Detokenizer(tokenizer, prompt_ids)
    texts = [detokenizer.push(token) for token in ids]
    if texts:
        texts[-1] += detokenizer.flush()
    return tuple(texts)


def spellings(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The text of each id of a vocabulary within a text; of special tokens none."""
    return _spellings(tokenizer, len(tokenizer))


@lru_cache(maxsize=2)  # a second's work
def _spellings(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[str, ...]:
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    # Some tokenizers drop a space at the start of a text, so another token stands there.
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = len(tokenizer.decode(anchor, **options))
    pairs = [[*anchor, token] for token in range(size)]
    return tuple(text[before:] for text in tokenizer.batch_decode(pairs, **options))


def ids_with(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int | str]) -> tuple[int, ...]:
    """Ids as they are, and for each text the ids of all tokens that contain it; each id once.

    A special token is meant by its whole name alone, such as `</s>`.

    Raises:
        ValueError: no token contains a text.
    """
    found: dict[int, None] = {}
    for token in tokens:
        ids = [token] if isinstance(token, int) else _containing(tokenizer, token)
        if not ids:
            raise ValueError(f"no token of the tokenizer contains the text {token!r}")
        found |= dict.fromkeys(ids)
    return tuple(found)


def _containing(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    named = [id_ for id_, added in tokenizer.added_tokens_decoder.items() if added.content == text]
    return named + [id_ for id_, own in enumerate(spellings(tokenizer)) if text in own]
