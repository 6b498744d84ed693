"""Decoding settings beside each other."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import BLUE, GREY, blank_figure, short, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_comparison(record: dict[str, Any]) -> Figure:
    """Entropy and cross-entropy of settings, and KL heat map, from their record.

    Blue is the frontier: the settings of which no other has less entropy, less cross-entropy and
    cuts off fewer tokens at once. On the dotted line the text is as surprising as q expects; above
    it q is too sure.

    Settings carry the numbers of the tables. The width is that of a page, so that labels stay
    legible; of more than 60 settings only some have one.
    """
    heat_height = min(8.0, 2.0 + 0.25 * len(record["settings"]))
    figure = blank_figure(8.4, 4.6 + heat_height)
    frontier, heat = figure.subplots(2, 1, height_ratios=[4.6, heat_height])
    _heat(figure, heat, record)
    _frontier(figure, frontier, record)
    return figure


def _frontier(figure: Figure, axes: Axes, record: dict[str, Any]) -> None:
    """Cross-entropy of the text's covered tokens against entropy; a mark is as large as what is cut
    off. A setting that covers nothing has no cross-entropy and no mark."""
    points = {
        index: (entropy, cross_entropy)
        for index, (entropy, cross_entropy) in enumerate(
            zip(record["entropy_nats"], record["covered_cross_entropy_nats"], strict=True)
        )
        if cross_entropy is not None
    }
    cut = [1 - coverage for coverage in record["coverage"]]
    costs = {index: (*point, cut[index]) for index, point in points.items()}
    best = [index for index in points if not any(_beats(c, costs[index]) for c in costs.values())]
    order = sorted(points, key=lambda index: (index not in best, points[index]))
    for members, color in ((set(points) - {*best}, GREY), (best, BLUE)):
        axes.scatter(
            [points[i][0] for i in members], [points[i][1] for i in members],
            s=[_area(cut[i]) for i in members], color=color, alpha=0.55, linewidth=0, zorder=2,
        )  # fmt: skip
    axes.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.set_xlabel("mean entropy of q (nats)")
    axes.set_ylabel("cross-entropy of the text's\ncovered tokens (nats)")
    axes.margins(x=0.15, y=0.15)
    axes.set_xlim(left=-0.05 * max(1.0, *record["entropy_nats"]))
    title = f"{short(visible(record['model']), 40)}: entropy and cross-entropy"
    axes.set_title(title, loc="left", pad=40, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)
    named = [*order[:1], *best[-1:], *order] if len(points) <= 60 else best
    _annotate(figure, axes, record, points, list(dict.fromkeys(named))[:60])


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _area(share: float) -> float:
    """The area of a mark, in square points."""
    return 20 + 600 * share


def _legend(axes: Axes) -> None:
    """A legend under the title, where there are no points."""
    axes.plot([], [], color=GREY, linewidth=1, linestyle=":", label="as surprising as q expects")
    for color, share, label in (
        (BLUE, 0.0, "frontier: no other is lower on all three"),
        (GREY, 0.0, "cuts off 0 %"),
        (GREY, 0.1, "10 %"),
        (GREY, 0.4, "40 % of the tokens"),
    ):
        axes.scatter([], [], _area(share), color=color, alpha=0.55, linewidth=0, label=label)
    axes.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3,
        fontsize=8, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def _annotate(
    figure: Figure,
    axes: Axes,
    record: dict[str, Any],
    points: dict[int, tuple[float, float]],
    order: list[int],
) -> None:
    """Write names beside points, in the given order, where they cover nothing.

    From 13 to 60 settings, numbers stand in for names, which the heat map shows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    names = _names(record)
    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # so that places are known
    taken: list[Any] = []
    if len(names) <= 60:
        places = axes.transData.transform([*points.values()])
        taken += [Bbox([(x - 3, y - 3), (x + 3, y + 3)]) for x, y in places]
    for index in order:
        number = names[index].split()[0]
        texts = [number] if 12 < len(names) <= 60 else [names[index], number]
        away = 3 + (_area(1 - record["coverage"][index]) / math.pi) ** 0.5
        offsets = ((away, -3), (away, 4), (-away, 4), (-away, -8), (away, -8))
        for text, (across, up) in product(texts, offsets):
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
