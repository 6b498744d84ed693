"""Teacher forcing: what a model says of every token of given texts, each scored exactly once.

Texts stream through: they are encoded piece by piece, cut into windows, read in batches of similar
length, and the head is applied to a few of the scored positions at a time. So memory depends on the
batch and the context, not on how long the texts are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from decoding.models.encoding import Segment, encode
from decoding.models.head import LogitHead
from decoding.models.loading import LanguageModel
from decoding.rows.faults import NonFiniteLogitsError
from decoding.scoring.windows import Ids, Window, Windows, sliding_windows

# A product with fewer rows at a time is slower: the head's weights are read for each block anew.
LOGITS_BYTES = 128 << 20
SORTED_BATCHES = 16

Columns = dict[str, NDArray[np.float64]]
OnSegment = Callable[[int, Segment], None]


class Document(NamedTuple):
    """A text to score, and what stands before it as context alone."""

    text: str | Iterable[str]
    """The text, or its pieces in their order; pieces are taken once."""
    prompt: str = ""


class TokenDocument(NamedTuple):
    """Token ids to score, and the ids that stand before them as context alone."""

    ids: Sequence[int]
    context: Sequence[int] = ()
    """What the model read before them. Nothing is put in front of it, but BOS under `always`."""


def listed(documents: Any) -> Any:
    """Documents as they are; one alone is a list of one, and no text is a list of characters."""
    return [documents] if isinstance(documents, str | Document | TokenDocument) else documents


def as_document(document: str | Document) -> Document:
    """A bare text as a document."""
    return Document(document) if isinstance(document, str) else document


@dataclass
class Account:
    """Where every token went. BOS is counted apart, every other token in exactly one place."""

    documents: int = 0
    documents_skipped: int = 0
    """Documents of which nothing can be scored, such as empty ones."""
    windows: int = 0
    bos_tokens: int = 0
    tokens: int = 0
    tokens_scored: int = 0
    tokens_context_only: int = 0
    tokens_skipped: int = 0
    """Tokens that no window reads."""

    def stop(self, scored: int) -> None:
        """Count as skipped what an interruption leaves unscored; `scored` tokens are kept."""
        self.tokens_scored = scored
        self.tokens_skipped = self.tokens - scored - self.tokens_context_only

    def check(self) -> None:
        """Fail, by a RuntimeError, unless the places add up to the tokens that were encoded."""
        placed = self.tokens_scored + self.tokens_context_only + self.tokens_skipped
        if placed != self.tokens:
            raise RuntimeError(
                f"{self.tokens_scored} scored + {self.tokens_context_only} context-only + "
                f"{self.tokens_skipped} skipped tokens are not the {self.tokens} encoded"
            )


class LogitBlock(NamedTuple):
    """Some scored positions of a batch of windows, and the model's logits there."""

    logits: Tensor
    """`(rows, vocab)`, in the model's dtype."""
    targets: Tensor
    """`(rows,)`, int64, on the same device."""
    windows: list[Window]
    """The batch; rows go through the targets of its windows in this order."""
    first: int
    """Index of the first row among all the targets of the batch."""


Measure = Callable[[LogitBlock], Mapping[str, Tensor]]


class TeacherForcing:
    """One run over documents: what is read how, and the account of it.

    Args:
        language_model: the model and its tokenizer.
        windows: how the texts are read.

    Raises:
        ValueError: a value of `windows` is out of the model's range; the message names the limit.
    """

    def __init__(self, language_model: LanguageModel, windows: Windows = Windows()) -> None:
        self.model = language_model.model
        self.tokenizer = language_model.tokenizer
        self.context, self.stride = windows.within(positions(self.model))
        self.batch_size = windows.batch_size
        self.bos = windows.bos
        self.bos_id = _bos_id(self.tokenizer, windows.bos)
        self.account = Account()
        self.full_logits: str | None = None
        """Why the model's logits were computed in full, or None."""

    @property
    def bos_token(self) -> str | None:
        """The text of the token in front of each document, or None."""
        return None if self.bos_id is None else self.tokenizer.convert_ids_to_tokens(self.bos_id)

    def begins_with_bos(self, ids: Ids) -> bool:
        """Whether a document has BOS in front already, so that none is put there."""
        return self.bos == "auto" and ids[:1].tolist() == [self.bos_id]

    def scan(
        self,
        documents: Iterable[Document | TokenDocument],
        measure: Measure,
        on_segment: OnSegment | None = None,
    ) -> Iterator[tuple[Window, Columns]]:
        """Windows in the order of the documents, with columns of measures, float64.

        Args:
            documents: taken lazily.
            measure: takes a block, returns named `(rows,)` values.
            on_segment: called with the index of a document and each stretch of its encoded text,
                without BOS, before any window of that stretch; not for token documents.

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

        parts: list[Mapping[str, Tensor]] = []
        for block in self.blocks(remembered()):
            parts.append(measure(block))
            batch, end = block.windows, block.first + len(block.targets)
            del block  # before the next one is made
            lengths = [len(window.targets) for window in batch]
            if end < sum(lengths):
                continue
            columns = {
                name: torch.cat([part[name] for part in parts]).cpu().double().numpy()
                for name in parts[0]
            }
            parts = []
            for window, end in zip(batch, np.cumsum(lengths), strict=True):
                rows = slice(end - len(window.targets), end)
                done[id(window)] = {name: values[rows] for name, values in columns.items()}
            ready = 0
            while ready < len(order) and id(order[ready]) in done:
                window = order[ready]
                columns = done.pop(id(window))
                for values in columns.values():
                    if (bad := np.isnan(values)).any():
                        token = window.start + int(bad.argmax()) + 1
                        raise NonFiniteLogitsError(f"document {window.document + 1}, token {token}")
                yield window, columns
                ready += 1
            del order[:ready]
        self.account.check()

    def blocks(self, windows: Iterable[Window]) -> Iterator[LogitBlock]:
        """The logits at every target of every window, counted as scored; see `logit_blocks`."""

        def on_head(head: LogitHead) -> None:
            self.full_logits = head.full_logits

        blocks = logit_blocks(self.model, windows, batch_size=self.batch_size, on_head=on_head)
        for block in blocks:
            self.account.tokens_scored += len(block.targets)
            yield block
            del block  # before the next one is made

    def windows(
        self,
        documents: Iterable[Document | TokenDocument],
        on_segment: OnSegment | None = None,
    ) -> Iterator[Window]:
        """The documents' windows, entered into the account as they pass; arguments as in `scan`."""
        account = self.account
        for index, document in enumerate(documents):
            account.documents += 1
            before = account.tokens
            end = 0  # behind the last token that a window has read or scored
            scored = False
            if isinstance(document, TokenDocument):
                cut = self._tokens(index, document)
            else:
                cut = self._text(index, document, on_segment)
            for window in cut:
                if window.start < end:
                    raise RuntimeError(f"document {index} would score token {window.start} twice")
                seen = max(end, window.begin, 0)
                account.tokens_skipped += seen - end
                account.tokens_context_only += window.start - seen
                account.windows += 1
                end = window.end
                scored = True
                yield window
            account.tokens_skipped += account.tokens - before - end
            account.documents_skipped += not scored

    def cut(
        self, document: int, sequence: Iterable[Ids], *, bos: bool, first_target: int
    ) -> Iterator[Window]:
        """How a document's sequence becomes windows; a subclass may follow another rule."""
        return sliding_windows(
            document, sequence, self.context, self.stride, bos=bos, first_target=first_target
        )

    def _tokens(self, index: int, document: TokenDocument) -> Iterator[Window]:
        ids = np.array([*document.context, *document.ids], dtype=np.int64)
        if not len(ids):
            return
        vocab = self.model.config.get_text_config().vocab_size
        if ids.min() < 0 or ids.max() >= vocab:
            wrong = ids[(ids < 0) | (ids >= vocab)][0]
            name = f"document {index + 1}"
            raise ValueError(f"token ids must be in [0, {vocab}), got {wrong} in {name}")
        has_bos = self.bos_id is not None and (self.bos == "always" or not document.context)
        if has_bos and self.begins_with_bos(ids):
            ids = ids[1:]
        yield from self._cut(index, [ids], has_bos, len(document.context))

    def _text(
        self, index: int, document: Document, on_segment: OnSegment | None
    ) -> Iterator[Window]:
        pieces = [document.text] if isinstance(document.text, str) else document.text
        segments = encode(self.tokenizer, chain([document.prompt], pieces))
        first_target = 0
        if document.prompt:
            whole = list(segments)
            segments = iter(whole)
            # A token that begins in the prompt and ends in the text belongs to the text.
            reaches = np.concatenate([segment.reaches for segment in whole])
            first_target = int((reaches <= len(document.prompt)).sum())
        opening = next(segments, None)
        if opening is None:
            return
        if self.begins_with_bos(opening.ids):
            ids, ends, _, text, reaches = opening
            opening = Segment(ids[1:], ends[1:], int(ends[0]), text[ends[0] :], reaches[1:])
            first_target = max(0, first_target - 1)

        def pieces_of_ids() -> Iterator[Ids]:
            for segment in chain([opening], segments):
                if on_segment is not None:
                    on_segment(index, segment)
                yield segment.ids

        yield from self._cut(index, pieces_of_ids(), self.bos_id is not None, first_target)

    def _cut(
        self, index: int, pieces: Iterable[Ids], has_bos: bool, first_target: int
    ) -> Iterator[Window]:
        """The windows of a document, whose tokens are counted as they pass."""

        def sequence() -> Iterator[Ids]:
            if has_bos:
                yield np.array([self.bos_id], dtype=np.int64)
            for ids in pieces:
                self.account.tokens += len(ids)
                yield ids

        self.account.bos_tokens += has_bos
        yield from self.cut(index, sequence(), bos=has_bos, first_target=first_target)


def logit_blocks(
    model: PreTrainedModel,
    windows: Iterable[Window],
    *,
    batch_size: int = 8,
    on_head: Callable[[LogitHead], None] | None = None,
) -> Iterator[LogitBlock]:
    """The model's logits at every target of every window, a bounded block at a time.

    Windows are taken in groups, sorted by length, and padded on the right, where a causal model
    cannot see: nothing depends on the batch but rounding.

    Args:
        model: a causal language model in evaluation mode.
        windows: taken lazily.
        batch_size: windows that run together, >= 1.
        on_head: told once which head is used, before the first block.

    Returns:
        Blocks; those of a batch follow each other. A consumer that lets go of one before it asks
        for the next keeps memory at one block.
    """
    head: LogitHead | None = None
    waiting = iter(windows)
    while group := list(islice(waiting, batch_size * SORTED_BATCHES)):
        if head is None:
            head = LogitHead(model, torch.from_numpy(group[0].inputs).to(model.device))
            if on_head is not None:
                on_head(head)
        group.sort(key=lambda window: -len(window.inputs))
        for begin in range(0, len(group), batch_size):
            yield from _batch(model, head, group[begin : begin + batch_size])


def _batch(model: PreTrainedModel, head: LogitHead, windows: list[Window]) -> Iterator[LogitBlock]:
    width = max(len(window.inputs) for window in windows)
    ids, mask = np.zeros((2, len(windows), width), dtype=np.int64)
    places = []
    for row, window in enumerate(windows):
        length = len(window.inputs)
        ids[row, :length] = window.inputs
        mask[row, :length] = 1
        places.append(row * width + np.arange(length - len(window.targets), length))
    hidden = head.hidden(*(torch.from_numpy(array).to(model.device) for array in (ids, mask)))
    rows = hidden.flatten(0, 1)
    if sum(map(len, places)) < len(rows):
        rows = rows[torch.from_numpy(np.concatenate(places)).to(rows.device)]
    targets = torch.from_numpy(np.concatenate([window.targets for window in windows]))
    targets = targets.to(rows.device)
    most = max(1, LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size))
    step = math.ceil(len(rows) / math.ceil(len(rows) / most))
    for begin in range(0, len(rows), step):
        block = slice(begin, begin + step)
        yield LogitBlock(head.logits(rows[block]), targets[block], windows, begin)


def positions(model: PreTrainedModel) -> int | None:
    """How many positions a model has, or None where its configuration sets no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def _bos_id(tokenizer: PreTrainedTokenizerBase, bos: str) -> int | None:
    if bos == "never":
        return None
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None and bos == "always":
        raise ValueError("bos must be auto or never: the tokenizer has neither BOS nor EOS")
    return None if token is None else int(token)
