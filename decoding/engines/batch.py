"""Rows of an engine's batch that come, go and move: what each has drawn, and what it draws next.

What a request has drawn is kept by how many of its tokens the engine has committed. So a step that
the engine throws away (a prompt that it has read a part of, a request that it takes out and begins
to read again) is forgotten when the request draws next, and does no harm.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.engines.requests import Kind, Request
from decoding.rows.arrays import as_array, as_tensor
from decoding.rows.faults import NonFiniteLogitsError
from decoding.sampling.outcome import Outcome, Rows, outcome_of
from decoding.sampling.seeds import uniforms
from decoding.settings.policy import Setting
from decoding.tracing.step import Measures, measured

FIRST_POINTS = 64
"""Uniforms of a request that are made at first; more follow."""

Packed = bytes
"""Arrays of several sequences, as they leave a worker."""


class Draws:
    """What a request has drawn.

    Args:
        request: how it is drawn.
        prompt_ids: what the model reads first.
    """

    def __init__(self, request: Request, prompt_ids: Sequence[int]) -> None:
        self.request = request
        self.prompt_ids = [*prompt_ids]
        self.committed: Sequence[int] = ()
        """The engine's own list of the request's tokens; some may be placeholders."""
        self._steps: list[tuple[Outcome, int]] = []  # and the request's row in it
        self._ids: list[int] = []
        self._points = np.empty(0)

    def rewind(self) -> None:
        """Forget what the engine threw away.

        Raises:
            ValueError: the engine has tokens that were not drawn here.
        """
        count = len(self.committed)
        if count > len(self._steps):
            raise ValueError(
                f"a request has {count} tokens, of which {len(self._steps)} were drawn under "
                f"{self.request.settings}: it cannot go on with those of another engine"
            )
        del self._steps[count:], self._ids[count:]

    @property
    def step(self) -> int:
        """How many tokens it has drawn."""
        return len(self._steps)

    @property
    def point(self) -> float:
        """The uniform of the next draw."""
        if self.step >= len(self._points):
            name = self.request.prompt
            if name is None:
                name = " ".join(map(str, self.prompt_ids))
            count = max(FIRST_POINTS, 2 * self.step)
            drawn = uniforms(self.request.seed, name, self.request.sample, count)
            self._points = drawn.numpy()
        return float(self._points[self.step])

    @property
    def ids(self) -> list[int]:
        """The ids that it has drawn."""
        for outcome, row in self._steps[len(self._ids) :]:
            self._ids.append(int(outcome.tokens[row]))
        return self._ids

    @property
    def memory(self) -> Tensor | None:
        """What the rules of its setting remember, `(n)`; None at the beginning."""
        if not self._steps:
            return None
        outcome, row = self._steps[-1]
        return None if outcome.memory is None else outcome.memory[row]

    def add(self, outcome: Outcome, row: int) -> None:
        """Take note of a step."""
        self._steps.append((outcome, row))

    def columns(self) -> dict[str, np.ndarray]:
        """What was written down: the fields of `Measures` that were measured, `(tokens, …)`;
        and `ids`, `fault`."""
        columns: dict[str, np.ndarray] = {"ids": np.array(self.ids, np.int64)}
        for name in Measures._fields:
            held = [
                as_tensor(value)[row]
                for outcome, row in self._steps
                if (value := getattr(outcome.measures, name, None)) is not None
            ]
            if held:
                columns[name] = torch.stack(held).cpu().numpy()
        faults = [
            outcome.fault is not None and bool(outcome.fault[row]) for outcome, row in self._steps
        ]
        return columns | {"fault": np.array(faults)}


class Batch:
    """The rows of a batch that are drawn here; others are left alone."""

    def __init__(self) -> None:
        self._rows: dict[int, Draws] = {}
        self._kept: dict[str, Draws] = {}

    def add(self, row: int, draws: Draws | None) -> None:
        """A request takes a row; with None, one that is not drawn here."""
        self.remove(row)
        if draws is not None:
            self._rows[row] = draws
            if draws.request.trace is not None:
                self._kept[draws.request.trace] = draws

    def remove(self, row: int) -> None:
        """A row is free; what its request has drawn may be asked for, or go on elsewhere."""
        self._rows.pop(row, None)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """A request moves to another row, from which one may come in its place."""
        moved, other = self._rows.pop(source, None), self._rows.pop(target, None)
        for row, draws in ((target, moved), (source, other if swap else None)):
            if draws is not None:
                self._rows[row] = draws

    def draw(self, logits: Tensor) -> Tensor:
        """Draw a token for each row; of its logits, only that token's are left.

        Args:
            logits: `(rows, vocab)`, float32; changed in place.

        Raises:
            NonFiniteLogitsError: on a CPU, a row is no distribution.
        """
        groups: dict[Kind, list[int]] = {}
        for row, draws in sorted(self._rows.items()):
            draws.rewind()
            groups.setdefault(draws.request.kind, []).append(row)
        for kind, rows in groups.items():
            self._draw(kind, rows, logits)
        return logits

    def _draw(self, kind: Kind, rows: list[int], logits: Tensor) -> None:
        drawing = [self._rows[row] for row in rows]
        places = torch.tensor(rows, device=logits.device)
        all_rows = rows == [*range(len(logits))]
        given = _given(kind.settings, drawing, logits if all_rows else logits[places])
        measure = None
        if kind.traced:
            measure = partial(measured, alternatives=kind.alternatives, certainty=kind.certainty)
        tokens = []
        for portion, first in given.portions():
            try:
                outcome = outcome_of(kind.settings, portion, step=0, first=first, measure=measure)
            except NonFiniteLogitsError:
                tops = given.scores.amax(-1).isfinite().tolist()
                faulty = drawing[tops.index(False)]
                name = faulty.request.trace or faulty.request.prompt or "without a name"
                raise NonFiniteLogitsError(f"step {faulty.step}, request {name!r}") from None
            tokens.append(outcome.tokens)
            for row, draws in enumerate(drawing[first : first + len(outcome.tokens)]):
                draws.add(outcome, row)
        if all_rows:
            logits.fill_(-torch.inf)
        else:
            logits.index_fill_(0, places, -torch.inf)
        logits[places, torch.cat(tokens)] = 0.0

    def take(self, names: Sequence[str]) -> Packed:
        """What was written down of requests, which is kept no longer; see `unpacked`."""
        kept = (self._kept.pop(name, None) for name in names)
        return packed([{} if draws is None else draws.columns() for draws in kept])


def _given(settings: Setting, drawing: list[Draws], scores: Tensor) -> Rows:
    """What the rows of a step are a function of."""
    device, ids, starts, memory = scores.device, None, None, None
    if any(rule.looks_back == "ids" for rule in settings.rules):
        before = [draws.prompt_ids + draws.ids for draws in drawing]
        width = max(map(len, before))
        padding = [width - len(own) for own in before]
        padded = [[0] * pads + own for pads, own in zip(padding, before, strict=True)]
        ids, starts = torch.tensor(padded, device=device), torch.tensor(padding, device=device)
    if start := [number for rule in settings.rules for number in rule.start]:
        at_first = torch.tensor(start, dtype=torch.float64, device=device)
        remembered = [draws.memory for draws in drawing]
        memory = torch.stack([at_first if one is None else one for one in remembered])
    points = torch.tensor([draws.point for draws in drawing], dtype=torch.float64, device=device)
    return Rows(scores, None, as_array(points), ids, starts, memory)


def packed(sequences: Sequence[Mapping[str, np.ndarray]]) -> Packed:
    """Arrays of sequences as bytes."""
    file = io.BytesIO()
    named: dict[str, Any] = {"count": np.array(len(sequences))}
    for number, own in enumerate(sequences):
        named |= {f"{number} {name}": values for name, values in own.items()}
    np.savez(file, **named)
    return file.getvalue()


def unpacked(data: Packed) -> list[dict[str, np.ndarray]]:
    """The arrays of sequences that `packed` made bytes of."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        sequences: list[dict[str, np.ndarray]] = [{} for _ in range(int(file["count"]))]
        for key in file.files:
            if key != "count":
                number, name = key.split(" ", 1)
                sequences[int(number)][name] = file[key]
    return sequences
