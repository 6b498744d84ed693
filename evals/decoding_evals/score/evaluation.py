"""Scores of every token of a text, or of the texts that may follow a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoding.information.statistics import log_mass, log_probs_of, row_statistics
from decoding.models.loading import LanguageModel, check_language_model
from decoding.passes.caches import Reader
from decoding.passes.journal import Journal
from decoding.scoring.answers import EncodedDocument, answered
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import AnyDocument, TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.policy import Setting, as_setting
from decoding.showing.packing import PageRows
from decoding.texts.chats import Chat, Prompt, last_of
from decoding_evals.mapping.engine import IN_PROCESS, Engine, OnProgress
from decoding_evals.mapping.units import Unit, units_of
from decoding_evals.reading.scanned import Scanned, scanned
from decoding_evals.score.document import DocumentScores, UnderSetting
from decoding_evals.score.following import named_tokens, next_tokens
from decoding_evals.score.view import CHOICES
from decoding_evals.score.words import WordBorders, Words, words_of
from decoding_evals.showing.result import Integers, TextResult, finite, quoted
from decoding_evals.showing.terminal import counted


def score(
    language_model: LanguageModel,
    documents: Iterable[str | AnyDocument],
    *,
    windows: Windows = Windows(),
    setting: Setting | str | None = None,
    words: bool = False,
    tokens: Sequence[str] = (),
    page: int | None = None,
    reader: Reader | None = None,
    engine: Engine = IN_PROCESS,
    on_progress: Callable[[int, float], None] | None = None,
) -> Iterator[DocumentScores]:
    """Score every token of every document by teacher forcing.

    Args:
        language_model: from `load_model`.
        documents: texts, or `Document`s, whose prompts are context only; taken lazily, each held
            whole until it is scored.
        windows: how the texts are read.
        setting: a decoding setting, or its text form, that is scored beside the model's own
            distribution.
        words: score words too, see `decoding_evals.score.words`.
        tokens: texts of single tokens, whose probabilities behind each document are wanted.
        page: put what a page needs into the records, in this detail; see `PackedRows`.
        reader: keeps what texts begin with from call to call.
        engine: what scores the documents.
        on_progress: is given the number of scored tokens and the mean surprisal so far, nats.

    Returns:
        One result per document, in their order, also where nothing could be scored.

    Raises:
        ValueError: an argument is outside its range.
    """
    check_language_model(language_model)
    chosen = None if setting is None else as_setting(setting)
    work = Scoring(windows, chosen, words, tuple(tokens), page, reader)
    units = units_of(documents, windows.batch_size)
    yield from engine.map(language_model, work, units, on_progress)


@dataclass(frozen=True)
class Scoring:
    """Scores the documents of a unit; the fields are arguments of `score`."""

    windows: Windows
    setting: Setting | None
    words: bool
    tokens: tuple[str, ...]
    page: int | None
    reader: Reader | None

    def parts(
        self, models: LanguageModel, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[DocumentScores]:
        """The scores of each document."""
        vocab = models.model.config.get_text_config().vocab_size
        ends = [end for end in models.ends() if end < vocab]  # a configuration's may be default
        run = TeacherForcing(
            models, self.windows, reader=self.reader, end=ends[0] if ends else 0,
            journal=journal, first=unit.first,
        )  # fmt: skip
        tokenizer = run.tokenizer
        setting = None if self.setting is None else self.setting.for_tokenizer(tokenizer)
        asked = _Asked(
            ends,
            named_tokens(tokenizer, self.tokens, vocab),
            self.tokens,
            WordBorders(tokenizer, ends, vocab) if self.words else None,
            None if setting is None else Follower([setting]),
            None if self.page is None else PageRows(self.page, models),
        )
        scored = scanned(run, unit.documents, asked.measured, on_progress, "surprisal_nats")
        for index, document in enumerate(scored, unit.first):
            yield _scores(index, document, self.setting, asked)


@dataclass(frozen=True)
class ChoiceScores(TextResult):
    """The texts that may follow a prompt, scored as its continuations."""

    view = CHOICES

    prompt: str
    choices: tuple[DocumentScores, ...]

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        best = self.choices[int(np.argmax(self.log_probs_nats()))]
        count = counted(len(self.choices), "choice")
        return quoted(self.prompt), count, f"likeliest {quoted(best.text)}"

    def log_probs_nats(self) -> list[float]:
        """log p(choice | prompt) of each choice, the sum over its tokens, <= 0."""
        return [-math.fsum(choice.surprisal_nats) for choice in self.choices]

    def record(self) -> dict[str, Any]:
        """Each choice with its log-probability, and their rankings, best first, ready for JSON.

        `ranking` is by log p(choice | prompt), `ranking_per_byte` by the same per byte of text,
        which does not favour short choices.
        """
        log_probs = self.log_probs_nats()
        sizes = [len(choice.text.encode()) for choice in self.choices]
        per_byte = [log_prob / size for log_prob, size in zip(log_probs, sizes, strict=True)]
        choices = [
            {
                "text": choice.text,
                "log_prob_nats": finite(log_probs[index]),
                "log_prob_nats_per_byte": finite(per_byte[index]),
                **choice.scored(),
            }
            for index, choice in enumerate(self.choices)
        ]
        return {
            **self.heading(),
            "prompt": self.prompt,
            "ranking": sorted(range(len(choices)), key=lambda index: -log_probs[index]),
            "ranking_per_byte": sorted(range(len(choices)), key=lambda index: -per_byte[index]),
            "choices": choices,
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per choice."""
        choices: list[dict[str, Any]] = self.record()["choices"]
        for choice in choices:
            del choice["tokens"]
        return choices


def score_choices(
    language_model: LanguageModel,
    rows: Iterable[tuple[Prompt, Sequence[str]]],
    *,
    chat: bool | Chat = False,
    names: Sequence[str] = (),
    **options: Any,
) -> Iterator[ChoiceScores]:
    """Score the choices of each row as continuations of its prompt.

    A prompt is read as `generate` reads it, and prompt and choice are encoded together. All choices
    of a row are scored over the same event: from the end of the longest beginning of the prompt's
    own ids that each of them shares (see `decoding.scoring.answers`).

    Args:
        language_model: from `load_model`.
        rows: pairs of a prompt, a text or a conversation, and its choices; taken lazily.
        chat: put text prompts into the chat template; choices are then the assistant's answers.
        names: of the rows, for errors; it may grow while they are taken.
        **options: as for `score`.

    Raises:
        ValueError: a row has no choices, a choice no token that can be scored, a prompt cannot be
            read, or an option is outside its range.
    """
    open_rows: list[tuple[Prompt, int]] = []

    def documents() -> Iterator[EncodedDocument]:
        for number, (prompt, choices) in enumerate(rows, 1):
            if not choices:
                raise ValueError(f"row {number} has no choices")
            open_rows.append((prompt, len(choices)))
            row = repr(names[number - 1]) if number <= len(names) else f"row {number}"
            name = f"the prompt of {row}"
            yield from answered(language_model.tokenizer, prompt, choices, chat=chat, name=name)

    scored: list[DocumentScores] = []
    index = count()
    for scores in score(language_model, documents(), **options):
        if not len(scores):
            place = f"row {next(index) + 1}: choice {len(scored) + 1}"
            raise ValueError(f"{place} has no token to score")
        scored.append(scores)
        prompt, size = open_rows[0]
        if len(scored) == size:
            yield ChoiceScores(index=next(index), prompt=last_of(prompt), choices=tuple(scored))
            del open_rows[0], scored[:]


class _Asked(NamedTuple):
    """What is measured besides the tokens themselves."""

    ends: Sequence[int]
    """Ids that end a text."""
    ids: Sequence[int]
    """Those of the named tokens."""
    texts: tuple[str, ...]
    borders: WordBorders | None
    follower: Follower | None
    rows: PageRows | None

    def measured(self, block: LogitBlock) -> dict[str, Any]:
        """Of each row of a block."""
        p = row_statistics(block.logits, block.targets)
        assert p.target_log_prob is not None and p.rank is not None
        columns: dict[str, Any] = {
            "surprisal_nats": -p.target_log_prob,
            "entropy_nats": p.entropy,
            "varentropy_nats2": p.variance,
            "rank": p.rank,
        }
        device = block.logits.device
        columns |= self._behind(block)
        if self.borders is not None:
            borders = torch.from_numpy(self.borders.ids).to(device)
            columns["log_border"] = log_mass(block.logits, borders)
        if self.rows is not None:
            columns["page_row"] = self.rows.pack(block.logits, block.targets)
        if self.follower is None:
            return columns
        cut = self.follower.logits(block)
        q = row_statistics(cut, block.targets)
        assert q.target_log_prob is not None
        return columns | {
            "q_surprisal_nats": -q.target_log_prob,
            "q_entropy_nats": q.entropy,
            "q_varentropy_nats2": q.variance,
            "kept": (cut > -math.inf).sum(-1),
        }

    def _behind(self, block: LogitBlock) -> dict[str, Tensor]:
        """Of the rows behind a document's last token; 0 in the others."""
        stops = np.cumsum([len(window.targets) for window in block.windows]) - block.first
        places = stops[[window.closes for window in block.windows]] - 1
        size = len(block.targets)
        rows = torch.from_numpy(places[(places >= 0) & (places < size)]).to(block.logits.device)
        logits = block.logits[rows]

        def filled(values: Tensor) -> Tensor:
            return values.new_zeros((size, *values.shape[1:])).index_copy_(0, rows, values)

        columns = {}
        if self.ends:
            ends = torch.tensor(self.ends, device=logits.device)
            columns["log_end"] = filled(log_mass(logits, ends))
        if self.ids:
            named = torch.tensor(self.ids, device=logits.device)
            columns["log_named"] = filled(log_probs_of(logits, named))
        return columns


def _scores(
    index: int, document: Scanned, setting: Setting | None, asked: _Asked
) -> DocumentScores:
    text, ids, bounds = document.cut()
    scored = document.scored()
    names = ("surprisal_nats", "entropy_nats", "varentropy_nats2")
    columns: dict[str, Any] = {name: document.column(name) for name in names}
    q = None
    if setting is not None:
        of_q: dict[str, Any] = {name: document.column(f"q_{name}") for name in names}
        q = UnderSetting(setting=setting, kept=document.column("kept").astype(np.int64), **of_q)
    end = document.closing("log_end")
    if end is not None and (not len(ids) or ids[-1] not in asked.ends):
        columns["end_surprisal_nats"] = -float(end)
    if asked.ids:
        named = document.closing("log_named")
        known = () if named is None else next_tokens(asked.ids, asked.texts, named.tolist())
        columns["next_tokens"] = known
    if asked.borders is not None:
        columns["words"] = _words(asked.borders, document, text, ids, bounds)
    starts = bounds[scored]
    if asked.rows is not None:
        before = text[: starts[0]] if len(starts) else text
        columns["page"] = asked.rows.page(document.column("page_row"), before)
    return DocumentScores(
        index=index,
        text=text,
        tokens=len(ids),
        ids=ids[scored],
        starts=starts,
        ends=bounds[scored + 1],
        **columns,
        rank=document.column("rank").astype(np.int64),
        under_setting=q,
    )


def _words(
    borders: WordBorders, document: Scanned, text: str, ids: Integers, bounds: Integers
) -> Words:
    """The words of a document; of ids, what stands before them is part of what they continue."""
    before: Sequence[int] = ()
    if isinstance(document.document, TokenDocument):
        before = document.document.context
    scored = document.scored() + len(before)
    ids = np.concatenate([np.array(before, dtype=np.int64), ids])
    bounds = np.concatenate([np.zeros(len(before), dtype=np.int64), bounds])
    columns = {}
    for name in ("surprisal_nats", "entropy_nats", "log_border"):
        columns[name] = np.full(len(ids), math.nan)
        columns[name][scored] = document.column(name)
    after = document.closing("log_border")
    return words_of(borders, text, ids, bounds, columns, None if after is None else float(after))
