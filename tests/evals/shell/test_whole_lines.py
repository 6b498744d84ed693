"""Lines on standard output are whole, whatever interrupts them."""

import json
import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_slow_reader_gets_whole_records(number):
    """The pipe is full, and the command waits in the middle of a record, when the signal comes."""
    command = [
        sys.executable, "-m", "decoding_cli", "generate", "Once", "--seed", "1", "--json",
        "--max-new-tokens", "300", "--num-samples", "100", "--batch-size", "1",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs the tests in the background may have them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    begun = os.read(process.stdout.fileno(), 10)
    # It writes until the pipe is full.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    records = (begun + out).decode().splitlines()
    assert (begun + out).endswith(b"\n") and all(json.loads(line)["text"] for line in records)
    assert f"interrupted; {len(records)} sequence" in err.decode()
    assert process.returncode == 128 + number
