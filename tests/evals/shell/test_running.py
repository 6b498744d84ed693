"""What a command asks of its process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, torch
import decoding.rows.distribution
from decoding_evals.shell.running import keep_freed_memory
{first}
torch.set_num_threads(1)
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, of which there are fewer
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for mebibytes in range(8, 24):
    torch.zeros(mebibytes << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept_only_where_a_command_asks_for_it(monkeypatch):
    """Importing the library leaves the allocator of its host as it was."""
    for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)

    def faults(first):
        command = [sys.executable, "-c", FAULTS.format(first=first)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Each block is larger than all before it. By default, every page of every block is new.
    pages = 256 * sum(range(8, 24))
    assert faults("keep_freed_memory()") < 0.8 * pages < faults("")
