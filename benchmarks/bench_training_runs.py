"""Whole trainings, from the command to the table, beside those of another checkout: what a small set takes.

    python benchmarks/bench_training_runs.py --cache DIR [--against DIR] [--arguments "--tokens pooled"]
                                             [--here "--baselines none"] [--jobs 2] [--rounds 3] [--json FILE]

`train` as a user has it, with the machine's threads: wall and CPU seconds of the whole process, medians, all in turns.
`--against` is another checkout with a `.venv` of its own; `--arguments` are given to both, `--here` to this build alone
(what the other does not know); `--jobs` adds a row of this build with its folds side by side.  The first metric of each
is printed beside the time, since a faster training that learns less is none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """Of one training."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all its processes."""
    metric: float
    """Mean over folds of the task's first metric."""


def trained(program: Path, arguments: list[str], out: Path) -> Run:
    """One training into a new folder; it must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    found = subprocess.run(
        [program, *arguments, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode:
        sys.exit(f"{program}: exit {found.returncode}\n{found.stdout[-2000:]}")
    own = json.loads((out / "metrics.json").read_text())["model"]
    metric = next(own[name] for name in ("mcc", "pearson") if name in own)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, float(metric["mean"]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--arguments", default="", help="of `train`, for all")
    parser.add_argument("--here", default="--baselines none", help="of `train`, for this build alone")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    common = ["--cache", str(asked.cache.resolve()), *shlex.split(asked.arguments)]
    here, program = [*common, *shlex.split(asked.here)], Path(sys.executable).parent / "train"
    commands = {"this build": (program, here)}
    if asked.jobs > 1:
        commands[f"this build, --jobs {asked.jobs}"] = (program, [*here, "--jobs", str(asked.jobs)])
    if asked.against is not None:
        commands["the other"] = (asked.against / ".venv" / "bin" / "train", common)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(asked.rounds):
        for name, (own, arguments) in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(trained(own, arguments, Path(folder) / f"run-{number}"))
    medians = {name: Run(*map(statistics.median, zip(*runs, strict=True))) for name, runs in found.items()}
    slowest = list(medians.values())[-1]
    print(f"medians of {asked.rounds}, load {os.getloadavg()[0]:.1f}; ratios against the last row")
    for name, median in medians.items():
        ratios = f"{slowest.wall / median.wall:6.2f} × wall {slowest.cpu / median.cpu:6.2f} × CPU"
        print(f"{name:24}{median.wall:8.1f} s wall{median.cpu:8.1f} s CPU {ratios}   metric {median.metric:.3f}")
    if asked.json:
        asked.json.write_text(json.dumps({name: median._asdict() for name, median in medians.items()}, indent=1))


if __name__ == "__main__":
    main()
