"""Answers sorted by meaning: two say the same where each entails the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoding.models.faults import ModelLoadError
from decoding_evals.judging.pairs import PairModel

Entails = Callable[[Sequence[str]], NDArray[np.bool_]]
"""Tells which of some texts entails which: `(texts, texts)`, `[i, j]` is whether i entails j."""


class Verdicts(NamedTuple):
    """Which of n texts entails which; `[i, j]` is of text i and text j."""

    entails: NDArray[np.bool_]
    """`(n, n)`, whether `entailment` is the likeliest label."""
    probability: NDArray[np.float64]
    """`(n, n)`, its probability."""


class EntailmentModel(PairModel):
    """A model of natural language inference as a judge of entailment.

    A text entails another where `entailment` is the likeliest label of the pair.

    Args:
        name_or_path: a sequence-classification model, a local folder or a hub name, one of whose
            labels is called `entailment`.
        device: a torch device.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelLoadError: it cannot be loaded, or has no label `entailment`.

    Source: He et al. 2021, arXiv:2006.03654 (DeBERTa, whose MNLI checkpoints are the usual ones).
    """

    kind = "entailment"

    def __init__(
        self, name_or_path: str, *, device: Any = "cpu", trust_remote_code: bool = False
    ) -> None:
        super().__init__(name_or_path, device=device, trust_remote_code=trust_remote_code)
        labels = [label.lower() for label in self._labels]
        if "entailment" not in labels:
            raise ModelLoadError(
                f"entailment model {name_or_path!r} has no label 'entailment'; it has "
                f"{', '.join(map(repr, labels))}"
            )
        self._entailment = labels.index("entailment")

    def verdicts(self, texts: Sequence[str]) -> Verdicts:
        """Which of n texts entails which, and how likely that is.

        Raises:
            ValueError: two texts are too long for the model; they are never cut.
        """
        logits = self.matrix(texts)
        probability = logits.double().softmax(-1)[..., self._entailment]
        return Verdicts((logits.argmax(-1) == self._entailment).numpy(), probability.numpy())

    def __call__(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of n texts entails which, `(n, n)`; see `verdicts`."""
        return self.verdicts(texts).entails


def entailment_clusters(texts: Sequence[str], entails: Entails) -> list[int]:
    """Sort texts by meaning: each joins the first cluster whose first text it entails and that
    entails it; equal texts are always together. `entails` is asked once, of the different texts.

    Returns:
        One label per text; clusters count from 0 in the order in which they first occur.

    Source: Kuhn et al. 2023, arXiv:2302.09664, algorithm 1.
    """
    different = list(dict.fromkeys(texts))
    matrix = entails(different)
    founders: list[int] = []
    labels: dict[str, int] = {}
    for index, text in enumerate(different):
        same = (matrix[index, first] and matrix[first, index] for first in founders)
        label = next((label for label, equal in enumerate(same) if equal), len(founders))
        if label == len(founders):
            founders.append(index)
        labels[text] = label
    return [labels[text] for text in texts]
