"""Lines on standard output are whole, whatever interrupts them."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time

import pytest

from commands import forked

PAGE = 4096


def waiting(pipe):
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_slow_reader_gets_whole_records(number):
    """The pipe is full, and the command waits in the middle of a record, when the signal comes."""
    process = forked(
        "generate", "Once", "--seed", 1, "--json", "--max-new-tokens", 40, "--num-samples", 40,
        "--batch-size", 1, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pipesize=PAGE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    begun = os.read(process.stdout.fileno(), 10)
    while waiting(process.stdout) < PAGE - len(begun):
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    records = (begun + out).decode().splitlines()
    assert (begun + out).endswith(b"\n") and all(json.loads(line)["text"] for line in records)
    assert f"interrupted; {len(records)} sequence" in err.decode()
    assert process.returncode == 128 + number
