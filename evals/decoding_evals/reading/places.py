"""Where a file that is read lies: on this machine, or at an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from decoding.models.faults import first_line


class SourcePath(click.Path):
    """A path, or an address such as `s3://BUCKET/FILE.parquet`, as a `UPath`, which can do what is
    done with a path here; `file://` is a path. An empty name, as of a variable that is not set, is
    none."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The place, or a click.UsageError."""
        if not str(value):
            self.fail("a file has a name; this one is empty", param, ctx)
        if "://" not in str(value):
            return super().convert(value, param, ctx)
        if str(value).startswith("file://"):
            return Path(url2pathname(urlsplit(str(value)).path))
        try:
            from upath import UPath

            place = UPath(str(value))
            place.fs  # noqa: B018  # what the protocol needs is looked for here
        except (ImportError, ValueError) as error:
            self.fail(f"cannot read {str(value)!r}: {_needed(error)}", param, ctx)
        return place


def _needed(error: Exception) -> str:
    """What is missing, in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name == "upath":
        return "addresses need universal-pathlib: pip install 'decoding-toolkit[remote]'"
    return first_line(error)
