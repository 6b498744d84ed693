"""What is said of a model that cannot be used, safe to print whatever its files hold."""

from __future__ import annotations

from unicodedata import category

SPELT_OUT = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, formats, lone surrogates, and separators of lines: they act on a terminal, or hide."""

JOINERS = "\u200c\u200d"
"""Format characters that belong to Persian, Hindi and family emoji, and do no harm."""

LONGEST = 400
"""Characters of another library's message that an error repeats."""


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
    """What an error says first, not all of it where that is long; its class where it is silent.

    A line that only announces the next, as in "for field 'vocab_size':", is followed by that; a
    missing key is called one.
    """
    line, *rest = str(error).strip().splitlines() or [type(error).__name__]
    if line.rstrip().endswith((":", "(")) and rest:
        line = f"{line.rstrip()} {rest[0].strip()}"
    if isinstance(error, KeyError):
        line = f"{type(error).__name__}: {line}"
    line = line.strip()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
