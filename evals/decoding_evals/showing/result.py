"""What all results of evaluations have in common: they show themselves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from decoding.showing.inline import inline
from decoding_evals.showing.html import to_html
from decoding_evals.showing.terminal import Shown, counted, to_text
from decoding_evals.showing.view import RecordView

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from decoding.inference.intervals import MeanError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Result(ABC):
    """What an evaluation found; `print` and a notebook show its tables."""

    view: ClassVar[RecordView]
    """How a record is shown."""
    _picture: ClassVar[staticmethod[[dict[str, Any]], Figure | None]]
    """Makes a picture of a record, where there is one."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep a dataclass from writing out all that it holds as its `repr`."""
        super().__init_subclass__(**options)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.gist())})"

    def gist(self) -> tuple[str, ...]:
        """What it is of, and its main figures, for its `repr`."""
        return (counted(len(self.rows()), "row"),)

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or unknown is None."""

    def page_record(self) -> dict[str, Any]:
        """The record, and under `page` what a page shows beside it."""
        return self.record()

    def tables(self) -> Iterable[Shown]:
        """Tables and lines, as a command prints them."""
        return self.view.tables(self.record())

    def plot(self) -> Figure | None:
        """Its picture, as a command draws it; None where there is none.

        Raises:
            ImportError: matplotlib is missing.
        """
        return self._picture(self.record()) if hasattr(self, "_picture") else None

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `to_pandas`: plain values by column."""
        return [self.record()]

    def to_pandas(self) -> pandas.DataFrame:
        """The result as a data frame.

        Raises:
            ImportError: pandas is missing.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError(
                "to_pandas needs pandas: pip install 'decoding-toolkit[pandas]'"
            ) from None
        return pandas.DataFrame(self.rows())

    def interruption(self) -> str:
        """What to say of a result that Ctrl-C cut short."""
        scored = counted(self.record()["tokens_scored"], "token")
        return f"the figures are of the {scored} scored until then"

    def __str__(self) -> str:
        return to_text(self.tables())

    def _repr_html_(self) -> str:
        return inline(self.view, [self.page_record()], to_html(self.tables()))


@dataclass(frozen=True, kw_only=True)
class TextResult(Result):
    """A result of one text among several."""

    index: int
    """Of the text, from 0."""
    name: str | None = None
    """Of the text: its file, or file and row."""

    def heading(self) -> dict[str, Any]:
        """The first keys of the record."""
        named = {} if self.name is None else {"name": self.name}
        return {**named, "index": self.index}


def quoted(text: str, most: int = 40) -> str:
    """A text on one line, in quotes, its control characters escaped; a long one is cut."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def finite(values: Any) -> Any:
    """Plain numbers for JSON: arrays as nested lists, None for what is not finite or unknown."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(plain, Iterable):
        return [finite(value) for value in plain]
    return plain if plain is not None and math.isfinite(plain) else None


def exp_or_none(value: Any) -> float | None:
    """e^value, or None where the largest double is smaller or the value unknown."""
    return math.exp(value) if value is not None and value < 709 else None


def with_errors(figures: dict[str, MeanError]) -> dict[str, Any]:
    """Each mean under its key, and its error under `…_standard_error`, ready for JSON."""
    record = {}
    for key, figure in figures.items():
        record[key] = finite(figure.mean)
        record[f"{key.removesuffix('_nats')}_standard_error"] = finite(figure.standard_error)
    return record


def taken_over(record: dict[str, Any]) -> str:
    """What the errors of a record are taken over, or why it has none."""
    units, length = record["units"], record["block_length"]
    if record["error_unit"] == "documents":
        return counted(units, "document") if units > 1 else "no error: it needs two documents"
    if units > 1:
        return f"{counted(units, 'block')} of {counted(length, 'token')}"
    return f"no error: it needs more than {counted(length, 'token')}"


def by_key(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of columns of one length."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
