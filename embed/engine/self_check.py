"""The engine's attention and its fused passes beside plain torch, in about a second: for `crossllm doctor`."""

from __future__ import annotations

import torch
from torch import Tensor

from crossllm.checks import Check
from crossllm.embed.engine.attention import PADDED, PADDING, Packing, by_blocks, choose

_SECTION = "attention"
_LENGTHS = (3, 1, 17, 9, 9)


def _made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _off(found: Tensor, expected: Tensor) -> float:
    off = float((found - expected).abs().max() / expected.abs().max())
    return off if off == off else float("inf")


def check_attention() -> list[Check]:
    """SDPA over blocks of packed sequences on the CPU, padded and not, beside softmax by hand."""
    qkv = _made(sum(_LENGTHS), 3, 4, 16)
    expected = torch.cat([_by_hand(part) for part in torch.split(qkv, list(_LENGTHS))])
    device = torch.device("cpu")
    worst = max(_off(by_blocks(qkv, Packing.of(_LENGTHS, device, padding=p)), expected) for p in (0.0, PADDING, 10.0))
    if worst > 1e-3:
        said, mend = f"differs from softmax by hand by {worst:.0e}", "pip install --force-reinstall torch"
        return [Check(_SECTION, "SDPA", "broken", said, mend)]
    return [Check(_SECTION, "SDPA", "ok", "agrees with softmax by hand on cpu")]


def _by_hand(qkv: Tensor) -> Tensor:
    """Attention of one sequence: (L, 3, H, K) → (L, H, K)."""
    q, k, v = qkv.permute(1, 2, 0, 3)  # (H, L, K) each
    weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1)
    mixed: Tensor = (weights @ v).transpose(0, 1)
    return mixed


def check_fused() -> list[Check]:
    """The passes between the matrix products, as a CPU runs them, beside the plain ones."""
    from crossllm.embed.engine import elementwise  # which loads Numba: attention is checked where it cannot be

    angles = _made(30, 8)
    x, bfloat16 = _made(30, 64), torch.bfloat16
    norm = elementwise.Norm(_made(64), _made(64), 1e-5)
    fused = elementwise.elementwise_of(torch.device("cpu"))
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for rotate, results in ((fused.rotate, found), (elementwise.rotate, expected)):
        results.append(_made(30, 3, 4, 16))
        rotate(results[0], angles.cos(), angles.sin())
    for add_norm, results in ((fused.add_norm, found), (elementwise.add_norm, expected)):
        results += [part.float() for part in add_norm(x.clone(), x.to(bfloat16), norm, False, bfloat16)]
    worst = max(map(_off, found, expected))
    if worst > 2e-2:  # bfloat16 keeps eight bits
        said, mend = f"differ from plain torch by {worst:.0e}", "pip install --force-reinstall numba"
        return [Check(_SECTION, "fused passes", "broken", said, mend)]
    return [Check(_SECTION, "fused passes", "ok", "agree with plain torch on cpu")]


def check_varlen() -> list[Check]:
    """Which kernel takes a packed batch on CUDA; it is chosen by its numbers, on the device."""
    if not torch.cuda.is_available():
        return [Check(_SECTION, "packed kernel", "absent", "for a CUDA device; there is none", needed=False)]
    found = choose(torch.device("cuda"), torch.bfloat16, 20, 64)
    if found is PADDED:
        said, mend = "none agrees with SDPA here: SDPA over padded blocks, slower", "pip install flash-attn"
        return [Check(_SECTION, "packed kernel", "improve", said, mend, needed=False)]
    return [Check(_SECTION, "packed kernel", "ok", f"{found.name} agrees with SDPA on cuda", needed=False)]
