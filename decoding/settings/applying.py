"""A setting applied to rows of logits: its rules in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, double, library
from decoding.rows.blocks import row_blocks
from decoding.rows.distribution import COLDEST, Distribution
from decoding.rules import Past, Rule, Tempering

Stage = Rule | tuple[Tempering, ...]
"""A rule, or those that set one temperature together."""

_BLOCK = 1 << 22  # logits at a time
_NONE = Past()


class History(NamedTuple):
    """What came before rows of logits."""

    ids: Tensor | None
    """`(rows, seq)`, the ids so far; needed by rules that look at them."""
    starts: Tensor | None = None
    """`(rows)`, where each row's ids begin behind its left padding; None where none is padded."""
    memory: Tensor | None = None
    """`(rows, n)`, float64, what the rules of a setting remember; None at the beginning."""


class Applied(NamedTuple):
    """What a setting makes of rows of logits."""

    scaled: Distribution
    """After penalties and temperature, before anything is cut; of greedy, after penalties."""
    final: Distribution
    """q."""
    temperature: Tensor | None
    """`(…, 1)`, float64, where the entropy of each row sets it."""
    mixed: bool = False
    """Whether q is not simply what the cuts leave of the scaled rows, renormalised."""
    given: tuple[tuple[Rule, Array, Distribution], ...] = ()
    """Each rule that remembers, its state at the step, and the rows that it was given."""


def apply(stages: Sequence[Stage], raw: Distribution, history: History | None = None) -> Applied:
    """What the rules of a setting make of rows, in their order.

    Args:
        stages: the rules.
        raw: the model's own rows.
        history: what came before each row, for rules that look back.
    """
    rows, scaled, temperature = raw, None, None
    mixed = False
    given: list[tuple[Rule, Array, Distribution]] = []
    for stage in stages:
        if isinstance(stage, tuple):
            first = stage[0]
            if scaled is None and first.is_fixed and first.value == 0:
                return Applied(rows, rows.first(1), None)  # what follows has one token alone
            rows, of_rows = _tempered(rows, stage)
            temperature = temperature if of_rows is None else of_rows
            mixed = mixed or scaled is not None
            continue
        if scaled is None and stage.kind != "penalty":
            scaled = rows
        past = _NONE
        if stage.looks_back and history is not None:
            past = Past(history.ids, history.starts)
            if stage.start:
                width = sum(len(before.start) for before, *_ in given)
                past = past._replace(state=_state(stage.start, history.memory, width, rows))
                given.append((stage, past.state, rows))
        rows = stage.apply(rows, past)
        mixed = mixed or stage.kind in ("mixture", "reweighting")
    return Applied(rows if scaled is None else scaled, rows, temperature, mixed, tuple(given))


def _tempered(
    rows: Distribution, rules: tuple[Tempering, ...]
) -> tuple[Distribution, Tensor | None]:
    """Rows at the temperature that rules set one after the other; and of each row, its own."""
    value: float | Array = 1.0
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for rule in rules:
            value = rule.temperature(rows, value)
    if type(value) is float:  # a row's own, where it is alone, is NumPy's
        return (rows if value == 1 else rows.tempered(value)), None
    return rows.tempered(value), as_tensor(value).unsqueeze(-1).clamp(min=COLDEST)


def _state(
    start: tuple[float, ...], memory: Tensor | None, width: int, rows: Distribution
) -> Array:
    """What a rule remembers of each row, from the place of its first number in the memory."""
    if memory is not None:
        return as_array(memory)[:, width : width + len(start)]
    xp, like = library(rows.z), rows.log_total
    return xp.stack([xp.full_like(like, number) for number in start], -1)


def remembered(applied: Applied, tokens: Tensor | Array) -> Tensor | None:
    """What the rules of a setting remember after a step; None where none remembers.

    Args:
        applied: what the setting made of the rows.
        tokens: `(rows)`, what was drawn, or what a given text has there.

    Returns:
        `(rows, n)`, float64.
    """
    if not applied.given:
        return None
    columns: list[Array] = []
    for rule, state, given in applied.given:
        columns += rule.observe(state, as_array(tokens), given, applied.final, applied.scaled)
    return as_tensor(library(columns[0]).stack(columns, -1))


class Memory:
    """What rules carry from one step of a generation to the next.

    Args:
        starts: `(rows)`, where each row's ids begin behind its left padding.
    """

    def __init__(self, starts: Tensor | None = None) -> None:
        self.starts = starts
        self.numbers: Tensor | None = None

    def history(self, input_ids: Tensor) -> History:
        """What comes before the next token, the ids so far being `(rows, seq)`."""
        return History(input_ids, self.starts, self.numbers)

    def observe(self, applied: Applied, tokens: Tensor | Array) -> None:
        """Take note of what was drawn; see `remembered`."""
        self.numbers = remembered(applied, tokens)


class Applicable(Protocol):
    """A setting or a policy."""

    @property
    def rules(self) -> tuple[Rule, ...]: ...  # noqa: D102
    @property
    def looks_back(self) -> bool: ...  # noqa: D102
    def apply(  # noqa: D102
        self, raw: Distribution, history: History | None = None, /
    ) -> Applied: ...


def apply_settings(settings: Applicable, logits: Tensor, history: History | None = None) -> Tensor:
    """All rules of a setting in their order, a few rows at a time; the result is not normalised.

    Args:
        settings: a setting or a policy.
        logits: `(…, vocab)`; with a history `(rows, vocab)`.
        history: what came before each row, for a setting that looks back.

    Returns:
        `(…, vocab)` logits of q.
    """
    if settings.looks_back or logits.numel() <= _BLOCK:
        return settings.apply(Distribution(logits), history).final.logits
    rows = logits.reshape(-1, logits.shape[-1])
    blocks = row_blocks(rows.shape, _BLOCK)
    done = torch.cat([settings.apply(Distribution(rows[block])).final.logits for block in blocks])
    return done.reshape(logits.shape)


def kept_mass(applied: Applied) -> Array:
    """`(rows)`, in (0, 1], mass of the support of q before it was cut; see `Trace.kept_mass`."""
    scaled, final = applied.scaled, applied.final
    mass = scaled.mass_of(final)
    if mass is None and applied.mixed:
        mass = double((scaled.weights * final.support).sum(-1)) / scaled.total
    elif mass is None:
        # Renormalising divided every token's probability by it, the favourite's too.
        tokens = final.z.argmax(-1)
        mass = library(final.z).exp(scaled.log_prob(tokens) - final.log_prob(tokens))
    return mass.clip(None, 1)
