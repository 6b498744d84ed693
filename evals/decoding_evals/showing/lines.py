"""Lines for a reader: what would act on a terminal, or hide text, is spelt out."""

from __future__ import annotations

import sys
from unicodedata import category

import click

_SPELT_OUT = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LEFT = {"\n", "\t", "\u200c", "\u200d"}
"""The last two are the joiners, without which Persian and families of emoji fall apart."""


def harmless(text: str) -> str:
    """Text in which control and format characters are spelt out, as in `\\x1b`.

    They are those of Unicode's Cc (but tab and newline), Cf (but the two joiners), Zl and Zp, and
    lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(c)[1:-1] if category(c) in _SPELT_OUT and c not in _LEFT else c for c in text
    )


def in_a_line(text: str) -> str:
    """The same in one line: newlines and tabs are spelt out too."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def quoted(text: str, most: int = 60) -> str:
    """A text in one line, between quotation marks; a long one is cut at its end."""
    plain = in_a_line(text)
    return f"“{plain if len(plain) <= most else plain[: most - 1] + '…'}”"


def say(text: str, *, stderr: bool = False) -> None:
    """Write a line that is harmless, and on a terminal breaks between words."""
    stream = sys.stderr if stderr else sys.stdout
    if not stream.isatty():
        click.echo(harmless(text), err=stderr)
        return
    from rich.console import Console

    Console(file=stream, color_system=None, markup=False, emoji=False).print(harmless(text))


def note(text: str) -> None:
    """The same on standard error, where it is beside what was asked for."""
    say(text, stderr=True)
