"""Settings beside each other, drawn."""

import itertools
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import AxLine

from decoding_evals.compare.figure import plot_comparison
from decoding_evals.showing.figures import BLUE, GREY
from pictures import comparison, drawn, labels, overlap

pytestmark = pytest.mark.filterwarnings("error")


def test_the_frontier_is_what_no_other_setting_beats():
    record = comparison(20)
    record["covered_cross_entropy_nats"][3] = None  # covers nothing
    figure = plot_comparison(record)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "mean entropy of q (nats)"
    assert "cross-entropy" in axes.get_ylabel() and "nats" in axes.get_ylabel()
    columns = ("entropy_nats", "covered_cross_entropy_nats", "coverage")
    points = zip(*(record[name] for name in columns), strict=True)
    points = [(h, ce, 1 - c) for h, ce, c in points if ce is not None]
    best = [p for p in points if not any(q != p and np.less_equal(q, p).all() for q in points)]
    assert 1 < len(best) < len(points)
    shown = {}
    for scatter in axes.collections[:2]:
        [color] = {to_hex(color) for color in scatter.get_facecolors()}
        places, sizes = scatter.get_offsets(), scatter.get_sizes()
        shown[color] = {tuple(place): size for place, size in zip(places, sizes, strict=True)}
    assert {*shown[BLUE]} == {point[:2] for point in best}
    assert {*shown[GREY]} == {point[:2] for point in points if point not in best}
    # The area of a mark grows with what is cut off.
    sizes = shown[BLUE] | shown[GREY]
    order = sorted(points, key=lambda point: point[2])
    assert [sizes[point[:2]] for point in order] == sorted(sizes.values())
    [diagonal] = [line for line in axes.lines if isinstance(line, AxLine)]
    assert diagonal.get_slope() == 1 and diagonal.get_xy1() == (0, 0)


def test_the_heat_map_shows_every_pair():
    record = comparison(6)
    figure = plot_comparison(record)
    heat, bar = figure.axes[1], figure.axes[2]
    assert "nats" in heat.get_title(loc="left") and bar.get_ylabel() == "nats"
    assert (heat.get_xlabel(), heat.get_ylabel()) == ("to setting j", "from setting i")
    assert labels(heat.xaxis) == [f"[{i}]" for i in range(1, 7)]
    assert labels(heat.yaxis) == [f"[{i + 1}] {s}" for i, s in enumerate(record["settings"])]
    values = heat.images[0].get_array()
    cells = {tuple(map(round, t.get_position()[::-1])): t.get_text() for t in heat.texts}
    for i, row in enumerate(record["kl_nats"]):
        for j, value in enumerate(row):
            assert values.mask[i, j] == (value is None)
            assert cells[i, j] == ("∞" if value is None else f"{value:.2f}")
            if value is not None:
                assert values[i, j] == value
    assert heat.images[0].get_clim() == (0, max(x for row in record["kl_nats"] for x in row if x))


def luminance(color):
    """Relative luminance, WCAG 2."""
    rgb = np.asarray(color[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_figures_in_cells_stand_out_and_colours_do_in_greyscale():
    record = comparison(12)
    record["kl_nats"] = [[(12 * i + j) / 143 for j in range(12)] for i in range(12)]
    heat = plot_comparison(record).axes[1]
    image = heat.images[0]
    for text in heat.texts:
        column, row = map(round, text.get_position())
        cell = luminance(image.cmap(image.norm(record["kl_nats"][row][column])))
        ink = 0.0 if text.get_color() == "black" else 1.0
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 3
    scale = [luminance(image.cmap(x)) for x in np.linspace(0, 1, 20)]
    assert scale == sorted(scale)
    infinite = luminance(image.cmap(np.ma.masked_array([0.0], [True]))[0])
    assert abs(infinite - scale[0]) > 0.3 and abs(infinite - scale[10]) > 0.3


@pytest.mark.parametrize("size", [1, 12, 60, 1000])
def test_every_number_of_settings_is_legible_at_the_width_of_a_page(size):
    figure = plot_comparison(comparison(size))
    width, height = figure.get_size_inches()
    assert width <= 9 and height <= 13
    texts = drawn(figure)
    page = figure.bbox
    for text, box in texts:
        # At 800 pixels, 6 points are more than 7 pixels.
        assert text.get_fontsize() >= 6
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, text
        assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, text
    frontier, heat = figure.axes[:2]
    assert 1 <= len(heat.get_yticks()) <= 60
    for group in (frontier.texts, heat.get_yticklabels(), heat.get_xticklabels()):
        boxes = [box for text, box in texts if text in group]
        assert boxes
        assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    named = {text.get_text().split()[0] for text in frontier.texts}
    record = comparison(size)
    costs = zip(record["entropy_nats"], record["covered_cross_entropy_nats"], strict=True)
    [least, *_] = sorted((cost, index) for index, cost in enumerate(costs))
    assert f"[{least[1] + 1}]" in named


@pytest.mark.parametrize("size", [25, 60])
def test_names_beside_points_cover_no_point(size):
    record = comparison(size)
    figure = plot_comparison(record)
    texts = drawn(figure)
    frontier = figure.axes[0]
    points = frontier.transData.transform(
        list(zip(record["entropy_nats"], record["covered_cross_entropy_nats"], strict=True))
    )
    for text, box in texts:
        if text in frontier.texts:
            inside = [box.x0 < x < box.x1 and box.y0 < y < box.y1 for x, y in points]
            assert not any(inside), text


def test_settings_with_all_fields_leave_room_for_the_picture():
    name = "temperature=0.9,top_k=1000,top_p=0.98,min_p=0.001,typical_p=0.9,epsilon_cutoff=1e-05"
    figure = plot_comparison(comparison(4, [f"{name},eta_cutoff=0.000{i}" for i in range(4)]))
    texts = drawn(figure)
    assert all(axes.get_window_extent().width > 0.2 * figure.bbox.width for axes in figure.axes[:2])
    assert all(figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for _, box in texts)


def test_all_kl_infinite():
    record = comparison(3)
    record["kl_nats"] = [[0 if i == j else None for j in range(3)] for i in range(3)]
    figure = plot_comparison(record)
    assert [text.get_text() for text in figure.axes[1].texts].count("∞") == 6
    low, high = figure.axes[1].images[0].get_clim()
    assert low == 0 < high
    drawn(figure)


def test_settings_that_do_not_differ_in_anything():
    record = comparison(5)
    for name in ("entropy_nats", "covered_cross_entropy_nats", "coverage"):
        record[name] = [1.0] * 5
    record["kl_nats"] = [[0.0] * 5] * 5
    figure = plot_comparison(record)
    boxes = [box for text, box in drawn(figure) if text in figure.axes[0].texts]
    assert boxes and not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))


def test_the_name_of_a_model_is_no_mathematics():
    figure = plot_comparison(comparison(2, model="/m/$a_b$/日"))
    title = figure.axes[0]._left_title
    assert title.get_text() == "/m/$a_b$/\\u65e5: entropy and cross-entropy"
    assert not title.get_parse_math()
    drawn(figure)


def test_long_names_stay_on_the_page():
    figure = plot_comparison(comparison(2, model="/models/" + "very-long-name-" * 20))
    for text, box in drawn(figure):
        assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text


def test_figures_leave_no_trace_in_pyplot():
    assert isinstance(plot_comparison(comparison(2)), Figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
