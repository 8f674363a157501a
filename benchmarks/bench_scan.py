"""Selective scan: our backend beside mambapy's parallel scan, transformers' slow path and the step-by-step reference.

    python benchmarks/bench_scan.py [--json FILE] [--batch 8] [--length 1024] [--channels 512] [--states 16]
        [--device cpu|cuda] [--data ../shared/data/rpi1460]

Every peer computes the same y from the same float32 tensors in this run; medians of `--repeats` calls after one
warm-up.  The peers take turns, so that another job on the machine slows all of them.  The backward passes of the
reference and of transformers take minutes at this size and are left out.  Peak memory is what forward + backward add
to a process of their own (Linux), or to the device's memory.  `ours_L` and `ours_2L` are forward + backward of one
sequence of `--longest` / 2 and `--longest` steps; the real lengths are RPI1460's pairs, as the fusion sees them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mambapy.pscan import pscan
from torch import Tensor
from torch.nn import functional as F

from crossllm.model.scan.backends import default_backend
from crossllm.model.scan.selective_scan import selective_scan

Peer = Callable[[list[Tensor]], Tensor]
LENGTH_QUANTILES = (132, 1599, 1634, 1672, 1796, 2940, 2989, 3019, 3056, 3109, 3783)
"""Fused length of RPI1460's pairs, at every tenth of them: what is drawn from where the data is not at hand."""


def by_batch(scan: Callable[..., Tensor], inputs: list[Tensor], batch: int) -> Tensor:
    """A scan that wants (batch, length, …)."""
    u, delta, A, B, C, D = inputs
    u, delta, B, C = (x.reshape(batch, -1, x.shape[-1]) for x in (u, delta, B, C))
    return scan(u, delta, A, B, C, D).flatten(0, 1)


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """mambapy's pscan, which wants (batch, length, channels, states) laid out in full."""
    states = pscan(torch.exp(delta[..., None] * A), (delta * u)[..., None] * B[:, :, None])
    return (states @ C[..., None])[..., 0] + D * u


def transformers_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    rows = (x.transpose(1, 2) for x in (u, delta))
    y: Tensor = mamba_selective_scan(*rows, A, *(x.transpose(1, 2) for x in (B, C)), D)
    return y.transpose(1, 2)


def made(tokens: int, channels: int, states: int, device: str) -> list[Tensor]:
    torch.manual_seed(0)
    inputs = [torch.randn(tokens, channels), F.softplus(torch.randn(tokens, channels) - 2),
              -torch.exp(torch.randn(channels, states)), torch.randn(tokens, states), torch.randn(tokens, states),
              torch.randn(channels)]  # fmt: skip
    return [x.to(device) for x in inputs]


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; one round of warm-up, then rounds in which each has its turn."""
    for call in calls.values():
        call()
    times = [{name: clock(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in times) for name in calls}


def backward(scan: Peer, inputs: list[Tensor]) -> Callable[[], object]:
    """Alone, without the forward pass."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = scan(leaves)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)


def both(scan: Peer, inputs: list[Tensor]) -> Callable[[], object]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(scan(leaves).sum(), leaves)


def real_lengths(data: Path, pairs: int) -> tuple[list[int], str]:
    """Fused lengths of some pairs, and where they come from."""
    rng = np.random.default_rng(0)
    if not data.is_dir():
        tenths = np.linspace(0, 1, len(LENGTH_QUANTILES))
        return np.interp(rng.random(pairs), tenths, LENGTH_QUANTILES).astype(int).tolist(), "quantiles of RPI1460"
    lengths: dict[str, int] = {}
    for name in ("rna.fasta", "protein.fasta"):
        for entry in (data / name).read_text().split(">")[1:]:
            head, *lines = entry.split("\n")
            lengths[head.split()[0]] = sum(map(len, lines))
    rows = [line.split("\t")[:2] for line in (data / "pairs.tsv").read_text().splitlines()[1:]]
    return [sum(lengths[x] for x in rows[i]) for i in rng.choice(len(rows), pairs, replace=False)], "RPI1460"


def peers(batch: int, length: int, device: str) -> dict[str, Peer]:
    offsets = torch.arange(0, batch * length + 1, length)
    found: dict[str, Peer] = {
        "ours": lambda x: selective_scan(*x, offsets),
        "mambapy": lambda x: by_batch(mambapy_scan, x, batch),
    }
    if device == "cuda":
        try:
            import mamba_ssm  # noqa: F401
        except ImportError:
            print("mamba_ssm is not installed and is left out")
        else:
            found["mamba_ssm"] = lambda x: selective_scan(*x, offsets, backend="mamba_ssm")
    return found


def peak_bytes(name: str, shapes: tuple[int, int, int, int], device: str) -> int:
    """What forward + backward of a peer add to the memory of a new process, or to the device's."""
    command = [sys.executable, __file__, "--peak", name, "--device", device]
    for flag, value in zip(("--batch", "--length", "--channels", "--states"), shapes, strict=True):
        command += [flag, str(value)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_peak(name: str, shapes: tuple[int, int, int, int], device: str) -> int:
    batch, length, channels, states = shapes
    both(peers(2, 8, device)[name], made(16, channels, states, device))()  # compiles, loads
    call = both(peers(batch, length, device)[name], made(batch * length, channels, states, device))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from now
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) << 10


def measure(args: argparse.Namespace) -> dict[str, object]:
    shapes = args.batch, args.length, args.channels, args.states
    long: dict[str, Callable[[], object]] = {}
    for name, steps in (("ours_L", args.longest // 2), ("ours_2L", args.longest)):
        ends = torch.tensor([0, steps])
        long[name] = both(lambda x, e=ends: selective_scan(*x, e), made(steps, args.channels, args.states, args.device))  # type: ignore[misc]
    # First of all: in the heap that mambapy's gigabytes leave behind the shorter of the two needs no new pages.
    of_lengths = turns(long, 3 * args.repeats)
    inputs = made(args.batch * args.length, args.channels, args.states, args.device)
    found = peers(args.batch, args.length, args.device)
    offsets = torch.arange(0, args.batch * args.length + 1, args.length)
    single = {
        "reference": lambda x: selective_scan(*x, offsets, backend="reference"),
        "transformers": lambda x: by_batch(transformers_scan, x, args.batch),
    }
    expected = found["ours"](inputs)
    for name, scan in (found | single).items():
        difference = float((scan(inputs) - expected).abs().max() / expected.abs().max())
        assert difference < 1e-5, f"{name} and ours disagree by {difference:.1e}"
    seconds = turns({f"{name}_forward": partial(scan, inputs) for name, scan in (found | single).items()}, args.repeats)
    seconds |= turns({f"{name}_backward": backward(scan, inputs) for name, scan in found.items()}, args.repeats)

    lengths, source = real_lengths(args.data, args.pairs)
    packed = torch.tensor(np.cumsum([0, *lengths]))
    real = {"ours": lambda x: selective_scan(*x, packed)}
    if "mamba_ssm" in found:
        real["mamba_ssm"] = lambda x: selective_scan(*x, packed, backend="mamba_ssm")
    of_real = made(int(packed[-1]), args.channels, args.states, args.device)
    seconds |= turns({f"{name}_real": both(scan, of_real) for name, scan in real.items()}, args.repeats)
    seconds |= of_lengths
    return {
        "shapes": {"batch": shapes[0], "length": shapes[1], "channels": shapes[2], "states": shapes[3],
                   "longest": args.longest, "real_lengths": lengths, "real_lengths_from": source},
        "device": args.device, "backend": default_backend(torch.device(args.device)), "repeats": args.repeats,
        "threads": torch.get_num_threads(), "seconds": seconds,
        "peak_bytes": {name: peak_bytes(name, shapes, args.device) for name in found},
    }  # fmt: skip


def report(result: dict[str, object]) -> None:
    seconds: dict[str, float] = result["seconds"]  # type: ignore[assignment]
    peak: dict[str, int] = result["peak_bytes"]  # type: ignore[assignment]
    shapes: dict[str, object] = result["shapes"]  # type: ignore[assignment]
    print(f"{ {k: v for k, v in shapes.items() if k != 'real_lengths'} }, backend {result['backend']}")
    print(f"{result['threads']} threads, load of the machine {os.getloadavg()[0]:.1f}")
    for name, value in seconds.items():
        print(f"{name:22}{1e3 * value:10.1f} ms")
    for name, value in peak.items():
        print(f"{name + ' peak':22}{value / 2**20:10.1f} MiB")
    ours = seconds["ours_forward"] + seconds["ours_backward"]
    for name in ("mambapy", "mamba_ssm"):
        if f"{name}_forward" in seconds:
            theirs = seconds[f"{name}_forward"] + seconds[f"{name}_backward"]
            ratio = f"{peak[name] / peak['ours']:.1f}" if peak["ours"] else "too small to measure"
            print(f"{name} forward + backward ÷ ours: {theirs / ours:.1f}; peak ÷ ours: {ratio}")
    for name in ("reference", "transformers"):
        print(f"{name} forward ÷ ours: {seconds[f'{name}_forward'] / seconds['ours_forward']:.1f}")
    print(f"time at 2 L ÷ time at L: {seconds['ours_2L'] / seconds['ours_L']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "rpi1460")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = {"repeats": 5, "batch": 8, "length": 1024, "channels": 512, "states": 16, "longest": 32768, "pairs": 8}
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.peak:
        print(measure_peak(args.peak, (args.batch, args.length, args.channels, args.states), args.device))
        return
    result = measure(args)
    report(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
