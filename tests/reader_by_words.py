"""A reader of caches written from the words of docs/format.md alone.

The standard library, and numcodecs for the frames of zstd: no zarr, no h5py, no numpy, nothing of ours.
"""

import hashlib
import json
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numcodecs.zstd import Zstd

WIDTH = {"float16": 2, "float32": 4}
ABSENT = 2**64 - 1
ZARR = {"zarr.json", "rows/c/0/0", "offsets/c/0", "digest/c/0/0", "crc32c/c/0"}
ZARR |= {f"{array}/zarr.json" for array in ("rows", "offsets", "digest", "crc32c")}


def _byte_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _byte_table()


def crc(data: bytes) -> int:
    """CRC-32C, bit by bit but for a table of the bytes."""
    found = 0xFFFFFFFF
    for byte in data:
        found = TABLE[(found ^ byte) & 255] ^ found >> 8
    return found ^ 0xFFFFFFFF


def canonical(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def plain(path: Path) -> bytes:
    """The bytes of a file that is no link, mapped."""
    expect(path.is_file() and not any(p.is_symlink() for p in (path, *path.parents[:6])), f"{path} is no plain file")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:]


def read_cache(cache: Path) -> Iterator[tuple[str, str, bytes, bytes]]:
    """(modality, recipe's folder, key, bytes of the rows) of every record that is live."""
    for folder in sorted((cache / "embeddings").glob("*/*")):
        recipe_bytes = plain(folder / "recipe.json")
        recipe, digest = json.loads(recipe_bytes), hashlib.sha256(recipe_bytes).hexdigest()
        expect(recipe["format"] == 1, f"format {recipe['format']}, this reads 1")
        expect(canonical(recipe) == recipe_bytes, "not canonical")
        expect(folder.name == f"{recipe['encoder']}-{digest[:16]}", "another recipe")
        names = [p for p in (folder / "commits").iterdir() if re.fullmatch("[0-9a-f]{32}[.]json", p.name)]
        commits = [read_record(path) for path in names]
        gone = {name for commit in commits for name in commit["supersedes"]}
        for commit in commits:
            if commit["segment"] not in gone:
                expect((commit["recipe"], commit["recipe_crc32c"]) == (digest, crc(recipe_bytes)), "another recipe")
                for key, rows in read_segment(folder / "segments" / commit["segment"], commit, recipe):
                    yield recipe["modality"], folder.name, key, rows


def read_record(path: Path) -> dict[str, Any]:
    data = plain(path)
    body: dict[str, Any] = json.loads(data)
    signed = {name: value for name, value in body.items() if name != "crc32c"}
    expect(crc(canonical(signed)) == body["crc32c"] and canonical(body) == data, f"{path}: the record is damaged")
    expect(body["format"] == 1, f"format {body['format']}, this reads 1")
    expect(body["segment"] == path.stem, f"{path}: the record of another segment")
    expect(all(re.fullmatch("[0-9a-f]{32}", name) for name in body["supersedes"]), "no name")
    return body


def read_segment(folder: Path, commit: dict[str, Any], recipe: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Key and rows of every record."""
    n, row = commit["records"], recipe["dim"] * WIDTH[recipe["dtype"]]
    sizes = {"rows": commit["rows"] * row, "offsets": 8 * (n + 1), "digest": 32 * n, "crc32c": 4 * n}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    h5 = "segment.h5" in commit["files"]
    expect(there == commit["files"].keys() == ({"segment.h5"} if h5 else ZARR), "files")
    files = {name: plain(folder / name) for name in commit["files"]}
    for name, (size, checksum) in commit["files"].items():
        expect(len(files[name]) == size, f"{name}: size")
        expect(name in ("rows/c/0/0", "segment.h5") or crc(files[name]) == checksum, f"{name}: CRC")
    if h5:
        arrays = h5_arrays(files["segment.h5"], commit["parts"], sizes)
    else:
        arrays = {
            name: files[f"{name}/c/0/0" if name == "digest" else f"{name}/c/0"] for name in sizes if name != "rows"
        }
        arrays["rows"] = shard(json.loads(files["rows/zarr.json"]), files["rows/c/0/0"], commit["rows"], recipe)
    expect(all(len(arrays[name]) == size for name, size in sizes.items()), "size of an array")
    offsets, sums = struct.unpack(f"<{n + 1}q", arrays["offsets"]), struct.unpack(f"<{n}I", arrays["crc32c"])
    expect(offsets[0] == 0 and offsets[-1] == commit["rows"], "offsets")
    for i in range(n):
        expect(offsets[i] < offsets[i + 1], "offsets")
        rows = arrays["rows"][offsets[i] * row : offsets[i + 1] * row]
        expect(crc(rows) == sums[i], f"record {i}: CRC")
        yield arrays["digest"][32 * i : 32 * i + 32], rows


def h5_arrays(file: bytes, parts: dict[str, list[int]], sizes: dict[str, int]) -> dict[str, bytes]:
    expect(parts.keys() == sizes.keys() and parts["rows"][0] % 8 == 0, "parts")
    end = 0
    for name, (at, size, checksum) in sorted(parts.items(), key=lambda part: part[1][0]):
        expect(size == sizes[name] and end <= at <= len(file) - size, f"{name}: place")
        expect(name == "rows" or crc(file[at : at + size]) == checksum, f"{name}: CRC")
        end = at + size
    return {name: file[at : at + size] for name, (at, size, _) in parts.items()}


def shard(meta: dict[str, Any], file: bytes, rows: int, recipe: dict[str, Any]) -> bytes:
    """The array in a shard, whatever way it is stored that our writers use."""
    (sharding,) = meta["codecs"]
    inner = sharding["configuration"]
    codecs = [codec["name"] for codec in inner["codecs"]]
    expect(sharding["name"] == "sharding_indexed" and inner["index_location"] == "end", "no shard")
    expect([codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"], "codecs of the index")
    expect(codecs in (["bytes"], ["bytes", "zstd"]), f"codecs {codecs}")
    expect((meta["shape"], meta["data_type"]) == ([rows, recipe["dim"]], recipe["dtype"]), "shape or type")
    (shard_rows, _), (chunk_rows, dim) = meta["chunk_grid"]["configuration"]["chunk_shape"], inner["chunk_shape"]
    chunk_bytes = chunk_rows * dim * WIDTH[recipe["dtype"]]
    k = shard_rows // chunk_rows
    index = file[-16 * k - 4 : -4]
    expect(shard_rows >= rows and dim == recipe["dim"] and k * chunk_rows == shard_rows, "chunks")
    expect(len(index) == 16 * k and struct.pack("<I", crc(index)) == file[-4:], "index: CRC")
    places = list(struct.iter_unpack("<2Q", index))
    found = b"".join(chunk(file, at, size, chunk_bytes, codecs[-1]) for at, size in places)
    return found[: rows * dim * WIDTH[recipe["dtype"]]]


def chunk(file: bytes, at: int, size: int, expected: int, codec: str) -> bytes:
    if at == size == ABSENT:
        return bytes(expected)
    expect(at + size <= len(file), "a chunk outside the file")
    data = file[at : at + size]
    if codec == "zstd":
        magic, flags = struct.unpack_from("<IB", data)
        expect(magic == 0xFD2FB528, "no zstd frame")
        single = flags >> 5 & 1
        width = (single, 2, 4, 8)[flags >> 6]
        start = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
        stated = int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
        expect(width > 0 and stated == expected, "content size")
        data = bytes(Zstd().decode(data))
    expect(len(data) == expected, "size of a chunk")
    return data
