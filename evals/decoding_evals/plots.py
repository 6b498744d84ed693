"""Pictures of results, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by readers of every kind of colour vision.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"


def plot_option(text: str) -> Callable[[Command], Command]:
    """`--plot FILE`."""
    return click.option(
        "--plot",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"{text} FILE is .png, .svg or .pdf.",
    )


def check_plot(path: Path | None) -> None:
    """Refuse a plot that could not be written, before any work is done.

    Raises:
        click.UsageError: another suffix, or a folder.
        click.ClickException: no matplotlib, or no such folder, or one that cannot be written.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise click.UsageError(f"--plot takes {', '.join(most)} or {last}, got {str(path)!r}")
    if path.is_dir():
        raise click.UsageError(f"--plot {str(path)!r} is a folder")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise click.ClickException(f"the folder of {str(path)!r} does not exist")
    if not os.access(folder, os.W_OK):
        raise click.ClickException(f"cannot write {str(path)!r}: Permission denied")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "--plot needs matplotlib: pip install 'decoding-toolkit[plot]'"
        ) from None


def write_plot(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=160)
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.getvalue())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path.resolve())
    finally:
        Path(name).unlink(missing_ok=True)


def plot_scores(record: dict[str, Any]) -> Figure:
    """Entropy and surprisal along a text, from the record of `decoding score`.

    Up to 60 tokens stand on the axis; of a longer text the lines are running means.
    """
    import numpy as np

    tokens = record["tokens"]
    readable = len(tokens) <= 60
    figure, axes = _figure(width=min(9.0, max(6.4, 0.2 * len(tokens))))
    # None, which is infinite, becomes NaN.
    entropy = np.array([token["entropy_nats"] for token in tokens], dtype=np.float64)
    surprisal = np.array([token["surprisal_nats"] for token in tokens], dtype=np.float64)
    places = np.arange(len(tokens))
    if readable:
        axes.fill_between(places, entropy, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(
            places, entropy, color=BLUE, linewidth=1.4, label="entropy: what it expected",
            marker="_" if len(tokens) == 1 else None,
        )  # fmt: skip
        axes.plot(places, surprisal, "o", color=ORANGE, markersize=4, label="surprisal: what came")
        labels = [_label(token["text"]) for token in tokens]
        axes.set_xticks(places, labels, rotation=90, fontsize=7, parse_math=False)
    else:
        span = max(5, len(tokens) // 100)
        mean = np.ones(span) / span
        middle = np.convolve(places, mean, "valid")
        axes.plot(places, surprisal, ".", color=ORANGE, markersize=2, alpha=0.35)
        for values, color, dashes, name in (
            (surprisal, ORANGE, "--", "surprisal: what came"),
            (entropy, BLUE, "-", "entropy: what it expected"),
        ):
            label = f"{name} (mean of {span} tokens)"
            line = np.convolve(values, mean, "valid")
            axes.plot(middle, line, dashes, color=color, linewidth=1.6, label=label)
        axes.set_xlabel("token")
    axes.set_ylabel("nats")
    axes.set_xlim(-0.5, max(1, len(tokens)) - 0.5)
    axes.set_ylim(0, 1.15 * float(np.nanmax([*entropy, *surprisal, 1e-3])))
    name = "standard input" if record["name"] == "-" else Path(record["name"]).name
    title = f"{_short(_visible(name), 30)}: entropy and surprisal along the text"
    axes.set_title(title, loc="left", parse_math=False)
    axes.legend(frameon=False, loc="upper left", ncols=2)
    return figure


def plot_comparison(record: dict[str, Any]) -> Figure:
    """Frontier of entropy and coverage, and KL heat map, from the record of `decoding compare`.

    Settings carry the numbers of the command's tables. The width is that of a page, so that labels
    stay legible; of more than 60 settings only some have one.
    """
    from matplotlib.figure import Figure

    heat_height = min(8.0, 2.0 + 0.25 * len(record["settings"]))
    figure = Figure(figsize=(8.4, 4.0 + heat_height), layout="constrained")
    frontier, heat = figure.subplots(2, 1, height_ratios=[4.0, heat_height])
    _heat(figure, heat, record)
    _frontier(figure, frontier, record)
    return figure


def _frontier(figure: Figure, axes: Axes, record: dict[str, Any]) -> None:
    """Coverage of the true tokens against entropy; the settings that no other one beats on both."""
    entropy, coverage = record["entropy_nats"], record["coverage"]
    order = sorted(range(len(entropy)), key=lambda i: (entropy[i], -coverage[i]))
    best: list[int] = []
    for index in order:
        if not best or coverage[index] > coverage[best[-1]]:
            best.append(index)
    axes.plot(
        [entropy[i] for i in best], [coverage[i] for i in best], color=BLUE, linewidth=1.2,
        zorder=1, label="frontier: most coverage for its entropy",
    )  # fmt: skip
    colors = [BLUE if index in best else GREY for index in range(len(entropy))]
    axes.scatter(entropy, coverage, color=colors, s=22, zorder=2)
    axes.set_xlabel("mean entropy of q (nats)")
    axes.set_ylabel("coverage: share of true tokens kept")
    axes.set_ylim(min(0.98, *coverage) - 0.03, 1.04)
    axes.margins(x=0.15)
    title = f"{_short(_visible(record['model']), 40)}: entropy and coverage"
    axes.set_title(title, loc="left", pad=22, parse_math=False)
    # Under the title, where there are no points.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    axes.spines[["top", "right"]].set_visible(False)
    named = [best[0], best[-1], *best, *(order if len(order) <= 60 else [])]
    _annotate(figure, axes, record, list(dict.fromkeys(named))[:60])


def _annotate(figure: Figure, axes: Axes, record: dict[str, Any], order: list[int]) -> None:
    """Names beside points, the first ones first, as far as they cover nothing.

    Between 13 and 60 settings numbers do: the heat map has all their names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    names = _names(record)
    points = list(zip(record["entropy_nats"], record["coverage"], strict=True))
    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # so that places are known
    taken: list[Any] = []
    if len(names) <= 60:
        places = axes.transData.transform(points)
        taken += [Bbox([(x - 3, y - 3), (x + 3, y + 3)]) for x, y in places]
    for index in order:
        number = names[index].split()[0]
        texts = [number] if 12 < len(names) <= 60 else [names[index], number]
        for text, (across, up) in product(texts, ((5, -8), (5, 4), (-5, 4), (-5, -8))):
            name = axes.annotate(
                text, points[index], fontsize=8, xytext=(across, up), textcoords="offset points",
                ha="left" if across > 0 else "right",
            )  # fmt: skip
            box = name.get_window_extent(renderer)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()


def _heat(figure: Figure, axes: Axes, record: dict[str, Any]) -> None:
    """Mean KL of each row's setting from each column's; grey where it is infinite."""
    import numpy as np
    from matplotlib import colormaps

    kl = np.array(record["kl_nats"], dtype=np.float64)  # None becomes NaN
    names = _names(record)
    colors = colormaps["cividis"].with_extremes(bad="#dddddd")
    largest = float(np.nanmax(kl)) or 1.0
    masked = np.ma.masked_invalid(kl)
    image = axes.imshow(masked, cmap=colors, vmin=0, vmax=largest, aspect="auto")
    shown = range(0, len(names), -(-len(names) // 60))
    small = 8 if len(names) <= 30 else 6
    numbers = [f"[{index + 1}]" for index in shown]
    upright = 90 if len(names) > 20 else 0
    axes.set_xticks(shown, numbers, rotation=upright, fontsize=small)
    axes.set_yticks(shown, [names[index] for index in shown], fontsize=small)
    axes.set_xlabel("to setting j")
    axes.set_ylabel("from setting i")
    axes.set_title("mean KL(q_i‖q_j) in nats; grey: infinite", loc="left")
    if len(names) <= 12:
        for (row, column), value in np.ndenumerate(kl):
            text = "∞" if np.isnan(value) else f"{value:.2f}"
            dark = np.isnan(value) or value > largest / 2
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8,
                color="black" if dark else "white",
            )  # fmt: skip
    figure.colorbar(image, ax=axes, label="nats")


def _names(record: dict[str, Any]) -> list[str]:
    """The settings with their numbers."""
    return [f"[{number}] {_short(name, 45)}" for number, name in enumerate(record["settings"], 1)]


def _figure(width: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(text: str) -> str:
    """A token's text for an axis: visible, and not too long."""
    return _short(_visible(repr(text)[1:-1].replace(" ", "\N{OPEN BOX}")), 24)


def _short(text: str, most: int) -> str:
    """Of a long text the beginning and the end."""
    tail = most // 2
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[-tail:]}"


def _visible(text: str) -> str:
    """Text with what the font cannot draw spelt out, as in `\\u65e5`."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else ascii(c)[1:-1] for c in text)
