"""What the doctor's checks look at: passes of a model over a text, and how they differ."""

from __future__ import annotations

import inspect
import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from decoding.models.devices import input_device
from decoding.models.limits import check_ids, positions
from decoding.models.loading import LanguageModel
from decoding.passes.probing import distance, rounding
from decoding.texts.prompts import document_front

TOKENS = 128  # of the reference text
PROBE = 24  # tokens of a pass that is repeated in many ways
NOT_NUMBERS = "the logits are no numbers"


class Finding(NamedTuple):
    """What one check found; see `decoding_evals.doctor.evaluation.Check`."""

    status: str
    figure: float | None
    limit: float | None
    message: str


def judged(figure: float, limit: float, agree: str, differ: str | None = None) -> Finding:
    """A pass where a figure is at most its limit, else a failure; and what to say of either."""
    if figure <= limit:
        return Finding("pass", figure, limit, agree)
    return Finding("fail", figure, limit, agree if differ is None else differ)


def skipped(reason: str) -> Finding:
    """A check that says nothing of this model."""
    return Finding("skipped", None, None, reason)


class Patient:
    """The model, and what several checks need of it."""

    def __init__(self, language_model: LanguageModel, text: str) -> None:
        self.language_model = language_model
        self.model: PreTrainedModel = language_model.model
        self.tokenizer: PreTrainedTokenizerBase = language_model.tokenizer
        self.text = text
        self.front = document_front(language_model.tokenizer)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        most = min(TOKENS, positions(self.model) or TOKENS)
        self.ids = ids[: most - 1]
        if len(self.ids) < 8:
            raise ValueError(f"text must have at least 8 tokens, got {len(self.ids)}")
        self.sequence = [*self.front, *self.ids]
        check_ids(self.model, self.tokenizer, self.sequence, "the reference text")
        # Room for padding in front of the probe.
        self.probe = self.sequence[: min(PROBE, len(self.sequence) - 4)]

    @torch.inference_mode()
    def logits(
        self, rows: list[list[int]], mask: list[list[int]] | None = None, *, count: bool = False
    ) -> Tensor:
        """Logits of a pass without a cache, `(batch, seq, vocab)`; `mask` is 0 for padding.

        With `count`, positions are given, counted from each row's first token, where the model
        takes them.
        """
        ids = torch.tensor(rows, device=input_device(self.model))
        tokens = torch.ones_like(ids)
        inputs: dict[str, Any] = {}
        if mask is not None:
            tokens = torch.tensor(mask, device=input_device(self.model))
        if count and "position_ids" in inspect.signature(type(self.model).forward).parameters:
            inputs["position_ids"] = (tokens.cumsum(-1) - 1).clamp(min=0)
        output = self.model(ids, attention_mask=tokens, use_cache=False, **inputs)
        # Without those of what the model puts in front by itself.
        return output.logits[:, -ids.shape[1] :]  # type: ignore[no-any-return]

    @cached_property
    def reference(self) -> Tensor:
        """Logits along BOS and the reference text, `(seq, vocab)`."""
        return self.logits([self.sequence])[0]

    @cached_property
    def alone(self) -> Tensor:
        """Logits of the probe, alone and unpadded, `(seq, vocab)`."""
        return self.logits([self.probe])[0]

    @property
    def rows(self) -> list[list[int]]:
        """Four rows of one length, the probe first."""
        text, size = self.sequence * 2, len(self.probe)
        return [self.probe, *(text[shift : shift + size] for shift in (1, 2, 3))]

    @cached_property
    def together(self) -> Tensor:
        """Logits of the rows as one batch, `(4, seq, vocab)`."""
        return self.logits(self.rows)

    def other(self, token: int) -> int:
        """An id of the text that differs from a given one."""
        candidates = [*reversed(self.ids), 0, 1]
        return next(candidate for candidate in candidates if candidate != token)

    def limit(self, logits: Tensor) -> float:
        """How much rounding may make logits differ between two ways to compute them."""
        return rounding(logits, self.model.dtype)

    def compared(self, got: Tensor, want: Tensor, agree: str, differ: str) -> Finding:
        """Pass where two tensors of logits differ by rounding alone."""
        if not (is_number(got) and is_number(want)):
            return skipped(NOT_NUMBERS)
        return judged(float(distance(got, want).max()), self.limit(want), agree, differ)


def is_number(logits: Tensor) -> bool:
    """Whether logits are finite, or -inf where a token is masked."""
    return not bool((logits.isnan() | (logits == math.inf)).any())
