"""What tests of the command share."""

import csv
import json
import os
import pty
import re
import subprocess
import sys
import termios

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


def on_terminal(*arguments, columns=80, **environment):
    """Run the command on a pseudo-terminal; gives exit code and all that it wrote."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, columns))
    environment = os.environ | {"TERM": "xterm-256color"} | environment
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        written += chunk
    os.close(leader)
    return process.wait(), written.decode().replace("\r\n", "\n")


def plain(text):
    """What stays on the screen: without colours, and without lines that were erased."""
    text = re.sub(r"[^\n]*\n\x1b\[\?25h\r\x1b\[1A\x1b\[2K|[^\n]*\r\x1b\[2K", "", text)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
