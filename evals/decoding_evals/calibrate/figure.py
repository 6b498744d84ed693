"""Reliability before and after calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import BLUE, GREY, ORANGE, new_figure, short, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(record: dict[str, Any]) -> Figure | None:
    """Accuracy against confidence in bins of equal mass, from the record of `decoding calibrate`.

    On the diagonal, stated probabilities are true; below it, the model is too sure of itself. None
    where an interruption came before any was measured.
    """
    if record["ece_before"] is None:
        return None
    figure, axes = new_figure(width=5.6, height=5.2)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for when, color, marker, name in (
        ("before", ORANGE, "s", "as it is"),
        ("after", BLUE, "o", record["setting"].split(",")[0]),
    ):
        bins = record[f"reliability_{when}"]
        axes.plot(
            [row["confidence"] for row in bins], [row["accuracy"] for row in bins],
            color=color, marker=marker, markersize=4.5, linewidth=1.4,
            label=f"{name}: ECE {record[f'ece_{when}']:.3f}",
        )  # fmt: skip
    axes.set_xlim(0, 1.01)  # room for the last point
    axes.set_ylim(0, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence: probability of the favourite token")
    axes.set_ylabel("accuracy: how often it is the one")
    title = f"{short(visible(record['model']), 40)}: reliability"
    axes.set_title(title, loc="left", parse_math=False)
    axes.legend(frameon=False, loc="best")
    return figure
