"""What tests of the command share."""

import csv
import json
import sys

from pyarrow import parquet

COMMAND = [sys.executable, "-m", "decoding_cli"]


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def contents(path):
    """The records of an output file; in CSV, all values as text."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return json.loads(path.read_text()) if path.suffix == ".json" else records(path.read_text())
