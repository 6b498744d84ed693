"""The journal of a command, whose errors are one line."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from decoding.passes.journal import FileJournal
from decoding_evals.shell.files import writing


class Kept(FileJournal):
    """A journal that says what cannot be written.

    Args:
        file: see `FileJournal`.
        path: what the command writes.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def keep(self, record: object) -> None:
        """Write a record."""
        with writing(self._path):
            super().keep(record)
