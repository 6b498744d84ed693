"""Records to draw, and what a figure shows once it is drawn."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def scores(texts, name="story.txt"):
    tokens = [
        {"text": text, "entropy_nats": 1 + index % 3, "surprisal_nats": index % 5}
        for index, text in enumerate(texts)
    ]
    return {"name": name, "tokens": tokens}


def comparison(size, names=None, seed=0, model="builtin:stories"):
    rng = np.random.default_rng(seed)
    kl = rng.gamma(1, 0.5, (size, size))
    np.fill_diagonal(kl, 0)
    kl = [[None if i < j and (i + j) % 3 else kl[i][j] for j in range(size)] for i in range(size)]
    return {
        "model": model,
        "settings": names or [f"temperature={0.5 + i / 100:g},top_p=0.9" for i in range(size)],
        "entropy_nats": rng.uniform(0, 5, size).tolist(),
        "coverage": rng.uniform(0.4, 1, size).tolist(),
        "covered_cross_entropy_nats": rng.uniform(0, 5, size).tolist(),
        "kl_nats": kl,
    }


def drawn(figure):
    """The figure's texts with their places, drawn in earnest."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    beyond = set()  # ticks outside the axis, which are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond.update(t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high)
    texts = [text for text in figure.findobj(Text) if text.get_text() and text not in beyond]
    return [(t, t.get_window_extent(renderer)) for t in texts if t.get_visible()]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def overlap(one, other, slack=1.0):
    return (
        one.x0 + slack < other.x1 and other.x0 + slack < one.x1
        and one.y0 + slack < other.y1 and other.y0 + slack < one.y1
    )  # fmt: skip
