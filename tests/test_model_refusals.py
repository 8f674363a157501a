"""What the scan and the convolution refuse, and which backend is taken."""

from __future__ import annotations

import re
import subprocess
import sys
import types
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numba
import numpy as np
import pytest
import torch
from made_scans import make
from torch import Tensor

from crossllm.model import fused, scan
from crossllm.model.fused import backward, forward, lanes, meeting
from crossllm.model.scan import backends, numba_conv, numba_kernels, numba_kernels_backward
from crossllm.model.scan.backends import SlowScanWarning, choose_backend, default_backend
from crossllm.model.scan.conv import causal_conv
from crossllm.model.scan.selective_scan import selective_scan

HALF, CUDA = torch.float16, torch.device("cuda")


@pytest.mark.parametrize("backend", ["auto", "reference", "numba"])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("weight", torch.zeros(5, 4, dtype=torch.float64)),
        ("weight", torch.zeros(5, 4, dtype=HALF)),
        ("weight", torch.zeros(4, 4)),
        ("weight", torch.zeros(5, 4, device="meta")),
        ("weight", torch.zeros(20)),
        ("weight", torch.zeros(5, 0)),
        ("bias", torch.zeros(5, dtype=torch.float64)),
        ("bias", torch.zeros(4)),
        ("x", torch.zeros(6)),
        ("offsets", torch.tensor([0, 3, 3, 6])),
        ("offsets", torch.tensor([0, 7])),
        ("offsets", torch.tensor([0, 6], dtype=torch.int32)),
    ],
)
def test_the_convolution_refuses_what_does_not_fit(name: str, other: Tensor, backend: str) -> None:
    given = {"x": torch.ones(6, 5), "weight": torch.ones(5, 4), "bias": torch.ones(5), "offsets": torch.tensor([0, 6])}
    causal_conv(**given, backend=backend)
    with pytest.raises(ValueError, match=rf"^{name} [^\n]*$"):
        causal_conv(**(given | {name: other}), backend=backend)


def test_the_scan_refuses_what_does_not_fit(rng: np.random.Generator) -> None:
    inputs, offsets = make(rng, [3, 5], 4, 2)
    names = ("u", "delta", "A", "B", "C", "D")
    for i, name in enumerate(names):
        for other in (inputs[i].to(HALF), inputs[i].to("meta"), inputs[i][None]):
            changed = [*inputs[:i], other, *inputs[i + 1 :]]
            with pytest.raises(ValueError, match=rf"^{name if name != 'u' else '(u|delta)'} is [^\n]*$"):
                selective_scan(*changed, offsets)


@pytest.mark.parametrize(
    "array",
    [np.zeros(32), np.zeros((2, 16), np.float32), np.zeros(64, np.float32)[::2], np.zeros(32, np.int32)],
)
def test_lanes_refuse_other_arrays(array: np.ndarray) -> None:
    from crossllm.model.scan.simd import load, spread, store

    @numba.njit
    def read(x):  # type: ignore[no-untyped-def]
        load(x, 0)

    @numba.njit
    def write(x):  # type: ignore[no-untyped-def]
        store(x, 0, spread(np.float32(1)))

    for kernel in (read, write):
        kernel(np.zeros(16, np.float32))
        with pytest.raises(numba.TypingError, match="lanes lie in a C-contiguous one-dimensional float32 array"):
            kernel(array)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1 << 20, 3)])
def test_fresh_memory_is_aligned(shape: tuple[int, ...]) -> None:
    from crossllm.model.scan.numba_call import flat, fresh

    made = fresh(*shape)
    assert (tuple(made.shape), made.dtype) == (shape, torch.float32)
    assert made.is_contiguous()
    assert made.data_ptr() % 64 == 0 or 0 in shape
    flat(made)[0][:] = 2  # shares its memory
    assert bool((made == 2).all())


def test_auto_takes_the_fastest_backend_at_hand() -> None:
    assert default_backend(torch.device("cpu")) == "numba"
    assert default_backend(torch.device("cpu"), torch.float64) == "reference"
    assert default_backend(torch.device("cuda")) == ("triton" if find_spec("triton") else "reference")
    assert default_backend(torch.device("cuda"), torch.float64) == "reference"


@pytest.mark.parametrize("backend", ["triton", "mamba_ssm"])
def test_a_backend_that_is_not_there_says_how_to_get_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1)
    monkeypatch.setattr("crossllm.model.scan.backends.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"^scan backend {backend} is not installed; pip install [^\n]*$"):
        choose_backend(x, backend)
    monkeypatch.setattr("crossllm.model.scan.backends.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=rf"^scan backend {backend} needs a CUDA device; got cpu; use auto$"):
        choose_backend(x, backend)
    with pytest.raises(ValueError, match=rf"^scan backend {backend} needs a CUDA device; got meta; use auto$"):
        choose_backend(x.to("meta"), backend)
    assert choose_backend(like(CUDA), backend) == backend
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="needs a CUDA device; got meta"):
        choose_backend(x.to("meta"), backend)


def like(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """All of a tensor that a choice looks at: no CUDA device is needed."""
    return cast(Tensor, types.SimpleNamespace(device=device, dtype=dtype))


def test_auto_warns_once_of_a_slow_scan_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    backends._warn_of_slow_scan.cache_clear()
    assert choose_backend(like(torch.device("cpu"), torch.float64)) == "reference"
    assert choose_backend(like(CUDA, torch.float64)) == "reference"  # asked for by the type
    monkeypatch.setattr("crossllm.model.scan.backends.find_spec", lambda name: None)
    with pytest.warns(SlowScanWarning, match=r"^scan runs step by step on CUDA[^\n]*; pip install triton$") as caught:
        assert [choose_backend(like(CUDA)) for _ in range(3)] == ["reference"] * 3
    assert len(caught) == 1


@pytest.mark.slow
def test_triton_kernels_run_on_the_device_of_their_tensors() -> None:
    """A stand-in for `torch.cuda.device_of` sees that each of the launches lies inside it, on the first tensor."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (the extra `dev` has it on Linux)")
    run = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    # Forward and backward: the scan has 3 + 3 launches, the convolution 1 + 2.
    assert run.stdout.split() == ["9", "4"]


GUARDED = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = __PATH__
import torch
from triton.runtime import interpreter
inside, entered, launched = [], [], 0

class Guard:
    def __init__(self, x):
        self.x = x
    def __enter__(self):
        inside.append(self.x); entered.append(self.x)
    def __exit__(self, *_):
        inside.pop()

plain = interpreter.GridExecutor.__call__
def launch(self, *args, **options):
    global launched
    assert inside and inside[-1].device == args[0].device, "no guard"
    launched += 1
    return plain(self, *args, **options)

torch.cuda.device_of, interpreter.GridExecutor.__call__ = Guard, launch
from crossllm.model.scan.conv import causal_conv
from crossllm.model.scan.selective_scan import selective_scan
one, ends = torch.ones(2, 2, requires_grad=True), torch.tensor([0, 2])
selective_scan(one, one, -one, one, one, one[0], ends, backend="triton").sum().backward()
causal_conv(one, one, one[0], ends, backend="triton").sum().backward()
print(launched, len(entered))
""".replace("__PATH__", repr(sys.path))


def test_kernels_name_what_is_compiled_into_them() -> None:
    """Numba keeps a kernel while its own file is unchanged: an edit of what it inlines must change that file too."""
    files = {path.stem: path for folder in (scan, fused) for path in Path(folder.__path__[0]).glob("*.py")}
    compiled = ("simd", "layout", "lanes", "numba_conv", "numba_kernels", "numba_kernels_backward", "forward")
    for module in (numba_kernels, numba_kernels_backward, numba_conv, lanes, forward, backward, meeting):
        source = Path(module.__file__).read_text()
        taken = {name for name in compiled if re.search(rf"from crossllm\.model\.\w+\.{name} import", source)}
        found = {name: f"{zlib.crc32(files[name].read_bytes()):08x}" for name in sorted(taken)}
        assert dict(sorted(module.INLINED.items())) == found, f"write {found} into {module.__name__}.INLINED"
