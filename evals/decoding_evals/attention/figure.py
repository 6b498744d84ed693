"""Attention by layer and head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding_evals.showing.figures import blank_figure, short, text_name, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_attention(record: dict[str, Any]) -> Figure:
    """Heat maps of normalised entropy, with and without the sink, from `decoding attention`.

    Dark is narrow and light is broad; grey is undefined, and a cross marks a collapsed head.
    """
    layers, heads = max(1, record["layers"]), max(1, record["heads"])
    height = min(9.0, 2.2 + 0.25 * layers)
    figure = blank_figure(8.4, height)
    from matplotlib import colormaps

    panels = figure.subplots(1, 2, sharey=True)
    colors = colormaps["cividis"].with_extremes(bad="#dddddd")
    for axes, key, title in (
        (panels[0], "normalized_entropy", "all keys"),
        (panels[1], "without_sink_normalized_entropy", "without the first token"),
    ):
        values = np.full((layers, heads), np.nan)
        for layer, row in enumerate(record[key]):
            values[layer, : len(row)] = np.array(row, dtype=np.float64)  # None becomes NaN
        image = axes.imshow(
            np.ma.masked_invalid(values), cmap=colors, vmin=0, vmax=1, aspect="auto"
        )
        axes.set_xticks(range(0, heads, -(-heads // 16)))
        axes.set_yticks(range(0, layers, -(-layers // 24)))
        axes.set_xlabel("head")
        axes.set_title(title, loc="left", fontsize=10)
    for layer, head in record["collapsed_heads"]:
        panels[0].plot(head, layer, "x", color="white", markersize=5)
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, label="entropy / ln(visible keys)")
    model = short(visible(Path(record["model"]).name), 30)
    figure.suptitle(
        f"{model} on {text_name(record, 30)}: how broadly the heads look",
        x=0.01, ha="left", fontsize=12, parse_math=False,
    )  # fmt: skip
    return figure
