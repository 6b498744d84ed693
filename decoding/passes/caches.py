"""What a model has read of a text, kept, so that texts that begin alike are read once.

A text is read in parts, one row at a time. What was read is copied for each row that goes on from
there, so a model needs a cache that can be copied: of attention, of a sliding window, of recurrent
layers. A short probe, once for each model, finds out whether reading in parts changes its numbers.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from operator import eq
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, cache_utils

from decoding.models.devices import input_device
from decoding.models.faults import first_line
from decoding.passes.batching import rotary_limit
from decoding.passes.probing import distance, own_logits, probe_ids, rounding

# A pass over few tokens takes about as long as one over so many more: it reads all weights.
PASS_TOKENS = 32
# Behind so many tokens a pass takes longer for each of them: they leave a CPU's cache.
WIDE_PASS = 1024
MOST_KEPT = 4
PROBE = (5, 9, 12)  # what two rows of a probe share, and their lengths

Ids = Sequence[int]

_KINDS = tuple(
    getattr(cache_utils, name)
    for name in (
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
        "LinearAttentionAndSlidingWindowAttentionLayer",
        "DummyLayer",
    )
    if hasattr(cache_utils, name)  # older releases of transformers lack some
)

# Of each model: why it reads no text in parts, or None where it does.
_found: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


def common(first: Ids, second: Ids) -> int:
    """How many ids two texts have in common at their beginnings."""
    return sum(takewhile(bool, map(eq, first, second)))


@dataclass
class _Read:
    """A text that was read, and what is needed to read it once more in the same way.

    Rounding depends on the way: on where the reading began, and on what was read beside it.
    """

    rows: tuple[tuple[int, ...], ...]
    """The texts of the pass."""
    row: int
    """Which of them it is."""
    begin: _Read | None
    """What the pass went on from, which all of them begin with; without what is kept of it."""
    cache: DynamicCache | None = field(default=None, compare=False)
    """What the model keeps of it; None until it is asked for."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The text."""
        return self.rows[self.row]

    def way(self) -> _Read:
        """The same without what the model keeps."""
        return self if self.cache is None else _Read(self.rows, self.row, self.begin)


State = tuple[list[_Read], tuple[int, ...]]
"""What a `Reader` has read, and the last text."""


class Reader:
    """Reads texts, each from where it parts from one that was read before.

    It keeps the last few texts, and a beginning as soon as two texts in a row share it.

    Args:
        model: a causal language model in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._kept: OrderedDict[tuple[int, ...], _Read] = OrderedDict()
        self._last: tuple[int, ...] = ()

    def state(self) -> State:
        """What `recall` needs."""
        return [read.way() for read in self._kept.values()], self._last

    def recall(self, state: State) -> None:
        """Be what a reader was; a text that it kept is read again once it is needed."""
        kept, self._last = state
        self._kept = OrderedDict((read.ids, read) for read in kept)

    @cached_property
    def in_parts(self) -> bool:
        """Whether it may read a text in parts; else each is read whole, once."""
        return read_in_parts(self.model) is None

    @cached_property
    def limit(self) -> float:
        """A longer text is read whole: all its rotary factors are others."""
        return rotary_limit(self.model) or math.inf

    def known(self, ids: Ids) -> int:
        """How many tokens of a text need not be read."""
        return len(self._longest(tuple(ids)))

    def shared(self, ids: Ids) -> int:
        """How many tokens a text has in common with what is kept, or with the text before it."""
        with_last = common(self._last, ids)
        return max(self.known(ids), with_last if with_last and self.in_parts else 0)

    def met(self, ids: Ids) -> None:
        """Take note of a text that was read elsewhere."""
        self._last = tuple(ids)

    def read(self, ids: Ids) -> DynamicCache:
        """What the model keeps of a text, one row; not to be written into.

        Args:
            ids: the text, at least one id.
        """
        ids = tuple(ids)
        begin = self._longest(ids)
        shared = common(self._last, ids)
        if shared >= len(begin) + PASS_TOKENS and self.in_parts:
            begin = self._read_on(begin, ids[:shared])
        self._last = ids
        return self._cache(self._kept[self._read_on(begin, ids)])

    def read_each(self, texts: Sequence[Ids]) -> list[DynamicCache]:
        """What the model keeps of each of several different texts, as `read` gives it.

        Behind a common beginning they are read in one pass where that is faster, padded on the
        right. Attention cannot see what stands there; what else a layer may keep of a text could.
        """
        rows = [tuple(ids) for ids in texts]
        shared = min((common(rows[0], ids) for ids in rows), default=0)
        shared = min(shared, *(len(ids) - 1 for ids in rows))
        known = self._longest(rows[0][:shared])
        if (len(rows) - 1) * (shared - len(known)) < PASS_TOKENS:
            shared = len(known)
        width = max(map(len, rows)) - shared
        apart = sum(len(ids) - self.known(ids) + PASS_TOKENS for ids in rows)
        at_once = shared - len(known) + PASS_TOKENS * (shared > len(known))
        at_once += len(rows) * width + PASS_TOKENS
        if at_once >= apart or len(rows) * width > WIDE_PASS or not self._attends:
            return [self.read(ids) for ids in rows]
        begin = self._read_on(known, rows[0][:shared]) if shared else ()
        before = self._kept[begin].way() if begin else None
        found = self._together(tuple(rows), before)
        self._last = rows[-1]
        for row, (text, cache) in enumerate(zip(rows, found, strict=True)):
            self._kept[text] = _Read(tuple(rows), row, before, cache)
        self._forget(begin)
        return found

    def _together(
        self, rows: tuple[tuple[int, ...], ...], begin: _Read | None
    ) -> list[DynamicCache]:
        """What the model keeps of several texts, read in one pass behind what they begin with."""
        shared = 0 if begin is None else len(begin.ids)
        width = max(map(len, rows)) - shared
        cache = self._go_on(begin, len(rows))
        ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        for row, text in enumerate(rows):
            ids[row, : len(text) - shared] = torch.tensor(text[shared:])
            mask[row, : len(text) - shared] = 1
        _pass(self.model, cache, ids, mask, 1)
        return [_row(cache, row, len(text)) for row, text in enumerate(rows)]

    def _alone(self, ids: tuple[int, ...], begin: _Read | None) -> DynamicCache:
        """What the model keeps of one text, read on from what it begins with."""
        cache = self._go_on(begin, 1)
        read_on(self.model, cache, ids[0 if begin is None else len(begin.ids) :], 1)
        return cache

    def _go_on(self, begin: _Read | None, rows: int) -> DynamicCache:
        """A cache to be written into, which holds a beginning in each of its rows."""
        if begin is None:
            return empty_cache(self.model)
        kept = self._kept.get(begin.ids)
        return stacked([self._cache(kept if kept == begin else replace(begin))] * rows)

    def _cache(self, read: _Read) -> DynamicCache:
        """What the model keeps of a text, which is read again where it was only recalled."""
        if read.cache is None and len(read.rows) == 1:
            read.cache = self._alone(read.ids, read.begin)
        elif read.cache is None:
            read.cache = self._together(read.rows, read.begin)[read.row]
        return read.cache

    @cached_property
    def _attends(self) -> bool:
        """Whether it may read in parts, and all that its layers keep is attention's."""
        layers = empty_cache(self.model).layers
        kinds = {type(layer).__name__ for layer in layers}
        return kinds == {"DynamicLayer"} and self.in_parts

    def last_logits(self, ids: Ids, rows: int) -> Tensor:
        """Logits at the last tokens of a text, `(rows, vocab)`, in the model's dtype."""
        if not self.in_parts or len(ids) > self.limit:
            whole = torch.tensor([list(ids)], device=input_device(self.model))
            return own_logits(self.model, whole)[0, -rows:]
        cache = self.read(ids[:-rows]) if len(ids) > rows else empty_cache(self.model)
        return read_on(self.model, stacked([cache]), ids[-rows:], rows)

    def _longest(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The longest kept text that another begins with."""
        kept = [begin for begin in self._kept if ids[: len(begin)] == begin]
        longest = max(kept, key=len, default=())
        return longest if longest in ((), ids) or self.in_parts else ()

    def _read_on(self, begin: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
        """Read a text of which the beginning is kept, and keep it."""
        if begin == ids:
            self._kept.move_to_end(ids)
            return ids
        before = self._kept[begin].way() if begin else None
        self._kept[ids] = _Read((ids,), 0, before, self._alone(ids, before))
        self._forget(begin)
        return ids

    def _forget(self, begin: tuple[int, ...]) -> None:
        """Keep no more than the last few texts, and the beginning that was used."""
        if begin:
            self._kept.move_to_end(begin)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)


def empty_cache(model: PreTrainedModel) -> DynamicCache:
    """As `model.generate` makes one."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def read_on(model: PreTrainedModel, cache: DynamicCache, ids: Ids, rows: int) -> Tensor:
    """Read on from a cache of one row, which is written into; logits at the last tokens."""
    inputs = torch.tensor([list(ids)])
    return _pass(model, cache, inputs, torch.ones_like(inputs), rows)[0, -rows:]


def _pass(
    model: PreTrainedModel, cache: DynamicCache, ids: Tensor, mask: Tensor, keep: int
) -> Tensor:
    """Read on from a cache, which is written into; logits at the last `keep` tokens or more.

    Args:
        model: what reads.
        cache: of as many rows, without padding.
        ids: `(rows, seq)`, padded on the right.
        mask: `(rows, seq)`, 0 for padding.
        keep: how many logits of each row are wanted.
    """
    device, before = input_device(model), cache.get_seq_length()
    mask = torch.cat([mask.new_ones(len(mask), before), mask], dim=-1)
    arguments: dict[str, Any] = {"attention_mask": mask.to(device)}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        arguments["logits_to_keep"] = keep
    with torch.inference_mode():
        outputs = model(
            input_ids=ids.to(device), past_key_values=cache, use_cache=True, **arguments
        )
    if outputs.past_key_values is not cache or cache.get_seq_length() != mask.shape[1]:
        raise ValueError(f"{type(model).__name__} keeps what it has read in a way of its own")
    logits: Tensor = outputs.logits
    return logits


def _row(cache: DynamicCache, row: int, length: int) -> DynamicCache:
    """The first tokens of a row of a cache of attention, alone."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        layer.keys = layer.keys[row : row + 1, ..., :length, :].clone()
        layer.values = layer.values[row : row + 1, ..., :length, :].clone()
    return new


def stacked(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Caches as the rows of a new one, the shorter ones padded on the left; one may come often.

    Raises:
        ValueError: a layer's kind is not known.
    """
    new = copy.copy(caches[0])
    new.layers = [_stacked(layers) for layers in zip(*(c.layers for c in caches), strict=True)]
    return new


def _stacked(layers: Sequence[Any]) -> Any:
    first = layers[0]
    if type(first) not in _KINDS:
        raise ValueError(f"its cache has layers of another kind, {type(first).__name__}")
    new = copy.copy(first)
    if getattr(first, "keys", None) is not None:
        width = max(layer.keys.shape[-2] for layer in layers)
        for name in ("keys", "values"):
            rows = [getattr(layer, name) for layer in layers]
            padding = ((0, 0, width - row.shape[-2], 0) for row in rows)
            padded = map(torch.nn.functional.pad, rows, padding)
            setattr(new, name, torch.cat(list(padded)))
    if hasattr(first, "cumulative_length"):
        new.cumulative_length = max(layer.cumulative_length for layer in layers)
    for name in ("conv_states", "recurrent_states"):
        states = [getattr(layer, name, {}) for layer in layers]
        joined = {key: _joined([of[key] for of in states]) for key in states[0]}
        if joined:
            setattr(new, name, joined)
    if hasattr(first, "has_previous_state"):
        new.has_previous_state = dict(first.has_previous_state)
    return new


def _joined(states: list[Tensor | None]) -> Tensor | None:
    known = [state for state in states if state is not None]
    return torch.cat(known) if known else None


def read_in_parts(model: PreTrainedModel) -> str | None:
    """Why a model reads no text in parts, or None where it does; asked once of each."""
    if model not in _found:
        try:
            _found[model] = _apart(model)
        except Exception as error:  # whatever a model makes of a cache that has read something
            _found[model] = first_line(error)
    return _found[model]


def _apart(model: PreTrainedModel) -> str | None:
    """How reading in parts differs from reading at once, or None where it does not."""
    if model.config.is_encoder_decoder:
        return f"{type(model).__name__} has an encoder"
    shared, short, long = PROBE
    ids = probe_ids(model, long)
    if len(ids) < long:
        return f"{type(model).__name__} has too few positions to try it"
    cache = empty_cache(model)
    read_on(model, cache, ids[:shared].tolist(), 1)
    rows, mask = torch.stack([ids, ids.flip(0)]), torch.ones((2, long), dtype=torch.long)
    rows[1, :shared], mask[1, short:] = ids[:shared], 0
    with torch.inference_mode():
        got = model(
            input_ids=rows[:, shared:], attention_mask=mask.to(rows.device),
            past_key_values=stacked([cache, cache]), use_cache=True,
        ).logits  # fmt: skip
    for row, length in enumerate((long, short)):
        want = own_logits(model, rows[row : row + 1, :length])[0, shared:]
        gap = float(distance(got[row, -(long - shared) :][: len(want)], want).max())
        if gap > rounding(want, model.dtype):
            return f"{type(model).__name__} reads text otherwise in parts (logits off by {gap:.2g})"
    return None
