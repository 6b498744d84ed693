"""Entropy and surprisal along a text, drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from decoding_evals.score.figure import plot_scores
from decoding_evals.shell.plots import write_plot
from decoding_evals.showing.figures import BLUE, ORANGE
from pictures import drawn, labels, overlap, scores

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


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
    "$x$": "$x$", "$": "$", "\\$": "\\$", "a_b^c": "a_b^c", "\\frac{1}{2}": "\\frac{1}{2}",
    "$$": "$$", "${": "${", "\x1b[31m": "\\x1b[31m", "\t": "\\t", "\r\n": "\\r\\n", "\\": "\\",
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


def test_long_names_stay_on_the_page():
    for texts in ("abc", "abc" * 30):
        figure = plot_scores(scores(texts, name="story" * 60))
        for text, box in drawn(figure):
            assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text
