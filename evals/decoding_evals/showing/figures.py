"""Pictures of results, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding_evals.showing.lines import harmless, in_a_line
from decoding_evals.showing.view import title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by readers of every kind of colour vision.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with constrained layout, which a notebook shows.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'decoding-toolkit[plot]'") from None

    class Shown(Figure):
        """A plain figure shows only where pyplot has made itself at home in a notebook."""

        def _repr_png_(self) -> bytes:
            stream = io.BytesIO()
            self.savefig(stream, format="png")
            return stream.getvalue()

    return Shown(figsize=(width, height), layout="constrained")


def new_figure(width: float, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, open above and on the right."""
    figure = blank_figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def text_name(record: dict[str, Any], most: int) -> str:
    """The name of a record's text, for a title."""
    name = title_of(record)
    return "standard input" if name == "-" else short(visible(Path(name).name), most)


def token_label(text: str) -> str:
    """A token's text for an axis: visible, and not too long."""
    return short(visible(in_a_line(text).replace(" ", "\N{OPEN BOX}")), 24)


def short(text: str, most: int) -> str:
    """A long text cut down to its beginning and end."""
    tail = most // 2
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[-tail:]}"


def visible(text: str) -> str:
    """Text with what is not harmless, or what the font cannot draw, spelt out, as in `\\u65e5`."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else ascii(c)[1:-1] for c in harmless(text))
