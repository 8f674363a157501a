"""Run by tests in a process of its own: Triton's interpreter has to be chosen before Triton is imported.

    python tests/triton_child.py INPUTS.npz OUTPUTS.npz

Inputs hold, for each case i, `i.kind` (scan or conv), `i.offsets`, `i.reverse`, `i.dtype`, `i.dy`, `i.small` and
the tensors `i.0`, `i.1`, …; outputs `i.y` and the gradients `i.0`, `i.1`, ….  Where `small` is set, chunks and blocks
are small: the interpreter takes 10 ms for what a GPU does in one step, and small chunks have more seams.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from model import conv_triton, scan_triton
from model.conv import causal_conv
from model.scan import selective_scan


def main() -> None:
    shipped = scan_triton.CHUNK, scan_triton.BLOCK, conv_triton.PART, conv_triton.BLOCK
    given, made = np.load(sys.argv[1]), {}
    for case in sorted({name.split(".")[0] for name in given.files}):
        sizes = (4, 2, 4, 2) if bool(given[f"{case}.small"]) else shipped
        scan_triton.CHUNK, scan_triton.BLOCK, conv_triton.PART, conv_triton.BLOCK = sizes
        dtype = getattr(torch, str(given[f"{case}.dtype"]))
        count = sum(name.startswith(f"{case}.") and name.split(".")[1].isdigit() for name in given.files)
        leaves = [torch.from_numpy(given[f"{case}.{i}"]).to(dtype).requires_grad_() for i in range(count)]
        rest = torch.from_numpy(given[f"{case}.offsets"]), bool(given[f"{case}.reverse"]), "triton"
        y = (selective_scan if str(given[f"{case}.kind"]) == "scan" else causal_conv)(*leaves, *rest)
        gradients = torch.autograd.grad(y, leaves, torch.from_numpy(given[f"{case}.dy"]).to(dtype))
        assert y.dtype == dtype
        assert all(g.dtype == dtype for g in gradients)
        made[f"{case}.y"] = y.detach().float().numpy()
        made |= {f"{case}.{i}": g.float().numpy() for i, g in enumerate(gradients)}
    np.savez(sys.argv[2], **made)


if __name__ == "__main__":
    main()
