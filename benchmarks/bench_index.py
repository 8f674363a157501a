"""A cache of 10⁵ segments and 10⁸ keys, opened with its key index and, of a part, without; seconds and memory.

    python benchmarks/bench_index.py FOLDER [--segments 100000] [--records 1000] [--plain 10000] [--json FILE]

FOLDER is made (some 5 GB of keys, and 5 GB for the index; as much again in TMPDIR while it is made), and kept if it is
there. A record has one row of one value: what is measured is finding keys.  The segments are copies of one HDF5
segment with other keys, laid down by plain writes: nothing is synced.  Each step is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossllm.cache import CacheReader, CacheWriter, Recipe
from crossllm.cache.files import fsio
from crossllm.cache.index.index_file import index_paths
from crossllm.cache.maintenance.indexing import index
from crossllm.cache.store.commit import _canonical, commit_paths, read_commit

RECIPE = Recipe("rna", "many", 1, 1)
ASKED = 1 << 20
"""Keys of one question, as `embed run` asks of a file of a million sequences."""


def keys_of(segment: int, records: int) -> np.ndarray:
    """(records, 32) random keys, the same each time."""
    return np.random.default_rng(segment).integers(0, 256, (records, 32), np.uint8)


def make(folder: Path, segments: int, records: int) -> None:
    """Segments that differ in their keys."""
    with CacheWriter(folder, RECIPE, store="h5") as writer:
        writer.put([(key.tobytes(), np.ones((1, 1), np.float16)) for key in keys_of(0, records)])
    place = RECIPE.folder(folder)
    (first,) = commit_paths(place)
    commit = read_commit(first)
    body = json.loads(first.read_text())
    data = bytearray((place / "segments" / commit.segment / "segment.h5").read_bytes())
    at, size, _ = commit.parts["digest"]
    for number in range(1, segments):
        name = f"{number:032x}"
        digest = keys_of(number, records).tobytes()
        data[at : at + size] = digest
        (place / "segments" / name).mkdir()
        (place / "segments" / name / "segment.h5").write_bytes(data)
        body |= {"segment": name, "files": {"segment.h5": [len(data), fsio.crc32c(bytes(data))]}}
        body["parts"]["digest"] = [at, size, fsio.crc32c(digest)]
        del body["crc32c"]
        body["crc32c"] = fsio.crc32c(_canonical(body))
        (place / "commits" / f"{name}.json").write_bytes(_canonical(body))


def part_of(folder: Path, segments: int) -> Path:
    """A cache of the first segments, by hard links."""
    there, part = RECIPE.folder(folder), folder.with_name(f"{folder.name}-{segments}")
    if not part.exists():
        here = RECIPE.folder(part)
        (here / "segments").mkdir(parents=True)
        (here / "commits").mkdir()
        shutil.copy(there / "recipe.json", here)
        for path in commit_paths(there)[:segments]:
            (here / "commits" / path.name).hardlink_to(path)
            (here / "segments" / path.stem).mkdir()
            source = there / "segments" / path.stem / "segment.h5"
            (here / "segments" / path.stem / "segment.h5").hardlink_to(source)
    return part


def open_it(folder: Path, use_index: bool, counts: tuple[int, int], ask: int) -> None:
    reader = CacheReader(folder, RECIPE, use_index=use_index)
    if (reader._file is None) == use_index or len(reader) != counts[0] * counts[1]:
        raise SystemExit("another index, or other keys")
    if ask:
        half = np.concatenate([keys_of(n, counts[1]) for n in range(1, 1 + ask // 2 // counts[1])])
        absent = reader.absent(np.concatenate([half, keys_of(1 << 40, len(half))]))
        if absent[: len(half)].any() or not absent[len(half) :].all():
            raise SystemExit("wrong answers")


def list_it(folder: Path) -> None:
    commit_paths(RECIPE.folder(folder))


def timed(work: Callable[..., None], *arguments: object) -> dict[str, float]:
    """Seconds, of which so many of a core, and MiB at most, of a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        begun, before = time.perf_counter(), time.process_time()
        work(*arguments)
        anonymous = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        own = int(anonymous[0].split()[1]) / 1024
        sender.send((time.perf_counter() - begun, time.process_time() - before, peak, own))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    seconds, cpu, peak, own = receiver.recv()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": round(peak),
        "own_mib_at_end": round(own),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    counts = asked.segments, asked.records
    found: dict[str, object] = {"segments": asked.segments, "keys": asked.segments * asked.records}
    if not asked.folder.exists():
        found["make"] = timed(make, asked.folder, *counts)
        print("make", found["make"], flush=True)
    part = part_of(asked.folder, asked.plain)
    few = asked.plain, asked.records
    if not index_paths(RECIPE.folder(asked.folder)):
        found["index"] = timed(index, asked.folder)
        print("index", found["index"], flush=True)
    found["index_bytes"] = sum(path.stat().st_size for path in index_paths(RECIPE.folder(asked.folder)))
    steps: dict[str, tuple[Callable[..., None], *tuple[object, ...]]] = {
        "list": (list_it, asked.folder),
        "open": (open_it, asked.folder, True, counts, 0),
        "open_and_ask": (open_it, asked.folder, True, counts, ASKED),
        f"plain_open_of_{asked.plain}": (open_it, part, False, few, 0),
    }
    for name, (work, *arguments) in steps.items():
        found[name] = timed(work, *arguments)
        print(name, found[name], flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
