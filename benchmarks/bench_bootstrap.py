"""The bootstrap of the intervals: the compiled kernels against the plain formulas, on the same draws.

    python benchmarks/bench_bootstrap.py [--json FILE] [--pairs 200000] [--folds 5] [--a 2000] [--b 5000]
        [--replicates 1000] [--plain 50]

Wall and CPU seconds of all replicates of one set of predictions.  The plain formulas run on `--plain` replicates, and
their seconds are scaled to `--replicates`; both are asked the same draws, and their largest difference is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.cache.console.machine import cores
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import Partners, Scored, block_sizes, compute, compute_drawn, draw, summarise

TASKS: tuple[Task, ...] = ("classification", "regression")
ROUNDS = 3


def made(rng: np.random.Generator, task: Task, pairs: int) -> Scored:
    """Predictions of one fold; all scores and affinities are distinct, which is the slowest."""
    if task == "regression":
        label = rng.normal(6, 1.5, pairs)
        score = (label + rng.normal(0, 1, pairs)).astype(np.float32)
        return Scored(label, score, score)
    label = rng.integers(0, 2, pairs)
    score = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1).astype(np.float32)
    return Scored(label, score, (score >= 0.5).astype(int))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(task: Task, asked: argparse.Namespace) -> dict[str, float]:
    """Medians of both ways, and how far they differ."""
    rng = np.random.default_rng(0)
    size = asked.pairs // asked.folds
    folds = [made(rng, task, size) for _ in range(asked.folds)]
    partners = [Partners(rng.integers(0, asked.a, size), rng.integers(0, asked.b, size)) for _ in folds]
    first = draw(rng, folds, partners, 2)
    apart = 0.0
    for fold, drawn in zip(folds, first, strict=True):  # which compiles the kernels too
        plain, ours = compute(task, fold, drawn.weights()), compute_drawn(task, fold, drawn)
        apart = max([apart, *(float(np.abs(plain[name] - ours[name]).max()) for name in plain)])

    def plainly() -> None:
        for count in block_sizes(asked.plain):
            for fold, drawn in zip(folds, draw(rng, folds, partners, count), strict=True):
                compute(task, fold, drawn.weights())

    ours, plain = [], []
    for _ in range(ROUNDS):
        ours.append(timed(lambda: summarise(task, folds, 0, partners, asked.replicates)))
        plain.append(timed(plainly))
    ours_wall, ours_cpu = np.median(ours, axis=0).tolist()
    plain_wall, plain_cpu = (np.median(plain, axis=0) * asked.replicates / asked.plain).tolist()
    return {
        "ours_s": ours_wall, "ours_cpu_s": ours_cpu, "plain_s": plain_wall, "plain_cpu_s": plain_cpu, "apart": apart,
    }  # fmt: skip


def main() -> None:
    """Print both tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    for name, value in (("pairs", 200_000), ("folds", 5), ("a", 2000), ("b", 5000), ("replicates", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--plain", type=int, default=50, help="replicates of the plain formulas")
    asked = parser.parse_args()
    print(f"{asked.pairs:,} pairs, {asked.folds} folds, {cores()} threads, load {os.getloadavg()[0]:.1f}")
    found = {task: measure(task, asked) for task in TASKS}
    for task, own in found.items():
        print(
            f"{task:15} kernels {own['ours_s']:6.1f} s (CPU {own['ours_cpu_s']:6.1f})   plain {own['plain_s']:6.1f} s "
            f"(CPU {own['plain_cpu_s']:6.1f})   {own['plain_s'] / own['ours_s']:5.1f} × "
            f"(CPU {own['plain_cpu_s'] / own['ours_cpu_s']:5.1f} ×)   apart {own['apart']:.1e}"
        )
    if asked.json:
        asked.json.write_text(json.dumps({"threads": cores(), "load": os.getloadavg()[0], "found": found}, indent=1))


if __name__ == "__main__":
    main()
