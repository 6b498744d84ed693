"""Logits of many windows, a bounded block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from decoding.models.devices import input_device
from decoding.passes.batching import Together, batches, scored_together
from decoding.passes.caches import PASS_TOKENS, Reader, stacked
from decoding.passes.head import LogitHead
from decoding.scoring.windows import Window

# A product with fewer rows at a time is slower: the head's weights are read for each block anew.
LOGITS_BYTES = 128 << 20
SORTED_BATCHES = 16
# Activations of more tokens leave a CPU's cache, which makes each of them slower.
CPU_TOKENS = 1024


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


class Batch(NamedTuple):
    """Windows that run together."""

    windows: list[Window]
    blocks: Callable[[], Iterator[LogitBlock]]
    """Runs them: the logits at all their targets, a bounded block at a time."""
    reader: Reader
    """What it reads before them, and keeps for those that follow."""


def logit_batches(
    model: PreTrainedModel,
    windows: Iterable[Window],
    *,
    batch_size: int = 8,
    beside: PreTrainedModel | None = None,
    reader: Reader | None = None,
    on_head: Callable[[LogitHead], None] | None = None,
) -> Iterator[Batch]:
    """The batches in which the model reads windows.

    Windows are taken in groups. What neighbours begin with, such as the prompt of several answers,
    is read once, unless the model cannot read in parts. Those that share nothing are sorted by
    length. Rows are padded on the right, where a causal model cannot see; those that the model
    could not bear beside each other run apart. So nothing depends on the batch but rounding.

    Args:
        model: a causal language model in evaluation mode.
        windows: taken lazily.
        batch_size: windows that run together, >= 1; on a CPU fewer where they are long, because
            that is faster there.
        beside: another model that reads the same windows: the batches are fit for both, and nothing
            is shared.
        reader: keeps what windows begin with from call to call.
        on_head: told once which head is used, before the first block.

    Returns:
        Batches, each to be run, or recalled with what its reader was behind it, before the next is
        asked for. A consumer that lets go of a block before it asks for the next keeps memory at
        one.
    """
    head: LogitHead | None = None
    families = partial(_families, reader=reader)
    reader = reader or Reader(model)
    waiting = iter(windows)
    models = [model] if beside is None else [model, beside]
    tokens = CPU_TOKENS if input_device(model).type == "cpu" else math.inf
    while group := list(islice(waiting, min(batch_size * SORTED_BATCHES, 1 << 31))):
        if head is None:
            head = LogitHead(model)
            if on_head is not None:
                on_head(head)
        for shared, alike in (
            families(group, limit=reader.limit) if beside is None else [(0, group)]
        ):
            before = shared if shared and reader.in_parts else 0
            known = reader.known(alike[0].inputs[:before].tolist())
            if known and max(1, len(alike) - 1) * (before - known) < PASS_TOKENS:
                before = known
            alike.sort(key=lambda window: -len(window.inputs))
            for together in batches(
                alike, batch_size, lambda window: len(window.inputs), lambda: _key(models),
                tokens=tokens, before=before,
            ):  # fmt: skip
                yield Batch(
                    together, partial(_batch, model, head, together, reader, before), reader
                )


def _families(
    windows: Iterable[Window], reader: Reader | None, limit: float = math.inf
) -> Iterator[tuple[int, list[Window]]]:
    """Windows that begin alike, with how many tokens they share; with 0, those that share none.

    A window joins those before it where that spares tokens, more than a pass of its own costs. One
    that begins as those of earlier calls did is a family by itself, where a reader knows of them.
    One of more tokens than the limit is read whole.
    """
    begun: dict[bytes, list[Window]] = {}
    for window in windows:
        begun.setdefault(window.inputs[:PASS_TOKENS].tobytes(), []).append(window)
    others: list[Window] = []
    for alike in begun.values():
        family: list[Window] = []
        shared = 0
        for window in alike:
            # The row of its first target is the last one that is needed.
            most = _most(window, limit)
            joint = min(shared, most, _common(family[0], window)) if family else 0
            if joint - (len(family) - 1) * (shared - joint) >= PASS_TOKENS:
                family.append(window)
                shared = joint
                continue
            if len(family) > 1:
                yield shared, family
            else:
                others += family
            family, shared = [window], most
        if len(family) > 1:
            yield shared, family
        else:
            others += family
    if reader is not None:
        unlike = []
        for window in others:
            ids = window.inputs.tolist()
            shared = min(reader.shared(ids), _most(window, limit))
            if shared >= PASS_TOKENS:
                yield shared, [window]
            else:
                unlike.append(window)
                reader.met(ids)
        others = unlike
    if others:
        yield 0, others


def _most(window: Window, limit: float) -> int:
    """How many tokens of a window may be read before the others."""
    return 0 if len(window.inputs) > limit else len(window.inputs) - len(window.targets)


def _common(first: Window, second: Window) -> int:
    """How many tokens two windows have in common at their beginnings."""
    length = min(len(first.inputs), len(second.inputs))
    differ = np.flatnonzero(first.inputs[:length] != second.inputs[:length])
    return int(differ[0]) if len(differ) else length


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


def _batch(
    model: PreTrainedModel,
    head: LogitHead,
    windows: list[Window],
    reader: Reader,
    before: int,
) -> Iterator[LogitBlock]:
    """The blocks of windows, of which so many tokens are read before, once."""
    cache = reader.read(windows[0].inputs[:before].tolist()) if before else None
    width = max(len(window.inputs) for window in windows) - before
    ids = np.zeros((len(windows), width), dtype=np.int64)
    mask = np.zeros((len(windows), before + width), dtype=np.int64)
    places = []
    for row, window in enumerate(windows):
        length = len(window.inputs) - before
        ids[row, :length] = window.inputs[before:]
        mask[row, : before + length] = 1
        places.append(row * width + np.arange(length - len(window.targets), length))
    device = input_device(model)
    repeated = None if cache is None else stacked([cache] * len(windows))
    hidden = head.hidden(
        torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), repeated
    )
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
