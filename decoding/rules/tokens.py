"""Tokens that a parameter names, by their ids or by texts: how they are written and looked up.

A text stands for every token that contains it, and for the special token of that name. Which those
are only a tokenizer knows, so texts become ids before a rule sees rows
(`DecodingSettings.for_tokenizer`).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Tokens = tuple[int | str, ...]

_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)


def pieces(text: str, separator: str) -> list[str]:
    """A text cut at a separator, one character, where it stands outside of quotes."""
    bare = _QUOTED.sub(lambda quoted: "." * len(quoted[0]), text)
    cuts = [i for i, character in enumerate(bare) if character == separator]
    return [text[begin + 1 : end] for begin, end in pairwise([-1, *cuts, len(text)])]


def read_tokens(text: str) -> Tokens:
    r"""Ids, and texts in quotes, separated by slashes: `13/"\n"`; a ValueError, if it is not."""
    return tuple(_read(piece.strip()) for piece in pieces(text, "/"))


def _read(piece: str) -> int | str:
    if not piece.startswith('"'):
        return int(piece)
    # JSON's quotes and escapes; a line break may also stand there as it is.
    text: str = json.loads(piece, strict=False)
    return text


def format_tokens(tokens: Tokens) -> str:
    """The text form of tokens, without spaces, from which they are read back unchanged."""
    return "/".join(_quoted(token) if isinstance(token, str) else str(token) for token in tokens)


def _quoted(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    escaped = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in shown)
    return escaped.replace(" ", r"\u0020")


def marked(name: str, tokens: Tokens, vocab: int, device: Any) -> Tensor:
    """`(vocab)`, bool, which ids are among the tokens of the field of that name.

    Raises:
        ValueError: a text is among them.
    """
    texts = [token for token in tokens if isinstance(token, str)]
    if texts:
        raise ValueError(
            f"{name} holds the text {_quoted(texts[0])}, and only a tokenizer knows its ids: "
            "use settings.for_tokenizer(tokenizer), or give the ids"
        )
    return _mask(tokens, vocab, device)


@lru_cache(maxsize=64)  # at each step of a generation it is the same
def _mask(ids: tuple[int, ...], vocab: int, device: Any) -> Tensor:
    import torch

    mask = torch.zeros(vocab, dtype=torch.bool)
    mask[[id_ for id_ in ids if id_ < vocab]] = True
    return mask.to(device)
