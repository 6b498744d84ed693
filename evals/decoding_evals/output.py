"""Records into files that are whole or not there at all."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import click

FORMATS = (".json", ".jsonl")


def to_json(record: dict[str, Any]) -> str:
    """One line of JSON: ASCII, so that no terminal or line reader trips over it, and no NaN."""
    return json.dumps(record, allow_nan=False)


class Interrupted(click.ClickException):
    """Ctrl-C in the middle of work of which a part is finished."""

    exit_code = 130

    def __init__(self, left: str) -> None:
        super().__init__(f"interrupted; {left}")


class RecordFile:
    """Collects records under a temporary name beside the target and renames it at the end.

    On success and on Ctrl-C the finished records become the file; on any other error the target
    stays as it was.

    Args:
        path: `.jsonl`, one record a line, or `.json`, one list.

    Raises:
        click.UsageError: another suffix.
        click.ClickException: the folder does not exist or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in FORMATS:
            raise click.UsageError(f"--output takes {' or '.join(FORMATS)}, got {str(path)!r}")
        if path.is_dir():
            raise click.UsageError(f"--output {str(path)!r} is a folder")
        self.path = Path(os.path.realpath(path))
        self.count = 0
        if not self.path.parent.is_dir():
            raise click.ClickException(f"the folder of {str(path)!r} does not exist")
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise self._failure(error) from error
        self.temporary = Path(name)
        self.file = os.fdopen(handle, "w", encoding="ascii")

    def write(self, record: dict[str, Any]) -> None:
        """Add a record."""
        separator = "" if self.path.suffix == ".jsonl" else ("[" if self.count == 0 else ",\n")
        end = "\n" if self.path.suffix == ".jsonl" else ""
        try:
            self.file.write(separator + to_json(record) + end)
            self.file.flush()
        except OSError as error:
            raise self._failure(error) from error
        self.count += 1

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None or (issubclass(kind, Interrupted) and self.count):
                if self.path.suffix == ".json":
                    self.file.write("]\n" if self.count else "[]\n")
                self.file.close()
                umask = os.umask(0)
                os.umask(umask)
                self.temporary.chmod(0o666 & ~umask)
                self.temporary.replace(self.path)
        except OSError as failure:
            raise self._failure(failure) from failure
        finally:
            # Closing flushes, which on a full disk fails once more.
            with suppress(OSError):
                self.file.close()
            self.temporary.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> click.ClickException:
        return click.ClickException(f"cannot write {str(self.path)!r}: {error.strerror}")
