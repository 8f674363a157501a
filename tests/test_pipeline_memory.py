from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np
from crossllm.cache.console.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(48 << 20, np.uint8)[::4096].sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(first, max(faults() for _ in range(10)))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told to keep memory")
@pytest.mark.parametrize("way", ["kept", "as it is"])
def test_freed_memory_is_taken_again_without_new_pages(way: str) -> None:
    """An array of 48 MiB, more than glibc takes from its heap of its own accord, made and freed again and again."""
    done = subprocess.run([sys.executable, "-c", CHILD, way], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    assert first > 16
    assert (later < first / 10) == (way == "kept"), (first, later)
