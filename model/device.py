"""What a device can do."""

from __future__ import annotations

import sys

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
