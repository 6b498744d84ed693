"""A causal language model in two halves: the body that makes hidden states, and the head.

The logits of a whole sequence take vocabulary × length numbers. Hidden states take a small
part of that, and the head can then be applied to a few rows at a time.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

PROBE_TOKENS = 16

# What the probe found, for each model once.
_found: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


class LogitHead:
    """Runs a model's body on whole sequences and its head on any rows of the result.

    The configuration's scales and soft-cap of the logits are applied (`logit_scale` of Cohere,
    `logits_scaling` of Granite, `final_logit_softcapping` of Gemma 2). When a model is first used,
    a short probe checks that it does nothing else; where it does, `full_logits` says so, and
    `hidden` gives the model's own logits.

    Args:
        model: a causal language model in evaluation mode.
        probe: `(tokens,)`, ids that the model may read; the first 16 are used.

    Raises:
        ValueError: the model is in training mode, so that dropout would make its numbers random.
    """

    full_logits: str | None
    """Why the model's own logits are computed in full, or None."""

    def __init__(self, model: PreTrainedModel, probe: Tensor) -> None:
        if model.training:
            raise ValueError("model must be in evaluation mode: call model.eval() first")
        self._model = model
        self._head = model.get_output_embeddings()
        config = model.config.get_text_config()
        self._scale = getattr(config, "logit_scale", None)
        self._divisor = getattr(config, "logits_scaling", None)
        self._cap = getattr(config, "final_logit_softcapping", None)
        self.full_logits = None
        if model not in _found:
            _found[model] = self._difference(probe[:PROBE_TOKENS].unsqueeze(0))
        self.full_logits = _found[model]

    @torch.inference_mode()
    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states after the last norm, of which `logits` takes rows.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, seq)`, 1 for tokens and 0 for padding.

        Returns:
            `(batch, seq, width)`; the logits themselves, where they are full.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if self.full_logits is not None:
            return self._model(**inputs).logits  # type: ignore[no-any-return]
        return self._model.base_model(**inputs)[0]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `(rows, vocab)`, in the model's dtype, of hidden states `(rows, width)`."""
        if self.full_logits is not None:
            return hidden
        logits: Tensor = self._head(hidden)
        if self._scale:
            logits = logits * self._scale
        if self._divisor:
            logits = logits / self._divisor
        if self._cap:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits

    def _difference(self, probe: Tensor) -> str | None:
        """Why the halves are not the model, or None where they are."""
        inputs: dict[str, Any] = {"attention_mask": torch.ones_like(probe), "use_cache": False}
        with torch.inference_mode():
            whole = self._model(probe, **inputs).logits[0]
        if self._model.base_model is self._model or self._head is None:
            return "the model has no separate head"
        try:
            halves = self.logits(self.hidden(probe, inputs["attention_mask"])[0])
        except (RuntimeError, TypeError, ValueError) as error:
            return f"its head cannot be applied to its body's output ({error})"
        if halves.shape != whole.shape:
            return f"body and head give logits of shape {tuple(halves.shape)}"
        # The same products of the same numbers: at most the last bits may differ. The scale is that
        # of the halves, because the model may mask logits with values of any size.
        scale = torch.linalg.vector_norm(halves.double())
        difference = torch.where(halves == whole, 0, halves.double() - whole.double()).abs()
        if bool(torch.linalg.vector_norm(difference) <= torch.finfo(whole.dtype).eps * scale):
            return None
        largest = float(difference.max())
        return f"body and head differ from the model by {largest:.2g} in a logit"
