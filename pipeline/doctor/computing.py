"""What torch and Numba see of the machine: devices, and threads beside the cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from crossllm.cache.console.messages import size_in_words
from crossllm.checks import Check
from crossllm.pipeline.doctor.machine import usable_cores

_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
"""There where a driver of NVIDIA's is."""


def check_devices() -> list[Check]:
    """The devices that `--device` can name."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    found = [Check("devices", "cpu", "ok", f"torch uses {capability}, {os.uname().machine}")]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        torch.ones(1, device=f"cuda:{number}").item()
        said = f"{about.name}, {size_in_words(about.total_memory)}, compute capability {about.major}.{about.minor}"
        found.append(Check("devices", f"cuda:{number}", "ok", said, needed=False))
    if len(found) > 1:
        return found
    if any(path.exists() for path in _DRIVER):
        said = f"a GPU's driver is here, but torch {torch.__version__} cannot use it"
        mend = "pip install torch, a build for the driver's CUDA version (pytorch.org says which)"
        return [*found, Check("devices", "cuda", "improve", said, mend, needed=False)]
    return [*found, Check("devices", "cuda", "absent", "no GPU; none is needed", needed=False)]


def check_threads() -> list[Check]:
    """Threads of torch and Numba; more than there are cores slow each other down."""
    import torch

    try:
        from numba import config

        most = str(vars(config)["NUMBA_NUM_THREADS"])
    except ImportError:  # a finding of its own
        most = "not loaded"
    cores, count = usable_cores(), torch.get_num_threads()
    said = f"torch {count}, numba {most}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    said += f"; {cores} cores may be used"
    if count > cores:  # Numba's kernels follow torch's count
        mend = f"export OMP_NUM_THREADS={cores}"
        return [Check("threads", "threads", "improve", said, mend, needed=False)]
    return [Check("threads", "threads", "ok", said, needed=False)]
