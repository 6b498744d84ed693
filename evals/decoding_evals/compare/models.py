"""Two models with one vocabulary on the same text, side by side."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.inference.intervals import BlockSums, MeanError, ratio_of_sums
from decoding.information.measures import cross_varentropy, kl_divergence, surprisal
from decoding.information.statistics import row_statistics
from decoding.models.limits import positions
from decoding.models.loading import LanguageModel, check_vocabularies
from decoding.passes.journal import NO_JOURNAL, Journal
from decoding.rows.arrays import as_float
from decoding.rows.blocks import row_blocks
from decoding.rows.faults import NonFiniteLogitsError
from decoding.scoring.blocks import Batch, LogitBlock, logit_batches
from decoding.scoring.teacher_forcing import (
    AnyDocument,
    TeacherForcing,
    as_document,
    listed,
    of_windows,
)
from decoding.scoring.windows import Windows
from decoding_evals.compare.view import MODELS
from decoding_evals.reading.interruptible import Interruptible, ReadPart, ReadResult
from decoding_evals.score.threshold import Threshold, fit_threshold
from decoding_evals.showing.result import (
    Floats,
    Integers,
    by_key,
    exp_or_none,
    finite,
    with_errors,
)
from decoding_evals.showing.terminal import counted, number

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
CACHED = 1 << 19
"""Logits of each model that are looked at together on a CPU."""
_COLUMNS = (
    "nll_a", "nll_b", "kl_ab", "kl_ba", "delta_p", "delta_p_squared", "same_top", "entropy_a",
    "entropy_b", "cross_entropy_ab", "cross_entropy_ba", "cross_varentropy_ab",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelsComparison(ReadResult):
    """Model A, the reference, and model B on the same tokens.

    Standard errors are computed over blocks of tokens, as for `SettingsComparison`, and are paired
    where a figure depends on both models.
    """

    view = MODELS

    model_a: str
    model_b: str
    nll_a: MeanError
    """Mean surprisal under A, nats per token."""
    nll_b: MeanError
    nll_difference: MeanError
    """B minus A; its error knows that both see the same tokens (their covariance)."""
    kl_ab: MeanError
    """Mean KL(p_A‖p_B), nats."""
    kl_ba: MeanError
    kl_percentiles: dict[str, float]
    """Of KL(p_A‖p_B) over tokens, nats, `min` and `max` included."""
    delta_p: MeanError
    """Mean of p_B(token) - p_A(token), in [-1, 1]."""
    delta_p_rms: float
    delta_p_percentiles: dict[str, float]
    same_top: MeanError
    """Share of tokens where both prefer the same one."""
    entropy_a: MeanError
    """Mean H(A), nats."""
    entropy_b: MeanError
    cross_entropy_ab: MeanError
    """Mean H(A, B) = H(A) + KL(A‖B), the surprisal that B expects of what A would write, nats."""
    cross_entropy_ba: MeanError
    binoculars: MeanError
    """Mean surprisal under B over mean H(A, B): low for texts that such models wrote. A observes, B
    performs (Hans et al. 2024, arXiv:2401.12070)."""
    block_length: int
    by_document: dict[int, Floats]
    """Of each document that has scored tokens, how many and their sums in the order of `_COLUMNS`,
    `(1 + columns,)`."""
    human: Threshold | None = None
    """Of Binoculars, fitted on texts that people wrote."""

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        scored = counted(self.account.tokens_scored, "token")
        divergence = f"KL(A‖B) {number(float(self.kl_ab.mean))} nats"
        return repr(self.model_a), repr(self.model_b), divergence, scored

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or unknown is None."""
        interval = [exp_or_none(bound) for bound in self.nll_difference.interval()]
        nll, kl = (self.nll_a, self.nll_b), (self.kl_ab, self.kl_ba)
        return {
            "models": [self.model_a, self.model_b],
            "perplexity": [exp_or_none(one.mean) for one in nll],
            "nll_nats": finite(one.mean for one in nll),
            "nll_standard_error": finite(one.standard_error for one in nll),
            **with_errors({"nll_difference_nats": self.nll_difference, "delta_p": self.delta_p}),
            "perplexity_ratio": exp_or_none(self.nll_difference.mean),
            "perplexity_ratio_confidence_interval": None if None in interval else interval,
            "kl_nats": finite(one.mean for one in kl),
            "kl_standard_error": finite(one.standard_error for one in kl),
            "kl_percentiles_nats": {q: finite(kl) for q, kl in self.kl_percentiles.items()},
            "delta_p_rms": self.delta_p_rms,
            "delta_p_percentiles": self.delta_p_percentiles,
            "same_top_share": float(self.same_top.mean),
            "same_top_standard_error": finite(self.same_top.standard_error),
            "entropy_nats": finite((self.entropy_a.mean, self.entropy_b.mean)),
            "entropy_standard_error": finite(
                (self.entropy_a.standard_error, self.entropy_b.standard_error)
            ),
            "cross_entropy_nats": finite((self.cross_entropy_ab.mean, self.cross_entropy_ba.mean)),
            "cross_entropy_standard_error": finite(
                (self.cross_entropy_ab.standard_error, self.cross_entropy_ba.standard_error)
            ),
            **with_errors({"binoculars": self.binoculars}),
            "error_unit": "blocks",
            "units": self.nll_a.units,
            "block_length": self.block_length,
            **self.how(),
        }

    def per_document(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        """One row per document: the same figures of its tokens alone, and Fast-DetectGPT's
        curvature of B's surprisal, with A as the reference: (Σ H(A, B) - Σ surprisal) /
        √Σ Var_A(surprisal).

        Args:
            names: of the documents, in their order.
        """
        rows = []
        nothing = np.zeros(1 + len(_COLUMNS))
        for index in range(self.account.documents):
            count, *sums = self.by_document.get(index, nothing).tolist()
            of = {name: total / count if count else math.nan
                  for name, total in zip(_COLUMNS, sums, strict=True)}  # fmt: skip
            spread = math.sqrt(count * of["cross_varentropy_ab"]) if count else 0.0
            excess = count * (of["cross_entropy_ab"] - of["nll_b"])
            binoculars = of["nll_b"] / of["cross_entropy_ab"] if of["cross_entropy_ab"] else None
            row = {
                **({"name": names[index]} if index < len(names) else {}),
                "index": index,
                "tokens_scored": int(count),
                "nll_nats": finite((of["nll_a"], of["nll_b"])),
                "kl_nats": finite((of["kl_ab"], of["kl_ba"])),
                "entropy_nats": finite((of["entropy_a"], of["entropy_b"])),
                "cross_entropy_nats": finite((of["cross_entropy_ab"], of["cross_entropy_ba"])),
                "binoculars": finite(binoculars),
                "curvature": finite(excess / spread) if spread else None,
            }
            if self.human is not None:
                row["flagged"] = self.human.flags(row["binoculars"])
                row["threshold"] = self.human.record()
            rows.append(row)
        return rows

    def fit_threshold(self, false_positive_rate: float = 0.05) -> Threshold:
        """A threshold of Binoculars, where these documents are what people wrote; see
        `decoding_evals.score.fit_threshold`."""
        scores = (row["binoculars"] for row in self.per_document())
        return fit_threshold(scores, false_positive_rate, above=False)

    def rows(self) -> list[dict[str, Any]]:
        """One row per model; the KL is that of the model from the other one."""
        record = self.record()
        names = ("perplexity", "nll_nats", "nll_standard_error", "kl_nats", "kl_standard_error")
        return by_key({"model": record["models"], **{name: record[name] for name in names}})


def compare_models(
    model_a: LanguageModel,
    model_b: LanguageModel,
    documents: Iterable[str | AnyDocument],
    *,
    windows: Windows = Windows(),
    journal: Journal = NO_JOURNAL,
    on_progress: Callable[[int, float], None] | None = None,
) -> ModelsComparison:
    """Compare two models token by token; no row of logits is kept.

    Both models read the same windows at the same time. Percentiles need 8 bytes of memory a token.

    Args:
        model_a: the reference.
        model_b: the other one, with the same vocabulary.
        documents: texts, or `Document`s, or ids; taken lazily.
        windows: how the texts are read; the default `context` is the fewer positions of the two,
            at most 2,048.
        journal: keeps what is measured of each batch.
        on_progress: is given the number of scored tokens and A's mean surprisal so far, nats.

    Where Ctrl-C ends it early, the comparison is of what was scored until then.

    Raises:
        ValueError: the vocabularies differ, an argument is outside its range, or there is no token
            to score.
        NonFiniteLogitsError: a model returned NaN.
    """
    check_vocabularies(model_a, model_b)
    limits = [limit for m in (model_a, model_b) if (limit := positions(m.model)) is not None]
    context = min([*limits, 2048]) if windows.context is None else windows.context
    if limits and context > min(limits):
        raise ValueError(
            f"context must be at most the models' {min(limits)} positions, got {context}"
        )
    run = TeacherForcing(model_a, replace(windows, context=context), journal=journal)
    blocks = BlockSums()
    kls, deltas = array("f"), array("f")
    by_document: dict[int, Floats] = defaultdict(lambda: np.zeros(1 + len(_COLUMNS)))
    with Interruptible(run, blocks, on_progress) as reading:
        for columns, owners in _both(run, model_b, documents):
            blocks.add(columns)
            for owner in np.unique(owners).tolist():
                own = columns[owners == owner]
                by_document[owner] += [len(own), *own.sum(0)]
            kls.extend(columns[:, _COLUMNS.index("kl_ab")].tolist())
            deltas.extend(columns[:, _COLUMNS.index("delta_p")].tolist())
            reading.counted(columns[:, 0].sum())
        run.account.check()
    how = ReadPart(**reading.part()).how()
    sums, counts = blocks.sums()
    with np.errstate(invalid="ignore"):  # both may be infinite
        difference = ratio_of_sums(sums[:, 1] - sums[:, 0], counts)
        binoculars = ratio_of_sums(sums[:, 1], sums[:, _COLUMNS.index("cross_entropy_ab")])
    means: dict[str, Any] = {
        name: ratio_of_sums(sums[:, place], counts)
        for place, name in enumerate(_COLUMNS)
        if name != "cross_varentropy_ab"
    }
    return ModelsComparison(
        model_a=model_a.name,
        model_b=model_b.name,
        nll_difference=difference,
        kl_percentiles=_percentiles(kls),
        delta_p_rms=math.sqrt(float(means.pop("delta_p_squared").mean)),
        delta_p_percentiles=_percentiles(deltas),
        binoculars=binoculars,
        block_length=blocks.length,
        by_document=dict(by_document),
        **means,
        **how,
    )


def _both(
    run: TeacherForcing, model_b: LanguageModel, documents: Iterable[str | AnyDocument]
) -> Iterator[tuple[Floats, Integers]]:
    """What both models say of the same windows, `_columns` of some rows at a time, and the document
    of each row."""
    windows_a, windows_b = tee(run.windows(map(as_document, listed(documents))))
    for a, b in zip(
        run.batches(windows_a, beside=model_b.model),
        logit_batches(model_b.model, windows_b, batch_size=run.batch_size, beside=run.model),
        strict=True,
    ):

        def measure(a: Batch = a, b: Batch = b) -> Floats:
            parts = map(_columns_of, a.blocks(), b.blocks())
            return np.concatenate([*parts])

        columns = run.journal.step(of_windows(a.windows), measure)
        if np.isnan(columns).any():
            row = int(np.isnan(columns).any(-1).argmax())
            raise NonFiniteLogitsError(f"target {row} of a batch of windows")
        lengths = [len(window.targets) for window in a.windows]
        yield columns, np.repeat([window.document for window in a.windows], lengths)


def _columns_of(a: LogitBlock, b: LogitBlock) -> Floats:
    """`_columns` of the same rows of both models."""
    logits_a, logits_b = a.logits, b.logits.to(a.logits.device)
    # On a CPU as many rows as its caches hold: in half the time of a whole block.
    together = CACHED if logits_a.is_cpu else logits_a.numel()
    some = row_blocks(logits_a.shape, together)
    return np.concatenate(
        [_columns(logits_a[rows], logits_b[rows], a.targets[rows]) for rows in some]
    )


def _columns(a: Tensor, b: Tensor, targets: Tensor) -> Floats:
    """`(rows, columns)` in the order of `_COLUMNS`."""
    with torch.inference_mode():
        log_a, log_b = as_float(a).log_softmax(-1), as_float(b).log_softmax(-1)
        nll_a, nll_b = surprisal(log_a, targets), surprisal(log_b, targets)
        delta = (-nll_b).exp() - (-nll_a).exp()
        same = a.argmax(-1) == b.argmax(-1)
        kl_ab, kl_ba = kl_divergence(log_a, log_b), kl_divergence(log_b, log_a)
        entropy_a, entropy_b = row_statistics(a).entropy, row_statistics(b).entropy
        cross_ab, cross_ba = entropy_a + kl_ab, entropy_b + kl_ba
        columns = [
            nll_a, nll_b, kl_ab, kl_ba, delta, delta.square(), same, entropy_a, entropy_b,
            cross_ab, cross_ba, cross_varentropy(log_a, log_b, cross_ab),
        ]  # fmt: skip
        stacked: Floats = torch.stack([c.double() for c in columns], -1).cpu().numpy()
    return stacked


def _percentiles(values: array[float]) -> dict[str, float]:
    with np.errstate(invalid="ignore"):  # of infinite values
        figures = np.percentile(np.array(values, dtype=np.float64), PERCENTILES)
    named = {f"{q:g}": float(value) for q, value in zip(PERCENTILES, figures, strict=True)}
    return {"min": min(values), **named, "max": max(values)}
