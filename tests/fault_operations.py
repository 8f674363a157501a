"""What is killed, cut short and made to fail: every command that writes into a cache, over a few short sequences.

A further operation is one more line of `OPERATIONS`.  `start` makes the folder it begins with, `work` is the operation
itself; after it, and after it was killed anywhere and done again, the cache must hold the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Record, list_recipes, read_records, record_of
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.maintenance.repair import repair
from crossllm.cache.records.id_table import publish_table
from crossllm.cache.store import writer_marker
from crossllm.cache.store.background_writer import WRITE_AHEAD
from crossllm.cache.store.layout import Compressor, Store
from crossllm.cache.store.recipe import Recipe, write_recipe
from crossllm.cache.store.segment import ROWS
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders.profile import ProfileEncoder
from crossllm.embed.foreign.exporting import ExportOptions, export_embeddings
from crossllm.embed.foreign.importing import ImportOptions, import_embeddings
from crossllm.embed.run.run import RunOptions, run

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
SEGMENT_BYTES = 2000
SEQUENCES = ["GGAUC" * 4, "ACGU", "CCCAUU" * 3, "AUGGCUUA" * 3]
"""At `SEGMENT_BYTES` they make `SEGMENTS` segments of at most `IN_A_SEGMENT` records."""
SEGMENTS, IN_A_SEGMENT = 3, 2
KILLED = len(SEQUENCES) if CHAOS else 3
"""How many of them are in what is killed at every operation: outside `make chaos` two segments."""
Contents = dict[str, str]
"""`<recipe> <key in hex>` → SHA-256 of its rows."""


class Operation(NamedTuple):
    """`work(cache, ack_fd)`; the cache's parent folder is its to use, for inputs and outputs."""

    start: Callable[[Path], None]
    work: Callable[[Path, int | None], None]
    damaged: bool = False
    """The start is damaged on purpose, and the cache need not be clean before the work is done."""
    check: Callable[[Path], None] = lambda _cache: None
    """What else must hold after a kill."""
    in_flight: int = IN_A_SEGMENT
    """Records that a kill may cost at most: those of the open segment, and those that wait for it."""
    together: int = 0
    """File operations that a run may have less than another: a thread writes the records that wait in one go."""


def write_input(cache: Path, count: int = len(SEQUENCES)) -> Path:
    """The first sequences as FASTA beside the cache."""
    path = cache.parent / "in.fasta"
    path.write_text("".join(f">s{n}\n{s}\n" for n, s in enumerate(SEQUENCES[:count])))
    return path


def records() -> list[Record]:
    return [record_of("rna", f"s{n}", s) for n, s in enumerate(SEQUENCES)]


def embed_run(cache: Path, ack_fd: int | None = None) -> None:
    in_store("zarr")(cache, ack_fd)


def run_half(cache: Path) -> None:
    write_input(cache, 2)
    embed_run(cache)
    write_input(cache, KILLED)


def run_whole(cache: Path) -> None:
    write_input(cache)
    embed_run(cache)


def write_arrays(cache: Path) -> None:
    write_input(cache)
    (cache.parent / "made-elsewhere").mkdir()
    for n, sequence in enumerate(SEQUENCES):
        rows = np.arange(len(sequence) * 3, dtype=np.float16).reshape(-1, 3) + n
        np.save(cache.parent / "made-elsewhere" / f"s{n}.npy", rows)


def import_arrays(cache: Path, _ack_fd: int | None = None) -> None:
    source, fasta = cache.parent / "made-elsewhere", cache.parent / "in.fasta"
    import_embeddings(ImportOptions("rna", source, fasta, cache, quiet=True))


def publish_ids(cache: Path, _ack_fd: int | None = None) -> None:
    publish_table(cache, "rna", read_records(cache.parent / "in.fasta", "rna").records)


def new_recipe(cache: Path, _ack_fd: int | None = None) -> None:
    write_recipe(cache, Recipe("rna", "other", 1, 24))


def export_csv(cache: Path, _ack_fd: int | None = None) -> None:
    """Again after a kill: into a new place, as an output is never written over."""
    places = (cache.parent / f"out{n}.csv" for n in range(100))
    place = next(p for p in places if not p.exists() and not p.with_name(p.name + ".mapping.tsv").exists())
    export_embeddings(ExportOptions(cache, "rna", "csv", place, quiet=True))


def outputs_are_whole(cache: Path) -> None:
    for path in cache.parent.glob("out*.csv"):
        assert len(path.read_text().splitlines()) == len(SEQUENCES) + 1
        assert path.with_name(path.name + ".mapping.tsv").exists()


def in_store(store: Store, compressor: Compressor | None = None, ahead: int = 0) -> Callable[[Path, int | None], None]:
    """`embed run` into a store; each record is written before the next is encoded, or `ahead` bytes may wait."""

    def work(cache: Path, ack_fd: int | None = None) -> None:
        options = {"segment_bytes": SEGMENT_BYTES, "store": store, "compressor": compressor, "ack_fd": ack_fd}
        options["write_ahead"] = ahead
        run(RunOptions("rna", cache.parent / "in.fasta", cache, "profile", quiet=True, **options))

    return work


def input_only(cache: Path) -> None:
    write_input(cache, KILLED)


def input_of_one_segment(cache: Path) -> None:
    write_input(cache, 1)


def run_doubled(cache: Path) -> None:
    """Every record twice, in small segments: two writers at once."""
    input_only(cache)
    embed_run(cache)
    (recipe,) = list_recipes(cache, "rna")
    reader = CacheReader(cache, recipe)
    for key in reader:
        with CacheWriter(cache, recipe) as writer:
            writer.add(key, reader[key])


def run_compacted(cache: Path) -> None:
    run_doubled(cache)
    compact_all(cache)
    (folder,) = (cache / "embeddings" / "rna").iterdir()
    (folder / "segments" / ("0" * 32)).mkdir()  # a dead writer's
    dead = {"host": writer_marker._machine(), "pid": 1 << 30, "started": 0.0}
    (folder / "segments" / f".writer-{'0' * 32}.json").write_text(json.dumps(dead))


def run_beside_another(cache: Path) -> None:
    """Some of the records here, and all of them in another cache."""
    run_half(cache)
    input_only(cache.parent / "other")
    embed_run(cache.parent / "other")


def run_damaged(cache: Path) -> None:
    """One byte of a row flipped in a segment of two records."""
    run_whole(cache)
    (recipe,) = list_recipes(cache, "rna")
    segment = next(s for s in CacheReader(cache, recipe).segments if s.commit.records > 1)
    data = bytearray((segment.path / ROWS).read_bytes())
    data[0] ^= 1
    (segment.path / ROWS).write_bytes(data)


def compact_all(cache: Path, _ack_fd: int | None = None) -> None:
    compact(cache, segment_bytes=SEGMENT_BYTES)


def collect_all(cache: Path, _ack_fd: int | None = None) -> None:
    collect_garbage(cache)


def merge_other(cache: Path, _ack_fd: int | None = None) -> None:
    merge(cache, [cache.parent / "other"], segment_bytes=SEGMENT_BYTES)


def repair_all(cache: Path, _ack_fd: int | None = None) -> None:
    repair(cache)


def nothing_superseded(cache: Path) -> None:
    """Whatever gc was killed at, what is live has its folder."""
    for recipe in list_recipes(cache, "rna"):
        assert not CacheReader(cache, recipe).damage


OPERATIONS: dict[str, Operation] = {
    "run": Operation(input_only, embed_run),
    "run ahead": Operation(input_only, in_store("zarr", ahead=WRITE_AHEAD), in_flight=KILLED, together=KILLED - 1),
    "run h5": Operation(input_only, in_store("h5")),
    # Its file operations are those of "run": outside `make chaos` those of one segment are enough.
    "run zstd": Operation(input_only if CHAOS else input_of_one_segment, in_store("zarr", "zstd")),
    "resume": Operation(run_half, embed_run),
    "import": Operation(write_arrays, import_arrays),
    "publish_table": Operation(run_half, publish_ids),
    "write_recipe": Operation(run_whole, new_recipe),
    "export": Operation(run_whole, export_csv, check=outputs_are_whole),
    "compact": Operation(run_doubled, compact_all),
    "gc": Operation(run_compacted, collect_all, check=nothing_superseded),
    "merge": Operation(run_beside_another, merge_other),
    "repair": Operation(run_damaged, repair_all, damaged=True),
}


def contents(cache: Path, *, damaged: bool = False) -> Contents:
    """Every readable record of a cache; a cache that is not there yet holds none.

    With `damaged`, records may be damaged, and are left out.
    """
    found = {}
    for recipe in list_recipes(cache, "rna"):
        reader = CacheReader(cache, recipe)
        for key in reader:
            with suppress(*([CacheCorrupt] if damaged else [])):
                found[f"{recipe.folder_name} {key.hex()}"] = hashlib.sha256(reader[key].tobytes()).hexdigest()
    return found


def damage(cache: Path) -> list[str]:
    """What `verify --data` finds; nothing where there is no cache yet."""
    there = any((cache / name).exists() for name in ("embeddings", "records"))
    return list(map(str, verify(cache, data=True).damage)) if there else []


def broken_promises(cache: Path, expected: Contents, promised: set[str], *, damaged: bool = False) -> list[str]:
    """What is wrong with a cache as it stands: `promised` names what must be there, all else must be as `expected`."""
    if not damaged and (found := damage(cache)):
        return found
    held = contents(cache, damaged=damaged)
    lost = [f"{name}: acknowledged and not there" for name in sorted(promised) if name not in held]
    return lost + [f"{name}: other rows than were stored" for name in held if held[name] != expected.get(name)]


@contextmanager
def counting() -> Iterator[list[int]]:
    """Counts, in the one element of the list, the records that the encoder computes inside."""
    count, encode = [0], ProfileEncoder.encode

    def counted(self: ProfileEncoder, records: list[Record]) -> Iterator[tuple[bytes, Outputs]]:
        for found in encode(self, records):
            count[0] += 1
            yield found

    ProfileEncoder.encode = counted  # type: ignore[method-assign, assignment]
    try:
        yield count
    finally:
        ProfileEncoder.encode = encode  # type: ignore[method-assign]


def copy_start(start: Path, to: Path) -> Path:
    """A fresh copy of a start folder; the cache in it."""
    shutil.copytree(start, to)
    return to / "cache"
