"""Where prompts come from: arguments, a file, or standard input."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from decoding.texts.chats import Conversation, Prompt
from decoding_evals.reading import rows as reading
from decoding_evals.reading.chats import chat_options, conversation
from decoding_evals.reading.items import Talk
from decoding_evals.reading.places import SourcePath
from decoding_evals.reading.rows import FORMATS, is_utf8, kind_name, listed
from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.options import option, stacked
from decoding_evals.shell.output import check_source
from decoding_evals.showing.lines import note

Row = dict[str, Any]
STANDARD_INPUT = "-"

# What `read_prompts` takes.
prompt_options = stacked(
    click.argument("prompts", nargs=-1, metavar="[PROMPT]..."),
    option(
        "--prompts-file FILE",
        "Prompts from a file: .txt, one a line, or .jsonl, .json, .csv, .parquet, one a row; or "
        "-, standard input.",
        type=SourcePath(),
    ),
    option("--column NAME", "Column of the prompts.  [default: prompt]"),
)

USUAL = {
    "prompt": ("prompt", "question", "Question"),
    "references": ("references", "correct_answers", "Correct Answers", "answer"),
    "incorrect": ("incorrect", "incorrect_answers", "Incorrect Answers"),
    "paraphrases": ("paraphrases",),
    "context": ("context",),
}
"""Columns by what they hold, where none is named: the first that a row has. The others are those of
Natural Questions and TruthfulQA."""

SEPARATORS = {"Correct Answers": ";", "Incorrect Answers": ";"}
"""What separates the answers of a cell where nothing else is said: TruthfulQA's file."""

SPELLED = re.compile(r"(\\[nrt])+")

# How prompts are continued.
answer_options = stacked(
    option(
        "--seed N",
        "Same seed, same text, in any batch.  [default: a new one, reported]",
        type=click.IntRange(0, 2**64 - 1),
    ),
    option(
        "--stop TEXT",
        "End when TEXT appears; repeatable. \\n alone is a line break, \\n\\n a blank line.",
        multiple=True,
    ),
    chat_options,
)


def read_stop(stop: tuple[str, ...]) -> list[str]:
    """The stop strings; one that spells nothing but line breaks and tabs means these.

    Raises:
        click.UsageError: an empty one, or one that is not UTF-8.
    """
    if not all(text and is_utf8(text) for text in stop):
        raise click.UsageError("--stop needs a text, not empty, in UTF-8")
    return [
        text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")
        if SPELLED.fullmatch(text)
        else text
        for text in stop
    ]


def read_prompts(
    arguments: tuple[str, ...], file: Path | None, column: str | None = None
) -> list[Prompt]:
    """The prompts, as they are written: nothing is stripped but the end of the line.

    Args:
        arguments: prompts from the command line; `-` stands for the lines of standard input, and
            so does no argument without a file.
        file: `.txt`, one a line, or rows as in `decoding_evals.reading.rows`, or `-`. Lines with
            nothing but white space are no prompts.
        column: the column of the rows; default `prompt`, or `messages` where there is no such
            column. A value that is a list of messages is a conversation.

    Raises:
        click.UsageError: both arguments and a file, a file of another type, or a column of none.
        click.ClickException: nothing to read, not UTF-8, or a broken row.
    """
    if arguments and file is not None:
        raise click.UsageError("give prompts as arguments or with --prompts-file, not both")
    if column is not None and (file is None or file.suffix.lower() not in FORMATS):
        raise click.UsageError(f"--column needs a --prompts-file with rows ({', '.join(FORMATS)})")
    if arguments.count(STANDARD_INPUT) > 1:
        raise click.UsageError(f"standard input ({STANDARD_INPUT!r}) can be read only once")
    for argument in arguments:
        if Path(argument).suffix.lower() in (".txt", *FORMATS) and os.path.isfile(argument):
            note(f"{argument!r} is taken as a prompt; --prompts-file reads the file")
    prompts: list[Prompt] = _from_file(file, column) if file is not None else []
    for argument in arguments or (STANDARD_INPUT,) * (file is None):
        prompts += _standard_input() if argument == STANDARD_INPUT else [argument]
    for number, prompt in enumerate(prompts, 1):
        if not is_utf8(str(prompt)):
            raise click.ClickException(f"prompt {number} is not valid UTF-8")
    return prompts


def read_prompt_rows(
    arguments: tuple[str, ...],
    file: Path | None,
    column: str | None,
    columns: Mapping[str, str | None],
    separator: str | None,
) -> list[Row]:
    """Prompts with what their rows know besides; the first arguments are those of `read_prompts`.

    Args:
        columns: further columns by what they hold: `context` a text, any other a list of texts or
            one. None takes the first of `USUAL` that a row has.
        separator: where a text is cut into several, and what is around the pieces goes; default
            that of `SEPARATORS`, for TruthfulQA's columns alone.

    Returns:
        One row per prompt: `prompt`, `context` (None where there is none), and for the other
        columns tuples of texts; a null or an empty text is none.

    Raises:
        click.UsageError: columns are named of a file that has none.
        click.ClickException: as for `read_prompts`, a named column that no row has, or a value of
            another kind.
    """
    named = [f"--{name}-column" for name, given in columns.items() if given is not None]
    named += ["--separator"] if separator is not None else []
    if file is None or file.suffix.lower() not in FORMATS:
        if named:
            raise click.UsageError(
                f"{named[0]} needs a --prompts-file with rows ({', '.join(FORMATS)})"
            )
        nothing = known_in({}, columns)
        return [{"prompt": one, **nothing} for one in read_prompts(arguments, file, column)]
    if arguments:
        raise click.UsageError("give prompts as arguments or with --prompts-file, not both")
    check_source(file)
    source = reading.file_rows(file)
    as_json = file.suffix.lower() == ".csv"
    rows = []
    seen: dict[str, None] = {}
    for number, values in source.read(None):
        place = f"{str(file)!r}, {source.unit} {number}"
        if isinstance(values, str):
            raise click.ClickException(f"{place}: {values}")
        seen |= dict.fromkeys(values)
        place_of = column or _usual("prompt", values)
        if column is None and place_of not in values:
            place_of = "messages" if "messages" in values else "prompt"
        prompt = values.get(place_of)
        if place_of not in values:
            raise click.ClickException(f"{place}: no column {place_of!r}; it has {listed(values)}")
        try:
            prompt = _prompt(place_of, prompt, spelled=as_json)
            if not is_utf8(json.dumps(values, ensure_ascii=False)):
                raise TypeError("a text is not valid UTF-8")
            known = known_in(values, columns, separator, lists_as_json=as_json)
            rows.append({"prompt": prompt, **known})
        except TypeError as error:
            raise click.ClickException(f"{place}: {error}") from None
    if not rows:
        raise click.ClickException(f"no rows in {str(file)!r}")
    for name, given in columns.items():
        if given is not None and given not in seen:
            raise click.ClickException(
                f"--{name}-column: {str(file)!r} has no column {given!r}; it has {listed(seen)}"
            )
    return rows


def _usual(name: str, values: Row) -> str:
    """The column that holds something where none is named."""
    return next((column for column in USUAL[name] if column in values), name)


def _prompt(column: str, value: object, *, spelled: bool) -> Prompt:
    """A text or a conversation; a TypeError says what else it is."""
    said = conversation(value, column, spelled=spelled)
    if isinstance(said, Conversation):
        return said
    if said is not None:
        raise TypeError(f"{column!r}: {said}")
    if not isinstance(value, str):
        raise TypeError(f"{column!r} is {kind_name(value)}, not a string or a list of messages")
    return value


def known_in(
    values: Row,
    columns: Mapping[str, str | None],
    separator: str | None = None,
    *,
    lists_as_json: bool = False,
) -> Row:
    """What a row knows besides its prompt, as of `read_prompt_rows`; only a file that has no lists
    of its own writes them as JSON. A TypeError says which value is of another kind."""
    row: Row = {}
    for name, given in columns.items():
        column = given or _usual(name, values)
        value = values.get(column)
        if lists_as_json and name != "context" and isinstance(value, str) and value[:1] == "[":
            with suppress(ValueError, RecursionError):
                value = reading.parsed(value)
        between = SEPARATORS.get(column) if separator is None else separator
        texts = _texts(name, value, None if name == "context" else between)
        row[name] = texts if name != "context" else "\n".join(texts) or None
    return row


def asked_in(values: Row) -> Prompt | None:
    """The prompt of a row that may have none: its `messages`, or else the usual column's text.

    Raises:
        TypeError: it is of another kind.
    """
    for name in ("messages", _usual("prompt", values)):
        if values.get(name) is not None:
            return _prompt(name, values[name], spelled=False)
    return None


def _texts(name: str, value: object, separator: str | None) -> tuple[str, ...]:
    """The texts of a cell."""
    if isinstance(value, str) and separator is not None:
        value = [part.strip() for part in value.split(separator)]
    items = value if isinstance(value, list) else [] if value is None else [value]
    wrong = [kind_name(item) for item in items if not isinstance(item, str)]
    if wrong:
        verb = "holds" if isinstance(value, list) else "is"
        raise TypeError(f"{name} {verb} {wrong[0]}, not a text or a list of texts")
    return tuple(filter(None, items))


def _from_file(file: Path, column: str | None) -> list[Prompt]:
    if str(file) == STANDARD_INPUT:
        return [*_standard_input()]
    with reading.readable(repr(str(file))):
        if file.is_dir():
            raise click.UsageError(f"--prompts-file {str(file)!r} is a folder")
    if file.suffix.lower() in FORMATS:
        return [*Inputs([file], column=column, usual="prompt", talk=Talk()).prompts()]
    if file.suffix.lower() != ".txt":
        *most, last = (".txt", *FORMATS)
        raise click.UsageError(
            f"--prompts-file takes {', '.join(most)} or {last}, got {str(file)!r}"
        )
    check_source(file)
    with reading.readable(repr(str(file))), file.open("rb") as stream:
        return [*_lines(stream, repr(str(file)))]


def _standard_input() -> list[str]:
    if sys.stdin.isatty():
        note("Prompts, one a line; end with Ctrl-D:")
    return _lines(sys.stdin.buffer, "standard input")


def _lines(stream: BinaryIO, source: str) -> list[str]:
    """The lines of a stream that are not blank, of which the others are counted."""
    from decoding_evals.showing.terminal import counted

    blank, prompts = 0, []
    for line in reading.lines_of(reading.decoded(stream, source), source):
        if line.isspace():
            blank += 1
        else:
            prompts.append(re.sub("\r?\n$", "", line))
    if not prompts:
        why = "every line is blank" if blank else "it is empty"
        raise click.ClickException(f"no prompts in {source}: {why}")
    if blank:
        note(f"{counted(blank, 'blank line')} of {source} skipped")
    return prompts
