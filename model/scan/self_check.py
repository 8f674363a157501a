"""Each backend of the scan and the convolution beside its reference, in about a second: for `crossllm doctor`.

How closely they agree is for the tests; this finds a backend that cannot run here, or that computes something else.
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from crossllm.checks import Check
from crossllm.model.scan.backends import PACKAGES, default_backend, interpreted
from crossllm.model.scan.conv import causal_conv, causal_conv_reference
from crossllm.model.scan.selective_scan import selective_scan

_SECTION = "scan"
_AGREES = 1e-3
"""Of the largest magnitude of the reference; a kernel that is wrong is off by all of it."""


def check_backend(backend: str) -> list[Check]:
    """One backend: whether it is there, whether it agrees, and its time beside that of the reference.

    Args:
        backend: a name of `backends.py`.
    """
    on_cuda = backend in PACKAGES
    device = torch.device("cuda" if on_cuda and torch.cuda.is_available() else "cpu")
    if on_cuda and device.type == "cpu" and not (backend == "triton" and interpreted()):
        return [Check(_SECTION, backend, "absent", "for a CUDA device; there is none", needed=False)]
    if on_cuda and find_spec(backend) is None:
        slow = backend == "triton"  # what `auto` takes on CUDA; without it the scan goes step by step
        return [Check(_SECTION, backend, "improve" if slow else "absent", "not installed", PACKAGES[backend], False)]
    needed = backend in ("reference", default_backend(device))
    errors = {"its scan": _scan_error(backend, device)}
    if backend != "mamba_ssm":  # which is a scan alone
        errors["its convolution"] = _conv_error(backend, device)
    for what, error in errors.items():
        if not error <= _AGREES:
            said = f"{what} differs from the reference by {error:.0e}"
            return [Check(_SECTION, backend, "broken", said, _mend(backend), needed)]
    took = f"{1000 * _seconds(backend, device):.1f} ms for 8,192 tokens"
    default = ", what auto takes" if backend == default_backend(device) else ""
    return [Check(_SECTION, backend, "ok", f"agrees with the reference on {device}{default}; {took}", needed=needed)]


def _mend(backend: str) -> str:
    return PACKAGES.get(backend) or "pip install --force-reinstall numba torch, in the versions of constraints.txt"


def _made(lengths: list[int], channels: int, states: int) -> tuple[list[Tensor], Tensor]:
    """Inputs of a scan, float64, and their offsets: always the same."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    step, decay = F.softplus(normal(tokens, channels) - 2), -torch.exp(normal(channels, states))
    inputs = [normal(tokens, channels), step, decay, normal(tokens, states), normal(tokens, states), normal(channels)]
    return inputs, torch.tensor([0, *lengths]).cumsum(0)


def _scan(inputs: list[Tensor], offsets: Tensor, reverse: bool, backend: str) -> Tensor:
    u, delta, A, B, C, D = inputs
    return selective_scan(u, delta, A, B, C, D, offsets, reverse, backend)


def _with_gradients(outputs: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), leaves)]


def _largest(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, over the largest magnitude of what is expected; infinite for what is no number."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        off = float((one.double().cpu() - other).abs().max() / other.abs().max())
        worst = max(worst, off if off == off else float("inf"))
    return worst


def _scan_error(backend: str, device: torch.device) -> float:
    """Outputs and all gradients, both ways."""
    made, offsets = _made([5, 1, 70, 33], 16, 8)
    worst = 0.0
    for reverse in (False, True):
        found, expected = [
            _with_gradients(_scan(leaves, offsets, reverse, name), leaves)
            for name, leaves in (
                (backend, [x.to(device, torch.float32).requires_grad_() for x in made]),
                ("reference", [x.clone().requires_grad_() for x in made]),
            )
        ]
        worst = max(worst, _largest(found, expected))
    return worst


def _conv_error(backend: str, device: torch.device) -> float:
    (x, *_), offsets = _made([5, 1, 70, 33], 16, 4)
    made = [x, x[:16, :4], x[0]]
    x, weight, bias = leaves = [one.to(device, torch.float32).requires_grad_() for one in made]
    found = _with_gradients(causal_conv(x, weight, bias, offsets, False, backend), leaves)
    x, weight, bias = leaves = [one.clone().requires_grad_() for one in made]
    return _largest(found, _with_gradients(causal_conv_reference(x, weight, bias, offsets), leaves))


def _seconds(backend: str, device: torch.device) -> float:
    """Of a scan of 64 sequences of 128 tokens, 32 channels and 16 states: the best of three."""
    made, offsets = _made([128] * 64, 32, 16)
    inputs = [x.to(device, torch.float32) for x in made]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            _scan(inputs, offsets, False, backend).sum().item()  # which waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times)
