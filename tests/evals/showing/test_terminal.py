"""Shades and the escaping of what must not reach a terminal."""

import json
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding_evals.shell.output import to_json
from decoding_evals.showing.terminal import (
    SHADES,
    console,
    counted,
    harmless,
    legend,
    number,
    print_table,
    shaded,
    titled,
)


def test_escapes_are_spelt_out():
    assert harmless("a\x1b[31mb\x07\r\x9b") == "a\\x1b[31mb\\x07\\r\\x9b"
    assert harmless("line\n\ttab é 你 🙂") == "line\n\ttab é 你 🙂"
    assert harmless("\u202egnp.exe\u2066\u2028") == "\\u202egnp.exe\\u2066\\u2028"


@given(st.text())
@settings(derandomize=True)
def test_no_control_character_survives(text):
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in harmless(text))


@given(st.text())
@settings(derandomize=True)
def test_json_is_printable_ascii_and_round_trips(text):
    line = to_json({"text": text})
    assert all(" " <= character <= "~" for character in line)
    assert json.loads(line) == {"text": text}


def test_shades_follow_their_bounds_and_leave_line_breaks_bare():
    assert [bound for bound, _ in SHADES] == sorted(bound for bound, _ in SHADES)
    for entropy, index in [(0.0, 0), (0.99, 0), (1.0, 1), (1.99, 1), (3.0, 3), (4.0, 4), (50.0, 4)]:
        spans = shaded("a\nb", entropy).spans
        style = SHADES[index][1]
        assert [span.style for span in spans] == ([] if style is None else [style, style])
        assert all("\n" not in "a\nb"[span.start : span.end] for span in spans)


def test_every_shade_is_readable():
    """WCAG contrast of at least 4.5 between text and background."""

    def luminance(color):
        channels = [c / 255 for c in color.get_truecolor()]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lights = []
    for _, style in SHADES[1:]:
        back, front = luminance(style.bgcolor), luminance(style.color)
        lights.append(back)
        assert (max(back, front) + 0.05) / (min(back, front) + 0.05) >= 4.5
    # Ordered by lightness, so the scale also reads in greyscale.
    assert lights == sorted(lights, reverse=True)


def test_a_console_writes_markup_and_long_lines_as_they_are(capsys):
    console(color=False).print("[bold]" + "x" * 300 + "[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]" + "x" * 300 + "[/bold] :smile:\n"


def test_legend_names_every_shade():
    assert legend().plain == "entropy in nats  0–1  1–2  2–3  3–4  4+ "


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_no_table_is_cut(columns, capsys, monkeypatch):
    """Text folds, figures stay whole, and a line may be longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    table = titled("a title")
    name, figures = (
        "temperature=0.7,top_p=0.9,min_p=0.05",
        ["12.345", "infinite", "0.0012 ± 0.0001"],
    )
    table.add_column("setting")
    for label in ("varentropy", "KL", "entropy"):
        table.add_column(label, justify="right")
    table.add_row(name, *figures)
    print_table(table)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = out.splitlines()
    assert all(figure in lines[2] for figure in figures) and "varentropy" in lines[1]
    folded = "".join(line[: line.find("  ")] if "  " in line else line for line in lines[2:])
    assert folded.replace(" ", "") == name
    assert "…" not in out and max(map(len, lines)) <= max(columns, 60)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (3, "3"),
        (12_345, "12,345"),
        (1.0, "1.0000"),
        (12.5, "12.500"),
        (12_345.6, "12346"),
        (123_456.7, "123,457"),
        (1e20, "1e+20"),
        (0.0, "0.0000"),
        (-0.0, "0.0000"),
        (-1e-9, "0.0000"),
        (0.99999, "1.0000"),
        (-2.5, "-2.5000"),
    ],
)
def test_figures_of_a_column_line_up(value, text):
    assert number(value) == text


def test_counts_agree_with_their_nouns():
    assert [counted(n, "token") for n in (0, 1, 2000)] == ["0 tokens", "1 token", "2,000 tokens"]
