"""The odds of candidates along a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import GREY, new_figure, short, text_name, token_label, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's colours, without the yellow that is hard to see on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
FURTHEST = 6.0
"""Powers of ten beyond which odds are drawn at the edge."""


def plot_identification(
    record: dict[str, Any], tokens: Sequence[str], log_odds_nats: NDArray[Any]
) -> Figure:
    """Posterior odds of each candidate against all others after each token.

    `tokens` are the texts of the n scored tokens; `log_odds_nats` is `(n + 1, K)`, the prior first.
    """
    import numpy as np

    figure, axes = new_figure(width=9.0)
    decades = np.clip(log_odds_nats / math.log(10), -FURTHEST, FURTHEST)
    places = np.arange(len(decades))
    several = len(set(record["models"])) > 1
    final = [-math.inf if p is None else p for p in record["posterior"]]
    # Those that last longest come first, the most probable before the others.
    lasting = np.isfinite(log_odds_nats).sum(0)
    order = sorted(range(len(final)), key=lambda k: (-final[k], -lasting[k]))
    for place, k in enumerate(order):
        name = record["settings"][k] + (f" · {record['models'][k]}" if several else "")
        coloured = place < len(COLOURS)
        alive = log_odds_nats[:, k] > -math.inf
        end = len(places) if alive.all() else int(alive.argmin())
        axes.plot(
            places[:end], decades[:end, k], linewidth=1.6 if coloured else 0.8,
            color=COLOURS[place] if coloured else GREY, zorder=len(order) - place + 2,
            label=short(visible(name), 40) if coloured else None,
        )  # fmt: skip
        if end < len(places):
            axes.plot(
                places[end - 1], decades[end - 1, k], "X", markersize=7, clip_on=False,
                color=COLOURS[place] if coloured else GREY, zorder=len(order) + 3,
            )  # fmt: skip
    _odds_axis(axes, record["min_odds"])
    axes.set_xlim(0, max(1, len(tokens)))
    if 0 < len(tokens) <= 60:
        labels = [token_label(text) for text in tokens]
        axes.set_xticks(places[1:], labels, rotation=90, fontsize=7, parse_math=False)
        axes.set_xlabel("after token")
    else:
        axes.set_xlabel("tokens read")
    title = f"{text_name(record, 40)}: which candidate wrote it"
    axes.set_title(title, loc="left", parse_math=False)
    more = len(order) - len(COLOURS)
    if more > 0:
        axes.plot([], [], color=GREY, linewidth=0.8, label=f"{more} more")
    if record["ruled_out"]:
        axes.plot(
            [], [], "X", color=GREY, markersize=7, linestyle="", label="ruled out by the next token"
        )
    axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8
    )
    return figure


def _odds_axis(axes: Axes, min_odds: float) -> None:
    """Powers of ten as odds, and a line at those from which on a candidate is named."""
    bar = math.log10(min_odds)
    axes.axhline(bar, color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.annotate(
        f"odds of {min_odds:g}", (1, bar), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8, color="#555555",
    )  # fmt: skip
    ticks = range(-6, 7, 2)
    names = [f"1 : {10**-tick:,}" if tick < 0 else f"{10**tick:,} : 1" for tick in ticks]
    names[0], names[-1] = f"≤ {names[0]}", f"≥ {names[-1]}"
    axes.set_yticks(list(ticks), names, parse_math=False)
    axes.set_ylim(-FURTHEST - 0.3, FURTHEST + 0.3)
    axes.set_ylabel("posterior odds against all others")
