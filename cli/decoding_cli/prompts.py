"""Where prompts come from: arguments, a file, or standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


def read_prompts(arguments: tuple[str, ...], file: Path | None) -> list[str]:
    """The prompts, as they are written: nothing is stripped but the end of the line.

    Raises:
        click.UsageError: both arguments and a file, or a file of another type.
        click.ClickException: nothing to read, not UTF-8, or a broken JSON line.
    """
    if arguments and file is not None:
        raise click.UsageError("give prompts as arguments or with --prompts-file, not both")
    prompts = list(arguments) if file is None else _from_file(file)
    if not prompts:
        if sys.stdin.isatty():
            click.echo("Prompts, one a line; end with Ctrl-D:", err=True)
        prompts = _lines(sys.stdin.buffer.read(), "standard input")
    for index, prompt in enumerate(prompts):
        if not is_utf8(prompt):
            raise click.ClickException(f"prompt {index} is not valid UTF-8")
    return prompts


def is_utf8(text: str) -> bool:
    """Whether a text can be written in UTF-8: an argument of other bytes holds surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _from_file(file: Path) -> list[str]:
    if file.suffix not in (".txt", ".jsonl"):
        raise click.UsageError(f"--prompts-file takes .txt or .jsonl, got {str(file)!r}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {str(file)!r}: {error.strerror}") from error
    lines = _lines(content, repr(str(file)))
    if file.suffix == ".txt":
        return lines
    prompts = [
        _from_json(line, f"{str(file)!r}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not prompts:
        raise click.ClickException(f"no prompts in {str(file)!r}")
    return prompts


def _lines(content: bytes, source: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise click.ClickException(f"{source} is not UTF-8 (line {line})") from None
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        del lines[-1]
    if not lines:
        raise click.ClickException(f"no prompts in {source}: it is empty")
    return lines


def _from_json(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{place}: broken JSON ({error})") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise click.ClickException(f'{place}: expected an object with a string "prompt"')
    return prompt
