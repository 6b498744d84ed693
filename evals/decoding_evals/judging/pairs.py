"""Models that read two texts at once: what entailment and similarity are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from decoding.models.devices import input_device
from decoding.models.faults import ModelLoadError
from decoding.models.limits import check_ids
from decoding.models.loading import explained, load_pair
from decoding.models.sources import located

BATCH = 32


class PairModel:
    """A sequence-classification model of pairs of texts, in float32.

    Args:
        name_or_path: a local folder or a hub name; safetensors only.
        device: a torch device.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelLoadError: it cannot be loaded.
    """

    kind: ClassVar[str]
    """What errors call it."""

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
            raise ModelLoadError(f"{self.kind} {error}") from error
        self._labels = [str(label) for _, label in sorted(model.config.id2label.items())]
        self._model = model.to(device).eval()
        # Relative positions have no limit, and some checkpoints keep places of their own.
        length = self._tokenizer.model_max_length
        self._limit = length if length < 1 << 20 else None

    @torch.no_grad()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """What the model says of each pair, `(pairs, labels)`, on the CPU.

        Raises:
            ValueError: two texts are too long for the model; they are never cut.
        """
        parts = [torch.empty(0, len(self._labels))]
        for start in range(0, len(pairs), BATCH):
            firsts, seconds = zip(*pairs[start : start + BATCH], strict=True)
            inputs = self._tokenizer(list(firsts), list(seconds), padding=True, return_tensors="pt")
            ids = inputs["input_ids"]
            check_ids(self._model, self._tokenizer, ids, "two texts")
            too_long = (
                f"two texts make {ids.shape[1]} tokens, and {self.kind} model {self.name!r} reads "
                f"{self._limit or 'fewer'}: ask for shorter answers"
            )
            if self._limit is not None and ids.shape[1] > self._limit:
                raise ValueError(too_long)
            try:
                parts.append(self._model(**inputs.to(input_device(self._model))).logits.cpu())
            except IndexError as error:  # a table of positions that its tokenizer does not know of
                raise ValueError(too_long) from error
        return torch.cat(parts)

    def matrix(self, texts: Sequence[str]) -> Tensor:
        """The same of every ordered pair of n texts, each with itself too, `(n, n, labels)`."""
        logits = self.logits([*product(texts, texts)])
        return logits.reshape(len(texts), len(texts), logits.shape[-1])
