"""Risk–coverage curves of uncertainty estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import GREY, new_figure, short, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours without their yellow, which is too light for a line on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))


def plot_risk_coverage(record: dict[str, Any]) -> Figure:
    """Risk of the answers that are kept, by the share that is kept, from a record's `evaluation`.

    One curve an estimator, with the line of random rejection and that of a perfect order; the
    legend goes from the smallest area to the largest. Up to 30 estimators have a form of their own.
    """
    evaluation = record["evaluation"]
    found = {
        name: entry for name, entry in evaluation["estimators"].items() if entry["aurc"] is not None
    }
    figure, axes = new_figure(width=8.8, height=max(4.2, 1.6 + 0.23 * len(found)))
    lines = []
    highest = evaluation["risk"] or 0.05
    for index, (name, entry) in enumerate(found.items()):
        curve = entry["risk_coverage"]
        [line] = axes.plot(
            curve["coverage"], curve["risk"], linewidth=1.4, gid=name,
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_DASHES[index // len(_COLOURS) % len(_DASHES)],
            marker="." if len(curve["risk"]) == 1 else None,
        )  # fmt: skip
        # The first few answers say little and swing between 0 and 1: they do not set the scale.
        highest = max(highest, *curve["risk"][len(curve["risk"]) // 20 :])
        lines.append((entry["aurc"], short(visible(name), 36), line))
    if evaluation["risk"] is not None:
        oracle = evaluation["oracle"]
        curve = oracle["risk_coverage"]
        [perfect] = axes.plot(
            curve["coverage"], curve["risk"], color="black", linewidth=1.0, gid="oracle"
        )
        chance = axes.axhline(
            evaluation["risk"], color=GREY, linewidth=1.2, linestyle=(0, (1, 1.5)), gid="random"
        )
        lines += [(oracle["aurc"], "perfect order", perfect)]
        lines += [(evaluation["risk"], "random order", chance)]
    lines.sort(key=lambda entry: entry[0])
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, min(1.02, 1.08 * highest))
    axes.set_xlabel("coverage: share of answers kept, the most certain first")
    axes.set_ylabel("risk: mean of 1 - quality")
    title = f"{short(visible(record['model']), 40)}: risk–coverage"
    axes.set_title(f"{title}, {evaluation['prompts']:,} prompts", loc="left", parse_math=False)
    legend = axes.legend(
        [line for _, _, line in lines],
        [f"{name}  {area:.3f}" for area, name, _ in lines],
        title="area under the curve", alignment="left", frameon=False, fontsize=8,
        title_fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0,
        handlelength=3.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
