"""Which setting, or which model, wrote a text: Bayes' rule over candidates, token by token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product, tee
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.inference import posterior as bayes
from decoding.models.loading import LanguageModel, check_language_model, check_vocabularies
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.scoring.teacher_forcing import Document, TokenDocument, listed
from decoding.scoring.windows import Windows
from decoding.settings.grids import MOST_SETTINGS
from decoding.settings.policy import Setting, as_setting
from decoding_evals.identify.figure import plot_identification
from decoding_evals.identify.likelihoods import Likelihoods, RuledOut, likelihoods
from decoding_evals.identify.page import page_of
from decoding_evals.identify.view import VIEW
from decoding_evals.reading.scanned import whole
from decoding_evals.showing.result import Floats, TextResult, by_key, finite
from decoding_evals.showing.terminal import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


DECIDING = 8
UNEXPLAINED = 4.0
"""Standard deviations of surprisal from which on a candidate does not explain a text."""


@dataclass(frozen=True)
class Candidate:
    """A setting of a model, and what it makes of a text."""

    setting: Setting
    model: str
    prior: float
    log_likelihood_nats: float
    """log q(text), the sum over its tokens; -∞ where one of them is outside the kept set."""
    coverage: float
    """Share of the tokens inside the kept set or, for rounding, at its very edge, in [0, 1]; NaN
    without tokens."""
    z: float
    """(surprisal - Σ H(q)) / √Σ varentropy: N(0, 1) for a long text that the candidate wrote. NaN
    where the candidate is ruled out, or left no choice at any token."""
    ruled_out: RuledOut | None

    @property
    def explains(self) -> bool:
        """Whether the text is as surprising as the candidate's own are."""
        return not abs(self.z) > UNEXPLAINED


@dataclass(frozen=True)
class Identification(TextResult):
    """The posterior over K candidates after a text."""

    view = VIEW

    candidates: tuple[Candidate, ...]
    tokens: tuple[str, ...]
    """Text of each of the n scored tokens. Where models cut the text differently, of the shortest
    stretches at whose ends all of them have a token end."""
    log_q_nats: Floats
    """`(n, K)`, log q(token) under each candidate; -∞ outside its kept set."""
    pieces: bool
    """Whether `tokens` are such stretches."""
    tokens_skipped: int
    """Tokens of the text that could not be scored: the first one, without BOS."""
    min_odds: float

    @property
    def posterior(self) -> Floats:
        """`(K,)`, in [0, 1]; NaN where every candidate is ruled out."""
        return np.exp(self.log_posterior())

    @property
    def decided(self) -> Candidate | None:
        """What wrote the text; None where `verdict` names none."""
        place, _ = self.verdict()
        return None if place is None else self.candidates[place]

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        decided = self.decided
        found = "none decided" if decided is None else f"decided {str(decided.setting)!r}"
        count = counted(len(self.tokens), "piece" if self.pieces else "token")
        return counted(len(self.candidates), "candidate"), found, count

    def log_posterior(self) -> Floats:
        """`(K,)`, nats; NaN where every candidate is ruled out."""
        return bayes.log_posterior(self._each("log_likelihood_nats"), self._each("prior"))

    def running_log_odds(self) -> Floats:
        """`(n + 1, K)`, log odds of each candidate against all others after each token, nats.

        The first row is that of the prior; NaN from where on every candidate is ruled out.
        """
        return bayes.log_odds(bayes.running_log_posterior(self.log_q_nats, self._each("prior")))

    def ranking(self) -> list[int]:
        """The candidates that are not ruled out, the most probable first."""
        posterior = self.log_posterior()
        alive = np.flatnonzero(posterior > -math.inf)
        return sorted(alive.tolist(), key=lambda k: -posterior[k])

    def log_odds_nats(self) -> float:
        """Log posterior odds of the best candidate against all others together.

        ∞ where the others are ruled out, NaN where all are.
        """
        return float(np.max(self._odds(self._each("log_likelihood_nats"))))

    def verdict(self) -> tuple[int | None, str | None]:
        """The candidate that wrote the text, or None and why none is named.

        None is named where the best candidate does not explain the text, where its odds are below
        `min_odds`, and where they may be: if a candidate is ruled out by nothing but tokens in
        whose place others may have been written, these might have had probability 1.
        """
        if not self.tokens:
            return None, "the text has no token to score"
        ranking = self.ranking()
        if not ranking:
            return None, "every candidate is ruled out"
        best = self.candidates[ranking[0]]
        if not best.explains:
            side = "above" if best.z > 0 else "below"
            return None, (
                f"the best candidate does not explain the text: under {best.setting} its surprisal "
                f"lies {abs(best.z):.1f} standard deviations {side} what is expected"
            )
        odds = math.exp(min(700.0, self.log_odds_nats()))
        if odds < self.min_odds:
            return None, f"weak evidence: odds of {odds:.3g} are below {self.min_odds:g}"
        possible = self._possible_log_likelihoods()
        odds = math.exp(min(700.0, float(self._odds(possible)[ranking[0]])))
        if odds < self.min_odds:
            return None, (
                "a candidate may be ruled out only because the text is cut into other tokens than "
                f"it was written with; the odds would then be about {odds:.3g}"
            )
        return ranking[0], None

    def deciding_tokens(self) -> list[tuple[int, float]]:
        """The tokens that moved the odds of the best against the second most, the largest first.

        Returns:
            Index and log ratio of the two likelihoods in nats, for at most 8 tokens.
        """
        if len(self.ranking()) < 2:
            return []
        first, second = self.ranking()[:2]
        ratios = self.log_q_nats[:, first] - self.log_q_nats[:, second]
        largest = np.argsort(-np.abs(ratios), kind="stable")[:DECIDING]
        return [(int(index), float(ratios[index])) for index in largest if ratios[index] != 0]

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; lists are in the order of the candidates, None is infinite or
        unknown."""
        ranking = self.ranking()
        place, reason = self.verdict()
        decided = None if place is None else self.candidates[place]
        factors = np.full(len(self.candidates), math.nan)
        if ranking:
            factors = bayes.log_bayes_factors(self._each("log_likelihood_nats"), ranking[0])
        return {
            **self.heading(),
            "settings": [str(candidate.setting) for candidate in self.candidates],
            "models": [candidate.model for candidate in self.candidates],
            "prior": finite(self._each("prior")),
            "posterior": finite(self.posterior),
            "model_posterior": self._by_model(),
            "log_likelihood_nats": finite(self._each("log_likelihood_nats")),
            "log_bayes_factors_nats": finite(factors),
            "coverage": finite(self._each("coverage")),
            "z": finite(self._each("z")),
            "ruled_out": [
                {
                    "candidate": k,
                    "setting": str(candidate.setting),
                    **asdict(candidate.ruled_out),
                    "others_log_prob_nats": finite(candidate.ruled_out.others_log_prob_nats),
                }
                for k, candidate in enumerate(self.candidates)
                if candidate.ruled_out is not None
            ],
            "best": ranking[0] if ranking else None,
            "runner_up": ranking[1] if len(ranking) > 1 else None,
            "log_odds_nats": finite(self.log_odds_nats()),
            "min_odds": self.min_odds,
            "decided": None if decided is None else str(decided.setting),
            "decided_model": None if decided is None else decided.model,
            "abstained_because": reason,
            "deciding_tokens": [
                {"token": index, "text": self.tokens[index], "log_ratio_nats": ratio}
                for index, ratio in self.deciding_tokens()
            ],
            "tokens": len(self.tokens),
            "pieces": self.pieces,
            "tokens_skipped": self.tokens_skipped,
        }

    def page_record(self) -> dict[str, Any]:
        """The record, and under `page` what the odds along the text follow from; see `page_of`."""
        page = page_of(self.tokens, self.log_q_nats, self._each("prior"))
        return {**self.record(), "page": page}

    def rows(self) -> list[dict[str, Any]]:
        """One row per candidate."""
        record = self.record()
        names = (
            "prior", "posterior", "log_likelihood_nats", "log_bayes_factors_nats", "coverage", "z",
        )  # fmt: skip
        labels = {"setting": record["settings"], "model": record["models"]}
        return by_key(labels | {name: record[name] for name in names})

    def plot(self) -> Figure:
        """The odds of every candidate along the text; see `plot_identification`."""
        return plot_identification(self.record(), self.tokens, self.running_log_odds())

    def _odds(self, log_likelihoods: Floats) -> Floats:
        return bayes.log_odds(bayes.log_posterior(log_likelihoods, self._each("prior")))

    def _possible_log_likelihoods(self) -> Floats:
        """About what they would be if other tokens were written where a ruling-out is in doubt."""
        bounds = self._each("log_likelihood_nats")
        for k, candidate in enumerate(self.candidates):
            if candidate.ruled_out is not None and candidate.ruled_out.retokenisation:
                column = self.log_q_nats[:, k]
                others = candidate.ruled_out.others_log_prob_nats
                bounds[k] = math.fsum(column[column > -math.inf]) + others
        return bounds

    def _by_model(self) -> dict[str, float | None]:
        """The posterior of each model, whatever its setting."""
        sums: dict[str, float] = {}
        for candidate, share in zip(self.candidates, self.posterior, strict=True):
            sums[candidate.model] = sums.get(candidate.model, 0.0) + float(share)
        return {model: finite(share) for model, share in sums.items()}

    def _each(self, name: str) -> Floats:
        """`(K,)`, a figure of each candidate."""
        return np.array([getattr(candidate, name) for candidate in self.candidates])


def identify(
    language_models: LanguageModel | Sequence[LanguageModel],
    documents: Iterable[str | Document | TokenDocument],
    settings: Sequence[Setting | str],
    *,
    prior: Sequence[float] | None = None,
    min_odds: float = 10.0,
    windows: Windows = Windows(),
    journal: Journal = NO_JOURNAL,
    on_progress: Callable[[int, float], None] | None = None,
) -> Iterator[Identification]:
    """Which candidate wrote each document: every setting of every model is one.

    A text is scored as its tokenizer cuts it, a `TokenDocument` as the tokens that were drawn.
    Models with different vocabularies can be held against each other on texts alone.

    Args:
        language_models: one model or more.
        documents: texts, `Document`s or `TokenDocument`s; taken lazily.
        settings: at least one, or its text form; with one model at least two, no two equal.
        prior: positive weights of the candidates, the settings of the first model first; default
            all alike.
        min_odds: posterior odds of the best candidate against all others together, >= 1, below
            which none is named.
        windows: how the texts are read.
        journal: keeps what is measured of each batch.
        on_progress: is given the number of tokens scored by the first model and the mean entropy
            of its first candidate so far, nats.

    Returns:
        One result per document, in their order.

    Raises:
        ValueError: an argument is outside its range, or token ids and models with different
            vocabularies.
    """
    models = [*language_models] if isinstance(language_models, Sequence) else [language_models]
    for language_model in models:
        check_language_model(language_model)
    chosen = [as_setting(setting) for setting in settings]
    pairs = list(product((model.name for model in models), chosen))
    if not 2 <= len(pairs) <= MOST_SETTINGS:
        raise ValueError(f"candidates must be 2 to {MOST_SETTINGS}, got {len(pairs)}")
    [((model, setting), times)] = Counter(pairs).most_common(1)
    if times > 1:
        raise ValueError(f"candidates must differ, got {model}, {setting} twice")
    if not 1 <= min_odds < math.inf:
        raise ValueError(f"min_odds must be a finite number >= 1, got {min_odds!r}")
    weights = bayes.normalised_prior(len(pairs), prior)

    def checked() -> Iterator[Document | TokenDocument]:
        for document in listed(documents):
            if not isinstance(document, TokenDocument):
                yield whole(document)
                continue
            for other in models[1:]:
                check_vocabularies(models[0], other)
            yield document

    def results() -> Iterator[Identification]:
        shown = [on_progress, *(None for _ in models[1:])]
        copies = zip(models, tee(checked(), len(models)), shown, strict=True)
        how: Any = {"windows": windows, "journal": journal}
        streams = [
            likelihoods(model, copy, chosen, on_progress=progress, **how)
            for model, copy, progress in copies
        ]
        for index, parts in enumerate(zip(*streams, strict=True)):
            yield _identification(index, parts, pairs, weights, min_odds)

    return results()


def aligned(parts: Sequence[Likelihoods]) -> list[Likelihoods]:
    """The likelihoods of several models over the same stretches of a document.

    Where they cut it alike these are its tokens; else the shortest stretches at whose ends all of
    them have a token end, so that the likelihoods of a stretch are those of the same text.
    """
    first = parts[0]
    if all(np.array_equal(part.ids, first.ids) for part in parts):
        return list(parts)
    shared = set(first.bounds.tolist())
    for part in parts[1:]:
        shared &= set(part.bounds.tolist())
    bounds = np.array(sorted(shared), dtype=np.int64)
    return [part.merged(bounds) for part in parts]


def _identification(
    index: int,
    streams: Sequence[Likelihoods],
    pairs: list[tuple[str, Setting]],
    prior: Floats,
    min_odds: float,
) -> Identification:
    parts = aligned(streams)
    log_q = np.concatenate([part.log_q_nats for part in parts], axis=1)
    totals = [math.fsum(column) for column in log_q.T]
    expected = np.concatenate([part.entropy_nats.sum(0) for part in parts])
    variance = np.concatenate([part.varentropy_nats2.sum(0) for part in parts])
    coverage = np.concatenate([part.coverage for part in parts])
    ruled_out = [entry for part in parts for entry in part.ruled_out]
    candidates = []
    for k, (model, setting) in enumerate(pairs):
        known = totals[k] > -math.inf and variance[k] > 0
        z = (-totals[k] - expected[k]) / math.sqrt(variance[k]) if known else math.nan
        figures = (float(prior[k]), totals[k], float(coverage[k]), z)
        candidates.append(Candidate(setting, model, *figures, ruled_out[k]))
    return Identification(
        index=index,
        candidates=tuple(candidates),
        tokens=parts[0].texts,
        log_q_nats=log_q,
        pieces=parts[0] is not streams[0],
        tokens_skipped=parts[0].tokens_skipped,
        min_odds=min_odds,
    )
