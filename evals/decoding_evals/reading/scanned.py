"""Documents that are measured token by token, each handed on when all of it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.scoring.answers import EncodedDocument
from decoding.scoring.teacher_forcing import (
    AnyDocument,
    Columns,
    Document,
    Measure,
    TeacherForcing,
    TokenDocument,
    as_document,
    listed,
)
from decoding.scoring.windows import Window
from decoding.texts.encoding import Segment
from decoding_evals.showing.result import Integers


def whole(document: str | Document) -> Document:
    """A document with its text in one piece."""
    text, prompt = as_document(document)
    return Document(text if isinstance(text, str) else "".join(text), prompt)


def joined(segments: Iterable[Segment]) -> tuple[Integers, Integers, Integers]:
    """The ids, ends and reaches of all tokens of an encoded text; see `Segment`."""
    parts = [(segment.ids, segment.ends, segment.reaches) for segment in segments]
    empty = np.empty(0, dtype=np.int64)
    ids, ends, reaches = map(np.concatenate, zip((empty,) * 3, *parts, strict=True))
    return ids, ends, reaches


@dataclass
class Scanned:
    """A document, and what was measured of its tokens."""

    document: AnyDocument
    """Where it is a text, in one piece; with a prompt, encoded."""
    segments: list[Segment] = field(default_factory=list)
    windows: list[tuple[Window, Columns]] = field(default_factory=list)

    def ids(self) -> Integers:
        """`(n,)`, the tokens that are scored."""
        empty = np.empty(0, dtype=np.int64)
        targets = (window.targets[: _own(window)] for window, _ in self.windows)
        return np.concatenate([empty, *targets])

    def column(self, name: str) -> Any:
        """`(n,)`, a measurement of each of them."""
        values = [columns[name][: _own(window)] for window, columns in self.windows]
        return np.concatenate(values) if values else np.empty(0)

    def closing(self, name: str) -> Any:
        """A measurement behind the last token; None where nothing was asked for there, or the
        measurement was not made."""
        window, columns = self.windows[-1] if self.windows else (None, {})
        return (
            columns[name][-1] if window is not None and window.closes and name in columns else None
        )

    def scored(self) -> Integers:
        """`(n,)`, which of the tokens of `cut` they are."""
        if isinstance(self.document, TokenDocument):
            # Its context is no part of these, and what was put in front may be.
            last = len(self.document.ids)
            return np.arange(last - len(self.ids()), last)
        empty = np.empty(0, dtype=np.int64)
        ranges = (np.arange(w.start, w.start + _own(w)) for w, _ in self.windows)
        return np.concatenate([empty, *ranges])

    def cut(self) -> tuple[str, Integers, Integers]:
        """The text, all of its m tokens, and where they stand.

        Returns:
            The text; the tokens, `(m,)`, those of a prompt that is text included; `(m + 1,)`, index
            in the text where each begins, and where the last one ends.
        """
        document = self.document
        if isinstance(document, TokenDocument):
            # What stands in front of a text without a context may be among its ids.
            _, ends, _ = joined(self.segments)
            bounds = np.zeros(len(document.ids) + 1, dtype=np.int64)
            known = min(len(document.ids), len(ends))
            bounds[len(bounds) - known :] = ends[len(ends) - known :]
            text = "".join(segment.text for segment in self.segments)
            return text, np.array(document.ids, dtype=np.int64), bounds
        ids, ends, _ = joined(self.segments)
        start = self.segments[0].start if self.segments else 0
        own = document.own if isinstance(document, EncodedDocument) else 0
        # A token that begins in the prompt belongs to the text with what it has there.
        bounds = (np.concatenate([[start], ends]) - own).clip(min=0)
        return str(document.text), ids, bounds


def scanned(
    run: TeacherForcing,
    documents: Iterable[str | AnyDocument],
    measure: Measure,
    on_progress: Callable[[int, float], None] | None,
    shown: str,
) -> Iterator[Scanned]:
    """Measure documents as `run.scan` does, in their order, also those without scored tokens.

    Documents are taken lazily, and each is held until it is handed on. `on_progress` is given the
    number of scored tokens and the mean of the column `shown` so far.
    """
    pending: dict[int, Scanned] = {}

    def remembered() -> Iterator[AnyDocument]:
        for index, document in enumerate(listed(documents), run.first):
            held = document
            if isinstance(document, str | Document):
                held = whole(document)
                held = held if held.prompt is None else run.encoded(held)
            pending[index] = Scanned(held)
            yield held

    def encoded(index: int, segment: Segment) -> None:
        pending[index].segments.append(segment)

    following, tokens = run.first, 0
    total = 0.0
    for window, columns in run.scan(remembered(), measure, encoded):
        for index in range(following, window.document):
            yield pending.pop(index)
        following = window.document
        pending[following].windows.append((window, columns))
        tokens += _own(window)
        total += float(columns[shown][: _own(window)].sum())
        if on_progress is not None:
            on_progress(tokens, total / max(1, tokens))
    yield from [*pending.values()]


def _own(window: Window) -> int:
    """How many of a window's targets are the document's."""
    return len(window.targets) - window.closes
