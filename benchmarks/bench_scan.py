"""Selective scan on the CPU: the numba backend beside the step-by-step reference and mambapy's parallel scan.

    python benchmarks/bench_scan.py [--json FILE] [--batch 8] [--length 1024] [--channels 512] [--states 16]

Every peer computes the same y from the same float32 tensors in this run; medians of `--repeats` calls after one
warm-up.  The reference's backward takes minutes at this size and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mambapy.pscan import pscan
from torch import Tensor
from torch.nn import functional as F

from model.scan import selective_scan


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, batch: int) -> Tensor:
    """The same recurrence by mambapy's pscan, which wants (batch, length, channels, states) laid out in full."""
    u, delta, B, C = (x.reshape(batch, -1, x.shape[-1]) for x in (u, delta, B, C))
    decay = torch.exp(delta[..., None] * A)
    states = pscan(decay, (delta * u)[..., None] * B[:, :, None])
    y: Tensor = (states @ C[..., None])[..., 0] + D * u
    return y.flatten(0, 1)


def seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    for name, default in (("batch", 8), ("length", 1024), ("channels", 512), ("states", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokens, channels, states = args.batch * args.length, args.channels, args.states
    inputs = [torch.randn(tokens, channels), F.softplus(torch.randn(tokens, channels) - 2),
              -torch.exp(torch.randn(channels, states)), torch.randn(tokens, states), torch.randn(tokens, states),
              torch.randn(channels)]  # fmt: skip
    leaves = [x.clone().requires_grad_() for x in inputs]
    offsets = torch.arange(0, tokens + 1, args.length)
    dy = torch.randn(tokens, channels)

    peers: dict[str, Callable[[list[Tensor]], Tensor]] = {
        "ours": lambda x: selective_scan(*x, offsets, backend="numba"),
        "mambapy": lambda x: mambapy_scan(*x, args.batch),
    }
    difference = (peers["ours"](inputs) - peers["mambapy"](inputs)).abs().max() / peers["mambapy"](inputs).abs().max()
    assert difference < 1e-5, f"the peers disagree by {difference:.1e}"
    found = {}
    for name, scan in peers.items():
        found[f"{name}_forward"] = seconds(lambda scan=scan: scan(inputs), args.repeats)  # type: ignore[misc]
        y = scan(leaves)
        found[f"{name}_backward"] = seconds(
            lambda y=y: torch.autograd.grad(y, leaves, dy, retain_graph=True),
            args.repeats,  # type: ignore[misc]
        )
        del y
    found["reference_forward"] = seconds(lambda: selective_scan(*inputs, offsets, backend="reference"), 1)

    ours = found["ours_forward"] + found["ours_backward"]
    print(f"B={args.batch} L={args.length} D={channels} N={states}")
    print(f"{torch.get_num_threads()} threads, load of the machine {os.getloadavg()[0]:.1f}")
    for name, value in found.items():
        print(f"{name:20}{1e3 * value:10.1f} ms")
    print(f"mambapy forward + backward ÷ ours: {(found['mambapy_forward'] + found['mambapy_backward']) / ours:.1f}")
    print(f"reference forward ÷ ours:          {found['reference_forward'] / found['ours_forward']:.1f}")
    if args.json:
        shapes = {name: getattr(args, name) for name in ("batch", "length", "channels", "states")}
        args.json.write_text(json.dumps({"shapes": shapes, "repeats": args.repeats, "seconds": found}, indent=1))


if __name__ == "__main__":
    main()
