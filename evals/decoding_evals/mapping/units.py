"""The units that an evaluation maps over: neighbours in the input, which the input alone decides.

Documents of one unit may share batches; those of different units never do. So what comes of a unit
is the same whoever works on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from decoding.scoring.answers import EncodedDocument
from decoding.scoring.blocks import SORTED_BATCHES
from decoding.scoring.teacher_forcing import Document, TokenDocument, as_document, listed

CHARACTERS = 1 << 16
"""A unit that has so many gets no further document."""
_PER_TOKEN = 4


class Unit(NamedTuple):
    """Some documents, and the index of the first of them among all."""

    first: int
    documents: Iterable[Any]


def units_of(documents: Any, batch_size: int) -> Iterator[Unit]:
    """Documents as units, each taken whole but for a text in pieces that is longer than a unit.

    Args:
        documents: as evaluations take them; lazily.
        batch_size: windows that run together; a unit has documents for 16 batches at most.

    Returns:
        At least one unit, which has no document where there is none.
    """
    found: list[Any] = []
    size = count = 0
    for document in listed(documents):
        document, length = _measured(document)
        found.append(document)
        size += length
        if len(found) == batch_size * SORTED_BATCHES or size >= CHARACTERS:
            yield Unit(count, found)
            count += len(found)
            found, size = [], 0
    if found or not count:
        yield Unit(count, found)


def in_units(items: Iterable[Any], most: int) -> Iterator[Unit]:
    """Items as units of so many."""
    found: list[Any] = []
    count = 0
    for item in items:
        found.append(item)
        if len(found) == most:
            yield Unit(count, found)
            count, found = count + most, []
    if found:
        yield Unit(count, found)


def _measured(document: Any) -> tuple[Any, int]:
    """A document and its characters; of a text in many pieces, those that make a unit full."""
    if isinstance(document, TokenDocument):
        return document, _PER_TOKEN * (len(document.ids) + len(document.context))
    if isinstance(document, EncodedDocument):
        return document, _PER_TOKEN * len(document.segment.ids)
    document = as_document(document)
    if isinstance(document.text, str):
        return document, len(document.text)
    pieces, size, rest = [], 0, iter(document.text)
    for piece in rest:
        pieces.append(piece)
        size += len(piece)
        if size >= CHARACTERS:
            return Document(chain(pieces, rest), document.prompt), size
    return Document("".join(pieces), document.prompt), size


def sent(unit: Unit) -> Unit:
    """A unit that can travel: a text that comes in pieces is put together."""
    whole = [
        document._replace(text="".join(document.text))
        if isinstance(document, Document) and not isinstance(document.text, str)
        else document
        for document in unit.documents
    ]
    return Unit(unit.first, whole)


def told(unit: Unit) -> Iterator[object]:
    """What tells a unit that can travel from others, for a journal."""
    yield unit.first
    for document in unit.documents:
        if isinstance(document, EncodedDocument):
            yield document.segment.ids.tobytes()
            yield document.scored.tobytes()
        else:
            yield document
