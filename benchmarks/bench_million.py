"""A cache of 10⁶ short records: written, opened, one random batch read, verified; seconds and memory of each step.

    python benchmarks/bench_million.py [--json FILE] [--records 1000000] [--residues 21] [--dim 16] [--folder DIR]

Each step is a process of its own, so that its peak memory is its own; `start` is a process that only imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossllm.cache import CacheReader, CacheWriter, Recipe
from crossllm.cache.maintenance.inspection import verify

BATCH = 1024
Shapes = tuple[int, int, int]


def keys(start: int, stop: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % n).digest() for n in range(start, stop)]


def recipe(shapes: Shapes) -> Recipe:
    return Recipe("rna", "million", 1, shapes[2])


def start(folder: Path, shapes: Shapes) -> None:
    pass


def write(folder: Path, shapes: Shapes) -> None:
    count, residues, dim = shapes
    rows = np.arange(residues * dim, dtype=np.float16).reshape(residues, dim) % 100
    with CacheWriter(folder, recipe(shapes)) as writer:
        for first in range(0, count, BATCH):
            for n, key in enumerate(keys(first, min(first + BATCH, count)), first):
                rows[0, :2] = n % 2048, n // 2048  # exact in float16
                writer.add(key, rows)


def open_it(folder: Path, shapes: Shapes) -> None:
    reader = CacheReader(folder, recipe(shapes))
    if reader.damage:
        raise SystemExit(reader.damage)


def batch(folder: Path, shapes: Shapes) -> None:
    chosen = np.random.default_rng(0).integers(0, shapes[0], BATCH)
    packed = CacheReader(folder, recipe(shapes)).gather([keys(n, n + 1)[0] for n in chosen.tolist()])
    found = packed.rows[packed.offsets[:-1], :2].astype(int)
    if (found[:, 0] + 2048 * found[:, 1] != chosen).any():
        raise SystemExit("other rows")


def count_keys(folder: Path, shapes: Shapes) -> None:
    if len(CacheReader(folder, recipe(shapes))) != shapes[0]:
        raise SystemExit("not every key is there")


def verify_structure(folder: Path, shapes: Shapes) -> None:
    if verify(folder, data=False).damage:
        raise SystemExit("damaged")


def verify_data(folder: Path, shapes: Shapes) -> None:
    if verify(folder, data=True).damage:
        raise SystemExit("damaged")


def _child(step: Callable[[Path, Shapes], None], folder: Path, shapes: Shapes, answer: str) -> None:
    begun = time.perf_counter()
    step(folder, shapes)
    took = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    Path(answer).write_text(json.dumps([took, peak]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("records", 1_000_000), ("residues", 21), ("dim", 16)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    shapes = arguments.records, arguments.residues, arguments.dim
    context, found = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for step in (start, write, open_it, batch, count_keys, verify_structure, verify_data):
            answer = f"{folder}/answer.json"
            child = context.Process(target=_child, args=(step, Path(folder) / "cache", shapes, answer))
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{step.__name__} failed")
            took, peak = json.loads(Path(answer).read_text())
            found[step.__name__] = {"seconds": took, "peak_bytes": peak}
            print(f"{step.__name__:18}{took:9.3f} s {peak / 2**20:9.0f} MiB", flush=True)
    if arguments.json:
        names = ("records", "residues", "dim")
        arguments.json.write_text(
            json.dumps({"shapes": dict(zip(names, shapes, strict=True)), "steps": found}, indent=1)
        )


if __name__ == "__main__":
    main()
