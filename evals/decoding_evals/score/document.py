"""The scores of a document: of its tokens, its words, and what may follow it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.settings.policy import Setting
from decoding_evals.score.figure import plot_scores
from decoding_evals.score.following import NextToken
from decoding_evals.score.threshold import Threshold
from decoding_evals.score.view import DOCUMENT
from decoding_evals.score.words import Words
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

    view = DOCUMENT
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
    end_surprisal_nats: float | None = None
    """-log of the probability that the text ends here (EOS); None where the model has no EOS, and
    where the text ends with it or with a turn."""
    next_tokens: tuple[NextToken, ...] | None = None
    """The named tokens that may follow; None where none are named, and none where nothing can
    follow: a turn ends the text, or it is empty."""
    words: Words | None = None
    """None where they were not asked for."""
    human: Threshold | None = None
    """Of the curvature, fitted on texts that people wrote."""
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

    def curvature(self) -> float | None:
        """Fast-DetectGPT's conditional probability curvature, -z: large for texts that a model like
        this one wrote. What is large depends on the kind of text, so it takes texts of people to
        compare with: `fit_threshold`.

        Source: Bao et al. 2024, arXiv:2310.05130, with one model that samples and scores.
        """
        z = self.z()
        return None if z is None else -z

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
            "curvature": self.curvature(),
            "end_surprisal_nats": finite(self.end_surprisal_nats),
        }
        if self.next_tokens is not None:
            totals["next_tokens"] = [token.record() for token in self.next_tokens] or None
        if self.human is not None:
            totals["flagged"] = self.human.flags(self.curvature())
            totals["threshold"] = self.human.record()
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

    def counted(self) -> tuple[int, float]:
        """Scored tokens, and the sum of their surprisals."""
        return len(self), float(self.surprisal_nats.sum())

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

    def per_token(self) -> list[dict[str, Any]]:
        """One row per token, with the document's name and number and its own."""
        return [{**self._place(index), **row} for index, row in enumerate(self.rows())]

    def per_word(self) -> list[dict[str, Any]]:
        """One row per word whose tokens are all scored, with the document's name and number.

        Raises:
            ValueError: words were not asked for.
        """
        if self.words is None:
            raise ValueError("words were not asked for: score(…, words=True)")
        rows = []
        for word in self.words.words:
            figures = {name: finite(value) for name, value in vars(word).items()}
            text = {"text": self.text[word.start : word.end]}
            rows.append(self._place(figures.pop("index")) | text | figures)
        return rows

    def _place(self, index: int) -> dict[str, Any]:
        """Where a row comes from."""
        named = {} if self.name is None else {"name": self.name}
        return {**named, "document": self.index, "index": index}
