"""Uncertainty of one prompt, from its greedy answer and samples.

Names are LM-Polygraph's (Fadeeva et al. 2023, arXiv:2311.07383) where it has the estimator, and so
are the definitions; a larger value always means less certain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from decoding.generation.result import Generation
from decoding.inference.sequences import SequenceEntropy
from decoding.tracing.trace import Certainty
from decoding_evals.judging.answers import lexical_similarity

Estimates = dict[str, float | None]

OF_MODEL = (
    "MaximumSequenceProbability", "Perplexity", "MeanTokenEntropy", "MaxTokenEntropy",
    "SelfCertainty", "RenyiNeg", "GroupConfidence", "Margin", "PTrue", "TokenSAR",
)  # fmt: skip
"""Those of the model's own distribution p, as are mutual informations."""
OF_BOTH = ("CocoaMSP", "CocoaPPL", "CocoaMTE")
"""Those of p and of samples; others are of the q that samples are drawn from."""
WINDOW = 16
"""Tokens of a group of `GroupConfidence`."""


def greedy_estimates(greedy: Generation) -> Estimates:
    """Estimates from the greedy answer alone, under the model's own distribution p.

    The token that ended the answer counts.

    Returns:
        `MaximumSequenceProbability`: -log p(answer), nats; `Perplexity`: the same per token (nats,
        not their exponential); `MeanTokenEntropy`, `MaxTokenEntropy`: of H(p) at its steps, nats;
        and those of `certainty_estimates`.
    """
    surprisal = math.fsum(greedy.trace.raw_surprisal_nats)
    entropies = greedy.trace.raw_entropy_nats
    return {
        "MaximumSequenceProbability": surprisal,
        "Perplexity": surprisal / len(entropies),
        "MeanTokenEntropy": math.fsum(entropies) / len(entropies),
        "MaxTokenEntropy": float(entropies.max()),
        **certainty_estimates(greedy.trace.certainty),
    }


def certainty_estimates(certainty: Certainty | None) -> Estimates:
    """Estimates from how far the model's own distribution p is from even along an answer.

    Returns:
        `SelfCertainty`: minus the mean of KL(U‖p), U even, nats, <= 0. `RenyiNeg`: minus the mean
        of the Rényi divergence of order 1/2 of p at temperature 2 from U, nats, in [-ln vocab, 0];
        plus ln vocab it is that Rényi entropy. `GroupConfidence`: minus the least mean of a token's
        confidence (the mean surprisal of the 20 most probable tokens) over `WINDOW` tokens in a
        row, or over all of a shorter answer, nats, <= 0. `Margin`: minus the mean difference of the
        two largest probabilities, in [-1, 0]. All are None where it was not recorded.

    Source: Kang et al. 2025, arXiv:2502.18581; Darrin et al. 2022, arXiv:2212.09171, with the order
        and temperature of LM-Polygraph, whose `RenyiNeg` is -H - ln vocab and grows with certainty;
        Fu et al. 2025, arXiv:2508.15260 (DeepConf, with windows of 1,024 tokens and more); Scheffer
        et al. 2001, *Active hidden Markov models for information extraction*.
    """
    if certainty is None:
        return dict.fromkeys(("SelfCertainty", "RenyiNeg", "GroupConfidence", "Margin"))
    confidence = certainty.confidence_nats
    groups = sliding_window_view(confidence, min(WINDOW, len(confidence)))
    return {
        "SelfCertainty": 0.0 - float(certainty.self_certainty_nats.mean()),
        "RenyiNeg": 0.0 - float(certainty.renyi_divergence_nats.mean()),
        "GroupConfidence": 0.0 - float(groups.mean(-1).min()),
        "Margin": 0.0 - float(certainty.margin.mean()),
    }


def sample_estimates(samples: Sequence[Generation], entropy: SequenceEntropy) -> Estimates:
    """Estimates from at least two samples, under the distribution q that drew them.

    Returns:
        `MonteCarloSequenceEntropy` and `RaoBlackwellSequenceEntropy`, nats;
        `MonteCarloNormalizedSequenceEntropy`: mean surprisal per token of each sample, where the
        token that ended it counts in the surprisal and not in the length (samples without any other
        token are left out; None where all are); `LexicalSimilarity_rougeL`: the negated mean
        ROUGE-L of all pairs, in [-1, 0].
    """
    per_token = [
        surprisal / length
        for surprisal, length in zip(surprisals(samples), map(_text_tokens, samples), strict=True)
        if length
    ]
    similarity = lexical_similarity([answer(sample) for sample in samples])
    return {
        "MonteCarloSequenceEntropy": float(entropy.monte_carlo.mean),
        "RaoBlackwellSequenceEntropy": float(entropy.rao_blackwellised.mean),
        "MonteCarloNormalizedSequenceEntropy": (
            math.fsum(per_token) / len(per_token) if per_token else None
        ),
        "LexicalSimilarity_rougeL": None if similarity is None else 0.0 - similarity,
    }


def cluster_estimates(labels: Sequence[int], surprisals: Sequence[float]) -> Estimates:
    """Estimates from samples that are sorted by meaning.

    With C(i) the cluster of sample i, n samples, and log q(s) the log-probability of a sample in
    nats, the negative of its surprisal:

    Returns:
        `SemanticEntropy`: entropy of the clusters' shares of the samples' probability,
        P(C) = Σ_{s in C} q(s) / Σ_s q(s) over all n samples, equal ones each time they come, in
        [0, ln n] nats, None where a surprisal is not known; `SemanticEntropyEmpirical`: entropy of
        the clusters' frequencies, in [0, ln n] nats; `LabelProb`: 1 - the largest frequency;
        `NumberOfDistinctAnswers`: clusters.

    Source: Farquhar et al. 2024, *Nature* 630, 625, both; of whole sequences, where they take the
        mean log-probability of a token. LM-Polygraph's `SemanticEntropy`, after Kuhn et al. 2023,
        arXiv:2302.09664, is -mean_i log Σ_{s in C(i)} q(s), which is not normalised.
    """
    _, of_sample = np.unique(labels, return_inverse=True)
    log_q = -np.asarray(surprisals, dtype=np.float64)
    frequencies = np.bincount(of_sample) / len(of_sample)
    weights = np.bincount(of_sample, np.exp(log_q - log_q.max()))
    known = bool(np.isfinite(log_q).all())
    return {
        "SemanticEntropy": _entropy(weights / weights.sum()) if known else None,
        "SemanticEntropyEmpirical": _entropy(frequencies),
        "LabelProb": 1 - float(frequencies.max()),
        "NumberOfDistinctAnswers": float(len(frequencies)),
    }


def _entropy(shares: NDArray[np.float64]) -> float:
    """Σ -p ln p, nats, with 0·ln 0 = 0."""
    known = shares[shares > 0]
    return abs(float((known * np.log(known)).sum()))


def surprisals(samples: Sequence[Generation]) -> list[float]:
    """-log q of each sample, nats."""
    return [math.fsum(sample.trace.surprisal_nats) for sample in samples]


def answer(generation: Generation) -> str:
    """The text of a continuation without the white space around it."""
    return generation.text.strip()


def most_common(samples: Sequence[Generation], labels: Sequence[int]) -> tuple[str, float]:
    """The first answer of the largest cluster, and the cluster's share of the samples."""
    [(label, count)] = Counter(labels).most_common(1)
    return answer(samples[list(labels).index(label)]), count / len(labels)


def _text_tokens(sample: Generation) -> int:
    """Tokens of a sample without the one that ended it."""
    return len(sample.trace) - (sample.finish_reason == "eos")
