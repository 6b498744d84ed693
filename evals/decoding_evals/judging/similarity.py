"""How alike the answers to one prompt are, and which of them mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decoding.models.faults import ModelLoadError
from decoding_evals.judging.answers import distinct, rouge_l
from decoding_evals.judging.entailment import EntailmentModel, entailment_clusters
from decoding_evals.judging.pairs import PairModel

Matrix = NDArray[np.float64]


class SimilarityModel(PairModel):
    """A cross-encoder: a model that reads two texts at once and gives one score of their likeness.

    The similarity is the logistic function of that score, in (0, 1).

    Args:
        name_or_path: a sequence-classification model with one label, a local folder or a hub name,
            such as `cross-encoder/stsb-roberta-large`.
        device: a torch device.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelLoadError: it cannot be loaded, or has several labels.

    Source: Reimers & Gurevych 2019, arXiv:1908.10084; as `CrossEncoder` of sentence-transformers.
    """

    kind = "similarity"

    def __init__(
        self, name_or_path: str, *, device: Any = "cpu", trust_remote_code: bool = False
    ) -> None:
        super().__init__(name_or_path, device=device, trust_remote_code=trust_remote_code)
        if len(self._labels) != 1:
            raise ModelLoadError(
                f"similarity model {name_or_path!r} must give one score, and has "
                f"{len(self._labels)} labels: {', '.join(map(repr, self._labels))}"
            )

    def of_pairs(self, pairs: Sequence[tuple[str, str]]) -> Matrix:
        """The similarity of each pair, `(pairs,)`.

        Raises:
            ValueError: two texts are too long for the model; they are never cut.
        """
        return self.logits(pairs)[:, 0].double().sigmoid().numpy()

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """The similarity of every ordered pair of n texts, `(n, n)`; see `of_pairs`."""
        return self.matrix(texts)[..., 0].double().sigmoid().numpy()


def rouge_similarity(texts: Sequence[str]) -> Matrix:
    """ROUGE-L of every pair of n different texts, `(n, n)`; a text is like itself, also where it
    has no word that ROUGE counts."""
    found = np.eye(len(texts))
    for i, one in enumerate(texts):
        for j in range(i):
            found[i, j] = found[j, i] = rouge_l(one, texts[j])
    return found


@dataclass(frozen=True)
class Likeness:
    """How alike n samples are, and a greedy answer is to them."""

    samples: Matrix
    """`(n, n)`, symmetric: mean of both orders of a pair."""
    greedy: Matrix | None
    """`(n,)`, of the greedy answer and each sample; None without one."""
    by: str
    """What says how alike two texts are."""
    labels: list[int]
    """The cluster of each sample; those of one cluster mean the same."""
    clustering: str
    """What the samples were sorted by."""
    scores: Matrix | None
    """`(n, n)`, what a similarity model says of samples i and j, in this order; None without."""


def likeness(
    samples: Sequence[str],
    greedy: str | None,
    *,
    entailment: EntailmentModel | None = None,
    similarity: SimilarityModel | None = None,
) -> Likeness:
    """Compare the answers to one prompt; each different text is read once.

    The similarity is the probability of entailment where there is a model of it, else that of a
    similarity model, else ROUGE-L.

    Args:
        samples: n texts.
        greedy: the greedy answer, where there is one.
        entailment: sorts the samples by meaning; without it, their normalised texts do.
        similarity: gives `scores`.

    Raises:
        ValueError: two texts are too long for a model.
    """
    texts = [*samples, *([] if greedy is None else [greedy])]
    different = list(dict.fromkeys(texts))
    places = [different.index(text) for text in texts]
    size = len(samples)

    def spread(of_different: Matrix) -> Matrix:
        return of_different[np.ix_(places, places)]

    scores = None if similarity is None else spread(similarity(different))
    labels, clustering = distinct(samples), "normalised text"
    if entailment is not None:
        verdicts = entailment.verdicts(different)
        own = list(dict.fromkeys(places[:size]))  # the different samples
        labels = entailment_clusters(samples, lambda _: verdicts.entails[np.ix_(own, own)])
        matrix, by = spread(verdicts.probability), f"entailment by {entailment.name}"
        clustering = by
    elif similarity is not None and scores is not None:
        matrix, by = scores, f"similarity by {similarity.name}"
    else:
        matrix, by = spread(rouge_similarity(different)), "ROUGE-L"
    both = (matrix + matrix.T) / 2
    return Likeness(
        samples=both[:size, :size],
        greedy=None if greedy is None else both[size, :size],
        by=by,
        labels=labels,
        clustering=clustering,
        scores=None if scores is None else scores[:size, :size],
    )
