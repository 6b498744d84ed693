"""Surprisal of words: which tokens make a word, and what its end says of the next one.

Words are what white space separates, punctuation included; it stands in front of the word that
follows. Where a token brings the white space of the next word, the probability that a word ends is
part of the next word's surprisal. The correction gives it to the word that ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from decoding.texts.detokenizing import spellings
from decoding_evals.showing.result import Floats, Integers

WHITE = " \t\n\v\f\r"
"""White space; others, such as the no-break space, are part of a word."""
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3040-\u312f"
    "\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9df\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts that are written without spaces between words."""
_PROBE = "a b. c"


@dataclass(frozen=True)
class Word:
    """A word of a text."""

    index: int
    """Its number in the text, from 0; those that are left out count."""
    start: int
    """Index in the text of its first character, the white space before it included."""
    end: int
    tokens: int
    surprisal_nats: float
    """Σ -log p over its tokens."""
    corrected_surprisal_nats: float | None
    """Σ -log p - log B(after) + log B(before), B being the probability that a word begins or the
    text ends; None where what follows is not known."""
    entropy_nats: float
    """H(p) of its first token."""


class WordBorders:
    """Which tokens of a tokenizer begin a word.

    Args:
        tokenizer: of the model.
        ends: ids that end a text.
        vocab: how many tokens the model has.

    Raises:
        ValueError: tokens do not tell where white space stands, as WordPiece's do not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], vocab: int) -> None:
        self.spelled = spellings(tokenizer)
        ids, others = (
            tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (_PROBE, _PROBE.replace(".", " ."))
        )
        if "".join(map(self.said, ids)).split() != _PROBE.split() or ids == others:
            raise ValueError(
                f"the tokens of this tokenizer ({type(tokenizer).__name__}) do not tell where "
                "white space stands, so words cannot be told apart"
            )
        begin = [i for i, text in enumerate(self.spelled[:vocab]) if text and text[0] in WHITE]
        self.ids: NDArray[np.int64] = np.unique([*begin, *ends]).astype(np.int64)
        """Ids with which a word begins, or the text ends."""

    def said(self, token: int) -> str:
        """The text of a token within a text; empty where it has none, as special ones."""
        return self.spelled[token] if token < len(self.spelled) else ""

    def groups(self, ids: Sequence[int]) -> Iterator[tuple[int, int, bool, bool]]:
        """The words of tokens: first token, index behind the last, and of both borders whether any
        token would have begun a word there: behind white space, and where a text begins."""
        first: int | None = None
        inside, parted, known = False, True, True
        for place, token in enumerate([*ids, None]):
            text = "" if token is None else self.said(token)
            starts = bool(text) and (first is None or (inside and (parted or text[0] in WHITE)))
            if first is not None and (starts or not text):
                if inside:
                    yield first, place, known, parted
                first = None
            if not text:  # a special token
                inside, parted = False, True
                continue
            if starts:
                first, known, inside = place, parted, False
            inside = inside or bool(text.strip(WHITE))
            parted = inside and text[-1] in WHITE


@dataclass(frozen=True)
class Words:
    """The words of a document all of whose tokens are scored."""

    words: tuple[Word, ...]
    unspaced: tuple[str, ...]
    """What was left out: stretches in scripts that have no spaces between words."""


def words_of(
    borders: WordBorders,
    text: str,
    ids: Integers,
    bounds: Integers,
    columns: dict[str, Floats],
    after: float | None,
) -> Words:
    """The words of a document.

    Args:
        borders: of the tokenizer.
        text: the document.
        ids: `(m,)`, all of its tokens, those of its context included.
        bounds: `(m + 1,)`, index in the text where each begins, and where the last one ends.
        columns: `(m,)`, surprisal, entropy and log B of each, NaN where it is not scored.
        after: log B behind the last token; None where it is not known.

    Raises:
        ValueError: a token has white space where the text has none, or the other way round.
    """
    surprisal, entropy = columns["surprisal_nats"], columns["entropy_nats"]
    border = np.append(columns["log_border"], np.nan if after is None else after)
    _check(borders, text, ids, bounds)
    words, unspaced = [], []
    index = -1
    for first, stop, known, parted in borders.groups(ids.tolist()):
        scored = ~np.isnan(surprisal[first:stop])
        if not scored.any():
            continue
        index += 1
        lead = int(scored.argmax())
        context = "".join(map(borders.said, ids[first : first + lead].tolist()))
        if not scored[lead:].all() or context.strip(WHITE):
            continue
        if lead:  # white space is context alone, behind which any token begins the word
            first, known = first + lead, True
        start, end = int(bounds[first]), int(bounds[stop])
        if _UNSPACED.search(text, start, end):
            unspaced.append(text[start:end])
            continue
        total = float(surprisal[first:stop].sum())
        before = 0.0 if known else float(border[first])
        behind = 0.0 if parted else float(border[stop])
        corrected = total - behind + before
        words.append(
            Word(
                index, start, end, stop - first, total,
                None if np.isnan(corrected) else corrected, float(entropy[first]),
            )
        )  # fmt: skip
    return Words(tuple(words), tuple(unspaced))


def _check(borders: WordBorders, text: str, ids: Integers, bounds: Integers) -> None:
    for token, begin, end in zip(ids.tolist(), bounds[:-1].tolist(), bounds[1:], strict=True):
        said = borders.said(token)
        if begin == 0 or begin == end or not said:  # where a text begins, a space may be dropped
            continue
        if text[begin] in WHITE if said[0] not in WHITE else not text[begin].isspace():
            raise ValueError(
                f"the tokenizer has {said!r} at character {begin} where the text has "
                f"{text[begin]!r}: its tokens do not tell words apart"
            )
