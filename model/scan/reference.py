"""The selective scan as the paper writes it, step by step in plain torch: any float type, any device, slow.

What every backend of `crossllm.model.scan.selective_scan` is held to.  Glossary and shapes: there.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from crossllm.model.scan.autograd import Inputs


def scan(x: Inputs, offsets: Tensor, reverse: bool = False, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Y (T, C) and the states after each sequence (S, N, C), by `model.scan.selective_scan.scan_states`'s arguments."""
    rows = list(zip(x.u.unbind(), x.delta.unbind(), x.B.unbind(), x.C.unbind(), strict=True))
    outputs, final = [], []
    for sequence, (start, stop) in enumerate(pairwise(offsets.tolist())):
        h = x.u.new_zeros(x.A.shape) if initial is None else initial[sequence].t()  # (C, N)
        steps = []
        for t in _order(start, stop, reverse):
            u, size, b, c = rows[t]
            h = torch.exp(size[:, None] * x.A) * h + (size * u)[:, None] * b
            steps.append((h * c).sum(-1) + x.D * u)  # not h @ c, which autocast computes in bfloat16
        outputs.append(torch.stack(steps[::-1] if reverse else steps))
        final.append(h.t())
    return torch.cat(outputs), torch.stack(final)


def reach(gate: Tensor, x: Inputs, offsets: Tensor, reverse: bool = False) -> Tensor:
    """(S, N, C): W = Σ_t gate_t C_t Π_{s ≤ t} Ā_s of each sequence; see `model.scan.selective_scan.scan_reach`."""
    found = []
    for start, stop in pairwise(offsets.tolist()):
        passed, total = torch.ones_like(x.A), torch.zeros_like(x.A)  # (C, N)
        for t in _order(start, stop, reverse):
            passed = passed * torch.exp(x.delta[t][:, None] * x.A)
            total = total + gate[t][:, None] * x.C[t] * passed
        found.append(total.t())
    return torch.stack(found)


def _order(start: int, stop: int, reverse: bool) -> range:
    return range(stop - 1, start - 1, -1) if reverse else range(start, stop)
