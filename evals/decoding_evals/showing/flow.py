"""Text that arrives in pieces, on a terminal that breaks lines only between words."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_WIDE = (
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
    "\U0001f300-\U0001f3fa\U0001f400-\U0001faff\U00020000-\U0003fffd]"
)
"""Characters two columns wide, between which a line may break."""
_BREAK = re.compile(rf"(?<=\n)|(?<=[^ \t\n])(?=[ \t\n])|(?<={_WIDE})(?={_WIDE})")
"""Between words, each with the white space in front of it; and behind a newline."""


class Flow:
    """Writes pieces of text to a console.

    On a terminal a word is held back until it has ended, because its last letters decide on which
    line it stands. Elsewhere all text is written at once, as it is.
    """

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._wraps = screen.file.isatty()
        self._column = 0
        self._held = Text()

    def write(self, piece: Text) -> None:
        """Write a piece, but for the word that it leaves open."""
        if not self._wraps:
            self._screen.print(piece, end="")
            return
        self._held.append_text(piece)
        ends = [match.start() for match in _BREAK.finditer(self._held.plain)]
        *words, self._held = self._held.divide(ends)
        for word in words:
            self._place(word)
        if cell_len(self._held.plain) > self._screen.width:
            self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        self._place(self._held)
        self._held = Text()

    def end_line(self) -> None:
        """Write what is held back, and a newline."""
        self.flush()
        self._screen.print()
        self._column = 0

    def _place(self, word: Text) -> None:
        word.expand_tabs(8)
        letters = word.plain.lstrip(" ")
        if letters and self._column + cell_len(word.plain) > self._screen.width:
            if letters != "\n" and self._column:
                self._screen.print()
                self._column = 0
            word = word[len(word.plain) - len(letters) :]
        self._screen.print(word, end="")
        self._column += cell_len(word.plain)
        if self._column > self._screen.width:  # a word longer than a line
            self._column %= self._screen.width
        if word.plain.endswith("\n"):
            self._column = 0
