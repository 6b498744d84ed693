"""Short passes over ids of our own, which show once for each model what it does with text.

Two passes over the same text agree where their logits are as far apart as rounding may set them.
"""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from decoding.models.devices import input_device
from decoding.models.limits import positions

PROBE_TOKENS = 16
# Two orders of the same sums differ by a unit or two of their last place, and layers multiply that:
# by hundreds in a deep model with wide random weights. Half precision sums in float32 and rounds
# what comes out, so there the same layers make fewer units of it.
ROUNDING, ROUNDING_HALF = 1024, 32
# So many times what rounding explains is another computation, also where a scan loses some digits.
WRONG = 64

# Of each causal model: how many rows of logits come before those of its tokens.
_in_front: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()


def probe_ids(model: PreTrainedModel, length: int) -> Tensor:
    """Ids that a model may read, none of them special where there are others; the same each time.

    Args:
        model: any language model.
        length: how many; fewer where the model has fewer positions.

    Returns:
        `(tokens,)`, on the model's device.
    """
    length = min(length, positions(model) or length)
    vocabulary = model.config.get_text_config().vocab_size
    draws = torch.randint(vocabulary, (8 * length,), generator=torch.Generator().manual_seed(0))
    special = _special_ids(model)
    ids = [id_ for id_ in draws.tolist() if id_ not in special] or draws.tolist()
    return torch.tensor((ids * length)[:length], device=input_device(model))


def probed(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """A pass over two rows that differ in their last token.

    Returns:
        Ids, `(2, tokens)`, and the model's logits at each of them, `(2, tokens, vocab)`, without
        those of what the model puts in front by itself.

    Raises:
        ValueError: the model is not causal, or does not give logits at every token.
    """
    ids = probe_ids(model, PROBE_TOKENS).repeat(2, 1)
    ids[1, -1] = (ids[0, -1] + 1) % model.config.get_text_config().vocab_size
    every = _all_logits(model, ids)
    logits = every[:, -ids.shape[1] :]
    limit = rounding(logits, model.dtype)
    # The same sums in the same order: nearly the same to the last bit.
    gap = _gap(logits[1, :-1], logits[0, :-1])
    if gap > limit / 4:
        raise ValueError(f"{_not_causal(model)} a later token changes its logits by {gap:.2g}")
    part = PROBE_TOKENS // 2
    gap = _gap(own_logits(model, ids[:, :part])[0], logits[0, :part])
    if gap > WRONG * limit:
        raise ValueError(f"{_not_causal(model)} a longer row changes its logits by {gap:.2g}")
    _in_front[model] = every.shape[1] - ids.shape[1]
    return ids, logits


def own_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The model's logits at every token of rows `(rows, seq)`, `(rows, seq, vocab)`.

    A model may put something in front by itself, such as the tokens of prompt tuning.

    Raises:
        ValueError: there are fewer than one at each token.
    """
    return _all_logits(model, ids)[:, -ids.shape[1] :]


def _all_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, **inputs).logits
    if logits.shape[1] < ids.shape[1]:
        raise ValueError(
            f"the model gives logits at {logits.shape[1]} of {ids.shape[1]} tokens, so it cannot "
            "score text"
        )
    return logits


def _gap(got: Tensor, want: Tensor) -> float:
    """The largest distance of rows that are numbers."""
    gaps = distance(got, want)[~(got.isnan() | want.isnan()).any(-1)]
    return float(gaps.max()) if len(gaps) else 0.0


def _not_causal(model: PreTrainedModel) -> str:
    return f"the model is not causal: {type(model).__name__} has seen what it should predict, for"


def check_causal(model: PreTrainedModel) -> int:
    """Refuse, by a ValueError, a model whose logits depend on later tokens; asked once of each.

    Returns:
        How many rows of logits come before those of the tokens, of what the model reads first.
    """
    if model not in _in_front:
        probed(model)
    return _in_front[model]


def _special_ids(model: PreTrainedModel) -> set[Any]:
    """What the configurations name as the id of some token."""
    found: set[Any] = set()
    for config in (model.config, model.config.get_text_config(), model.generation_config):
        for name, value in (config.to_dict() if config is not None else {}).items():
            if name.endswith(("token_id", "token_ids", "token_index")):
                found.update(value if isinstance(value, list) else [value])
    return found


def distance(got: Tensor, want: Tensor) -> Tensor:
    """Root mean square over the vocabulary of the difference; what is NaN in both is equal."""
    same = (got == want) | (got.isnan() & want.isnan())
    difference = torch.where(same, 0.0, got.double() - want.double())
    return difference.square().mean(-1).sqrt().nan_to_num(nan=math.inf, posinf=math.inf)


def rounding(logits: Tensor, dtype: torch.dtype) -> float:
    """How far rounding may set logits of a model in this dtype apart, as a `distance`."""
    # transformers computes norms and rotations in float32, also in a model in float64.
    eps = max(torch.finfo(each).eps for each in (logits.dtype, dtype, torch.float32))
    units = ROUNDING if eps <= torch.finfo(torch.float32).eps else ROUNDING_HALF
    finite = logits.double()[logits.isfinite()]
    return units * eps * (float(finite.square().mean().sqrt()) if len(finite) else 0.0)
