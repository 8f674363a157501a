"""How long the tasks of a job array plan: each reads the whole file, in an order of its own, and finds its shard.

    python benchmarks/bench_shards.py [--sequences 1000000] [--length 21] [--shards 3] [--json FILE]

Each task is `embed run --dry-run --shard-index I`, a process of its own, one after the other.  Shards must agree: their
sequences together are all, none twice.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def write_fasta(path: Path, sequences: int, length: int, order: np.ndarray) -> None:
    """Random RNAs, the same in every file; in this order."""
    letters = np.random.default_rng(0).choice(list(b"ACGU"), (sequences, length)).astype(np.uint8)
    with path.open("wb") as file:
        for number in order.tolist():
            file.write(b">s%d\n%s\n" % (number, letters[number].tobytes()))


def planned(fasta: Path, shard: int, shards: int, cache: Path) -> dict[str, Any]:
    """What a task says of its shard, with its seconds and its memory."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [
        sys.executable, "-m", "crossllm", "embed", "run", "--modality", "rna", "--input", str(fasta), "--cache",
        str(cache), "--encoder", "profile", "--shard-index", str(shard), "--num-shards", str(shards), "--dry-run",
        "--json",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout) | {
        "wall": time.perf_counter() - began,
        "cpu": cpu,
        "peak_mib": after.ru_maxrss / 1024,  # the largest child so far
    }


def main() -> None:
    """Print a line a task, and whether the shards make up the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=21)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for shard in range(asked.shards):
            fasta = Path(folder) / "many.fasta"
            order = np.random.default_rng(shard).permutation(asked.sequences)
            write_fasta(fasta, asked.sequences, asked.length, order)
            one = planned(fasta, shard, asked.shards, Path(folder) / "cache")
            print(
                f"shard {shard}: {one['distinct']:,} sequences, {one['wall']:.1f} s, {one['cpu']:.1f} s of CPU, "
                f"at most {one['peak_mib']:.0f} MiB",
                flush=True,
            )
            found.append(one)
    total = sum(one["distinct"] for one in found)
    if total > asked.sequences or total < 0.99 * asked.sequences:  # a few random ones may be equal
        raise SystemExit(f"the shards have {total:,} sequences together, the files {asked.sequences:,}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
