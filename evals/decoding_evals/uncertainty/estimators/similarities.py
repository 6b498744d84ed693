"""Estimates from how alike answers are; a larger value means less certain.

Names and definitions are LM-Polygraph's (Fadeeva et al. 2023, arXiv:2311.07383).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from decoding.generation.result import Generation
from decoding_evals.judging.similarity import Likeness, SimilarityModel
from decoding_evals.uncertainty.estimators.probabilities import (
    Estimates,
    greedy_estimates,
    surprisals,
)

Floats = NDArray[np.float64]

TEMPERATURE = 1e-3
"""t of `SentenceSAR` and `SAR`."""
NEAR = 0.9
"""Below it, an eigenvector of the Laplacian counts in `Eccentricity`."""


def likeness_estimates(
    likeness: Likeness,
    greedy: Generation,
    samples: Sequence[Generation],
    *,
    asked: str,
    tokenizer: PreTrainedTokenizerBase,
    similarity: SimilarityModel | None,
) -> Estimates:
    """All estimates from how alike a greedy answer and samples are; those of `sar_estimates` where
    there is a similarity model."""
    found = graph_estimates(likeness.samples)
    if likeness.greedy is not None:
        found |= cocoa_estimates(greedy_estimates(greedy), likeness.greedy)
    if similarity is not None and likeness.scores is not None:
        found |= sar_estimates(
            asked, greedy, samples, likeness.scores, tokenizer=tokenizer, similarity=similarity
        )
    return found


def graph_estimates(similarity: Floats) -> Estimates:
    """Estimates from the graph of n samples whose edges weigh as much as their ends are alike.

    With W the similarities, D the diagonal of their row sums, and L = I - D^-½ W D^-½, whose
    eigenvalues are λ; a sample that is like none, not even itself, counts as like itself alone:

    Args:
        similarity: `(n, n)`, symmetric, in [0, 1]; what is negative counts as 0.

    Returns:
        `DegMat`: 1 - the mean of W, in [0, 1]; `EigValLaplacian`: Σ max(0, 1 - λ), how many
        meanings there are, in [1, n]; `Eccentricity`: distance of the samples from their centre,
        √Σ (v - mean v)² over the eigenvectors v with λ < 0.9, in [0, √(n - 1)]. All are None of
        fewer than two samples.

    Source: Lin et al. 2023, arXiv:2305.19187.
    """
    size = len(similarity)
    if size < 2:
        return dict.fromkeys(("DegMat", "EigValLaplacian", "Eccentricity"))
    weights = similarity.clip(0)
    weights = weights + np.diag(weights.sum(1) == 0)
    scale = 1 / np.sqrt(weights.sum(1))
    values, vectors = np.linalg.eigh(np.eye(size) - scale[:, None] * weights * scale)
    near = vectors[:, values < NEAR]
    return {
        "DegMat": 1 - float(weights.mean()),
        "EigValLaplacian": float((1 - values).clip(0).sum()),
        "Eccentricity": float(np.linalg.norm(near - near.mean(0))),
    }


def cocoa_estimates(of_greedy: Estimates, similarity: Floats) -> Estimates:
    """Estimates of the greedy answer, each times its mean unlikeness to the samples.

    Args:
        of_greedy: what `greedy_estimates` gives.
        similarity: `(n,)`, of the greedy answer and each sample.

    Returns:
        `CocoaMSP`, `CocoaPPL`, `CocoaMTE`: `MaximumSequenceProbability`, `Perplexity` and
        `MeanTokenEntropy` times mean(1 - similarity); nats, >= 0. None without samples.

    Source: Vashurin et al. 2025, arXiv:2502.04964.
    """
    unlike = float(1 - similarity.mean()) if len(similarity) else None
    names = {
        "CocoaMSP": "MaximumSequenceProbability",
        "CocoaPPL": "Perplexity",
        "CocoaMTE": "MeanTokenEntropy",
    }
    values = {name: of_greedy[own] for name, own in names.items()}
    return {
        name: None if unlike is None or value is None else value * unlike
        for name, value in values.items()
    }


def sar_estimates(
    asked: str,
    greedy: Generation,
    samples: Sequence[Generation],
    scores: Floats,
    *,
    tokenizer: PreTrainedTokenizerBase,
    similarity: SimilarityModel,
) -> Estimates:
    """Estimates that shift attention to what is relevant: tokens that change the meaning of an
    answer where they are left out, and samples that others are like.

    With R(t) = 1 - g(question and answer, the same without token t), 0 for special tokens, and g
    the similarity:

    Args:
        asked: the question.
        greedy: its greedy answer.
        samples: n of them.
        scores: `(n, n)`, g(sample i, sample j).
        tokenizer: of the model that answered.
        similarity: g.

    Returns:
        `TokenSAR`: Σ R(t)·(-ln p(t)) / Σ R(t) of the greedy answer, nats, >= 0. `SentenceSAR`: mean
        over the samples of -ln(q(s) + Σ_{r≠s} g(s, r)·q(r) / t), t = 0.001, nats, also below 0.
        `SAR`: the same, with exp(-TokenSAR) of each sample, under q, in place of q(s). The last two
        are None of fewer than two samples. Where no token is relevant, all weigh the same.

    Raises:
        ValueError: question and answer are too long for the model.

    Source: Duan et al. 2023, arXiv:2307.01379.
    """
    surprising = [greedy.trace.raw_surprisal_nats, *(s.trace.surprisal_nats for s in samples)]
    relevances = _relevances(asked, [greedy, *samples], tokenizer, similarity)
    first, *others = (
        float(np.average(own, weights=weights))
        for own, weights in zip(surprising, relevances, strict=True)
    )
    return {
        "TokenSAR": first,
        "SentenceSAR": _of_sentences(-np.array(surprisals(samples)), scores),
        "SAR": _of_sentences(-np.array(others), scores),
    }


def _of_sentences(log_probs: Floats, scores: Floats) -> float | None:
    """`SentenceSAR` of samples with these log-probabilities, `(n,)`."""
    if len(log_probs) < 2:
        return None
    with np.errstate(divide="ignore"):
        others = np.log(scores / TEMPERATURE) + log_probs
    np.fill_diagonal(others, log_probs)
    return 0.0 - float(np.logaddexp.reduce(others, axis=1).mean())


def _relevances(
    asked: str,
    answers: Iterable[Generation],
    tokenizer: PreTrainedTokenizerBase,
    similarity: SimilarityModel,
) -> list[Floats]:
    """The weight of each token of each answer; the model reads what it has to of all together."""
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}

    def pairs(ids: list[int], places: list[int]) -> list[tuple[str, str]]:
        """The question with an answer, and with all of it but one token."""
        whole, *parts = (
            f"{asked} {tokenizer.decode(kept, skip_special_tokens=True)}"
            for kept in (ids, *(ids[:place] + ids[place + 1 :] for place in places))
        )
        return [(whole, part) for part in parts]

    weighed = []
    for answer in answers:
        ids = answer.trace.ids.tolist()
        places = [place for place, id_ in enumerate(ids) if id_ not in special]
        # A token that is alone has all the weight.
        weighed.append((len(ids), places, pairs(ids, places) if len(places) > 1 else []))
    read = list(dict.fromkeys(pair for _, _, own in weighed for pair in own))
    known = dict(zip(read, similarity.of_pairs(read).tolist(), strict=True))
    found = []
    for length, places, own in weighed:
        weights = np.zeros(length)
        weights[places] = [max(0.0, 1 - known[pair]) for pair in own] or 1.0
        found.append(weights if weights.any() else np.ones(length))
    return found
