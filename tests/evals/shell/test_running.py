"""What a command asks of its process."""

import platform

import pytest

from commands import each_alone

FAULTS = """
import ctypes, resource, torch
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

    # Each block is larger than all before it. By default, every page of every block is new.
    pages = 256 * sum(range(8, 24))
    programs = [FAULTS.format(first=first) for first in ("keep_freed_memory()", "")]
    kept, by_default = map(int, each_alone("torch, decoding.rows.distribution", programs))
    assert kept < 0.8 * pages < by_default
