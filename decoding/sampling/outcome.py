"""The rows of a step of a `Sampler`, and what comes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from decoding.rows.arrays import Array, joined, on_host
from decoding.rows.blocks import row_blocks
from decoding.rows.distribution import Distribution
from decoding.rows.draw import draw
from decoding.rows.faults import without_faults
from decoding.settings.applying import Applied, History, remembered
from decoding.settings.policy import EntropyPolicy, Setting, Then
from decoding.tracing.step import Measures

PORTION = 1 << 20  # logits of a step at a time


class Rows(NamedTuple):
    """What the outcome of a step is a function of, row by row; None where there is none."""

    scores: Tensor
    """`(rows, vocab)`, to draw from."""
    before: Tensor | None
    """`(rows, vocab)`, the model's own, where other processors made the scores of them."""
    points: Array
    """`(rows)`, uniform in [0, 1), float64."""
    ids: Tensor | None  # this and what follows as in `History`
    starts: Tensor | None
    memory: Tensor | None

    def part(self, rows: slice) -> Rows:
        """Some of the rows."""
        return Rows._make(None if of is None else of[rows] for of in self)

    def portions(self, first: int = 0) -> Iterator[tuple[Rows, int]]:
        """A few rows at a time, which stay in a CPU's cache, with the number of the first of them,
        where the first of all has that number."""
        if self.scores.numel() <= PORTION or not on_host(self.points):
            yield self, first
            return
        for part in row_blocks(self.scores.shape, PORTION):
            yield self.part(part), first + part.start


class Outcome(NamedTuple):
    """What comes of the rows of a step."""

    tokens: Tensor
    """`(rows)`, drawn."""
    fault: Array | None
    """`(rows)`, which were no distribution: mended on an accelerator, and on a CPU an error."""
    memory: Tensor | None
    """`(rows, n)`, for the next step."""
    measures: Measures | None
    """Where there is a monitor."""

    def after(self, greedy: Outcome) -> Outcome:
        """This behind the rows that are greedy, with NaN where one of them has no numbers."""
        measures = None
        if self.measures is not None and greedy.measures is not None:
            pairs = zip(greedy.measures, self.measures, strict=True)
            rows = len(greedy.tokens), len(self.tokens)
            measures = Measures._make(_filled(*pair, rows) for pair in pairs)
        return Outcome(
            torch.cat([greedy.tokens, self.tokens]),
            joined([greedy.fault, self.fault]),
            _filled(greedy.memory, self.memory, (len(greedy.tokens), len(self.tokens))),
            measures,
        )


def _filled(first: Any, second: Any, rows: tuple[int, int]) -> Any:
    """Rows of two parts, of which one may have no numbers; None where neither has."""
    if first is None and second is not None:
        first = second.new_full((rows[0], *second.shape[1:]), math.nan)
    elif second is None and first is not None:
        second = first.new_full((rows[1], *first.shape[1:]), math.nan)
    return joined([first, second])


def outcome_of(
    settings: Setting,
    rows: Rows,
    *,
    step: int,
    first: int = 0,
    decide: Callable[[Distribution], list[Then | None]] | None = None,
    measure: Callable[[Distribution, Applied, Tensor], Measures] | None = None,
) -> Outcome:
    """What comes of rows under a setting.

    Args:
        settings: the setting or policy.
        rows: the rows.
        step: for an error, the number of the step.
        first: for an error, the number of the first row.
        decide: what becomes of each of the model's own rows under a policy that needs to be asked.
        measure: what is to be written down, of the model's own rows, what the setting made of them,
            and the tokens.

    Raises:
        NonFiniteLogitsError: on a CPU, a row is no distribution.
    """
    given, fault = without_faults(Distribution(rows.scores), step, first)
    raw = given
    if rows.before is not None:
        raw, fault_before = without_faults(Distribution(rows.before), step, first)
        fault = None if fault is None else fault | fault_before
    history = History(*rows[3:])
    if isinstance(settings, EntropyPolicy):
        decisions = None if decide is None else decide(raw)
        applied = settings.apply(given, history, decisions, raw=raw)
    else:
        applied = settings.apply(given, history)
    tokens = draw(applied.final, rows.points)
    measures = None if measure is None else measure(raw, applied, tokens)
    return Outcome(tokens, fault, remembered(applied, tokens), measures)


class Drawn:
    """Stands in for scores that are only ever passed to `argmax`, which gives the drawn tokens.

    Greedy search does just that. To look for the largest score in the whole vocabulary would take
    as long as drawing the token. Any other use of these scores is an error.

    Args:
        tokens: `(rows)`.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.argmax:
            return args[0].tokens
        raise TypeError(f"a Sampler's step gives the drawn tokens alone, and {func} wants scores")
