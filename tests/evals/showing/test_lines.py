"""What is spelt out before a reader sees it, on every way to a terminal."""

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decoding_evals.showing.html import to_html
from decoding_evals.showing.lines import harmless, in_a_line, note, quoted
from decoding_evals.showing.terminal import console, print_table, shaded, titled, to_text

JOINERS = "\u200c\u200d"
HOSTILE = "a\x1b[2Jb\x07\x9b\u202egnp\u2066\u2028\u2029\xad\u200b\ufeff\U000e0041\u061cz"


def harmful(text):
    """Characters of Unicode's Cc, Cf, Zl, Zp that are neither newline, tab nor joiners."""
    kinds = {"Cc", "Cf", "Zl", "Zp"}
    return [c for c in text if unicodedata.category(c) in kinds and c not in "\n\t" + JOINERS]


def test_every_control_and_format_character_but_the_joiners_is_spelt_out():
    found = [c for c in map(chr, range(sys.maxunicode + 1)) if harmless(c) != c]
    kinds = {unicodedata.category(c) for c in found}
    assert kinds == {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert all(harmless(c) == ascii(c)[1:-1] for c in found)
    assert not harmful(harmless("".join(map(chr, range(sys.maxunicode + 1)))))


@pytest.mark.parametrize(
    "text",
    ["می‌خواهم", "👨‍👩‍👧‍👦", "क्‍ष", "🏳️‍🌈", "naïve 你 e\u0301", 'He\'s "in"', "C:\\new"],
)
def test_text_that_people_write_is_shown_as_it_is(text):
    assert harmless(text) == in_a_line(text) == text
    assert quoted(text) == f"“{text}”"
    assert shaded(text, 3.5).plain == text


def test_in_a_line_newlines_and_tabs_are_spelt_out():
    assert in_a_line("a\n\tb\r") == "a\\n\\tb\\r"
    assert quoted("x" * 100, 10) == "“xxxxxxxxx…”"


@given(st.text())
@example(HOSTILE)
def test_what_is_spelt_out_once_is_not_spelt_out_again(text):
    assert harmless(harmless(text)) == harmless(text) and not harmful(harmless(text))


def hostile_table():
    table = titled(f"title {HOSTILE}", f"head {HOSTILE}", ">n")
    table.add_row(f"cell {HOSTILE}", HOSTILE)
    table.add_row(shaded(HOSTILE, 2.5), "1")
    table.caption = f"caption {HOSTILE}"
    return table


@pytest.mark.parametrize("terminal", [False, True])
def test_no_way_to_a_terminal_lets_them_through(terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(f"line {HOSTILE}", hostile_table())
    note(f"Error: {HOSTILE}")
    console(False).print(HOSTILE)
    out, err = capsys.readouterr()
    assert not harmful(out) and not harmful(err)
    assert "".join(out.split()).count("gnp") == 8 and err.count("gnp") == 1


def test_neither_print_nor_a_notebook_lets_them_through():
    parts = [f"line {HOSTILE}", hostile_table()]
    for text in (to_text(parts), to_html(parts)):
        assert not harmful(text) and text.count("gnp") == 7


def test_columns_stay_in_line_behind_what_is_spelt_out():
    table = titled(None, "text", "n", show_header=False)
    table.add_row("a\u200b", "1")
    table.add_row("abcdefg", "2")
    assert to_text([table]).splitlines() == ["a\\u200b  1", "abcdefg  2"]
