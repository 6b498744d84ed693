"""The rows of one call of `model.generate`: where each begins, and what identifies its prompt."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel


class Prompts(NamedTuple):
    """What a call reads before it draws."""

    lengths: list[int]
    """Tokens of each row that the model continues, padding left out."""
    starts: Tensor | None
    """`(rows)`, where each row's ids begin; None where all begin at the left."""
    names: list[str] | None
    """What identifies each row's prompt: its ids; and where the model reads more than these, that
    too. None where that does not show: an encoder's output is given without what it has read, or
    pictures with prompts of the same ids."""


def prompts_of(
    model: PreTrainedModel, input_ids: Tensor, given: Tensor | None, inputs: dict[str, Any]
) -> Prompts:
    """Describe the rows of a call.

    Args:
        model: what is called.
        input_ids: `(rows, seq)`, padded on the left; none where prompts are given as embeddings.
        given: `(prompts, …)`, what the caller gave as the prompts, of which each may have several
            rows: the same ids, or embeddings, or what an encoder reads.
        inputs: the other inputs of the call.
    """
    encodes = model.config.is_encoder_decoder
    mask = inputs.get("attention_mask")
    # The other mask of such a model is of what its encoder reads.
    own = inputs.get("decoder_attention_mask") if encodes else mask
    width = input_ids.shape[1]
    starts = None
    if own is not None and own.shape == input_ids.shape and width:
        starts = own.long().argmax(-1)
        if bool((own.long().diff(dim=-1) < 0).any()) or not bool((own[:, -1] > 0).all()):
            raise ValueError("rows must be padded on the left alone: their masks are 0s, then 1s")
    begins = [0] * len(input_ids) if starts is None else starts.tolist()
    lengths = [width - begin for begin in begins]
    names = [
        " ".join(map(str, ids[begin:]))
        for ids, begin in zip(input_ids.tolist(), begins, strict=True)
    ]
    if given is None or not (encodes or given.is_floating_point()):
        prompts = names if given is None else names[:: len(names) // len(given)]
        unseen = len(set(prompts)) < len(prompts) and any(map(_is_sensed, inputs.values()))
        return Prompts(lengths, starts, None if unseen else names)
    if encodes and not given.is_floating_point() and (given < 0).any():
        return Prompts(lengths, starts, None)
    given = given.repeat_interleave(len(input_ids) // len(given), 0)
    if mask is None or mask.shape != given.shape[:2]:
        mask = torch.ones(given.shape[:2], device=given.device)
    read = [row[of.bool()] for row, of in zip(given, mask, strict=True)]
    if not encodes and starts is None:
        lengths = [len(row) for row in read]
    return Prompts(
        lengths,
        starts,
        [f"{name}\0{_digest(row)}" for name, row in zip(names, read, strict=True)],
    )


def _is_sensed(value: Any) -> bool:
    """Whether an input may be pictures or sound, which no rule assigns to rows."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _digest(values: Tensor) -> str:
    """What tells values of different bits apart."""
    return hashlib.sha256(values.contiguous().cpu().view(torch.uint8).numpy().tobytes()).hexdigest()
