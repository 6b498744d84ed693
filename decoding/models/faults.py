"""What is said of a model that cannot be used, safe to print whatever its files hold."""

from __future__ import annotations

from unicodedata import category

SPELT_OUT = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, formats, lone surrogates, and separators of lines: they act on a terminal, or hide."""

JOINERS = "\u200c\u200d"
"""Format characters that belong to Persian, Hindi and family emoji, and do no harm."""


class ModelLoadError(ValueError):
    """A model could not be loaded; the message says why and what to try.

    A message may quote what stands in a model's files: control characters in it are spelt out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


def visible(text: str, *, kept: str = "") -> str:
    """Text with control, format and separator characters spelt out, as in `\\x1b`.

    Args:
        text: any text.
        kept: characters that stay, such as line breaks; the two joiners always do.

    Returns:
        The text without any character of these categories of Unicode but those kept.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character in JOINERS + kept or category(character) not in SPELT_OUT
        else ascii(character)[1:-1]
        for character in text
    )


def first_line(error: BaseException) -> str:
    """What an error says first; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
