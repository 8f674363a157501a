"""Run by tests in a process of its own: Triton's interpreter has to be chosen before Triton is imported.

    python tests/triton_child.py INPUTS.npz OUTPUTS.npz

Inputs hold, for each case i, `i.kind` (a name of `CALLS`), `i.offsets`, `i.reverse`, `i.dtype`, `i.small`, the tensors
`i.leaf0`, … and the gradients of the outputs `i.slope0`, …; outputs `i.y0`, … and the gradients `i.0`, `i.1`, ….
Where `small` is set, chunks and blocks are small: the interpreter takes 10 ms for what a GPU does in one step, and
small chunks have more seams.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from crossllm.model.scan.conv import causal_conv
from crossllm.model.scan.selective_scan import scan_reach, scan_states, selective_scan

CALLS: dict[str, Callable[[Sequence[Tensor], Tensor, bool, str], Sequence[Tensor]]] = {
    "scan": lambda x, *rest: [selective_scan(*x, *rest)],
    "states": lambda x, *rest: scan_states(*x[:6], *rest, x[6]),
    "reach": lambda x, *rest: scan_reach(*x, *rest),
    "conv": lambda x, *rest: [causal_conv(*x, *rest)],
}
"""Kind of a case → its outputs, of its tensors, offsets, direction and backend."""


def main() -> None:
    from crossllm.model.scan import triton_conv, triton_scan

    shipped = triton_scan.CHUNK, triton_scan.BLOCK, triton_conv.PART, triton_conv.BLOCK
    given, made = np.load(sys.argv[1]), {}
    for case in sorted({name.split(".")[0] for name in given.files}):
        sizes = (4, 2, 4, 2) if bool(given[f"{case}.small"]) else shipped
        triton_scan.CHUNK, triton_scan.BLOCK, triton_conv.PART, triton_conv.BLOCK = sizes
        dtype = getattr(torch, str(given[f"{case}.dtype"]))
        leaves, slopes = (
            [torch.from_numpy(given[name]).to(dtype) for name in given.files if name.startswith(f"{case}.{what}")]
            for what in ("leaf", "slope")
        )
        leaves = [x.requires_grad_() for x in leaves]
        rest = torch.from_numpy(given[f"{case}.offsets"]), bool(given[f"{case}.reverse"]), "triton"
        found = CALLS[str(given[f"{case}.kind"])](leaves, *rest)
        gradients = torch.autograd.grad(found, leaves, slopes)
        assert all(x.dtype == dtype for x in (*found, *gradients))
        made |= {f"{case}.y{i}": y.detach().float().numpy() for i, y in enumerate(found)}
        made |= {f"{case}.{i}": g.float().numpy() for i, g in enumerate(gradients)}
    np.savez(sys.argv[2], **made)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    main()
