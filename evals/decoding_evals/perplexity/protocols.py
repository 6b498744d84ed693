"""How published tools compute a perplexity: their windows, their BOS, and what they average.

Perplexities of one model on one text differ between tools because each follows other rules. Here
every rule set is a `TeacherForcing` of its own, so the same model can be put under each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from decoding.models.limits import positions
from decoding.models.loading import LanguageModel
from decoding.passes.journal import Journal
from decoding.scoring.teacher_forcing import Document, TeacherForcing
from decoding.scoring.windows import Ids, Window, Windows, sliding_windows
from decoding.texts.prompts import bos_or_eos
from decoding_evals.reading.scanned import whole

BOS = {
    "auto": "BOS before each document",
    "always": "BOS before each document",
    "never": "no BOS",
    "every": "BOS before each window",
}
"""What a choice of `Windows.bos` is in words."""


class Protocol(TeacherForcing):
    """Every token once, BOS before each document, every token the same weight.

    Bytes and words are those of the text that is scored; words are separated by whitespace.
    """

    name = "default"
    rules = "every token once, {bos}"
    """`{bos}` stands for the words of `BOS`, where it may be chosen."""
    fixed: tuple[str, ...] = ()
    """Arguments that the tool decides."""
    headline = "perplexity"
    """What the tool reports."""
    keeps_documents = True
    """Whether it scores each document by itself, as its text stands."""

    bytes: int | None = 0
    words: int | None = 0
    """None where the tool counts tokens alone."""
    runs = re.compile(r"\S+")
    """Each of these is a word more."""
    words_per_document = 0
    """Those that a document has besides, also an empty one."""
    joins = False
    """Whether all documents become one text."""
    _counting = -1
    """The document whose text is being counted."""
    _inside = False
    """Whether the text so far ends within a run."""

    @classmethod
    def check(cls, windows: Windows) -> None:
        """Refuse what the tool decides with a ValueError."""
        for name in cls.fixed:
            if getattr(windows, name) != getattr(Windows(), name):
                raise ValueError(f"{name} cannot be chosen: protocol {cls.name} fixes it")

    def begin(self, journal: Journal, first: int) -> None:
        """Go on with documents of which the first has this index."""
        self.journal, self.first, self._counting = journal, first, first - 1

    def prepared(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents as the tool would have them."""
        yield from documents

    def count_text(self, document: int, text: str) -> None:
        """Add the text of a window's targets to `bytes` and `words`."""
        if self.bytes is None or self.words is None:
            return
        if document != self._counting:
            self.words += self.words_per_document * (document - self._counting)
            self._counting, self._inside = document, False
        if not text:
            return
        self.bytes += len(text.encode())
        self.words += len(self.runs.findall(text)) - (self._inside and bool(self.runs.match(text)))
        self._inside = bool(self.runs.match(text[-1:]))

    def finish(self, complete: bool) -> None:
        """End the count, of all texts or of what was scored until an interruption."""
        if complete and self.words is not None:
            behind = self.first + self.account.documents - 1 - self._counting
            self.words += self.words_per_document * behind

    def weight(self, window: Window, end: int) -> int:
        """How many predictions the tool takes a window for, when the last target of the document's
        window before stands before `end`, at first 0."""
        return len(window.targets)


class HuggingFace(Protocol):
    """The recipe of the documentation page "Perplexity of fixed-length models".

    Documents are joined by blank lines, without BOS. A window of L tokens predicts the L - 1 that
    have a predecessor in it. Each window's mean counts as one prediction fewer than the tokens it
    adds, which is right for the first window alone: with overlap, every later one weighs too
    little.
    """

    name = "huggingface"
    rules = "one joined text, no BOS; window means weighted by new tokens - 1"
    fixed = ("bos",)
    keeps_documents = False
    joins = True
    bytes = words = None

    def __init__(self, language_model: LanguageModel, windows: Windows = Windows()) -> None:
        limit = positions(language_model.model)
        length = (limit or 1024) if windows.context is None else windows.context
        if length < 2 or (limit is not None and length > limit):
            most = "" if limit is None else f" and at most the model's {limit} positions"
            raise ValueError(f"context must be at least 2{most} under huggingface, got {length}")
        stride = min(512, length) if windows.stride is None else windows.stride
        if not 1 <= stride <= length:
            raise ValueError(f"stride must be from 1 to the context of {length}, got {stride}")
        super().__init__(
            language_model, replace(windows, context=length - 1, stride=1, bos="never")
        )
        self.stride = stride

    def prepared(self, documents: Iterable[Document]) -> Iterator[Document]:
        """All documents as one."""
        yield Document(_joined(documents, "\n\n"))

    def weight(self, window: Window, end: int) -> int:
        """The tokens that a window adds, less one."""
        return window.end - end - 1


class LmEval(Protocol):
    """`loglikelihood_rolling` of the LM Evaluation Harness.

    Disjoint windows as long as the model's positions, each scoring all its predictions; the last
    one begin early enough to be as long. BOS (or EOS) before each document. Word perplexity counts
    the pieces that whitespace separates, so whitespace at either end makes a word more.
    """

    name = "lm-eval"
    rules = "disjoint windows, the last one reaching back; nats per word and byte of all documents"
    fixed = ("stride", "bos")
    headline = "word_perplexity"
    runs = re.compile(r"\s+")
    words_per_document = 1

    def __init__(self, language_model: LanguageModel, windows: Windows = Windows()) -> None:
        length = positions(language_model.model) if windows.context is None else windows.context
        super().__init__(language_model, replace(windows, context=length, bos="always"))
        self.stride = self.context
        self.front = bos_or_eos(language_model.tokenizer)

    def cut(
        self, document: int, sequence: Iterable[Ids], *, front: int, first_target: int
    ) -> Iterator[Window]:
        """Windows of a document."""
        return sliding_windows(
            document, sequence, self.context, self.stride, front=front, full_last=True
        )


class LlamaCpp(Protocol):
    """`llama-perplexity` of llama.cpp at its defaults.

    All documents as one text without its last line break, in disjoint chunks of 512 tokens; of
    each the second half is scored, the rest of the text is dropped. Where the tokenizer adds BOS
    by itself, BOS takes the place of each chunk's first token.
    """

    name = "llama.cpp"
    rules = "second half of each chunk of 512 tokens; the last incomplete chunk dropped"
    fixed = ("stride", "bos")
    keeps_documents = False
    joins = True
    bytes = words = None

    def __init__(self, language_model: LanguageModel, windows: Windows = Windows()) -> None:
        limit = positions(language_model.model)
        length = min(512, limit or 512) if windows.context is None else windows.context
        if length < 4:
            raise ValueError(f"context must be at least 4 under llama.cpp, got {length}")
        tokenizer = language_model.tokenizer
        adds_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        bos: Literal["always", "never"] = "always" if adds_bos else "never"
        super().__init__(language_model, replace(windows, context=length, stride=length, bos=bos))
        self.front = self.front[:1]

    def prepared(self, documents: Iterable[Document]) -> Iterator[Document]:
        """All documents as one."""
        yield Document(_without_last_newline(_joined(documents, "")))

    def cut(
        self, document: int, sequence: Iterable[Ids], *, front: int, first_target: int
    ) -> Iterator[Window]:
        """Chunks of a text."""
        chunk, half = self.context, self.context // 2
        held = np.empty(0, dtype=np.int64)
        position = 0
        for piece in sequence:
            held = np.concatenate([held, piece])
            while len(held) >= chunk:
                inputs = held[: chunk - 1].copy()
                if front:
                    inputs[0] = self.front[0]
                start = position + half + 1 - front
                yield Window(document, start, inputs, held[half + 1 : chunk])
                held = held[chunk:]
                position += chunk
        tokens = position + len(held)
        if tokens < 2 * chunk:
            raise ValueError(
                f"llama.cpp needs a text of two chunks, {2 * chunk} tokens; this one has {tokens}"
            )


class Gpt2Paper(Protocol):
    """Zero-shot perplexity as in the GPT-2 paper, by its usual reproduction.

    WikiText's spacing is undone, windows move by 32 tokens, without BOS; nats are divided by the
    words of the original text, less one. Each document is held whole.
    """

    name = "gpt2-paper"
    rules = "de-tokenised text, stride 32, no BOS; nats per word of the original text"
    fixed = ("bos",)
    keeps_documents = False
    headline = "word_perplexity"

    def __init__(self, language_model: LanguageModel, windows: Windows = Windows()) -> None:
        limit = positions(language_model.model)
        length = min(1024, limit or 1024) if windows.context is None else windows.context
        stride = min(32, length) if windows.stride is None else windows.stride
        super().__init__(
            language_model, replace(windows, context=length, stride=stride, bos="never")
        )

    def prepared(self, documents: Iterable[Document]) -> Iterator[Document]:
        """De-tokenised documents; words and bytes are counted of the originals."""
        assert self.bytes is not None and self.words is not None
        for document in documents:
            text = str(whole(document).text)
            self.words += len(text.strip().split(" ")) - 1
            self.bytes += len(text.encode())
            yield Document(detokenized_wikitext(text))

    def count_text(self, document: int, text: str) -> None:
        """Counted already, of the original."""

    def finish(self, complete: bool) -> None:
        """Of an original that was not scored to its end, the share is not known."""
        if not complete:
            self.bytes = self.words = None


PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (Protocol, HuggingFace, LmEval, LlamaCpp, Gpt2Paper)
}


def detokenized_wikitext(text: str) -> str:
    """A WikiText text with the spaces that its tokenisation put in taken out again.

    Source: the rules that Megatron-LM and the LM Evaluation Harness apply to WikiText, in their
        order. They lose information: the letter N between spaces becomes the digit 1.
    """
    for pattern, replacement in _WIKITEXT:
        text = re.sub(pattern, replacement, text)
    return text


_WIKITEXT = [
    ("s '", "s'"),
    *((f" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    *(
        (
            rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}",
            rf"{left}\1{right}",
        )
        for left, right in ("()", "[]", "{}", '""', "''")
    ),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (f" {chr(176)} ", chr(176)),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
]


def _joined(documents: Iterable[Document], separator: str) -> Iterator[str]:
    for index, document in enumerate(documents):
        if index and separator:
            yield separator
        yield from [document.text] if isinstance(document.text, str) else document.text


def _without_last_newline(pieces: Iterable[str]) -> Iterator[str]:
    held = ""
    for piece in filter(None, pieces):
        yield held
        held = piece
    yield held.removesuffix("\n")
