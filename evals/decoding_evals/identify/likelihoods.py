"""What each of several settings says of every token of a text, from one forward pass.

A token outside a setting's kept set rules the setting out, so two ways in which it can get there
by accident are looked at:

- The sampler's logits and the scorer's differ by rounding, and a token may have been drawn at the
  very edge. It counts as inside where its logit, raised by `ROUNDING`, and thresholds that are
  looser by as much, would put it there.
- A text may have been written with other tokens than its tokenizer cuts it into. `RuledOut` says
  where that could be the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.information.statistics import row_statistics
from decoding.models.loading import LanguageModel
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.scoring.answers import EncodedDocument
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.following import Follower
from decoding.scoring.teacher_forcing import Document, TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.settings.applying import apply_settings
from decoding.settings.policy import Setting
from decoding.settings.settings import DecodingSettings
from decoding_evals.identify.retokenisation import Retokenisation
from decoding_evals.reading.scanned import Scanned, scanned
from decoding_evals.showing.result import Floats, Integers

# Of tokens drawn in batches with a cache, under settings that truncate, and scored without: outside
# the setting's own kept set were none of 124,000 in float32, and of 45,600 each 7 in float16 and 61
# in bfloat16; with this slack, none in bfloat16.
ROUNDING = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Nats by which two passes over the same tokens may differ in a logit."""
CHECKED = 32
"""Of the tokens that a setting cuts off, how many are tried for other ways to write them."""


@dataclass(frozen=True)
class RuledOut:
    """The token that rules a setting out: the first one outside its kept set that no other cut of
    the text nearby may explain (see `Retokenisation`), or the first one outside, where one may
    explain each of them. The first `CHECKED` are tried."""

    token: int
    """Index among the scored tokens of the model."""
    id: int
    text: str
    rank: int
    """Number of tokens that the model prefers."""
    kept: int
    """Number of tokens that the setting keeps there."""
    retokenisation: bool
    """Whether other tokens, which the setting keeps, may have been written there."""
    others_log_prob_nats: float
    """Log probability that the setting wrote others near each of the tokens that were tried; -∞
    where none, or only those further back, may explain one of them."""


@dataclass(frozen=True)
class Likelihoods:
    """The n scored tokens of a document under S settings of a model."""

    ids: Integers
    """`(n,)`."""
    texts: tuple[str, ...]
    bounds: Integers
    """`(n + 1,)`, index in the text where each token begins, and where the last one ends."""
    log_q_nats: Floats
    """`(n, S)`, log q(token); -∞ outside the kept set."""
    entropy_nats: Floats
    """`(n, S)`, H(q)."""
    varentropy_nats2: Floats
    """`(n, S)`, variance of -log q under q."""
    coverage: Floats
    """`(S,)`, share of the tokens inside the kept set or at its very edge; NaN without tokens."""
    ruled_out: tuple[RuledOut | None, ...]
    tokens_skipped: int

    def merged(self, bounds: Integers) -> Likelihoods:
        """Sums over the stretches between some of the bounds; the rest is left out."""
        # Of the tokens of one character, all but the last end where they begin.
        cuts = np.searchsorted(self.bounds, bounds, side="right") - 1
        cuts[:1] = np.searchsorted(self.bounds, bounds[:1])

        def sums(values: Floats) -> Floats:
            if len(cuts) < 2:
                return values[:0]
            return np.add.reduceat(values[: cuts[-1]], cuts[:-1], axis=0)

        names = ("log_q_nats", "entropy_nats", "varentropy_nats2")
        columns: dict[str, Any] = {name: sums(getattr(self, name)) for name in names}
        texts = tuple("".join(self.texts[begin:end]) for begin, end in pairwise(cuts))
        return replace(self, texts=texts, bounds=bounds, **columns)


def likelihoods(
    language_model: LanguageModel,
    documents: Iterable[Document | TokenDocument],
    settings: Sequence[Setting],
    *,
    windows: Windows = Windows(),
    journal: Journal = NO_JOURNAL,
    on_progress: Callable[[int, float], None] | None = None,
) -> Iterator[Likelihoods]:
    """Score every token of every document under every setting; see `identify`.

    Returns:
        One result per document, in their order, also where nothing could be scored.
    """
    run = TeacherForcing(language_model, windows, journal=journal)
    retokenisation = Retokenisation(language_model, windows)
    followers = [Follower([setting.for_tokenizer(run.tokenizer)]) for setting in settings]

    def measure(block: LogitBlock) -> dict[str, Tensor]:
        return _measured(block, followers)

    for document in scanned(run, documents, measure, on_progress, "entropy_nats 0"):
        yield _likelihoods(document, run, settings, retokenisation)


def _measured(block: LogitBlock, followers: Sequence[Follower]) -> dict[str, Tensor]:
    logits, targets = block.logits, block.targets
    p = row_statistics(logits, targets)
    assert p.rank is not None
    columns = {"rank": p.rank}
    for index, follower in enumerate(followers):
        cut = follower.logits(block)
        q = row_statistics(cut, targets)
        log_q = q.target_log_prob
        assert log_q is not None
        outside = (log_q == -math.inf).nonzero().squeeze(-1)
        [setting] = follower.settings
        if len(outside) and isinstance(setting, DecodingSettings) and not setting.looks_back:
            log_q = log_q.clone()
            log_q[outside] = _at_the_edge(setting, logits[outside], targets[outside])
        columns |= {
            f"log_q_nats {index}": log_q,
            f"entropy_nats {index}": q.entropy,
            f"varentropy_nats2 {index}": q.variance,
            f"kept {index}": (cut > -math.inf).sum(-1),
        }
    return columns


def _at_the_edge(setting: DecodingSettings, logits: Tensor, targets: Tensor) -> Tensor:
    """log q(target) where rounding alone may have put it outside the kept set, else -∞."""
    slack = ROUNDING.get(logits.dtype, 0.0)
    chosen = targets.long().unsqueeze(-1)
    raised = logits.float()
    raised = raised.scatter(-1, chosen, raised.gather(-1, chosen) + slack)
    log_q = row_statistics(apply_settings(setting.looser(slack), raised), targets).target_log_prob
    assert log_q is not None
    return log_q


def _likelihoods(
    document: Scanned,
    run: TeacherForcing,
    settings: Sequence[Setting],
    retokenisation: Retokenisation,
) -> Likelihoods:
    scored = document.ids()
    n = len(scored)
    text, ids, bounds = document.cut()
    unscored = len(ids) - n
    own = bounds[unscored:]
    texts = tuple(text[begin:end] for begin, end in pairwise(own))

    log_q, kept, entropy, varentropy = (
        np.stack([document.column(f"{name} {index}") for index in range(len(settings))], axis=1)
        for name in ("log_q_nats", "kept", "entropy_nats", "varentropy_nats2")
    )
    rank = document.column("rank")
    outside = [np.flatnonzero(values == -math.inf).tolist() for values in log_q.T]
    explained: dict[tuple[Setting, int], float] = {}
    if not isinstance(document.document, TokenDocument):
        tried = [
            (setting, unscored + place)
            for setting, places in zip(settings, outside, strict=True)
            for place in places[:CHECKED]
        ]
        read = document.document
        front = read.front if isinstance(read, EncodedDocument) else run.front
        explained = retokenisation.explained(text, ids, bounds, front, tried, first=unscored)
    ruled_out: list[RuledOut | None] = []
    for index, (setting, places) in enumerate(zip(settings, outside, strict=True)):
        if not places:
            ruled_out.append(None)
            continue
        logs = [explained.get((setting, unscored + p)) for p in places[:CHECKED]]
        firm = [p for p, log in zip(places, logs, strict=False) if log is None]
        token = firm[0] if firm else places[0]
        entry = RuledOut(
            token=token,
            id=int(scored[token]),
            text=texts[token],
            rank=int(rank[token]),
            kept=int(kept[token, index]),
            retokenisation=not firm,
            others_log_prob_nats=math.fsum(-math.inf if log is None else log for log in logs),
        )
        ruled_out.append(entry)
    coverage = [1 - len(places) / n if n else math.nan for places in outside]
    return Likelihoods(
        ids=scored,
        texts=texts,
        bounds=own,
        log_q_nats=log_q,
        entropy_nats=entropy,
        varentropy_nats2=varentropy,
        coverage=np.array(coverage),
        ruled_out=tuple(ruled_out),
        tokens_skipped=0 if run.front or not isinstance(document.document, Document) else unscored,
    )
