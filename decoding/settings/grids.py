"""Grids of decoding settings, as in `temperature=0.5:1.5:0.1,top_p=0.8:1.0:0.05`."""

from __future__ import annotations

import math
from decimal import Context, Decimal, InvalidOperation, localcontext
from itertools import product

from decoding.rules.tokens import pieces
from decoding.settings.settings import DecodingSettings

MOST_SETTINGS = 1000


def parse_grid(text: str) -> list[DecodingSettings]:
    """All settings of a grid: every value of each field with every value of the others.

    A field's values are one number, `start:stop:step` with both ends included, or numbers
    separated by `|`. The first field varies slowest. There are 1 to 1,000 settings.

    Raises:
        ValueError: no field, a field that is unknown, repeated or outside its range, a range that
            holds nothing, or more settings than 1,000.
    """
    axes: list[list[str]] = []
    size = 1
    for part in pieces(text, ","):
        name, separator, values = (piece.strip() for piece in part.partition("="))
        if not separator or not name.isidentifier() or not values:
            raise ValueError(f"a grid is like temperature=0.5:1.5:0.1,top_p=0.9, got {text!r}")
        numbers = [number for piece in pieces(values, "|") for number in _values(name, piece)]
        axes.append([f"{name}={number}" for number in numbers])
        size *= len(numbers)
        if size > MOST_SETTINGS:
            raise ValueError(f"a grid holds at most {MOST_SETTINGS} settings; {text!r} holds more")
    return [DecodingSettings.parse(",".join(point)) for point in product(*axes)]


def _values(name: str, text: str) -> list[str]:
    """The numbers of `start:stop:step`, in decimal arithmetic, so that 0.1 steps stay exact."""
    bounds = [bound.strip() for bound in pieces(text, ":")]
    if len(bounds) == 1:
        return bounds
    text = ":".join(bounds)
    try:
        start, stop, step = map(Decimal, bounds)
        if not all(bound.is_finite() for bound in (start, stop, step)):
            raise ValueError
        with localcontext(Context(traps=[InvalidOperation])):  # too many are infinitely many
            steps = (stop - start) / step if step > 0 else Decimal(-1)
    except (ValueError, ArithmeticError):
        raise ValueError(f"{name} takes start:stop:step, got {text!r}") from None
    if steps < 0:
        raise ValueError(f"{name}={text} holds no value: start <= stop and step > 0 are needed")
    # Before it becomes a whole number, which may have a million digits.
    if steps >= MOST_SETTINGS:
        raise ValueError(f"a grid holds at most {MOST_SETTINGS} settings; {name}={text} holds more")
    return [str(start + index * step) for index in range(math.floor(steps) + 1)]
