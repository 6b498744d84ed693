"""Rows of a file or a data set, one after the other, and what is wrong with those that are broken.

Only the wanted columns are read where the format allows it, and never a whole file into memory,
`.json` excepted.
"""

from __future__ import annotations

import atexit
import codecs
import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click

from decoding_evals.reading.folders import check_card
from decoding_evals.shell.output import check_source

# A row with its number, counted from 1; in place of a broken row, what is wrong with it.
Row = tuple[int, dict[str, Any] | str]

PIECE_BYTES = 1 << 16
COLUMN_BUFFER_BYTES = 1 << 20
LONGEST = 1 << 26
"""Characters of a line, or of a cell of CSV."""


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


def dataset_rows(spec: str) -> Rows:
    """The rows of one split of a data set, as the `datasets` library reads them.

    Args:
        spec: `NAME[:CONFIG][:SPLIT]`. NAME is a local folder where one exists (colons in its path
            are no separators then), else a hub name. A single part after it is a configuration if
            the data set has one of that name, else a split; `NAME::SPLIT` is always a split.
            Without a split it is the only one, else `test`.

    Raises:
        click.UsageError: another form, or a file.
        click.ClickException: no `datasets` library, no such data set, configuration or split.
    """
    name, parts = _named(spec)
    for file in Path(name).rglob("*") if Path(name).is_dir() else ():
        check_source(file)
    try:
        import datasets
    except ImportError:
        raise click.ClickException(
            "--dataset needs the datasets library: pip install 'decoding-toolkit[datasets]'"
        ) from None
    _quiet_datasets()
    atexit.register(_outlive_readers)
    try:
        saved = _saved(name)
        folder = Path(name).resolve()
        if folder.is_dir():
            check_card(folder, name)
        # Not by its name, which may also be that of a format, such as `csv`.
        place = str(folder) if folder.is_dir() else name
        if len(parts) == 1:
            configs = datasets.get_dataset_config_names(place) if saved is None else []
            parts = [*parts, ""] if parts[0] in configs else ["", *parts]
        config, split = parts or ("", "")
        if saved is not None and config:
            raise ValueError("it was saved without configurations")
        splits = saved
        if splits is None:
            splits = datasets.load_dataset(place, config or None, streaming=True)
    except Exception as error:  # whatever a loader makes of a broken file or no network
        raise click.ClickException(f"cannot load data set {name!r}: {error}") from error
    split = split or (next(iter(splits)) if len(splits) == 1 else "test")
    if split not in splits:
        raise click.ClickException(
            f"data set {name!r} has no split {split!r}; choose from {listed(splits)}, "
            f"as in {f'{name}:{config}:{next(iter(splits))}'!r}"
        )
    return Rows(spec, "row", partial(_dataset, splits[split], spec))


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn what the operating system says about a source into one line."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"cannot read {source}: {error.strerror or error}") from error


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
    """The value of a JSON text; a ValueError where an object has a key twice: which is meant?"""
    return json.loads(text, object_pairs_hook=_without_repetition)


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


def _require(columns: Sequence[str], existing: Sequence[str], source: str) -> None:
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
        _require(header if columns is None else columns, header, source)
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
            _require(columns, existing, str(path))
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


def _saved(name: str) -> dict[str, Any] | None:
    """The splits of a folder that `save_to_disk` wrote; None for any other data set."""
    import datasets

    if not any((Path(name) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return None
    saved = datasets.load_from_disk(name)
    return saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}


def _dataset(data: Any, source: str, columns: Sequence[str] | None) -> Iterator[Row]:
    try:
        # Streamed CSV and text files tell their columns only with the first row.
        existing = data.column_names or list(next(iter(data), {}))
        if existing:
            columns = existing if columns is None else columns
            _require(columns, existing, source)
            yield from enumerate(data.select_columns(list(columns)), 1)
    except click.ClickException:
        raise
    except Exception as error:  # whatever a loader makes of a broken file or no network
        raise click.ClickException(f"cannot read data set {source!r}: {error}") from error


def _named(spec: str) -> tuple[str, list[str]]:
    """The name in `NAME[:CONFIG][:SPLIT]` and what follows it."""
    parts = spec.split(":")
    whole = range(len(parts), 1, -1)
    length = next((n for n in whole if Path(":".join(parts[:n])).exists()), 1)
    name, rest = ":".join(parts[:length]), parts[length:]
    if not name or len(rest) > 2:
        raise click.UsageError(f"--dataset takes NAME[:CONFIG][:SPLIT], got {spec!r}")
    if Path(name).is_file():
        raise click.UsageError(f"--dataset takes no file; give {name!r} as FILES instead")
    if not Path(name).exists() and (Path(name).is_absolute() or name.startswith((".", "~"))):
        raise click.ClickException(f"data set folder {name!r} does not exist")
    return name, rest


def _outlive_readers() -> None:
    """Let Arrow's threads end before Python does.

    Threads that still read ahead in a parquet file abort a process that ends before them
    (apache/arrow#45214), and nothing but time tells when they are done.
    """
    gc.collect()
    time.sleep(0.3)


def _quiet_datasets() -> None:
    """Keep the loader's bars, advice and retries off the user's terminal."""
    import datasets
    from datasets.utils import logging
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)


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
