"""Progress of an evaluation, on standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.text import Text

from decoding_evals.showing.lines import harmless
from decoding_evals.showing.terminal import console


class ScoringProgress:
    """Tokens, tokens/s and a running mean, by default as the perplexity of a mean surprisal.

    Args:
        shown: whether to show it, where standard error is a terminal.
        entropy: whether the mean is an entropy.
    """

    def __init__(self, shown: bool = True, *, entropy: bool = False) -> None:
        self._entropy = entropy
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (SpinnerColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console(False, stderr=True), transient=True)
            self._task = self._bar.add_task("loading the first texts")

    def __call__(self, tokens: int, mean_nats: float) -> None:
        """Show the number of scored tokens and their mean."""
        if self._bar is None:
            return
        speed = tokens / (time.monotonic() - self._started)
        figure = f"perplexity {math.exp(min(709.0, mean_nats)):.2f}"
        if self._entropy:
            figure = f"mean entropy {mean_nats:.3f} nats"
        self._bar.update(
            self._task,
            description=f"{tokens:,} tokens · {speed:,.0f} tokens/s · {figure}",
        )

    def __enter__(self) -> ScoringProgress:
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Says what is being done, where standard error is a terminal, until it is done.

    Returns:
        What to call with another text.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with Status(Text(harmless(text)), console=console(False, stderr=True)) as shown:
        yield lambda text: shown.update(Text(harmless(text)))


@contextmanager
def progress_bar(total: int, unit: str, *, shown: bool = True) -> Iterator[Callable[[], None]]:
    """A bar for work of known size.

    Args:
        total: how many there are to finish.
        unit: what they are called, in the plural.
        shown: whether to show it, where standard error is a terminal.

    Returns:
        What to call when one is finished.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), unit, TimeRemainingColumn())
    with Progress(*columns, console=console(False, stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
