"""What durability (crc32c, fsync, commit records) adds to an `embed run`, at the step times of real encoders.

    python benchmarks/bench_durability.py [--json FILE] [--dim 1280] [--rates 1000 5000 20000] [--folder DIR]

In line, the writer works while the encoder waits, so its cost is what it adds to the time of a segment: a segment is
what the encoder makes in 60 s, at most 256 MiB.  For each rate (residues/s) the same rows are written with everything
on and with fsync and crc32c taken out (`off`), in turns A B B A; the cost is the difference of the medians over the
time the encoder needs for the segment.  1,000 residues/s is about ESM-2 650M on two CPU cores, 20,000 one on a GPU.

`behind` is what `embed run` does: a thread writes.  Where a segment is full in seconds, an encoder that leaves the
processor alone (it sleeps) makes three of them in real time, a batch at a time; the cost is what the run takes longer
than the encoder, the last commit included, with everything on and with fsync and crc32c taken out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.cache import CacheWriter, Recipe, key_of
from crossllm.cache.files import fsio
from crossllm.cache.store.background_writer import BackgroundWriter
from crossllm.cache.store.writer import SEGMENT_BYTES, SEGMENT_SECONDS

LENGTH = 300
BATCH = 54
"""Records of an encoder's batch: about 16,384 residues."""
SEGMENTS = 3
REAL_TIME = 10.0
"""Seconds of a segment up to which it is made in real time."""


class _WithoutSync:
    """The system, but that nothing is ever synced."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def fsync(descriptor: int) -> None:
        pass


@contextmanager
def durability_off() -> Iterator[None]:
    system, crc = fsio.os, fsio.crc32c
    fsio.os, fsio.crc32c = _WithoutSync(), lambda data, start=0: 0
    try:
        yield
    finally:
        fsio.os, fsio.crc32c = system, crc


def write(folder: Path, records: list[tuple[bytes, np.ndarray]], dim: int) -> float:
    start = time.perf_counter()
    with CacheWriter(folder, Recipe("protein", "bench", 1, dim)) as writer:
        for key, rows in records:
            writer.add(key, rows)
    return time.perf_counter() - start


def write_behind(folder: Path, records: list[tuple[bytes, np.ndarray]], dim: int, rate: int) -> float:
    """What a run takes longer than its encoder, as a share."""
    start, encoding = time.perf_counter(), 0.0
    with BackgroundWriter(CacheWriter(folder, Recipe("protein", "bench", 1, dim))) as writer:
        for at in range(0, len(records), BATCH):
            begun = time.perf_counter()
            time.sleep(len(records[at : at + BATCH]) * LENGTH / rate)
            encoding += time.perf_counter() - begun
            for key, rows in records[at : at + BATCH]:
                writer.add(key, rows)
    return (time.perf_counter() - start - encoding) / encoding


def measure_behind(rate: int, records: list[tuple[bytes, np.ndarray]], dim: int, folder: Path) -> dict[str, float]:
    many = [(key_of("protein", f"{key.hex()} {n}"), rows) for n in range(SEGMENTS) for key, rows in records]
    cost: dict[str, list[float]] = {"behind": [], "behind_off": []}
    for name in ("behind", "behind_off", "behind_off", "behind"):
        with tempfile.TemporaryDirectory(dir=folder) as target:
            if name == "behind":
                cost[name].append(write_behind(Path(target), many, dim, rate))
            else:
                with durability_off():
                    cost[name].append(write_behind(Path(target), many, dim, rate))
    return {name: statistics.median(found) for name, found in cost.items()}


def measure(rate: int, dim: int, repeats: int, folder: Path) -> dict[str, float]:
    residues = min(int(rate * SEGMENT_SECONDS), SEGMENT_BYTES // (2 * dim))
    rows = np.random.default_rng(0).standard_normal((LENGTH, dim)).astype(np.float16)
    records = [(key_of("protein", f"M{n}"), rows) for n in range(max(1, residues // LENGTH))]
    seconds: dict[str, list[float]] = {"full": [], "off": []}
    for repeat in range(repeats):
        for turn, name in enumerate(("full", "off", "off", "full")):
            target = folder / f"{rate}-{repeat}-{turn}"
            if name == "full":
                seconds[name].append(write(target, records, dim))
            else:
                with durability_off():
                    seconds[name].append(write(target, records, dim))
    full, off = (statistics.median(seconds[name]) for name in ("full", "off"))
    period = len(records) * LENGTH / rate
    cost, spread = (full - off) / period, (max(seconds["full"]) - min(seconds["full"])) / period
    found = {"full": full, "off": off, "period": period, "cost": cost, "spread": spread}
    return found | (measure_behind(rate, records, dim, folder) if period <= REAL_TIME else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    found = {}
    print("residues/s  segment of    full     off    cost in line (spread of full)   behind: full, off")
    for rate in arguments.rates:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found[str(rate)] = took = measure(rate, arguments.dim, arguments.repeats, Path(folder))
        print(
            f"{rate:10}{took['period']:10.1f} s{took['full']:8.3f}{took['off']:8.3f}"
            f"{took['cost']:8.1%} (± {took['spread'] / 2:.1%})"
            + (f"{took['behind']:20.1%},{took['behind_off']:6.1%}" if "behind" in took else "")
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"dim": arguments.dim, "rates": found}, indent=1))


if __name__ == "__main__":
    main()
