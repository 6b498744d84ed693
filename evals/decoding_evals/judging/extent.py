"""How far an answer goes: to the end of what was written, of its first line, or sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import accumulate

from decoding.generation.result import Generation

EXTENTS = ("whole", "line", "sentence")

_LINE = re.compile(r"\s*\S[^\r\n]*[\r\n]?")
# Marks that may end a sentence, with quotation marks and brackets that close behind them.
_MARKS = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[”’」』）]*)")
_NUMBERED = re.compile(r"\s*[\d#*-]+\.")
_INITIALS = re.compile(r"(?:[^\W\d_]{1,2}\.)*[^\W\d_]")
_SHORT = (
    " adm al approx apr aug ave ca capt cf co col corp dec dept dr est etc feb fig gen gov hon inc "
    "jan jr ltd lt messrs mr mrs ms mt nov oct pp prof rep rev sen sept sgt sr st vol vs "
)
_OPENERS = (
    " a an and as at because but during for from he her here his however i if in it its many most "
    "on one our she since so some that the their then there these they this those we what when "
    "where while who you "
)


def extent_end(text: str, extent: str) -> int | None:
    """How many characters of a text an answer takes, with what ends it; None where nothing does.

    `line`: the first line that is not blank, with its line break. `sentence`: the first sentence,
    with its full stop, exclamation or question mark, or else that line. A mark ends no sentence
    where no white space follows ("3.5"), or a lower-case letter does; behind a number that begins
    the line ("1."); and, as a full stop behind a usual abbreviation ("Dr.") or initials ("U.S.",
    "J."), unless the next word is one that often begins a sentence ("The"). `whole`: all of it.

    Raises:
        ValueError: another extent.
    """
    if extent not in EXTENTS:
        raise ValueError(f"answer must be one of {', '.join(EXTENTS)}, got {extent}")
    line = None if extent == "whole" else _LINE.match(text)
    if line is None:
        return None
    if extent == "sentence":
        for mark in _MARKS.finditer(line[0]):
            if _ends(line[0][: mark.start()], mark[0], line[0][mark.end() :]):
                return mark.end()
    return line.end() if line[0][-1] in "\r\n" else None


def _ends(before: str, mark: str, after: str) -> bool:
    """Whether a mark between two parts of a line ends a sentence."""
    following = after.split()
    if not following or mark[0] in "。！？":
        return True
    if following[0][0].islower() or _NUMBERED.fullmatch(before + mark):
        return False
    if not mark.startswith(".") or mark[1:2] == ".":
        return True
    word = re.split(r"[\s(\[\"“‘]", before)[-1].lower()
    if word == "no":
        return not following[0][0].isdigit()
    next_word = following[0].strip("\"'“‘(,").lower()
    short = f" {word} " in _SHORT or _INITIALS.fullmatch(word) is not None
    return not short or f" {next_word} " in _OPENERS


def cut(generation: Generation, extent: str) -> Generation:
    """A sequence up to where its answer ends, and its tokens up to the one in which that lies.

    So probabilities are of the text that is compared. A sequence that goes on ends with `stop`; one
    that does not is returned as it is, the token that ended it included.
    """
    end = extent_end(generation.text, extent)
    texts = generation.trace.texts
    if end is None or texts is None:
        return generation
    reached = accumulate(map(len, texts))
    tokens = next(number for number, length in enumerate(reached, 1) if length >= end)
    runners_up = generation.alternative_texts
    return replace(
        generation,
        text=generation.text[:end],
        finish_reason="stop",
        trace=generation.trace.first(tokens),
        alternative_texts=None if runners_up is None else runners_up[:tokens],
    )
