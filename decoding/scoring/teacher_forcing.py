"""Teacher forcing: what a model says of every token of given texts, each scored exactly once.

Texts stream through: they are encoded piece by piece, cut into windows, read in batches of similar
length, and the head is applied to a few of the scored positions at a time. So memory depends on the
batch and the context, not on how long the texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from decoding.models.limits import check_ids, positions
from decoding.models.loading import LanguageModel, check_language_model
from decoding.passes.batching import rotary_limit
from decoding.passes.caches import Reader
from decoding.passes.head import LogitHead
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.rows.faults import NonFiniteLogitsError
from decoding.scoring.account import Account
from decoding.scoring.answers import EncodedDocument, answered
from decoding.scoring.blocks import Batch, LogitBlock, logit_batches
from decoding.scoring.windows import (
    Ids,
    Window,
    Windows,
    each_begun,
    last_closing,
    of_scored,
    sliding_windows,
    split_at,
)
from decoding.texts.detokenizing import token_texts
from decoding.texts.encoding import Segment, encode
from decoding.texts.prompts import document_front

Columns = dict[str, NDArray[Any]]
"""Of the rows of a window, by name: float64, or as a measure made them."""
OnSegment = Callable[[int, Segment], None]


class Document(NamedTuple):
    """A text to score, and what stands before it as context alone."""

    text: str | Iterable[str]
    """The text, or its pieces in their order; pieces are taken once."""
    prompt: str | None = None
    """Where there is one, the document stands after exactly the ids that `generate` reads of it."""


class TokenDocument(NamedTuple):
    """Token ids to score, and the ids that stand before them as context alone."""

    ids: Sequence[int]
    context: Sequence[int] = ()
    """What the model read before them. Nothing is put in front of it, but BOS under `always` and
    `every`."""


AnyDocument = Document | TokenDocument | EncodedDocument


def listed(documents: Any) -> Any:
    """Documents as they are; one alone is a list of one, and no text is a list of characters."""
    one = isinstance(documents, str | Document | TokenDocument | EncodedDocument)
    return [documents] if one else documents


def as_document(document: str | Document) -> Document:
    """A bare text as a document."""
    if not isinstance(document, str | AnyDocument):
        raise TypeError(f"a document must be a text, got {type(document).__name__}")
    return Document(document) if isinstance(document, str) else document


Measure = Callable[[LogitBlock], Mapping[str, Tensor | NDArray[Any]]]
Value = TypeVar("Value")


class TeacherForcing:
    """One run over documents: what is read how, and the account of it.

    Args:
        language_model: the model and its tokenizer.
        windows: how the texts are read.
        reader: keeps what texts begin with from run to run.
        end: an id that is scored behind each document as if it were its last token, in a window
            that `closes`; not behind a conversation, whose turns have ends of their own.
        journal: keeps what is measured of each batch.
        first: the index of the first document.

    Raises:
        ValueError: a value of `windows` is out of the model's range; the message names the limit.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        windows: Windows = Windows(),
        *,
        reader: Reader | None = None,
        end: int | None = None,
        journal: Journal = NO_JOURNAL,
        first: int = 0,
    ) -> None:
        check_language_model(language_model)
        self.reader = reader
        self.journal = journal
        self.first = first
        self.model = language_model.model
        self.tokenizer = language_model.tokenizer
        self.context, self.stride = windows.within(positions(self.model))
        self.batch_size = windows.batch_size
        self.bos = windows.bos
        self.front = [] if windows.bos == "never" else document_front(self.tokenizer)
        """The ids in front of each document that has no prompt."""
        if windows.bos in ("always", "every") and not self.front:
            raise ValueError("bos must be auto or never: the tokenizer has neither BOS nor EOS")
        self.end = end
        if windows.bos == "every":
            self.stride = self._stride_of_begun(windows.stride)
        self.account = Account()
        self.full_logits: str | None = None
        """Why the model's logits were computed in full, or None."""

    @property
    def bos_token(self) -> str | None:
        """The text of what stands in front of each document, or None."""
        return "".join(self.tokenizer.convert_ids_to_tokens(self.front)) or None

    def begins_with_front(self, ids: Ids) -> bool:
        """Whether a document has in front what would be put there, so that nothing is."""
        known = self.bos in ("auto", "every")
        return known and ids[: len(self.front)].tolist() == self.front

    def scan(
        self,
        documents: Iterable[AnyDocument],
        measure: Measure,
        on_segment: OnSegment | None = None,
    ) -> Iterator[tuple[Window, Columns]]:
        """Windows in the order of the documents, with columns of measures, float64.

        Args:
            documents: taken lazily.
            measure: takes a block, returns named `(rows,)` values. Tensors become float64.
            on_segment: called with the index of a document and each stretch of its encoded text,
                without BOS, before any window of that stretch; of ids once, with the text that they
                add to their context.

        Raises:
            NonFiniteLogitsError: a measurement is NaN.
            ValueError: an id outside the vocabulary.
            RuntimeError: the account does not add up.
        """
        order: list[Window] = []  # windows read and not yet returned
        done: dict[int, Columns] = {}

        def remembered() -> Iterator[Window]:
            for window in self.windows(documents, on_segment):
                order.append(window)
                yield window

        for batch, columns in self.measured(remembered(), partial(_columns, measure)):
            lengths = [len(window.targets) for window in batch]
            for window, end in zip(batch, np.cumsum(lengths), strict=True):
                rows = slice(end - len(window.targets), end)
                done[id(window)] = {name: values[rows] for name, values in columns.items()}
            ready = 0
            while ready < len(order) and id(order[ready]) in done:
                window = order[ready]
                columns = done.pop(id(window))
                for values in columns.values():
                    if values.dtype.kind == "f" and (bad := np.isnan(values)).any():
                        token = window.start + int(bad.argmax()) + 1
                        raise NonFiniteLogitsError(f"document {window.document + 1}, token {token}")
                yield window, columns
                ready += 1
            del order[:ready]
        self.account.check()

    def measured(
        self,
        windows: Iterable[Window],
        measure: Callable[[Iterator[LogitBlock]], Value],
    ) -> Iterator[tuple[list[Window], Value]]:
        """The windows in the batches in which they are scored, and what is measured of each batch.

        Args:
            windows: taken lazily.
            measure: takes the blocks of a batch; a journal has to be able to keep what it returns.
        """
        for batch in self.batches(windows):
            value = self.journal.step(
                of_windows(batch.windows), partial(measure, batch.blocks()), batch.reader
            )
            yield batch.windows, value

    def blocks(self, windows: Iterable[Window]) -> Iterator[LogitBlock]:
        """The logits at every target of every window, a bounded block at a time."""
        for batch in self.batches(windows):
            yield from batch.blocks()

    def batches(
        self, windows: Iterable[Window], *, beside: PreTrainedModel | None = None
    ) -> Iterator[Batch]:
        """The batches in which windows are scored, which enter into the account as they pass."""

        def on_head(head: LogitHead) -> None:
            self.full_logits = head.full_logits

        for batch in logit_batches(
            self.model, windows, batch_size=self.batch_size, beside=beside, reader=self.reader,
            on_head=on_head,
        ):  # fmt: skip
            yield batch
            self.account.tokens_scored += sum(len(window.targets) for window in batch.windows)

    def windows(
        self,
        documents: Iterable[AnyDocument],
        on_segment: OnSegment | None = None,
    ) -> Iterator[Window]:
        """The documents' windows, entered into the account as they pass; arguments as in `scan`."""
        account = self.account
        for index, document in enumerate(documents, self.first):
            account.documents += 1
            before = account.tokens
            end = 0  # behind the last token that a window has read or scored
            scored = False
            if isinstance(document, TokenDocument):
                cut = self._tokens(index, document, on_segment)
            elif isinstance(document, EncodedDocument):
                cut = self._encoded(index, document, on_segment)
            else:
                cut = self._text(index, as_document(document), on_segment)
            over = isinstance(document, EncodedDocument) and document.over
            for window in cut if self.end is None or over else last_closing(cut):
                if window.start < end:
                    raise RuntimeError(f"document {index} would score token {window.start} twice")
                seen = max(end, window.begin, 0)
                account.tokens_skipped += seen - end
                account.tokens_context_only += window.start - seen
                account.windows += 1
                account.bos_tokens += window.front
                end = window.end
                scored = True
                yield window
            account.tokens_skipped += account.tokens - before - end
            account.documents_skipped += not scored

    def encoded(self, document: Document) -> EncodedDocument:
        """A document with a prompt, as it is scored."""
        assert document.prompt is not None
        text = document.text if isinstance(document.text, str) else "".join(document.text)
        return answered(self.tokenizer, document.prompt, [text])[0]

    def cut(
        self, document: int, sequence: Iterable[Ids], *, front: int, first_target: int
    ) -> Iterator[Window]:
        """How a document's sequence becomes windows; a subclass may follow another rule."""
        every = self.bos == "every"
        windows = sliding_windows(
            document, sequence, self.context - every * (len(self.front) - 1), self.stride,
            front=front, first_target=first_target,
        )  # fmt: skip
        windows = each_begun(windows, self.front) if every else windows
        return split_at(windows, rotary_limit(self.model))

    def _stride_of_begun(self, stride: int | None) -> int:
        """Between windows that each begin with BOS; none skips what would predict a token."""
        room = self.context - len(self.front)
        if room < 1:
            raise ValueError(
                f"context must be at least {len(self.front) + 1} where every window begins with "
                f"BOS, got {self.context}"
            )
        if stride is not None and stride > room:
            raise ValueError(
                f"stride must be from 1 to {room}, the context without its BOS, got {stride}"
            )
        return min(self.stride, room)

    def _tokens(
        self, index: int, document: TokenDocument, on_segment: OnSegment | None
    ) -> Iterator[Window]:
        ids = np.array([*document.context, *document.ids], dtype=np.int64)
        if not len(ids):
            return
        asked = self.bos in ("always", "every")
        front = self.front if asked or not document.context else []
        first = len(document.context)
        if front and self.begins_with_front(ids):
            ids, first = ids[len(front) :], max(0, first - len(front))
        if on_segment is not None:
            pieces = token_texts(self.tokenizer, document.ids, document.context)
            stops = np.cumsum([0] * len(document.context) + [*map(len, pieces)], dtype=np.int64)
            stops = stops[len(stops) - len(ids) :]
            on_segment(index, Segment(ids, stops, 0, "".join(pieces), stops))
        yield from self._cut(index, [ids], front, first)

    def _encoded(
        self, index: int, document: EncodedDocument, on_segment: OnSegment | None
    ) -> Iterator[Window]:
        if on_segment is not None:
            on_segment(index, document.segment)
        places = np.flatnonzero(document.scored)
        first = int(places[0]) if len(places) else len(document.scored)
        front = [*(self.front if self.bos == "always" else []), *document.front]
        front = self.front if self.bos == "every" else front
        ends = not (self.end is None or document.over)
        windows = self._cut(index, [document.segment.ids], front, first, ends)
        yield from of_scored(windows, np.append(document.scored, True) if ends else document.scored)

    def _text(
        self, index: int, document: Document, on_segment: OnSegment | None
    ) -> Iterator[Window]:
        if document.prompt is not None:
            yield from self._encoded(index, self.encoded(document), on_segment)
            return
        segments = encode(self.tokenizer, document.text)
        opening = next(segments, None)
        if opening is None:
            return
        count = len(self.front)
        if count and self.begins_with_front(opening.ids):
            ids, ends, _, text, reaches = opening
            start = int(ends[count - 1])
            opening = Segment(ids[count:], ends[count:], start, text[start:], reaches[count:])

        def pieces_of_ids() -> Iterator[Ids]:
            for segment in chain([opening], segments):
                if on_segment is not None:
                    on_segment(index, segment)
                yield segment.ids

        yield from self._cut(index, pieces_of_ids(), self.front, 0)

    def _cut(
        self,
        document: int,
        pieces: Iterable[Ids],
        front: Sequence[int],
        first_target: int,
        ends: bool = True,
    ) -> Iterator[Window]:
        """The windows of a document, whose tokens are counted as they pass."""
        last = [] if self.end is None or not ends else [np.array([self.end], dtype=np.int64)]
        if self.bos == "every":
            front = front[-1:]  # windows are given the whole of it, and count it
        else:
            self.account.bos_tokens += len(front)

        def sequence() -> Iterator[Ids]:
            if front:
                yield self._known(np.array(front, dtype=np.int64), document)
            for ids in chain(pieces, last):
                self.account.tokens += len(ids)
                yield self._known(ids, document)

        yield from self.cut(document, sequence(), front=len(front), first_target=first_target)

    def _known(self, ids: Ids, document: int) -> Ids:
        check_ids(self.model, self.tokenizer, ids, f"document {document + 1}")
        return ids


def _columns(measure: Measure, blocks: Iterator[LogitBlock]) -> Columns:
    """The columns of all rows of a batch."""
    parts = []
    for block in blocks:
        parts.append(measure(block))
        del block  # before the next one is made
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(parts: Sequence[Any]) -> NDArray[Any]:
    if isinstance(parts[0], Tensor):
        return torch.cat([*parts]).cpu().double().numpy()
    return np.concatenate(parts)


def of_windows(windows: Sequence[Window]) -> Iterator[object]:
    """What tells windows from others, for a journal."""
    for window in windows:
        yield window.document, window.start
        yield window.inputs.tobytes()
        yield window.targets.tobytes()
