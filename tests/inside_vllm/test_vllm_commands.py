"""`--engine vllm` at the shell: what stands on standard output is that of transformers."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    "command",
    [
        "generate dog cat --num-samples 2 --max-new-tokens 8",
        "uncertainty dog cat --num-samples 2 --max-new-tokens 6",
    ],
)
def test_records_have_the_texts_of_transformers(command, tmp_path):
    found = []
    for engine in ("process", "vllm"):
        arguments = [*command.split(), "--seed", "3", "--json", "--engine", engine]
        done = subprocess.run(
            [sys.executable, "-m", "decoding_cli", *arguments],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    ours, theirs = found
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        for key in ("prompt", "model", "settings", "seed", "text", "greedy", "samples"):
            assert one.get(key) == other.get(key)
