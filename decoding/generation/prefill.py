"""What rows read before they draw: each prompt once, and once what several of them begin with."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from decoding.generation.stepping import generated_together, stepped
from decoding.models.caches import PASS_TOKENS, WIDE_PASS, Reader, common, stacked
from decoding.models.faults import first_line
from decoding.models.probing import distance, own_logits, probe_ids, rounding

WIDE_COST = 1.1  # of a token in a pass of more than `WIDE_PASS`
SHARED, SHORT, LONG, STEPS = 5, 9, 12, 3  # tokens of the rows of a probe, and of its steps
_KNOWN = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}

# Of each model, by the id of its padding: why its rows do not begin with a filled cache, or None.
_found: WeakKeyDictionary[PreTrainedModel, dict[int, str | None]] = WeakKeyDictionary()


def filled(
    reader: Reader, pad: int, input_ids: Tensor, lengths: list[int], inputs: dict[str, Any]
) -> DynamicCache | None:
    """The cache of rows that have read all but their last token; None where that does not pay.

    Args:
        reader: of the model.
        pad: the id on the left of shorter rows.
        input_ids: `(rows, seq)`, padded on the left.
        lengths: tokens of each row.
        inputs: the other inputs of the call.
    """
    width = input_ids.shape[1]
    rows = [
        tuple(ids[width - length : -1])
        for ids, length in zip(input_ids.tolist(), lengths, strict=True)
    ]
    prompts = list(dict.fromkeys(rows))
    unread, before = 0, ()
    for ids in prompts:
        shared = common(before, ids)
        unread += len(ids) - max(reader.known(ids), shared if shared and reader.in_parts else 0)
        before = ids
    at_once = width * len(rows) * (WIDE_COST if width * len(rows) > WIDE_PASS else 1.0)
    if () in prompts or unread + PASS_TOKENS * len(prompts) >= at_once:
        return None
    if not _plain(input_ids, lengths, inputs) or read_once(reader.model, pad) is not None:
        return None
    caches = dict(zip(prompts, reader.read_each(prompts), strict=True))
    return stacked([caches[ids] for ids in rows])


def read_once(model: PreTrainedModel, pad: int) -> str | None:
    """Why each row reads its prompt anew, or None where rows share what was read.

    A short probe, once for each model and padding: rows in `model.generate` whose prompts were read
    before, against a whole pass of each.
    """
    known = _found.setdefault(model, {})
    if pad not in known:
        try:
            known[pad] = _apart(model, pad)
        except Exception as error:  # whatever a model makes of a cache that has read something
            known[pad] = f"{type(model).__name__} does not go on from there ({first_line(error)})"
    return known[pad]


def _apart(model: PreTrainedModel, pad: int) -> str | None:
    """How rows that share what was read differ from others, or None where they do not."""
    if model.config.is_encoder_decoder:
        return f"{type(model).__name__} has an encoder, whose output belongs to each row"
    together = generated_together(model, pad)
    if together.rows not in ("padded", "equal"):
        return together.reason
    ids = probe_ids(model, LONG + STEPS)
    if len(ids) < LONG + STEPS:
        return f"{type(model).__name__} has too few positions to try it"
    tokens = ids[-STEPS:]
    other = torch.cat([ids[:SHARED], ids.flip(0)[: SHORT - SHARED]])
    prompts = [ids[:LONG], ids[:LONG], other]
    if together.rows == "equal":
        prompts[-1] = torch.cat([other, ids[: LONG - SHORT]])
    reader = Reader(model)
    cache = stacked([reader.read(prompt[:-1].tolist()) for prompt in prompts])

    def row(prompt: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(prompt, (LONG - len(prompt), 0), value=value)

    rows = torch.stack([row(prompt, pad) for prompt in prompts])
    mask = torch.stack([row(torch.ones_like(prompt), 0) for prompt in prompts])
    with torch.inference_mode():
        got = stepped(model, rows, mask, tokens, pad, cache=cache)
    for prompt, logits in zip(prompts, got, strict=True):
        read = torch.cat([prompt, tokens[:-1]])
        want = own_logits(model, read[None])[0, len(prompt) - 1 :]
        gap = float(distance(logits, want).max())
        if gap > rounding(want, model.dtype):
            return f"{type(model).__name__} goes on otherwise from there (logits off by {gap:.2g})"
    return None


def _plain(input_ids: Tensor, lengths: list[int], inputs: dict[str, Any]) -> bool:
    """Whether a call reads nothing but ids, at the usual positions, from the beginning on."""
    cache, positions = inputs.get("past_key_values"), inputs.get("position_ids")
    given = {name for name, value in inputs.items() if value is not None}
    if given - _KNOWN or not inputs.get("use_cache", True):
        return False
    if not isinstance(cache, DynamicCache) or cache.offloading or cache.get_seq_length():
        return False
    width = input_ids.shape[1]
    usual = [[0] * (width - length) + [*range(length)] for length in lengths]
    return positions is None or positions.tolist() == usual
