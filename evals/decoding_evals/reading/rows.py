"""Rows of a file or a data set, one after the other, and what is wrong with those that are broken.

Only the wanted columns are read where the format allows it, and never a whole file into memory,
`.json` excepted.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click

from decoding.models.faults import first_line

# A row with its number, counted from 1; in place of a broken row, what is wrong with it.
Row = tuple[int, dict[str, Any] | str]

PIECE_BYTES = 1 << 16
COLUMN_BUFFER_BYTES = 1 << 20
LONGEST = 1 << 26
"""Characters of a line, or of a cell of CSV."""
LONGEST_NUMBER = 300
"""Digits of a whole number in JSON."""


@dataclass(frozen=True)
class Rows:
    """Rows that lie somewhere."""

    name: str
    """The file or data set, as the user wrote it."""
    unit: str
    """What the numbers count, `line` or `row`."""
    read: Callable[[Sequence[str] | None], Iterator[Row]]
    """Reads all rows, given the columns that are wanted, or None for all there are; a row may hold
    further ones. Raises `click.ClickException` where the source as a whole is unfit."""


def file_rows(path: Path) -> Rows:
    """The rows of a file whose suffix is one of `FORMATS`."""
    unit, read = FORMATS[path.suffix.lower()]
    return Rows(str(path), unit, partial(read, path))


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn what the operating system, or the library of an address, says about a source into one
    line."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "://" not in source:
            raise
        said = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, FileNotFoundError):
            said = os.strerror(errno.ENOENT)
        raise click.ClickException(f"cannot read {source}: {said}") from error


def decoded(stream: BinaryIO, source: str) -> Iterator[str]:
    """UTF-8 text in pieces, unchanged except for a leading byte order mark.

    Raises:
        click.ClickException: the line at which it stops being text.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    while True:
        chunk = stream.read(PIECE_BYTES)
        try:
            piece = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise click.ClickException(f"{source} is not UTF-8 (line {line})") from None
        text, nul, _ = piece.partition("\0")
        line += text.count("\n")
        if nul:
            raise click.ClickException(f"{source} is not text (line {line} holds a NUL byte)")
        if piece:
            yield piece
        if not chunk:
            return


def parsed(text: str) -> Any:
    """The value of a JSON text; a ValueError where an object has a key twice (which is meant?), or
    a whole number is longer than any that a float comes near."""
    return json.loads(text, object_pairs_hook=_without_repetition, parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has more than one key {key!r}")
    return values


def lines_of(pieces: Iterable[str], source: str) -> Iterator[str]:
    """The lines of a text that comes in pieces, each with its newline.

    Raises:
        click.ClickException: one is longer than `LONGEST`.
    """
    number, size = 1, 0
    held: list[str] = []
    for piece in pieces:
        *ended, rest = piece.split("\n")
        for line in ended:
            yield "".join([*held, line, "\n"])
            held, size = [], 0
            number += 1
        held.append(rest)
        size += len(rest)
        if size > LONGEST:
            raise _too_long(source, number)
    if size:
        yield "".join(held)


def _lines_in(file: TextIO, source: str) -> Iterator[str]:
    """The same of a file, whose line ends are as it was opened."""
    for number in count(1):
        line = file.readline(LONGEST + 1)
        if len(line) > LONGEST and line[-1] not in "\r\n":
            raise _too_long(source, number)
        if not line:
            return
        yield line


def _too_long(source: str, number: int) -> click.ClickException:
    return click.ClickException(f"{source}: line {number} is longer than {LONGEST:,} characters")


def is_utf8(text: str) -> bool:
    """Whether a text can be written in UTF-8: bytes that are none are read as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_name(value: object) -> str:
    """What to call a value of another type than expected."""
    return "null" if value is None else type(value).__name__


def listed(names: Collection[str]) -> str:
    """Names for an error message, the first twenty of them, and of a long one its beginning."""
    shown = ", ".join(repr(n if len(n) <= 40 else n[:39] + "…") for n in list(names)[:20])
    return (shown or "none") + (", …" if len(names) > 20 else "")


def require(columns: Sequence[str], existing: Sequence[str], source: str) -> None:
    """Refuse columns that a source does not have, or has twice."""
    for column in columns:
        if column not in existing:
            raise click.ClickException(
                f"{source!r} has no column {column!r}; it has {listed(existing)}"
            )
        if existing.count(column) > 1:
            raise click.ClickException(f"{source!r} has more than one column {column!r}")


def _jsonl(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with (
        readable(repr(str(path))),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file,
    ):
        yield from json_lines(_lines_in(file, repr(str(path))))


def json_lines(lines: Iterable[str]) -> Iterator[Row]:
    """One object a line; empty lines are counted and left out."""
    for number, line in enumerate(lines, 1):
        if line.strip(" \t\r\n"):
            yield number, json_row(line)


def json_row(line: str) -> dict[str, Any] | str:
    """An object, or what is wrong with it."""
    if not is_utf8(line):
        return "not UTF-8"
    try:
        return _object(parsed(line))
    except (ValueError, RecursionError) as error:
        return f"broken JSON ({error})"


def _object(value: Any) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"expected an object, got {kind_name(value)}"


def _json(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    source = repr(str(path))
    with readable(source), path.open("rb") as file:
        text = "".join(decoded(file, source))
    try:
        values = parsed(text)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{source}: broken JSON ({error})") from None
    if not isinstance(values, list):
        raise click.ClickException(f"{source}: expected a list of objects, got {kind_name(values)}")
    for number, value in enumerate(values, 1):
        yield number, _object(value)


def _csv(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import csv

    # Python's own limit is 128 Ki characters, less than many a document.
    csv.field_size_limit(LONGEST)
    source = str(path)
    with (
        readable(repr(source)),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        reader = csv.reader(_lines_in(file, repr(source)), strict=True)
        try:
            header = next(filter(None, reader), None)
        except csv.Error as error:
            raise click.ClickException(f"{source!r}, line 1: broken CSV ({error})") from None
        if header is None:
            return
        if not all(map(is_utf8, header)):
            raise click.ClickException(f"{source!r} is not UTF-8 (line 1)")
        require(header if columns is None else columns, header, source)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"broken CSV ({error})"
                continue
            if not cells:  # an empty line
                continue
            if len(cells) != len(header):
                yield number, f"broken CSV ({len(cells)} cells under {len(header)} columns)"
            elif not all(map(is_utf8, cells)):
                yield number, "not UTF-8"
            else:
                yield number, dict(zip(header, cells, strict=True))


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    source = repr(str(path))
    try:
        # Opened here, because for a folder or a missing file pyarrow has several lines to say.
        with (
            readable(source),
            path.open("rb") as file,
            ParquetFile(file, buffer_size=COLUMN_BUFFER_BYTES) as parquet,
        ):
            existing = parquet.schema_arrow.names
            columns = existing if columns is None else columns
            require(columns, existing, str(path))
            numbers = count(1)
            # One by one: a small file may hold the same large cell in every row.
            for batch in parquet.iter_batches(batch_size=1, columns=list(columns)):
                yield next(numbers), _parquet_row(batch, columns)
    except pyarrow.ArrowException as error:
        raise click.ClickException(f"{source}: broken parquet ({error})") from error


def _parquet_row(batch: Any, columns: Sequence[str]) -> dict[str, Any] | str:
    try:
        return {column: batch.column(column)[0].as_py() for column in columns}
    except UnicodeDecodeError:
        return "not UTF-8"
    except (OverflowError, ValueError, ImportError) as error:
        return f"a value that Python does not know ({error})"


FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[str] | None], Iterator[Row]]]] = {
    ".jsonl": ("line", _jsonl),
    ".json": ("row", _json),
    ".csv": ("line", _csv),
    ".parquet": ("row", _parquet),
}


def string_problem(column: str, value: object, alternative: str = "") -> str | None:
    """What is wrong with a value that should be a string, or may be `alternative`."""
    if not isinstance(value, str):
        return f"{column!r} is {kind_name(value)}, not a string{alternative}"
    return None if is_utf8(value) else f"{column!r} is not valid UTF-8"
