"""From the command to the first residue embedded by `profile`: what a user waits for before any work is done.

    python benchmarks/bench_start.py [--json FILE] [--against DIR] [--rounds 10]

`embed run` on one protein of one residue, a new cache each time: imports, plan, encoder, row and commit.  Wall and CPU
seconds of the whole process, medians, all in turns; `--against` is another checkout with a `.venv` of its own, and
`import numpy` the least that any of them can take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

GOAL = 1.0
"""Seconds of wall time."""


class Spent(NamedTuple):
    """Of one process, in seconds."""

    wall: float
    cpu: float


def spent(command: Sequence[str | Path]) -> Spent:
    """Run a command that must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def embedding(programs: Path, work: Path, number: int) -> list[str | Path]:
    """`embed run` of the checkout whose programs these are, into a cache that is not there."""
    return [
        programs / "embed", "run", "--modality", "protein", "--input", work / "one.fasta",
        "--cache", work / f"cache-{number}", "--encoder", "profile", "--quiet",
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    checkouts = {"this build": Path(sys.executable).parent}
    if asked.against is not None:
        checkouts["the other"] = asked.against / ".venv" / "bin"
    found: dict[str, list[Spent]] = {name: [] for name in ("import numpy", *checkouts)}
    with tempfile.TemporaryDirectory() as folder:
        work, number = Path(folder), 0
        (work / "one.fasta").write_text(">one\nM\n")
        for _ in range(asked.rounds + 1):
            found["import numpy"].append(spent([sys.executable, "-c", "import numpy"]))
            for name, programs in checkouts.items():
                number += 1
                found[name].append(spent(embedding(programs, work, number)))
    medians = {
        name: Spent(
            *(statistics.median(part) for part in zip(*times[1:], strict=True))
        )  # the first fills the page cache
        for name, times in found.items()
    }
    ours = medians["this build"]
    print(f"medians of {asked.rounds}, load {os.getloadavg()[0]:.1f}; goal {GOAL:.1f} s")
    for name, median in medians.items():
        ratios = f"{median.wall / ours.wall:6.2f} × wall {median.cpu / ours.cpu:6.2f} × CPU of this build"
        print(f"{name:14}{median.wall:7.3f} s wall{median.cpu:7.3f} s CPU {ratios}")
    if asked.json:
        held = {name: median._asdict() for name, median in medians.items()}
        asked.json.write_text(
            json.dumps({"rounds": asked.rounds, "load": os.getloadavg()[0], "seconds": held}, indent=1)
        )


if __name__ == "__main__":
    main()
