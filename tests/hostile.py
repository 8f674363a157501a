"""Hostile caches: what a stranger may put into a folder that is read as a cache, by the S rules of RELIABILITY.

Each is a sound cache of one record of 300 rows and two shorter ones, changed, and signed again so that every checksum
holds: what is refused is the content, not the signature.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numcodecs import blosc
from numcodecs.zstd import Zstd
from stores import edit_record, resign

from crossllm.cache.files.fsio import crc32c
from crossllm.cache.store.commit import H5, PARTS, commit_paths, read_commit
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.zarr_format import array_json, shard_index

LENGTHS = (3, 40, 300)
DIM = 24
ROWS = sum(LENGTHS)
CHUNK_ROWS = 100
CHUNK = CHUNK_ROWS * DIM * 2
ABSENT = (1 << 64) - 1
CANARY = b"canary: these bytes lie outside the cache"

Forge = Callable[[Path], object]
"""Changes the cache whose recipe folder it is given; outside it, `outside_of(recipe_dir)` holds the canary."""


class Hostile(NamedTuple):
    """One hostile cache."""

    forge: Forge
    says: str
    """What the error must say, a regular expression."""
    store: str = "zarr"


def outside_of(recipe_dir: Path) -> Path:
    """A folder beside the cache, which nothing may touch."""
    return recipe_dir.parents[2].parent / "outside"


def segment_of(recipe_dir: Path) -> Path:
    return recipe_dir / "segments" / commit_paths(recipe_dir)[0].stem


# The commit record and recipe.json: S7, S9


def record(**fields: Any) -> Forge:
    """These fields of the commit record set, or left out where they are `...`."""

    def change(body: dict[str, Any]) -> None:
        for name, value in fields.items():
            body.pop(name) if value is ... else body.update({name: value})

    return lambda recipe_dir: edit_record(recipe_dir, change)


def file_of_record(name: str, value: Any, instead_of: str | None = None) -> Forge:
    """A file named in the commit record, beside the others or instead of one."""

    def change(body: dict[str, Any]) -> None:
        body["files"].pop(instead_of, None)
        body["files"][name] = value

    return lambda recipe_dir: edit_record(recipe_dir, change)


def raw_record(data: bytes) -> Forge:
    return lambda recipe_dir: commit_paths(recipe_dir)[0].write_bytes(data)


def raw_recipe(data: bytes) -> Forge:
    """Another recipe.json, in the folder that has its digest for a name where it is read as far as that."""
    return lambda recipe_dir: (recipe_dir / "recipe.json").write_bytes(data)


def recipe(**fields: Any) -> Forge:
    def forge(recipe_dir: Path) -> None:
        body = json.loads((recipe_dir / "recipe.json").read_bytes()) | fields
        (recipe_dir / "recipe.json").write_bytes(json.dumps(body).encode())

    return forge


def named_record(name: str) -> Forge:
    """A commit record and its segment under a name that is none."""

    def forge(recipe_dir: Path) -> None:
        path, segment = commit_paths(recipe_dir)[0], segment_of(recipe_dir)
        edit_record(recipe_dir, lambda body: body.update(segment=name))
        if "/" not in name and "\0" not in name and name not in ("", ".."):
            segment.rename(segment.with_name(name))
            path.rename(path.with_name(f"{path.stem}.json"))

    return forge


def own_name_superseded(recipe_dir: Path) -> None:
    edit_record(recipe_dir, lambda body: body.update(supersedes=[body["segment"]]))


def folder_for(name: str) -> Forge:
    """A folder in place of a file."""

    def forge(recipe_dir: Path) -> None:
        path = recipe_dir / name.replace("SEGMENT", commit_paths(recipe_dir)[0].stem)
        path.unlink()
        path.mkdir()

    return forge


def link(name: str) -> Forge:
    """A link to a folder or file outside in place of one of the cache's; what it points at is a perfect copy."""

    def forge(recipe_dir: Path) -> None:
        path = recipe_dir if name == "." else recipe_dir / name.replace("SEGMENT", commit_paths(recipe_dir)[0].stem)
        aside = outside_of(recipe_dir) / "copy"
        path.rename(aside)
        path.symlink_to(aside)

    return forge


# zarr.json: S5, S7


def meta(array: str, change: Callable[[dict[str, Any]], object]) -> Forge:
    """The `zarr.json` of an array changed."""

    def forge(recipe_dir: Path) -> None:
        path = segment_of(recipe_dir) / array / "zarr.json"
        body = json.loads(path.read_bytes())
        change(body)
        path.write_bytes(json.dumps(body).encode())
        resign(segment_of(recipe_dir))

    return forge


def raw_meta(data: bytes) -> Forge:
    def forge(recipe_dir: Path) -> None:
        (segment_of(recipe_dir) / "rows" / "zarr.json").write_bytes(data)
        resign(segment_of(recipe_dir))

    return forge


def fields(**changed: Any) -> Forge:
    return meta("rows", lambda body: body.update(changed))


def shard_fields(**changed: Any) -> Forge:
    return meta("rows", lambda body: body["codecs"][0]["configuration"].update(changed))


def codec(name: str, where: str) -> Forge:
    """A codec that is not of the format: alone, second in the list, nested, in the index, on a small array."""
    bad, plain = {"name": name, "configuration": {}}, {"name": "bytes", "configuration": {"endian": "little"}}
    nested = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [1, DIM], "codecs": [bad], "index_codecs": [plain, {"name": "crc32c"}]},
    }
    return {
        "alone": fields(codecs=[bad]),
        "beside a shard": meta("rows", lambda body: body["codecs"].append(bad)),
        "in a shard": shard_fields(codecs=[bad]),
        "second": shard_fields(codecs=[plain, bad]),
        "nested": shard_fields(codecs=[nested]),
        "in the index": shard_fields(index_codecs=[plain, bad]),
        "of a small array": meta("offsets", lambda body: body.update(codecs=[plain, bad])),
    }[where]


# Arrays and shards: S7, S8


def array(name: str, values: Any) -> Forge:
    """Another small array, its length as it was."""

    def forge(recipe_dir: Path) -> None:
        segment = segment_of(recipe_dir)
        data = np.asarray(values, "<i8").tobytes()
        if (segment / H5).exists():
            part = read_commit(commit_paths(recipe_dir)[0]).parts[name]
            whole = bytearray((segment / H5).read_bytes())
            whole[part.at : part.at + part.bytes] = data
            (segment / H5).write_bytes(whole)
        else:
            (segment / name / "c" / "0").write_bytes(data)
        resign(segment)

    return forge


def shard(
    chunks: list[bytes],
    codecs: list[dict[str, Any]] | None = None,
    *,
    index: list[tuple[int, int]] | None = None,
    inner: int = CHUNK_ROWS,
    rows: int = ROWS,
    gap: bytes = b"",
    tail: bytes = b"",
) -> Forge:
    """A shard of these encoded chunks of `inner` rows; `index` in place of the true one."""

    def forge(recipe_dir: Path) -> None:
        segment = segment_of(recipe_dir)
        count = len(index) if index is not None else len(chunks)
        body = json.loads(array_json((rows, DIM), "float16", (count * inner, DIM), (inner, DIM)))
        if codecs is not None:
            body["codecs"][0]["configuration"]["codecs"] = codecs
        (segment / "rows" / "zarr.json").write_bytes(json.dumps(body).encode())
        ending = shard_index(np.array([len(c) for c in chunks], np.uint64))
        if index is not None:
            table = struct.pack(f"<{2 * count}Q", *(n for pair in index for n in pair))
            ending = table + struct.pack("<I", crc32c(table))
        (segment / "rows" / "c" / "0" / "0").write_bytes(gap + b"".join(chunks) + tail + ending)
        if rows != ROWS:
            (segment / "offsets" / "c" / "0").write_bytes(np.array([0, 3, 43, rows], "<i8").tobytes())
        resign(segment, rows=rows)

    return forge


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = [BYTES, {"name": "zstd", "configuration": {"level": 3, "checksum": False}}]
BLOSC_CONFIGURATION = {"cname": "zstd", "clevel": 5, "shuffle": "noshuffle", "typesize": 2, "blocksize": 0}
BLOSC = [BYTES, {"name": "blosc", "configuration": BLOSC_CONFIGURATION}]
CRC = {"name": "crc32c"}


def frame(content: int) -> bytes:
    """A zstd frame of zeros: a thousand times smaller than what it holds, and it says so."""
    return bytes(Zstd(3).encode(bytes(content)))


def frame_of_blocks(declared: int | None, blocks: list[tuple[int, int, bytes]]) -> bytes:
    """A zstd frame made by hand: its header, then (kind, size, bytes) for each block."""
    if declared is None:  # no content size, a window of 128 KiB
        head = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3)
    else:
        head = struct.pack("<IBQ", 0xFD2FB528, 0b11100000, declared)
    last = len(blocks) - 1
    return head + b"".join(
        (int(i == last) | kind << 1 | size << 3).to_bytes(3, "little") + data
        for i, (kind, size, data) in enumerate(blocks)
    )


def blosc_of(content: int, at: int, value: int) -> bytes:
    """A blosc buffer of zeros, four bytes of its header changed."""
    data = bytearray(blosc.compress(bytes(content), b"zstd", 5, 0))
    struct.pack_into("<I", data, at, value)
    return bytes(data)


GOOD = frame(CHUNK)
RLE = (1, 128 << 10, b"\0")


# HDF5: S6, and the places of S7


def part(name: str, **changed: int) -> Forge:
    """The place of one array changed in the commit record."""

    def change(body: dict[str, Any]) -> None:
        found = dict(zip(("at", "bytes", "crc32c"), body["parts"][name], strict=True)) | changed
        body["parts"][name] = list(found.values())

    return lambda recipe_dir: edit_record(recipe_dir, change)


def parts(change: Callable[[dict[str, Any]], object]) -> Forge:
    return lambda recipe_dir: edit_record(recipe_dir, lambda body: change(body["parts"]))


def h5(make: Callable[[h5py.File, Path], object]) -> Forge:
    """A file whose `rows` are not in it; the places in its commit record point at whatever lies there."""

    def forge(recipe_dir: Path) -> None:
        segment, canary = segment_of(recipe_dir), outside_of(recipe_dir) / "canary"
        sizes = {name: part.bytes for name, part in read_commit(commit_paths(recipe_dir)[0]).parts.items()}
        old = {name: (segment / H5).read_bytes()[p.at : p.at + p.bytes] for name, p in _parts(recipe_dir).items()}
        with h5py.File(segment / H5, "w") as file:
            make(file, canary)
        at = (segment / H5).stat().st_size + 63 & ~63
        places = {}
        with (segment / H5).open("r+b") as raw:
            for name in sorted(PARTS - {"rows"}):
                raw.seek(at)
                raw.write(old[name])
                places[name] = at
                at = at + sizes[name] + 63 & ~63
            raw.truncate(at + sizes["rows"])
        found = {n: _parts(recipe_dir)[n]._replace(at=places.get(n, at)) for n in PARTS}
        edit_record(recipe_dir, lambda body: body.update(parts={n: list(p) for n, p in found.items()}))
        resign(segment)

    return forge


def _parts(recipe_dir: Path) -> dict[str, Any]:
    return dict(read_commit(commit_paths(recipe_dir)[0]).parts)


def external_storage(file: h5py.File, canary: Path) -> None:
    file.create_dataset("rows", (ROWS, DIM), "f2", external=[(str(canary), 0, ROWS * DIM * 2)])


def virtual(file: h5py.File, canary: Path) -> None:
    with h5py.File(canary.with_suffix(".h5"), "w") as other:
        other["a"] = np.ones((ROWS, DIM), "f2")
    layout = h5py.VirtualLayout((ROWS, DIM), "f2")
    layout[:] = h5py.VirtualSource(canary.with_suffix(".h5"), "a", (ROWS, DIM))
    file.create_virtual_dataset("rows", layout)


def unknown_filter(file: h5py.File, canary: Path) -> None:
    wanted = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    wanted.set_chunk((ROWS, DIM))
    wanted.set_filter(32000, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"rows", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple((ROWS, DIM)), wanted)


def soft_link(file: h5py.File, canary: Path) -> None:
    file["rows"] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File, canary: Path) -> None:
    file["rows"] = h5py.ExternalLink(str(canary), "a")


def plain_recipe() -> Recipe:
    """The recipe of all of them."""
    return Recipe("rna", "profile", 1, DIM, tokenizer="letters")
