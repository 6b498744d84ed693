"""Pictures of results, with matplotlib (the extra `plot`)."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
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
        click.UsageError: another suffix.
        click.ClickException: no matplotlib, or no such folder.
    """
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise click.UsageError(f"--plot takes {', '.join(most)} or {last}, got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise click.ClickException(f"the folder of {str(path)!r} does not exist")
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
    with os.fdopen(handle, "wb") as file:
        file.write(content.getvalue())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    os.replace(name, path.resolve())


def plot_scores(record: dict[str, Any]) -> Figure:
    """Entropy and surprisal along a text, from the record of `decoding score`.

    Up to 60 tokens stand on the axis; of a longer text the lines are running means.
    """
    import numpy as np

    tokens = record["tokens"]
    readable = len(tokens) <= 60
    figure, axes = _figure(width=max(6.4, 0.2 * len(tokens)) if readable else 10.0)
    entropy = np.array([token["entropy_nats"] for token in tokens])
    surprisal = np.array([token["surprisal_nats"] for token in tokens])
    places = np.arange(len(tokens))
    if readable:
        axes.fill_between(places, entropy, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(places, entropy, color=BLUE, linewidth=1.4, label="entropy: what it expected")
        axes.plot(places, surprisal, "o", color=ORANGE, markersize=4, label="surprisal: what came")
        labels = [_label(token["text"]) for token in tokens]
        axes.set_xticks(places, labels, rotation=90, fontsize=8)
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
    axes.set_xlim(-0.5, len(tokens) - 0.5)
    axes.set_ylim(0, 1.15 * max(1e-3, float(entropy.max()), float(surprisal.max())))
    name = "standard input" if record["name"] == "-" else Path(record["name"]).name
    axes.set_title(f"{name}: entropy and surprisal along the text", loc="left")
    axes.legend(frameon=False, loc="upper left", ncols=2)
    return figure


def plot_comparison(record: dict[str, Any]) -> Figure:
    """Frontier of entropy and coverage, and KL heat map, from the record of `decoding compare`."""
    from matplotlib.figure import Figure

    size = len(record["settings"])
    height = max(4.4, 1.6 + 0.22 * size)
    figure = Figure(figsize=(2 * height + 2.6, height), layout="constrained")
    frontier, heat = figure.subplots(1, 2)
    _frontier(frontier, record)
    _heat(figure, heat, record)
    return figure


def _frontier(axes: Axes, record: dict[str, Any]) -> None:
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
    few = range(len(entropy)) if len(entropy) <= 12 else best
    for index in few if len(few) <= 12 else (best[0], best[-1]):
        axes.annotate(
            record["settings"][index], (entropy[index], coverage[index]), fontsize=7,
            xytext=(5, -8), textcoords="offset points",
        )  # fmt: skip
    axes.set_xlabel("mean entropy of q (nats)")
    axes.set_ylabel("coverage: share of true tokens kept")
    axes.set_ylim(min(0.98, *coverage) - 0.03, 1.02)
    axes.margins(x=0.15)
    axes.set_title(f"{record['model']}: entropy and coverage", loc="left")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _heat(figure: Figure, axes: Axes, record: dict[str, Any]) -> None:
    """Mean KL of each row's setting from each column's; grey where it is infinite."""
    import numpy as np
    from matplotlib import colormaps

    kl = np.array(record["kl_nats"], dtype=np.float64)  # None becomes NaN
    names = record["settings"]
    colors = colormaps["cividis"].with_extremes(bad="#dddddd")
    image = axes.imshow(np.ma.masked_invalid(kl), cmap=colors, vmin=0)
    small = 7 if len(names) <= 24 else 5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small)
    axes.set_yticks(range(len(names)), names, fontsize=small)
    axes.set_xlabel("to setting j")
    axes.set_ylabel("from setting i")
    axes.set_title("mean KL(q_i‖q_j) in nats; grey: infinite", loc="left")
    if len(names) <= 12:
        half = np.nanmax(kl) / 2
        for (row, column), value in np.ndenumerate(kl):
            text = "∞" if np.isnan(value) else f"{value:.2f}"
            dark = np.isnan(value) or value > half
            axes.text(
                column, row, text, ha="center", va="center", fontsize=6,
                color="black" if dark else "white",
            )  # fmt: skip
    figure.colorbar(image, ax=axes, label="nats", shrink=0.8)


def _figure(width: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(text: str) -> str:
    """A token's text for an axis: visible, and no mathematics to matplotlib."""
    visible = repr(text)[1:-1].replace(" ", "\N{OPEN BOX}")
    return visible.replace("$", r"\$")
