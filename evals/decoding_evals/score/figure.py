"""Entropy and surprisal along a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decoding_evals.showing.figures import BLUE, ORANGE, new_figure, text_name, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_scores(record: dict[str, Any]) -> Figure:
    """Entropy and surprisal along a text, from the record of `decoding score`.

    Up to 60 tokens label the axis; for a longer text the lines are running means.
    """
    import numpy as np

    tokens = record["tokens"]
    readable = len(tokens) <= 60
    figure, axes = new_figure(width=min(9.0, max(6.4, 0.2 * len(tokens))))
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
        labels = [token_label(token["text"]) for token in tokens]
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
    title = f"{text_name(record, 30)}: entropy and surprisal along the text"
    axes.set_title(title, loc="left", parse_math=False)
    axes.legend(frameon=False, loc="upper left", ncols=2)
    return figure
