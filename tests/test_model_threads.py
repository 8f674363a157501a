"""Numba's kernels keep to torch's count of threads, and leave it as it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CHILD = """
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path[:0] = __PATH__
import torch
WANTED = torch.get_num_threads()
assert WANTED == int(sys.argv[2]), WANTED
import numba
from crossllm.embed.engine import fused_cpu
assert torch.get_num_threads() == WANTED, "import of fused_cpu"
from crossllm.model.scan import numba_conv, numba_kernels, numba_kernels_backward
from crossllm.model.scan.conv import causal_conv
from crossllm.model.scan.selective_scan import scan_reach
seen = []

def watch(module, name):
    kernel = getattr(module, name)
    def call(*arguments):
        seen.append((name, numba.get_num_threads(), torch.get_num_threads()))
        return kernel(*arguments)
    setattr(module, name, call)

for module, names in ((numba_conv, ("_forward", "_backward")), (numba_kernels, ("forward", "reach")),
                      (numba_kernels_backward, ("backward",)), (fused_cpu, ("_rotate_float32", "_add_norm"))):
    for name in names:
        watch(module, name)

def scan():
    one = torch.ones(2, 16, requires_grad=True)
    states = -torch.ones(16, 2)
    sums, _ = scan_reach(one, one, one, states, one[:, :2], one[:, :2], one[0], torch.tensor([0, 2]))
    sums.sum().backward()  # forward, reach, forward, backward

def conv():
    one = torch.ones(2, 16, requires_grad=True)
    causal_conv(one, one[0, :, None], one[0], torch.tensor([0, 2])).sum().backward()

def embed():
    fused_cpu.use_threads()
    fused_cpu.rotate(torch.ones(1, 3, 1, 4), torch.ones(1, 2), torch.ones(1, 2))
    wide = torch.ones(1, 4)
    fused_cpu.add_norm(wide, wide.bfloat16(), wide[0], wide[0], 1e-5, False)

calls = {"scan": scan, "conv": conv, "embed": embed}
first = calls.pop(sys.argv[1])
with ThreadPoolExecutor(1) as reading:  # as a thread that reads the next batch
    for call in (first, *calls.values()):
        call()
        reading.submit(call).result()
assert len(seen) == 16, seen
assert all(x[1:] == (WANTED, WANTED) for x in seen), seen
assert torch.get_num_threads() == WANTED
assert ThreadPoolExecutor(1).submit(torch.get_num_threads).result() == WANTED, "in a new thread"
"""


@pytest.mark.parametrize(("first", "threads"), [("scan", 1), ("conv", 1), ("embed", 1), ("scan", 2)])
def test_kernels_keep_to_torchs_threads(first: str, threads: int) -> None:
    """Two cores or more for Numba and fewer for torch; whichever kernel is the first starts Numba's threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": "3"}
    command = [sys.executable, "-c", CHILD.replace("__PATH__", repr(sys.path)), first, str(threads)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_importing_the_kernels_leaves_torchs_threads_alone() -> None:
    code = "import torch; import crossllm.embed.engine.fused_cpu; "
    code += "import crossllm.model.scan.numba_scan; import crossllm.model.scan.numba_conv; "
    code += "print(torch.get_num_threads())"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["1"], run.stderr
