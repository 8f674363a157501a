"""Selective scan by mamba_ssm's CUDA kernel: padded, since that kernel knows no offsets.

Padding has Δ = 0: the state stays and nothing is added.  The reversed scan gathers each sequence from its end.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, offsets: Tensor, reverse: bool
) -> Tensor:
    """`model.scan.selective_scan.selective_scan` on CUDA; float32 states, memory of the longest sequence for each."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    lengths = offsets.diff()
    step = torch.arange(int(lengths.max()))
    token = offsets[1:, None] - 1 - step if reverse else offsets[:-1, None] + step  # (S, L)
    inside = step < lengths[:, None]
    where = torch.where(inside, token, 0).to(u.device)
    mask = inside.to(u.device)

    def padded(rows: Tensor) -> Tensor:
        """(T, D) → (S, D, L), zero where there is no token."""
        return (rows[where] * mask[..., None].to(rows.dtype)).transpose(1, 2).contiguous()

    y = selective_scan_fn(padded(u), padded(delta), A.float(), padded(B), padded(C), D.float())  # (S, C, L)
    # The token of each kept place, so that places go back in packed order.
    places = torch.argsort(token[inside]).to(u.device)
    packed: Tensor = y.transpose(1, 2)[mask][places]
    return packed
