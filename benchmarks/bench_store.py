"""The store: random reads of whole records, durable writes and verify, beside what people use instead.

    python benchmarks/bench_store.py [--json FILE] [--records 1500] [--residues 300] [--dim 1280] [--folder DIR]

Reading: every peer copies the same records, float16, in the same random order, a batch at a time, into the same
preallocated buffer, one record after the other.  The files are warm (in the page cache).  `store_hot` are records
whose CRC was checked before, `store_first_touch` are read by a reader just opened, which checks each.  The store
gathers with its default threads; `*_1_thread` is the same with one, and `memmap_threads` the limit with as many.
zarr-python and tensorstore read the store's own segments; the others have their own files of the same rows.
Writing: the same records into the store (crc32c, fsync, commit), and the same bytes into one plain file with fsync.
Peers take turns within each repeat; medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import tensorstore
import torch
import zarr

from crossllm.cache import CacheReader, CacheWriter, Recipe, key_of
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.store.reader import THREADS

BATCH = 32
Records = dict[bytes, np.ndarray]
Copy = Callable[[list[bytes], np.ndarray], None]
"""Copies the records of these keys into a buffer, one after the other."""


def made_records(count: int, residues: int, dim: int, seed: int) -> Records:
    """Random rows; lengths spread around the mean as proteins' are."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.gamma(3.0, residues / 3.0, count).astype(int))
    block = rng.standard_normal((int(lengths.max()) * 2, dim)).astype(np.float16)
    starts = rng.integers(0, lengths.max(), count)
    return {
        key_of("protein", f"M{n}"): block[s : s + n_] for n, (s, n_) in enumerate(zip(starts, lengths, strict=True))
    }


def one_by_one(rows_of: Callable[[bytes], Any]) -> Copy:
    """A peer that has one record at a time."""

    def copy(keys: list[bytes], out: np.ndarray) -> None:
        at = 0
        for key in keys:
            rows = rows_of(key)
            out[at : at + len(rows)] = rows
            at += len(rows)

    return copy


def store(cache_dir: Path, recipe: Recipe, threads: int) -> Copy:
    reader = CacheReader(cache_dir, recipe, threads=threads)
    return lambda keys, out: reader.gather(keys, out) and None


def h5_store(records: Records, folder: Path, recipe: Recipe) -> Copy:
    with CacheWriter(folder / "h5-store", recipe, store="h5") as writer:
        for key, rows in records.items():
            writer.add(key, rows)
    return store(folder / "h5-store", recipe, THREADS)


def memmap(records: Records, folder: Path, threads: int) -> Copy:
    path, places, at = folder / "rows.bin", {}, 0
    with path.open("wb") as file:
        for key, rows in records.items():
            file.write(np.ascontiguousarray(rows).data)
            places[key] = (at, at + len(rows))
            at += len(rows)
    mapped = np.memmap(path, np.float16, "r").reshape(at, -1)
    single = one_by_one(lambda key: mapped[slice(*places[key])])
    if threads == 1:
        return single
    pool = ThreadPoolExecutor(threads)

    def copy(keys: list[bytes], out: np.ndarray) -> None:
        ends = np.cumsum([0, *(places[key][1] - places[key][0] for key in keys)])
        cuts = [len(keys) * n // threads for n in range(threads + 1)]
        parts = list(itertools.pairwise(cuts))
        list(pool.map(lambda part: single(keys[part[0] : part[1]], out[ends[part[0]] :]), parts))

    return copy


def segments_of(reader: CacheReader) -> dict[bytes, tuple[Path, int, int]]:
    return {
        key.tobytes(): (segment.path / "rows", int(segment.offsets[n]), int(segment.offsets[n + 1]))
        for segment in reader.segments
        for n, key in enumerate(segment.digest)
    }


def through(opened: Callable[[Path], Any], cache_dir: Path, recipe: Recipe) -> Copy:
    """A library that reads the store's own Zarr segments."""
    places = segments_of(CacheReader(cache_dir, recipe))
    arrays = {path: opened(path) for path, _, _ in places.values()}

    def rows_of(key: bytes) -> Any:
        path, start, stop = places[key]
        found = arrays[path][start:stop]
        return found.read().result() if isinstance(found, tensorstore.TensorStore) else found

    return one_by_one(rows_of)


def open_tensorstore(path: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, read=True).result()


def h5py_datasets(records: Records, folder: Path) -> Copy:
    path = folder / "datasets.h5"
    with h5py.File(path, "w") as file:
        for key, rows in records.items():
            file[key.hex()] = rows
    opened = h5py.File(path, "r")

    def copy(keys: list[bytes], out: np.ndarray) -> None:
        at = 0
        for key in keys:
            dataset = opened[key.hex()]
            dataset.read_direct(out, None, np.s_[at : at + len(dataset)])
            at += len(dataset)

    return copy


def pt_files(records: Records, folder: Path) -> Copy:
    (folder / "pt").mkdir()
    for key, rows in records.items():
        torch.save(torch.from_numpy(rows.copy()), folder / "pt" / f"{key.hex()}.pt")
    return one_by_one(lambda key: torch.load(folder / "pt" / f"{key.hex()}.pt", weights_only=True).numpy())


def lmdb_values(records: Records, folder: Path) -> Copy:
    size = sum(rows.nbytes for rows in records.values())
    environment = lmdb.open(str(folder / "lmdb"), map_size=2 * size + (64 << 20))
    with environment.begin(write=True) as transaction:
        for key, rows in records.items():
            transaction.put(key, rows.tobytes())
    view, dim = environment.begin(buffers=True), next(iter(records.values())).shape[1]
    return one_by_one(lambda key: np.frombuffer(view.get(key), np.float16).reshape(-1, dim))


def read_seconds(copy: Copy, batches: list[list[bytes]], out: np.ndarray) -> float:
    start = time.perf_counter()
    for batch in batches:
        copy(batch, out)
    return time.perf_counter() - start


def write_seconds(records: Records, folder: Path, recipe: Recipe) -> tuple[float, float]:
    """Store, then raw, each new on the same disk."""
    start = time.perf_counter()
    with CacheWriter(folder / "cache", recipe) as writer:
        for key, rows in records.items():
            writer.add(key, rows)
    stored = time.perf_counter() - start
    start = time.perf_counter()
    with (folder / "raw").open("wb", buffering=0) as file:
        for rows in records.values():
            file.write(rows.data)
        os.fsync(file.fileno())
    return stored, time.perf_counter() - start


def check(copy: Copy, name: str, records: Records, batch: list[bytes], out: np.ndarray) -> None:
    """Every peer gives the same bytes, or its time means nothing."""
    expected = np.concatenate([records[key] for key in batch])
    out[: len(expected)] = 0
    copy(batch, out)
    if out[: len(expected)].tobytes() != expected.tobytes():
        raise SystemExit(f"{name} gives other rows")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    records = made_records(arguments.records, arguments.residues, arguments.dim, arguments.seed)
    recipe = Recipe("protein", "bench", 1, arguments.dim)
    cache_dir, seconds = folder / "store", dict[str, list[float]]()
    with CacheWriter(cache_dir, recipe) as writer:
        for key, rows in records.items():
            writer.add(key, rows)
    peers: dict[str, Copy] = {
        "store_hot": store(cache_dir, recipe, THREADS),
        "store_hot_1_thread": store(cache_dir, recipe, 1),
        "store_h5": h5_store(records, folder, recipe),
        "memmap": memmap(records, folder, 1),
        "memmap_threads": memmap(records, folder, THREADS),
        "zarr": through(lambda path: zarr.open_array(path, mode="r"), cache_dir, recipe),
        "tensorstore": through(open_tensorstore, cache_dir, recipe),
        "h5py": h5py_datasets(records, folder),
        "pt": pt_files(records, folder),
        "lmdb": lmdb_values(records, folder),
    }
    longest = max(map(len, records.values()))
    out = np.zeros((BATCH * longest, arguments.dim), np.float16)
    rng = np.random.default_rng(arguments.seed)
    keys = list(records)
    for name, peer in peers.items():
        check(peer, name, records, keys[:BATCH], out)
        read_seconds(peer, [keys[n : n + BATCH] for n in range(0, len(keys), BATCH)], out)  # warm, and checked once
    for repeat in range(arguments.repeats):
        order = [keys[n] for n in rng.permutation(len(keys))]
        batches = [order[n : n + BATCH] for n in range(0, len(order), BATCH)]
        fresh = {
            "store_first_touch": store(cache_dir, recipe, THREADS),
            "store_first_touch_1_thread": store(cache_dir, recipe, 1),
        }
        for name, peer in {**peers, **fresh}.items():
            seconds.setdefault(name, []).append(read_seconds(peer, batches, out))
        start = time.perf_counter()
        if verify(cache_dir, data=True).damage:
            raise SystemExit("the store is damaged")
        seconds.setdefault("verify_data", []).append(time.perf_counter() - start)
        (folder / f"write-{repeat}").mkdir()
        for name, took in zip(
            ("store_write", "raw_write"), write_seconds(records, folder / f"write-{repeat}", recipe), strict=True
        ):
            seconds.setdefault(name, []).append(took)
        print(f"repeat {repeat + 1} of {arguments.repeats}", flush=True)
    return seconds


def report(seconds: dict[str, float], size: int) -> None:
    print(f"{'':28}seconds    GB/s   of memmap / raw")
    for name, took in seconds.items():
        base = seconds["raw_write" if name.endswith("write") else "memmap"]
        print(f"{name:28}{took:7.3f} {size / took / 1e9:7.2f} {base / took:8.1%}")
    hot, first = seconds["store_hot"], seconds["store_first_touch"]
    limit = seconds["memmap"]
    print(f"store_hot ≥ 85 % of memmap: {limit / hot:.0%}; first touch ≥ 60 %: {limit / first:.0%}")
    print(
        "zarr ÷ store_hot ≥ 15: {:.1f}; h5py ≥ 2: {:.1f}; pt ≥ 2: {:.1f}; tensorstore {:.1f}; lmdb {:.1f}".format(
            *(seconds[name] / hot for name in ("zarr", "h5py", "pt", "tensorstore", "lmdb"))
        )
    )
    print(f"store_write ≥ 70 % of raw: {seconds['raw_write'] / seconds['store_write']:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("records", 1500), ("residues", 300), ("dim", 1280), ("repeats", 5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument(
        "--folder", type=Path, default=None, help="Where the files are made; on the disk to be measured."
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        raw = measure(arguments, Path(folder))
        seconds = {name: statistics.median(taken) for name, taken in raw.items()}
    records = made_records(arguments.records, arguments.residues, arguments.dim, arguments.seed)
    rows = sum(map(len, records.values()))
    report(seconds, rows * arguments.dim * 2)
    if arguments.json:
        shapes = {"records": arguments.records, "rows": rows, "dim": arguments.dim, "dtype": "float16", "batch": BATCH}
        found = {"seconds": seconds, "raw": raw, "shapes": shapes, "threads": THREADS}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
