"""Decoding settings beside each other."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import BLUE, GREY, short, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    title = f"{short(visible(record['model']), 40)}: entropy and coverage"
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
    return [f"[{number}] {short(name, 45)}" for number, name in enumerate(record["settings"], 1)]
