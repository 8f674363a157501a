"""Cost against length: Cross-Mamba beside cross-attention and static concatenation, the fusion module alone.

    python benchmarks/bench_fusion.py [--quick] [--lengths L …] [--json FILE] [--figure FILE.png]
                                      [--d-model 32] [--pairs 4] [--repeats 3] [--threads 1]

Each fusion joins the same encoded tokens of `--pairs` pairs whose partners have lengths of their own, together L tokens
a pair; no entity is in two pairs.  A training step is forward, backward and AdamW; times are medians of `--repeats`
after one warm-up, the fusions in turns.  Peak memory is what a training step adds to a process of its own, inputs
included, after one step on short sequences.  `--figure` is written as PNG and, beside it, as SVG.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from crossllm.model import InteractionModel, ModelConfig, Packed

FUSIONS = ("cross_mamba", "cross_attention", "concat")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)
QUICK = (64, 128, 256)
SHARES = (0.47, 0.49, 0.51, 0.53)
"""Of partner A in the joined length, pair by pair: unequal, as real pairs are."""
Pairs = tuple[Packed, Packed, Tensor, Tensor]


def made_pairs(length: int, pairs: int, width: int) -> Pairs:
    torch.manual_seed(0)
    of_a = torch.tensor([round(length * SHARES[i % len(SHARES)]) for i in range(pairs)])
    a, b = (
        Packed(torch.randn(int(lengths.sum()), width), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
        for lengths in (of_a, length - of_a)
    )
    each = torch.arange(pairs)
    return a, b, each, each


def fusion(name: str, width: int) -> nn.Module:
    """The module as `train` makes it."""
    torch.manual_seed(0)
    return InteractionModel(width, width, ModelConfig(width, fusion=name)).fusion


def train_step(module: nn.Module, inputs: Pairs) -> Callable[[], object]:
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    a, b, a_index, b_index = inputs
    tokens = [side.tokens.clone().requires_grad_() for side in (a, b)]  # the encoders below want a gradient too

    def step() -> None:
        optimiser.zero_grad()
        for leaf in tokens:
            leaf.grad = None
        sides = (side._replace(tokens=leaf) for side, leaf in zip((a, b), tokens, strict=True))
        module(*sides, a_index, b_index).square().mean().backward()
        optimiser.step()

    return step


def forward(module: nn.Module, inputs: Pairs) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            module(*inputs)

    return call


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; one round of warm-up, then rounds in which each has its turn."""
    for call in calls.values():
        call()
    rounds = [{name: clock(call) for name, call in calls.items()} for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in calls}


def measure_peak(name: str, length: int, pairs: int, width: int) -> int:
    """Bytes that a training step adds to this process (Linux)."""
    train_step(fusion(name, width), made_pairs(16, pairs, width))()  # compiles, loads
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # ru_maxrss would still hold the compiler's peak
    before = resident("VmRSS")
    train_step(fusion(name, width), made_pairs(length, pairs, width))()
    return max(resident("VmHWM") - before, 0)


def resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) << 10


def peak_bytes(name: str, length: int, args: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--peak", name, "--length", str(length), "--pairs", str(args.pairs)]
    command += ["--d-model", str(args.d_model), "--threads", str(args.threads)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(args: argparse.Namespace) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for length in QUICK if args.quick else args.lengths:
        inputs = made_pairs(length, args.pairs, args.d_model)
        modules = {name: fusion(name, args.d_model) for name in FUSIONS}
        steps = turns({name: train_step(module, inputs) for name, module in modules.items()}, args.repeats)
        passes = turns({name: forward(module.eval(), inputs) for name, module in modules.items()}, args.repeats)
        for name in FUSIONS:
            peak = peak_bytes(name, length, args)
            rows.append({"fusion": name, "length": length, "step_s": steps[name], "forward_s": passes[name],
                         "peak_bytes": peak})  # fmt: skip
        print(f"{length:,} tokens a pair: done", file=sys.stderr)
        if args.json:  # what is measured is kept, whenever the rest is broken off
            settings = {name: getattr(args, name) for name in ("threads", "pairs", "d_model", "repeats")}
            args.json.write_text(json.dumps(settings | {"rows": rows}, indent=1))
    return rows


def report(rows: list[dict[str, float | str]], args: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    print(f"{args.threads} threads, load of the machine {load:.1f}; {args.pairs} pairs, d_model {args.d_model}")
    print(
        "\n| fusion | joined length | step, ms | ÷ the length before | forward, ms | peak, MiB | step ÷ cross_mamba |"
    )
    print("|---|---|---|---|---|---|---|")
    step = {(row["fusion"], row["length"]): float(row["step_s"]) for row in rows}
    for row in sorted(rows, key=lambda row: (FUSIONS.index(str(row["fusion"])), row["length"])):
        name, length = row["fusion"], int(row["length"])
        shorter = max((other for _, other in step if other < length), default=None)
        grown = f"{step[name, length] / step[name, shorter]:.2f}" if shorter else "–"
        ratio = step[name, length] / step["cross_mamba", length]
        peak = f"{float(row['peak_bytes']) / 2**20:.0f}"
        print(f"| {name} | {length:,} | {1e3 * step[name, length]:.1f} | {grown} | {1e3 * float(row['forward_s']):.1f} "
              f"| {peak} | {ratio:.2f} |")  # fmt: skip


def draw(rows: list[dict[str, float | str]], path: Path) -> None:
    """Two panels, time of a step and of a forward pass, and memory, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bench_fusion"
    from matplotlib import pyplot as plt

    figure, (times, memory) = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
    for name, colour, mark in zip(FUSIONS, ("#0072b2", "#d55e00", "#666666"), "os^", strict=True):
        of = [row for row in rows if row["fusion"] == name]
        x = [row["length"] for row in of]
        times.plot(x, [row["step_s"] for row in of], color=colour, marker=mark, markersize=4, label=name)
        times.plot(x, [row["forward_s"] for row in of], color=colour, marker=mark, markersize=3, linestyle=":")
        memory.plot(
            x, [max(float(row["peak_bytes"]), 4096) / 2**20 for row in of], color=colour, marker=mark, markersize=4
        )
    times.set_ylabel("seconds (solid: step, dotted: forward)", fontsize=8)
    memory.set_ylabel("peak memory of a step (MiB)", fontsize=8)
    for axes in (times, memory):
        axes.set(xscale="log", yscale="log", xlabel="joined length (tokens)")
        axes.grid(alpha=0.3)
    times.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short lengths")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--peak", choices=FUSIONS, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=256, help=argparse.SUPPRESS)
    for name, default in (("d-model", ModelConfig().d_model), ("pairs", 4), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(measure_peak(args.peak, args.length, args.pairs, args.d_model))
        return
    rows = measure(args)
    report(rows, args)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
