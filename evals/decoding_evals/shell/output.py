"""Writes records to files that are complete or not there at all."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import click

from decoding_evals.shell.files import Target, check_target, is_stream, writing

if TYPE_CHECKING:
    from decoding.showing.page import View

BATCH_CHARACTERS = 1 << 22
PART = "part-{:06}.jsonl"
"""What a file of a folder is called."""
PART_CHARACTERS = 1 << 27
"""A file of a folder that has so many gets no further record."""


def to_json(record: dict[str, Any]) -> str:
    """One line of JSON in ASCII, which every terminal and line reader can handle, without NaN."""
    return json.dumps(record, allow_nan=False)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it, what is written and counted stays together: a signal that ends the command waits.

    A second signal does not wait; whoever reads may have stopped for good.
    """
    came: list[int] = []

    def later(number: int, frame: Any) -> None:
        if came:
            listeners[number](number, frame)
        came.append(number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks some
    numbers = [int(getattr(signal, name)) for name in names if hasattr(signal, name)]
    listeners: dict[int, Any] = {
        number: listener for number in numbers if callable(listener := signal.getsignal(number))
    }
    if threading.current_thread() is not threading.main_thread():
        listeners = {}  # others get no signals
    for number in listeners:
        signal.signal(number, later)
    try:
        yield
    finally:
        for number, listener in listeners.items():
            signal.signal(number, listener)
    if came:
        listeners[came[0]](came[0], None)


def write_line(text: str) -> None:
    """Write a line to standard output, whole also where a signal comes, if it may wait."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as in a notebook
        click.echo(text)
        return
    sys.stdout.flush()
    encoding, errors = sys.stdout.encoding or "utf-8", sys.stdout.errors or "replace"
    left = memoryview(f"{text}\n".encode(encoding, errors=errors))
    # Not through the stream, which loses what a signal cuts off.
    while left:
        left = left[os.write(number, left) :]


class Unfinished(click.ClickException):
    """Work ended early, and what is finished stays."""

    behind = ""
    """What is said after the message."""

    def format_message(self) -> str:
        """What is said."""
        return self.message + self.behind


class Interrupted(Unfinished):
    """Ctrl-C in the middle of work."""

    exit_code = 130

    def __init__(self, left: str) -> None:
        super().__init__(f"interrupted; {left}")


class RecordFile:
    """Collects records in a temporary file and puts it into its place at the end.

    On success, and on `Unfinished` (Ctrl-C is one), the finished records become the file; on any
    other error the target stays as it was, a folder with the files that are full. Records are never
    all in memory.

    Args:
        path: `.jsonl`, one record a line, or `.json`, one list. `.csv` and `.parquet` have one row
            per record and a column for each key that occurs, in order of occurrence; a record
            without it has a null there, in CSV an empty cell. In CSV, what is not a string is JSON
            text; so it is in those columns of parquet whose values have no type in common.
            Both are UTF-8: a lone surrogate, which is none, becomes "?". `.html` is a page, for
            which each record is written with its view. A pipe or device without a suffix gets JSON
            Lines. An empty folder gets files of `PART_CHARACTERS`, each in its place once it is
            full; one after the other they are what a `.jsonl` would be.
            Links are followed, and the name that is given has the suffix.
        option: that names it, for errors.
        page: whether a page is possible.

    Raises:
        click.UsageError: another suffix, or a folder with files.
        click.ClickException: the folder does not exist or cannot be written.
    """

    def __init__(self, path: Path, option: str = "--output", *, page: bool = False) -> None:
        self.path = path
        self.suffix = path.suffix.lower()
        self.is_folder = path.is_dir()
        self._places: Iterator[Path] = iter([path])
        if self.is_folder:
            self.suffix = ".jsonl"
            self._places = (path / PART.format(number) for number in count())
            if not all(map(self._is_own, os.listdir(path))):
                raise click.UsageError(f"{option} {str(path)!r} is a folder that is not empty")
        elif not self.suffix and is_stream(path):
            self.suffix = ".jsonl"
        else:
            check_target(option, path, [*FORMATS, *([PAGE] if page else []), "an empty folder"])
        self.count = 0
        self.views: dict[str, View] = {}
        with writing(path):
            self._begin()

    def _is_own(self, name: str) -> bool:
        """Whether a file of the folder may be replaced."""
        return False

    def _begin(self) -> None:
        """A new temporary file."""
        self.target = Target(next(self._places))
        self.spool = self.target.temporary()
        self.file = self.target.enter_context(
            self.spool.open("w", encoding="utf-8", errors="replace", newline="\n")
        )
        self._size = 0

    @property
    def is_page(self) -> bool:
        """Whether it becomes a page."""
        return self.suffix == PAGE

    def write(self, record: dict[str, Any], view: View | None = None) -> None:
        """Add a record; to a page, as its view shows it."""
        if self.is_page and view is not None:
            self.views[view.name] = view
            record = view.shown(record)
        ascii_only = self.suffix in (".jsonl", ".json", PAGE)
        line = json.dumps(record, allow_nan=False, ensure_ascii=ascii_only) + "\n"
        with writing(self.path):
            if self.is_folder and self._size >= PART_CHARACTERS:
                self._finish()
                self.target.close()
                self._begin()
            self.file.write(line)
            self.file.flush()
        self._size += len(line)
        self.count += 1

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or (issubclass(kind, Unfinished) and self.count):
                with writing(self.path):
                    self._finish()
        finally:
            # Closing flushes, which on a full disk fails once more.
            with suppress(OSError):
                self.target.close()

    def _finish(self) -> None:
        self.file.close()
        convert = self._write_page if self.is_page else FORMATS[self.suffix]
        finished = self.spool
        if convert is not None:
            finished = self.target.temporary()
            convert(self.spool, finished)
        self.target.publish(finished)

    def _write_page(self, spool: Path, target: Path) -> None:
        from decoding.showing.page import write_page

        with spool.open(encoding="ascii") as lines, target.open("w", encoding="utf-8") as file:
            write_page(self.views.values(), map(json.loads, lines), file)


WRITTEN = ("output", "plot", "evaluation")
"""Options that name a file to write."""


def check_source(path: Path) -> None:
    """Refuse to read a file that the running command is to write, under whatever name.

    Raises:
        click.UsageError: one of `WRITTEN` is the same file.
    """
    if not isinstance(path, Path):  # at an address, where nothing is written
        return
    context = click.get_current_context(silent=True)
    given = {} if context is None else context.params
    for name in WRITTEN:
        target = given.get(name)
        if target is not None and target.exists() and path.exists() and target.samefile(path):
            raise click.UsageError(f"--{name} {str(target)!r} is one of the files that are read")


def _write_json(spool: Path, target: Path) -> None:
    with spool.open(encoding="ascii") as lines, target.open("w", encoding="ascii") as file:
        file.write("[")
        for number, line in enumerate(lines):
            file.write((",\n" if number else "") + line[:-1])
        file.write("]\n")


def _write_csv(spool: Path, target: Path) -> None:
    import csv

    names = [*dict.fromkeys(chain.from_iterable(chain.from_iterable(_batches(spool))))]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for batch in _batches(spool):
            writer.writerows([_cell(row.get(name)) for name in names] for row in batch)


def _write_parquet(spool: Path, target: Path) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    seen = _Seen()
    for row in chain.from_iterable(_batches(spool)):
        seen.add(row)
    types = {name: values.arrow_type() for name, values in seen.fields.items()}
    schema = pyarrow.schema(
        [(name, pyarrow.string() if kind is None else kind) for name, kind in types.items()]
    )
    with ParquetWriter(target, schema) as writer:
        for batch in _batches(spool):
            columns = {name: [row.get(name) for row in batch] for name in types}
            for name, kind in types.items():
                if kind is None:
                    columns[name] = [*map(_cell, columns[name])]
            writer.write_batch(pyarrow.record_batch(columns, schema))


def _batches(spool: Path) -> Iterator[list[dict[str, Any]]]:
    """Records in their order, some millions of characters at a time."""
    batch: list[dict[str, Any]] = []
    size = 0
    with spool.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            batch.append(json.loads(line))
            size += len(line)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _cell(value: Any) -> str | None:
    plain = value is None or isinstance(value, str)
    return value if plain else json.dumps(value, ensure_ascii=False)


class _Seen:
    """The values seen at one place of the records, which determine its Arrow type."""

    def __init__(self) -> None:
        self.kinds: set[type] = set()
        self.low = self.high = 0
        self.items: _Seen | None = None
        self.fields: dict[str, _Seen] = {}

    def add(self, value: Any) -> None:
        """Take in a value."""
        kind = type(value)
        self.kinds.add(kind)
        if kind is int:
            self.low, self.high = min(self.low, value), max(self.high, value)
        elif kind is list:
            self.items = self.items or _Seen()
            for item in value:
                self.items.add(item)
        elif kind is dict:
            for name, item in value.items():
                self.fields.setdefault(name, _Seen()).add(item)

    def arrow_type(self) -> Any:
        """The narrowest type that holds all values exactly, or None."""
        import pyarrow

        kinds = self.kinds - {NoneType}
        if not kinds:
            return pyarrow.null()
        if kinds in ({bool}, {str}):
            return pyarrow.bool_() if bool in kinds else pyarrow.string()
        if kinds == {int} and self.low >= -(2**63) and self.high < 2**63:
            return pyarrow.int64()
        if kinds == {int} and self.low >= 0 and self.high < 2**64:
            return pyarrow.uint64()
        if kinds <= {int, float} and max(-self.low, self.high) <= 2**53:
            return pyarrow.float64()
        if kinds == {list} and self.items is not None:
            item_type = self.items.arrow_type()
            return None if item_type is None else pyarrow.list_(item_type)
        if kinds == {dict} and self.fields:
            types = {name: seen.arrow_type() for name, seen in self.fields.items()}
            return None if None in types.values() else pyarrow.struct(list(types.items()))
        return None


PAGE = ".html"

FORMATS: dict[str, Callable[[Path, Path], None] | None] = {
    ".jsonl": None,
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
