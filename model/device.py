"""What a device can do, and what it does faster."""

from __future__ import annotations

import sys
import time

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes products of bfloat16 in hardware, not by float32.

    `crossllm.embed.engine.device` has the same rule; neither package may import the other, and one test holds both.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if (capabilities := getattr(torch.cpu, "get_capabilities", None)) is None:  # torch 2.10 has no public way
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    found = capabilities()
    # On macOS torch hands products to Accelerate, which has none of bfloat16 whatever the processor can do.
    arm = sys.platform == "linux" and found.get("bf16", False)
    return bool(found.get("avx512_bf16", False) or found.get("amx_bf16", False) or arm)


ROWS = 4096
"""Tokens of a timed product, some of a training step's."""
WORTH = 1.1
"""Times as fast as float32 that bfloat16 must be: it is the less exact, and no two measurements are the same."""


def choose_compute(width: int, device: torch.device) -> tuple[str, str]:
    """The type of the products of a model of this width that is faster on the device, and why, in words.

    Timed and not read off the processor's flags: bfloat16 by AVX-512 alone was measured from half to nearly twice as
    fast as float32.  A narrow model's products are bound by memory and conversions, and stay in float32.
    """
    if not has_bfloat16(device):
        return "float32", f"{device} does not compute in bfloat16"
    took = {kind: _seconds(width, kind, device) for kind in (torch.float32, torch.bfloat16)}
    ratio = took[torch.float32] / took[torch.bfloat16]
    why = f"products of width {width} are {ratio:.2g} × as fast in bfloat16 on {device}"
    return ("bfloat16" if ratio >= WORTH else "float32"), why


def _seconds(width: int, compute: torch.dtype, device: torch.device) -> float:
    """The least of a few passes, forward and backward, of a Mamba block's widest product under autocast."""
    weight = torch.zeros(4 * width, width, device=device, requires_grad=True)
    x = torch.zeros(ROWS, width, device=device, requires_grad=True)
    least = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=compute is torch.bfloat16):
            output = torch.nn.functional.linear(x, weight).sum()
        torch.autograd.grad(output, (x, weight))[1][0, 0].item()  # which waits for the device
        least = min(least, time.perf_counter() - begun)
    return least
