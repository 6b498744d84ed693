"""Text that arrives in pieces: lines of a terminal break between words, a pipe gets it as it is."""

import io
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from decoding_evals.showing.flow import Flow
from decoding_evals.showing.terminal import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def flowed(pieces, width=20, file=None):
    """What a terminal of so many columns gets."""
    file = Terminal() if file is None else file
    screen = console(False, file=file)
    screen.width = width
    flow = Flow(screen)
    for piece in pieces:
        flow.write(Text(piece))
    flow.end_line()
    return file.getvalue()


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=30)


@given(WORDS, st.data())
def test_lines_break_where_textwrap_breaks_them(words, data):
    """However the text is cut into pieces."""
    text = " ".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert flowed(pieces).rstrip("\n").split("\n") == textwrap.wrap(text, 20)


@given(st.lists(st.text(st.sampled_from("ab \n你é"), max_size=9)), st.integers(2, 30))
def test_nothing_but_spaces_is_lost_and_no_line_is_too_long(pieces, width):
    text = "".join(pieces)
    got = flowed(pieces, width)
    assert "".join(got.split()) == "".join(text.split())
    assert got.count("\n") >= text.count("\n") + 1
    for line in got.split("\n"):
        # A word longer than a line is left to the terminal.
        if all(cell_len(word) <= width for word in line.split()):
            assert cell_len(line.rstrip()) <= width or " " not in line.strip()


def test_line_breaks_and_indents_of_the_text_stay():
    text = "def f(x):\n    return x\n\n\tdone"
    assert flowed(text) == "def f(x):\n    return x\n\n        done\n"


def test_wide_characters_break_between_them():
    assert flowed(["你好世界", "你好世界"], width=10) == "你好世界你\n好世界\n"
    assert flowed(["ab你好 cd"], width=5) == "ab你\n好 cd\n"


def test_a_family_of_emoji_is_not_broken():
    family = "👨‍👩‍👧‍👦"
    assert family in flowed(["aaa ", family, " b"], width=6)


@pytest.mark.parametrize("text", ["word " * 30, "x" * 300, "a\tb\n" * 3])
def test_elsewhere_text_is_as_it_is(text):
    assert flowed([text], file=io.StringIO()).rstrip("\n") == text.expandtabs(8).rstrip("\n")


def test_a_word_is_written_as_soon_as_the_next_begins():
    file = Terminal()
    flow = Flow(console(False, file=file))
    flow.write(Text("Once up"))
    assert file.getvalue() == "Once"
    flow.write(Text("on a"))
    assert file.getvalue() == "Once upon"
    flow.flush()
    assert file.getvalue() == "Once upon a"
