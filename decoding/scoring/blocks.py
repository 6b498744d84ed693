"""Logits of many windows, a bounded block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from decoding.models.batching import Together, batches, scored_together
from decoding.models.devices import input_device
from decoding.models.head import LogitHead
from decoding.scoring.windows import Window

# A product with fewer rows at a time is slower: the head's weights are read for each block anew.
LOGITS_BYTES = 128 << 20
SORTED_BATCHES = 16


class LogitBlock(NamedTuple):
    """Some scored positions of a batch of windows, and the model's logits there."""

    logits: Tensor
    """`(rows, vocab)`, in the model's dtype."""
    targets: Tensor
    """`(rows,)`, int64, on the same device."""
    windows: list[Window]
    """The batch; rows go through the targets of its windows in this order."""
    first: int
    """Index of the first row among all the targets of the batch."""


def logit_blocks(
    model: PreTrainedModel,
    windows: Iterable[Window],
    *,
    batch_size: int = 8,
    beside: PreTrainedModel | None = None,
    on_head: Callable[[LogitHead], None] | None = None,
) -> Iterator[LogitBlock]:
    """The model's logits at every target of every window, a bounded block at a time.

    Windows are taken in groups, sorted by length, and padded on the right, where a causal model
    cannot see; those that the model could not bear beside each other run apart. So nothing depends
    on the batch but rounding.

    Args:
        model: a causal language model in evaluation mode.
        windows: taken lazily.
        batch_size: windows that run together, >= 1.
        beside: another model that reads the same windows: the batches are fit for both.
        on_head: told once which head is used, before the first block.

    Returns:
        Blocks; those of a batch follow each other. A consumer that lets go of one before it asks
        for the next keeps memory at one block.
    """
    head: LogitHead | None = None
    waiting = iter(windows)
    models = [model] if beside is None else [model, beside]
    while group := list(islice(waiting, min(batch_size * SORTED_BATCHES, 1 << 31))):
        if head is None:
            head = LogitHead(model)
            if on_head is not None:
                on_head(head)
        group.sort(key=lambda window: -len(window.inputs))
        for together in batches(
            group, batch_size, lambda window: len(window.inputs), lambda: _key(models)
        ):
            yield from _batch(model, head, together)


def _key(models: Sequence[PreTrainedModel]) -> Callable[[int], Hashable]:
    """What windows of a length have in common with those that all models can read beside them."""

    def together(model: PreTrainedModel) -> Together:
        head = LogitHead(model)
        return scored_together(model, lambda ids, mask: head.logits(head.hidden(ids, mask)[-1]))

    found = [together(model) for model in models]

    def key(length: int) -> Hashable:
        keys = [each.key(length) for each in found]
        return None if None in keys else tuple(keys)

    return key


def _batch(model: PreTrainedModel, head: LogitHead, windows: list[Window]) -> Iterator[LogitBlock]:
    width = max(len(window.inputs) for window in windows)
    ids, mask = np.zeros((2, len(windows), width), dtype=np.int64)
    places = []
    for row, window in enumerate(windows):
        length = len(window.inputs)
        ids[row, :length] = window.inputs
        mask[row, :length] = 1
        places.append(row * width + np.arange(length - len(window.targets), length))
    device = input_device(model)
    hidden = head.hidden(*(torch.from_numpy(array).to(device) for array in (ids, mask)))
    rows = hidden.flatten(0, 1)
    if sum(map(len, places)) < len(rows):
        rows = rows[torch.from_numpy(np.concatenate(places)).to(rows.device)]
    targets = torch.from_numpy(np.concatenate([window.targets for window in windows]))
    targets = targets.to(rows.device)
    most = max(1, LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size))
    step = math.ceil(len(rows) / math.ceil(len(rows) / most))
    for begin in range(0, len(rows), step):
        block = slice(begin, begin + step)
        yield LogitBlock(head.logits(rows[block]), targets[block], windows, begin)
