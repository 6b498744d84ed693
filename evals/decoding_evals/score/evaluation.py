"""Scores of every token of a text, or of the texts that may follow a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from decoding.information.statistics import row_statistics
from decoding.models.loading import LanguageModel
from decoding.scoring.answers import EncodedDocument, answered
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import AnyDocument, TeacherForcing
from decoding.scoring.windows import Windows
from decoding.settings.policy import Setting, as_setting
from decoding.texts.chats import Chat, Prompt, last_of
from decoding_evals.reading.scanned import Scanned, scanned
from decoding_evals.score.figure import plot_scores
from decoding_evals.score.tables import choice_tables, token_tables
from decoding_evals.showing.pages import PageRows
from decoding_evals.showing.result import (
    Floats,
    Integers,
    TextResult,
    by_key,
    exp_or_none,
    finite,
    quoted,
)
from decoding_evals.showing.terminal import counted


@dataclass(frozen=True)
class UnderSetting:
    """What a decoding setting's distribution q says of each scored token."""

    setting: Setting
    surprisal_nats: Floats
    """-log q(token); infinite where the setting cuts the token off."""
    entropy_nats: Floats
    """H(q), in [0, ln kept]."""
    varentropy_nats2: Floats
    """Variance of -log q under q, nats²."""
    kept: Integers
    """Number of tokens in the support of q."""


@dataclass(frozen=True)
class DocumentScores(TextResult):
    """Every scored token of one document; columns have one row a token."""

    _tables = staticmethod(token_tables)
    _picture = staticmethod(plot_scores)

    text: str
    """The document, without its prompt."""
    tokens: int
    """Tokens of the document and its prompt, scored or not, without BOS."""
    ids: Integers
    starts: Integers
    """Index in `text` of each token's first character."""
    ends: Integers
    """Index behind its last one; of neighbours, each token starts where the one before ends."""
    surprisal_nats: Floats
    """-log p(token) under the model's own distribution, >= 0."""
    entropy_nats: Floats
    """H(p), in [0, ln vocab]."""
    varentropy_nats2: Floats
    """Variance of -log p under p, nats²."""
    rank: Integers
    """Number of tokens that the model prefers; 0 is its favourite."""
    under_setting: UnderSetting | None = None
    page: dict[str, Any] | None = None
    """What its page needs, where that was asked for."""

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        mean = [f"mean surprisal {self.surprisal_nats.mean():.2f} nats"] if len(self) else []
        return quoted(self.text), counted(len(self), "token"), *mean

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def residual(self) -> Floats:
        """(surprisal - entropy) / √varentropy: how far a token is from what the model expected.

        NaN where the varentropy is 0: the model had no expectation but one.
        """
        known = self.varentropy_nats2 > 0
        spread = np.sqrt(np.where(known, self.varentropy_nats2, math.nan))
        return (self.surprisal_nats - self.entropy_nats) / spread

    def z(self) -> float | None:
        """Σ(surprisal - entropy) / √Σvarentropy: N(0, 1) for a text that the model wrote."""
        total = math.fsum(self.varentropy_nats2)
        excess = math.fsum(self.surprisal_nats) - math.fsum(self.entropy_nats)
        return finite(excess / math.sqrt(total)) if total > 0 else None

    def texts(self) -> list[str]:
        """The text of each token."""
        return [self.text[start:end] for start, end in zip(self.starts, self.ends, strict=True)]

    @property
    def nll_nats(self) -> float | None:
        """Mean surprisal; infinite where a token is impossible, None without tokens."""
        return math.fsum(self.surprisal_nats) / len(self) if len(self) else None

    @property
    def perplexity(self) -> float | None:
        """e^nll_nats; None where that is beyond the largest double."""
        return exp_or_none(self.nll_nats)

    def totals(self) -> dict[str, Any]:
        """Sums and means over the tokens; what is infinite or undefined is None."""
        tokens = len(self)
        surprisal = math.fsum(self.surprisal_nats)
        size = len("".join(self.texts()).encode())
        totals = {
            "tokens_scored": tokens,
            "tokens_not_scored": self.tokens - tokens,
            "surprisal_nats": finite(surprisal),
            "nll_nats": finite(self.nll_nats),
            "perplexity": self.perplexity,
            "bits_per_byte": finite(surprisal / size / math.log(2)) if size else None,
            "mean_entropy_nats": math.fsum(self.entropy_nats) / tokens if tokens else None,
            "z": self.z(),
        }
        q = self.under_setting
        if q is None:
            return totals
        inside = q.surprisal_nats[q.surprisal_nats < math.inf]
        covered_nll = math.fsum(inside) / len(inside) if len(inside) else None
        return totals | {
            "setting": str(q.setting),
            "coverage": len(inside) / tokens if tokens else None,
            "q_nll_nats": covered_nll if len(inside) == tokens else None,
            "covered_q_nll_nats": covered_nll,
            "mean_q_entropy_nats": math.fsum(q.entropy_nats) / tokens if tokens else None,
        }

    def columns(self) -> dict[str, list[Any]]:
        """Columns by record key; what is infinite or undefined is None."""
        own = ("surprisal_nats", "entropy_nats", "varentropy_nats2", "rank", "residual")
        columns: dict[str, list[Any]] = {
            "id": self.ids.tolist(),
            "text": self.texts(),
            "start": self.starts.tolist(),
            "end": self.ends.tolist(),
            **{name: finite(getattr(self, name)) for name in own},
        }
        q = self.under_setting
        if q is None:
            return columns
        columns |= {f"q_{name}": finite(getattr(q, name)) for name in own[:3]}
        return columns | {"kept": q.kept.tolist(), "covered": finite(q.surprisal_nats < math.inf)}

    def record(self) -> dict[str, Any]:
        """Totals, and one object per token under `tokens`, ready for JSON."""
        return {**self.heading(), **self.scored()}

    def scored(self) -> dict[str, Any]:
        """The record without its heading."""
        page = {} if self.page is None else {"page": self.page}
        return {**self.totals(), "tokens": self.rows(), **page}

    def rows(self) -> list[dict[str, Any]]:
        """One row per token."""
        return by_key(self.columns())


def score(
    language_model: LanguageModel,
    documents: Iterable[str | AnyDocument],
    *,
    windows: Windows = Windows(),
    setting: Setting | str | None = None,
    page: int | None = None,
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
        page: put what a page needs into the records, in this detail; see `PackedRows`.
        on_progress: is given the number of scored tokens and the mean surprisal so far, nats.

    Returns:
        One result per document, in their order, also where nothing could be scored.

    Raises:
        ValueError: an argument is outside its range.
    """
    run = TeacherForcing(language_model, windows)
    chosen = None if setting is None else as_setting(setting)
    follower = None if chosen is None else Follower([chosen.for_tokenizer(run.tokenizer)])

    rows = None if page is None else PageRows(page)

    def measure(block: LogitBlock) -> dict[str, Tensor]:
        columns = _measured(block, follower)
        if rows is not None:
            columns["page_row"] = rows.add(block.logits, block.targets)
        return columns

    measured = scanned(run, documents, measure, on_progress, "surprisal_nats")
    for index, document in enumerate(measured):
        scores = _scores(index, document, run, chosen)
        if rows is not None:
            first = int(scores.starts[0]) if len(scores) else 0
            numbers = document.column("page_row").astype(np.int64)
            own = rows.take(numbers.tolist(), run.tokenizer, scores.text[:first])
            scores = replace(scores, page=own)
        yield scores


@dataclass(frozen=True)
class ChoiceScores(TextResult):
    """The texts that may follow a prompt, scored as its continuations."""

    _tables = staticmethod(choice_tables)

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


def _measured(block: LogitBlock, follower: Follower | None) -> dict[str, Tensor]:
    p = row_statistics(block.logits, block.targets)
    assert p.target_log_prob is not None and p.rank is not None
    columns = {
        "surprisal_nats": -p.target_log_prob,
        "entropy_nats": p.entropy,
        "varentropy_nats2": p.variance,
        "rank": p.rank,
    }
    if follower is None:
        return columns
    cut = follower.logits(block)
    q = row_statistics(cut, block.targets)
    assert q.target_log_prob is not None
    return columns | {
        "q_surprisal_nats": -q.target_log_prob,
        "q_entropy_nats": q.entropy,
        "q_varentropy_nats2": q.variance,
        "kept": (cut > -math.inf).sum(-1),
    }


def _scores(
    index: int, document: Scanned, run: TeacherForcing, setting: Setting | None
) -> DocumentScores:
    text, ids, bounds = document.cut(run)
    scored = document.scored()
    names = ("surprisal_nats", "entropy_nats", "varentropy_nats2")
    columns: dict[str, Any] = {name: document.column(name) for name in names}
    q = None
    if setting is not None:
        of_q: dict[str, Any] = {name: document.column(f"q_{name}") for name in names}
        q = UnderSetting(setting=setting, kept=document.column("kept").astype(np.int64), **of_q)
    return DocumentScores(
        index=index,
        text=text,
        tokens=len(ids),
        ids=ids[scored],
        starts=bounds[scored],
        ends=bounds[scored + 1],
        **columns,
        rank=document.column("rank").astype(np.int64),
        under_setting=q,
    )
