"""Pictures: what the figures hold, and files that are whole or not there."""

import io
import itertools
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from decoding_cli.app import main
from decoding_evals.compare.figure import plot_comparison
from decoding_evals.score.figure import plot_scores
from decoding_evals.showing import figures as plots
from decoding_evals.showing.figures import BLUE, ORANGE, check_plot, write_plot

BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}
ENDS = {".png": b"IEND\xaeB`\x82", ".svg": b"</svg>\n", ".pdf": b"%%EOF\n"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder, and no warning reaches the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DECODING_MODEL", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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


# Files.


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
@pytest.mark.parametrize("kind", ["scores", "comparison"])
def test_files_are_whole_and_alone(suffix, kind):
    figure = plot_scores(scores("abc")) if kind == "scores" else plot_comparison(comparison(3))
    path = Path(f"out{suffix}")
    path.write_bytes(b"old")
    write_plot(figure, path)
    content = path.read_bytes()
    assert content.startswith(BEGINNINGS[suffix.lower()])
    assert content.endswith(ENDS[suffix.lower()])
    assert [file.name for file in Path().iterdir()] == [path.name]


def test_a_file_has_the_rights_of_any_other():
    Path("other").touch()
    write_plot(plot_scores(scores("a")), Path("out.svg"))
    assert Path("out.svg").stat().st_mode == Path("other").stat().st_mode


def test_a_failure_leaves_the_old_file_and_no_other(monkeypatch):
    path = Path("out.png")
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_plot(plot_scores(scores("a")), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in Path().iterdir()] == ["out.png"]


def test_what_cannot_be_written_is_refused_beforehand(monkeypatch):
    check_plot(None)
    check_plot(Path("out.PDF"))
    for name in ("out.gif", "out", "out.png.txt", ".png"):
        with pytest.raises(click.UsageError, match=r"--plot takes .png, .svg or .pdf, got"):
            check_plot(Path(name))
    with pytest.raises(click.ClickException, match=r"the folder of 'no/out.png' does not exist"):
        check_plot(Path("no/out.png"))
    Path("folder.png").mkdir()
    with pytest.raises(click.UsageError, match=r"--plot 'folder.png' is a folder"):
        check_plot(Path("folder.png"))
    monkeypatch.setattr(plots.os, "access", lambda *_: False)
    with pytest.raises(click.ClickException, match=r"cannot write 'out.png': Permission denied"):
        check_plot(Path("out.png"))


@pytest.mark.parametrize("command", ["score", "compare"])
@pytest.mark.parametrize(
    ("plot", "code", "message"),
    [
        ("out.jpg", 2, "Error: --plot takes .png, .svg or .pdf, got 'out.jpg'"),
        ("no/out.png", 1, "Error: the folder of 'no/out.png' does not exist"),
        (None, 1, "Error: --plot needs matplotlib: pip install 'decoding-toolkit[plot]'"),
    ],
)
def test_refusals_are_one_line_before_any_work(monkeypatch, capsys, command, plot, code, message):
    if plot is None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(f"decoding_evals.{command}.command.read_model", None)
    arguments = [command, "--plot", plot or "out.png", "--output", "out.json"]
    monkeypatch.setattr(sys, "argv", ["decoding", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Once")))
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (code, "")
    assert err == f"{message}\n"
    assert [*Path().iterdir()] == []


# Scores along a text.


def test_tokens_stand_on_the_axis_with_their_values():
    record = scores(["Once", " upon", "\n"])
    axes = plot_scores(record).axes[0]
    assert axes.get_ylabel() == "nats"
    assert labels(axes.xaxis) == ["Once", "␣upon", "\\n"]
    assert "story.txt" in axes.get_title(loc="left")
    entropy, surprisal = axes.lines
    assert entropy.get_ydata().tolist() == [t["entropy_nats"] for t in record["tokens"]]
    assert surprisal.get_ydata().tolist() == [t["surprisal_nats"] for t in record["tokens"]]
    # Told apart by form as well as by colour.
    assert (to_hex(entropy.get_color()), entropy.get_linestyle()) == (BLUE, "-")
    assert (to_hex(surprisal.get_color()), surprisal.get_marker()) == (ORANGE, "o")
    assert surprisal.get_linestyle() == "None"
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [text.split(":")[0] for text in shown] == ["entropy", "surprisal"]


ODD = {
    "$x$": "$x$", "$": "$", "\\$": "\\\\$", "a_b^c": "a_b^c", "\\frac{1}{2}": "\\\\frac{1}{2}",
    "$$": "$$", "${": "${", "\x1b[31m": "\\x1b[31m", "\t": "\\t", "\r\n": "\\r\\n", "\\": "\\\\",
    "日本": "\\u65e5\\u672c", "🦊": "\\U0001f98a", "é": "é", "\u202e": "\\u202e",
    "\ud800": "\\ud800", "": "", "{": "{", "%": "%", "&": "&", "#": "#", "\u200b": "\\u200b",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_no_text_is_mathematics_or_breaks_the_picture(suffix):
    figure = plot_scores(scores(ODD, name="a$b^2$ 日_$\\frac$.txt"))
    axes = figure.axes[0]
    assert labels(axes.xaxis) == list(ODD.values())
    for label in (*axes.get_xticklabels(), axes._left_title):
        assert not label.get_parse_math()
    assert axes.get_title(loc="left").startswith("a$b^2$ \\u65e5_$\\frac$.txt:")
    write_plot(figure, Path(f"out{suffix}"))
    assert not any(text.get_usetex() for text, _ in drawn(figure))


def test_a_long_token_is_cut():
    axes = plot_scores(scores(["-" * 500, "-" * 24, "-" * 25])).axes[0]
    cut = "-" * 11 + "…" + "-" * 12
    assert labels(axes.xaxis) == [cut, "-" * 24, cut]


def test_one_token_can_be_seen():
    record = scores(["a"])
    axes = plot_scores(record).axes[0]
    entropy, surprisal = axes.lines
    assert entropy.get_marker() != "None" and surprisal.get_marker() != "None"
    low, high = axes.get_ylim()
    assert low == 0 and high > 1


def test_no_token_is_an_empty_picture():
    write_plot(plot_scores(scores([])), Path("out.png"))
    assert Path("out.png").stat().st_size > 1000


def test_an_infinite_surprisal_is_left_out():
    record = scores("abc")
    record["tokens"][1]["surprisal_nats"] = None
    axes = plot_scores(record).axes[0]
    assert np.isnan(axes.lines[1].get_ydata()).tolist() == [False, True, False]
    assert np.isfinite(axes.get_ylim()).all()
    drawn(axes.figure)


def test_sixty_tokens_are_readable_and_a_longer_text_has_running_means():
    figure = plot_scores(scores([f"t{i}" for i in range(60)]))
    assert len(labels(figure.axes[0].xaxis)) == 60
    boxes = [box for text, box in drawn(figure) if text.get_text().startswith("t")]
    assert len(boxes) == 60
    assert not any(overlap(a, b) for a, b in itertools.pairwise(sorted(boxes, key=lambda b: b.x0)))

    record = scores([f"t{i}" for i in range(61)])
    figure = plot_scores(record)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "token" and axes.get_ylabel() == "nats"
    assert not any(label.startswith("t") for label in labels(axes.xaxis))
    _, surprisal, entropy = axes.lines
    assert surprisal.get_linestyle() != entropy.get_linestyle()
    for line, name in ((surprisal, "surprisal_nats"), (entropy, "entropy_nats")):
        values = [token[name] for token in record["tokens"]]
        want = [sum(values[i : i + 5]) / 5 for i in range(57)]
        assert line.get_ydata() == pytest.approx(want)
        assert line.get_xdata() == pytest.approx(range(2, 59))
        assert "mean of 5 tokens" in line.get_label()


# Settings.


def test_the_frontier_is_what_no_other_setting_beats():
    record = comparison(20)
    figure = plot_comparison(record)
    axes = figure.axes[0]
    assert axes.get_xlabel() == "mean entropy of q (nats)"
    assert axes.get_ylabel() == "coverage: share of true tokens kept"
    points = list(zip(record["entropy_nats"], record["coverage"], strict=True))
    best = [
        (h, c)
        for h, c in points
        if not any(a <= h and b >= c and (a, b) != (h, c) for a, b in points)
    ]
    assert list(zip(*axes.lines[0].get_data(), strict=True)) == sorted(best)
    [scatter] = axes.collections
    assert [tuple(point) for point in scatter.get_offsets()] == points
    colors = [to_hex(color) for color in scatter.get_facecolors()]
    assert [color == BLUE for color in colors] == [point in best for point in points]


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
    best = frontier.lines[0].get_xdata()
    entropy = comparison(size)["entropy_nats"]
    assert f"[{entropy.index(best[0]) + 1}]" in named


def test_names_beside_points_cover_no_point():
    record = comparison(25)
    figure = plot_comparison(record)
    texts = drawn(figure)
    frontier = figure.axes[0]
    points = frontier.transData.transform(
        list(zip(record["entropy_nats"], record["coverage"], strict=True))
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
    record["entropy_nats"], record["coverage"] = [1.0] * 5, [1.0] * 5
    record["kl_nats"] = [[0.0] * 5] * 5
    figure = plot_comparison(record)
    boxes = [box for text, box in drawn(figure) if text in figure.axes[0].texts]
    assert boxes and not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))


def test_the_name_of_a_model_is_no_mathematics():
    figure = plot_comparison(comparison(2, model="/m/$a_b$/日"))
    title = figure.axes[0]._left_title
    assert title.get_text() == "/m/$a_b$/\\u65e5: entropy and coverage"
    assert not title.get_parse_math()
    drawn(figure)


def test_long_names_stay_on_the_page():
    for figure in (
        plot_comparison(comparison(2, model="/models/" + "very-long-name-" * 20)),
        plot_scores(scores("abc", name="story" * 60)),
        plot_scores(scores("abc" * 30, name="story" * 60)),
    ):
        texts = drawn(figure)
        for text, box in texts:
            assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text


def test_figures_leave_no_trace_in_pyplot():
    assert isinstance(plot_comparison(comparison(2)), Figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
