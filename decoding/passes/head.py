"""A causal language model in two halves: the body that makes hidden states, and the head.

The logits of a whole sequence take vocabulary × length numbers. Hidden states take a small
part of that, and the head can then be applied to a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig, PreTrainedModel

from decoding.passes.probing import probed


class Shape(NamedTuple):
    """What a model makes of the product of its head and a hidden state."""

    factor: float = 1.0
    divisor: float = 1.0
    cap: float | None = None

    def __call__(self, product: Tensor) -> Tensor:
        """Logits, in the product's dtype."""
        logits = product if self.factor == 1 else product * self.factor
        logits = logits if self.divisor == 1 else logits / self.divisor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def configured_shapes(config: PretrainedConfig) -> Iterator[Shape]:
    """What a configuration says of the logits, the likeliest first.

    Configurations have several names for one thing. `logits_scaling` divides the logits in most
    models, multiplies them in some (HyperCLOVA X), and in others it has divided what the head reads
    (MiniCPM 3).
    """

    def number(*names: str) -> float | None:
        values = (getattr(config, name, None) for name in names)
        return next((v for v in values if isinstance(v, int | float) and v), None)

    cap = number("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    factor = number("logit_scale", "lm_head_multiplier") or 1.0
    divisor = number("logits_scaling") or 1.0
    yield Shape(factor, divisor, cap)
    if divisor != 1.0:
        yield Shape(factor * divisor, 1.0, cap)
        yield Shape(factor, 1.0, cap)


class _Halves(NamedTuple):
    """What was found of a model; `full_logits` as in `LogitHead`."""

    shape: Shape
    full_logits: str | None


# Of each model once.
_found: WeakKeyDictionary[PreTrainedModel, _Halves] = WeakKeyDictionary()


class LogitHead:
    """Runs a model's body on whole sequences and its head on any rows of the result.

    The configuration's scales and soft-cap of the logits are applied (`logit_scale` of Cohere,
    `logits_scaling` of Granite, `final_logit_softcapping` of Gemma 2). When a model is first used,
    a short probe checks that it does nothing else; where it does, `full_logits` says so, and
    `hidden` gives the model's own logits.

    Args:
        model: a causal language model in evaluation mode.

    Raises:
        ValueError: the model is in training mode, so that dropout would make its numbers random;
            or it is not causal.
    """

    full_logits: str | None
    """Why the model's own logits are computed in full, or None."""

    def __init__(self, model: PreTrainedModel) -> None:
        if model.training:
            raise ValueError("model must be in evaluation mode: call model.eval() first")
        self._model = model
        self._head = model.get_output_embeddings()
        if model not in _found:
            _found[model] = self._halves(*probed(model))
        self._shape, self.full_logits = _found[model]

    @torch.inference_mode()
    def hidden(
        self, input_ids: Tensor, attention_mask: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states after the last norm, of which `logits` takes rows.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, seq)`, 1 for tokens and 0 for padding; with a cache, of what
                that has read too.
            cache: what was read before, which is written into.

        Returns:
            `(batch, seq, width)`; the logits themselves, where they are full.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs |= {"use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = cache
        if self.full_logits is None:
            return self._model.base_model(**inputs)[0]  # type: ignore[no-any-return]
        # Without those of what the model puts in front by itself.
        return self._model(**inputs).logits[:, -input_ids.shape[1] :]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `(rows, vocab)`, in the model's dtype, of hidden states `(rows, width)`."""
        if self.full_logits is not None:
            return hidden
        return self._shape(self._head(hidden))

    def _halves(self, ids: Tensor, whole: Tensor) -> _Halves:
        """Of body and head, and the model's own logits, `(rows, seq, vocab)`, at some ids."""
        if self._model.base_model is self._model or self._head is None:
            return _Halves(Shape(), "the model has no separate head")
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": False}
        try:
            with torch.inference_mode():
                product = self._head(self._model.base_model(ids, **inputs)[0])
        except (RuntimeError, TypeError, ValueError) as error:
            reason = f"its head cannot be applied to its body's output ({error})"
            return _Halves(Shape(), reason)
        if product.shape != whole.shape:
            reason = f"body and head give logits of shape {tuple(product.shape[1:])}"
            return _Halves(Shape(), reason)
        shapes = list(configured_shapes(self._model.config.get_text_config()))
        differences = [_difference(shape(product), whole) for shape in shapes]
        right = next((i for i, difference in enumerate(differences) if difference is None), 0)
        return _Halves(shapes[right], differences[right])


def _difference(halves: Tensor, whole: Tensor) -> str | None:
    """How two computations of the same logits differ, or None where they do not.

    The same products of the same numbers: at most the last bits may differ. The scale is that of
    the halves, because the model may mask logits with values of any size.
    """
    scale = torch.linalg.vector_norm(halves.double())
    difference = torch.where(halves == whole, 0, halves.double() - whole.double()).abs()
    if bool(torch.linalg.vector_norm(difference) <= torch.finfo(whole.dtype).eps * scale):
        return None
    return f"body and head differ from the model by {float(difference.max()):.2g} in a logit"
