"""Who runs the map of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from decoding.passes.journal import NO_JOURNAL, Journal
from decoding_evals.mapping.units import Unit

OnProgress = Callable[[int, float], None]
"""Is given a number of tokens and the mean of a figure over them."""


class Part(Protocol):
    """What comes of a stretch of the input."""

    def counted(self) -> tuple[int, float]:
        """How many tokens it is of, and the sum of a figure over them, for progress."""


Made = TypeVar("Made", bound=Part)
Made_co = TypeVar("Made_co", bound=Part, covariant=True)


class Work(Protocol[Made_co]):
    """What is done with a unit. It travels to where that is done, and holds no model."""

    def parts(
        self, models: Any, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[Made_co]:
        """The parts that a unit gives, in their order; on Ctrl-C what is finished, then
        `KeyboardInterrupt`.

        Args:
            models: a `LanguageModel`, or what else the evaluation runs.
            unit: what to work on.
            journal: keeps what is measured of each batch.
            on_progress: is told how far the unit has come.
        """


class Engine(Protocol):
    """Runs the map of an evaluation over its units."""

    def map(
        self, models: Any, work: Work[Made], units: Iterable[Unit], on_progress: OnProgress | None
    ) -> Iterator[Made]:
        """The parts of all units, in the order of the input.

        Args:
            models: what the work runs, as this process has it.
            work: what is done with each unit.
            units: taken lazily.
            on_progress: is told how far the input has come.
        """


class InProcess:
    """Works on one unit after the other, here.

    Args:
        journal: keeps what is measured of each batch.
    """

    def __init__(self, journal: Journal = NO_JOURNAL) -> None:
        self.journal = journal

    def map(
        self, models: Any, work: Work[Made], units: Iterable[Unit], on_progress: OnProgress | None
    ) -> Iterator[Made]:
        """See `Engine`."""
        progress = Progress(on_progress)
        for unit in units:
            progress.begin()
            for part in work.parts(models, unit, self.journal, progress.within):
                progress.add(part)
                yield part


IN_PROCESS = InProcess()


class Progress:
    """Tells how far the input has come, from parts and from within what is worked on.

    Args:
        on_progress: is told.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._tokens, self._total = 0, 0.0
        self._before = (0, 0.0)  # the present unit
        self._told = 0

    def begin(self) -> None:
        """What comes from within is of a new unit."""
        self._before = (self._tokens, self._total)

    def within(self, tokens: int, mean: float) -> None:
        """The present unit has come so far."""
        before, total = self._before
        self._tell(before + tokens, total + tokens * mean)

    def add(self, part: Part) -> None:
        """A part is finished."""
        tokens, total = part.counted()
        self._tokens, self._total = self._tokens + tokens, self._total + total
        self._tell(self._tokens, self._total)

    def _tell(self, tokens: int, total: float) -> None:
        if self._on_progress is not None and tokens > self._told:
            self._told = tokens
            self._on_progress(tokens, total / tokens)
