"""Files to read texts from, and what is read of them."""

import csv
import json
from pathlib import Path

import click
import pyarrow as pa
import pytest
from pyarrow import parquet

from decoding_evals.reading.items import Text
from decoding_evals.reading.texts import Inputs


def inputs(*names, **options):
    return Inputs([Path(name) for name in names], **options)


def text_of(item):
    return "".join(item.pieces if isinstance(item, Text) else item.choices)


def read(*names, **options):
    """Name and whole text of every document."""
    return [(item.name, text_of(item)) for item in inputs(*names, **options)]


def write(name, content=None, *, rows=None):
    """A file of bytes, text, or rows in the format of its suffix."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_bytes(content.encode())
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def refusal(*names, **options):
    """The exit code and the line of an input that is refused."""
    with pytest.raises(click.ClickException) as caught:
        list(map(text_of, inputs(*names, **options)))
    return caught.value.exit_code, caught.value.format_message()


TEXTS = [
    "plain",
    "",
    "  spaced \n",
    'a "quoted", cell',
    "two\r\nlines\nand\rmore",
    "naïve 🦊\u2028 ",
    "x" * 200_000,
]
