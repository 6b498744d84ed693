"""Answers sorted by meaning: two say the same where each entails the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from decoding.models.devices import input_device
from decoding.models.faults import ModelLoadError
from decoding.models.limits import check_ids
from decoding.models.loading import explained, load_pair
from decoding.models.sources import located

BATCH = 32

Entails = Callable[[Sequence[str]], NDArray[np.bool_]]
"""Tells which of some texts entails which: `(texts, texts)`, `[i, j]` is whether i entails j."""


class EntailmentModel:
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

    def __init__(
        self, name_or_path: str, *, device: Any = "cpu", trust_remote_code: bool = False
    ) -> None:
        self.name = name_or_path
        try:
            source = located(name_or_path)
            with explained(source):
                model, self._tokenizer, _ = load_pair(
                    source,
                    AutoModelForSequenceClassification,
                    trust_remote_code=trust_remote_code,
                    dtype=torch.float32,
                )
        except ModelLoadError as error:
            raise ModelLoadError(f"entailment {error}") from error
        labels = {str(label).lower(): int(id_) for id_, label in model.config.id2label.items()}
        if "entailment" not in labels:
            raise ModelLoadError(
                f"entailment model {name_or_path!r} has no label 'entailment'; it has "
                f"{', '.join(map(repr, labels))}"
            )
        self._entailment = labels["entailment"]
        self._model = model.to(device).eval()
        # Relative positions have no limit, and some checkpoints keep places of their own.
        length = self._tokenizer.model_max_length
        self._limit = length if length < 1 << 20 else None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of n texts entails which, `(n, n)`, `[i, j]` is whether text i entails text j.

        Raises:
            ValueError: two texts are too long for the model; they are never cut.
        """
        pairs = list(product(texts, texts))
        verdicts: list[bool] = []
        for start in range(0, len(pairs), BATCH):
            premises, hypotheses = zip(*pairs[start : start + BATCH], strict=True)
            inputs = self._tokenizer(
                list(premises), list(hypotheses), padding=True, return_tensors="pt"
            )
            ids = inputs["input_ids"]
            check_ids(self._model, self._tokenizer, ids, "two answers")
            too_long = (
                f"two answers make {ids.shape[1]} tokens, and entailment model {self.name!r} reads "
                f"{self._limit or 'fewer'}: ask for shorter answers"
            )
            if self._limit is not None and ids.shape[1] > self._limit:
                raise ValueError(too_long)
            try:
                logits = self._model(**inputs.to(input_device(self._model))).logits
            except IndexError as error:  # a table of positions that its tokenizer does not know of
                raise ValueError(too_long) from error
            verdicts += (logits.argmax(-1) == self._entailment).tolist()
        return np.array(verdicts, dtype=np.bool_).reshape(len(texts), len(texts))


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
