"""Lines for a reader: what would act on a terminal, or hide text, is spelt out."""

from __future__ import annotations

import sys

import click

from decoding.models.faults import visible


def harmless(text: str) -> str:
    """Text in which control and format characters but newline and tab are spelt out; see
    `decoding.models.faults.visible`."""
    return visible(text, kept="\n\t")


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
