"""Votes: samples elect an answer, each with as much weight as a confidence gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.generation.result import Generation
from decoding_evals.judging.bootstrap import bootstrap
from decoding_evals.judging.correctness import THRESHOLDS, judged
from decoding_evals.showing.result import Floats, Integers
from decoding_evals.uncertainty.estimators import answer, certainty_estimates

GREEDY, MOST_COMMON = "Greedy", "MostCommon"

Weights = Mapping[str, Sequence[float]]
"""By the name of a confidence, what each sample's vote weighs, >= 0; only ratios matter."""


class Vote(NamedTuple):
    """An answer that won."""

    text: str
    correct: bool | None
    """None where nothing judges it."""


def sample_weights(samples: Sequence[Generation]) -> Weights:
    """What each sample's vote weighs: by its own probability under the q that drew it, or how
    peaked the model's own distributions were along it.

    Returns:
        `SequenceProbability`: q(sample), over that of the likeliest;
        `MeanTokenLogProbability`: the exponential of the mean log q of a token; `SelfCertainty` and
        `GroupConfidence`: those of `certainty_estimates`, not negated, nats. A confidence that is
        not known of every sample is left out.
    """
    totals = np.array([sample.trace.surprisal_nats.sum() for sample in samples])
    means = totals / np.array([max(1, len(sample.trace)) for sample in samples])
    weights = {
        "SequenceProbability": np.exp(totals.min() - totals),
        "MeanTokenLogProbability": np.exp(-means),
    }
    certain = [certainty_estimates(sample.trace.certainty) for sample in samples]
    for name in ("SelfCertainty", "GroupConfidence"):
        values = [each[name] for each in certain]
        weights[name] = np.array([np.nan if value is None else -value for value in values])
    return {name: found.tolist() for name, found in weights.items() if np.isfinite(found).all()}


def elected(labels: Sequence[int], weights: Weights) -> dict[str, int]:
    """Which sample stands for the cluster that wins: its first.

    Args:
        labels: the cluster of each sample.
        weights: of each sample, by the name of a confidence; none may be negative.

    Returns:
        By the names of `weights`, the sample of the cluster of the largest sum, and by `MostCommon`
        that of the largest cluster; of equal ones the first.

    Source: Wang et al. 2023, arXiv:2203.11171 (self-consistency); Fu et al. 2025, arXiv:2508.15260
        (DeepConf, which weighs votes by confidence).
    """
    names, firsts, clusters = np.unique(labels, return_index=True, return_inverse=True)
    by: dict[str, Sequence[float] | Floats] = {MOST_COMMON: np.ones(len(labels)), **weights}
    # In the order of their first samples, so that the first wins of equal ones.
    order = np.argsort(firsts)
    return {
        name: int(
            firsts[order][np.bincount(clusters, np.asarray(each), len(names))[order].argmax()]
        )
        for name, each in by.items()
    }


def votes(
    samples: Sequence[Generation], labels: Sequence[int], references: Sequence[str], by: str
) -> dict[str, Vote]:
    """The answers that samples elect, judged by references where there are some, unless by
    `likelihood`, which judges given answers alone."""
    texts = {
        name: answer(samples[at]) for name, at in elected(labels, sample_weights(samples)).items()
    }
    verdicts = {
        text: judged(text, references, by) if by in THRESHOLDS else None
        for text in {*texts.values()}
    }
    return {
        name: Vote(text, None if (verdict := verdicts[text]) is None else verdict.correct)
        for name, text in texts.items()
    }


def evaluate_votes(
    correct: Mapping[str, Sequence[bool | None]], *, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Accuracy of each way to choose an answer, and by how much it beats the greedy one.

    Args:
        correct: by name (`Greedy` among them, where there is one), whether each prompt's answer is
            right; None where that is not known.
        resamples: of the bootstrap over prompts, as `seed`.
        seed: of its draws; the same prompts are drawn for every name.

    Returns:
        By name: `prompts` where it is known, `accuracy`, `accuracy_interval` (95 %), `difference`
        from the greedy answer's on the prompts where both are known, and `difference_interval`;
        None where undefined. A name without any prompt is left out.
    """
    columns = {name: np.array(list(found), dtype=np.float64) for name, found in correct.items()}
    if not columns:
        return {}
    # An order of their own: resamples are the same in whatever order prompts come.
    order = np.lexsort([*columns.values()])
    greedy = columns.get(GREEDY)
    draws = {"resamples": resamples, "seed": seed}
    found = {}
    for name, column in columns.items():
        accuracy = _mean(column[order], draws)
        against = None if greedy is None or name == GREEDY else (column - greedy)[order]
        difference = (None, None) if against is None else _mean(against, draws)[1:]
        if accuracy[0]:
            keys = ("prompts", "accuracy", "accuracy_interval", "difference", "difference_interval")
            found[name] = dict(zip(keys, (*accuracy, *difference), strict=True))
    return found


def _mean(values: Floats, draws: dict[str, int]) -> tuple[int, float | None, list[float] | None]:
    """How many values are known, their mean, and its interval."""
    known: NDArray[np.float64] = values[~np.isnan(values)]
    if not len(known):
        return 0, None, None

    def mean(counts: Integers) -> Floats:
        drawn: Floats = counts @ known / counts.sum(1)
        return drawn

    return len(known), float(known.mean()), bootstrap(mean, len(known), **draws).ends()
