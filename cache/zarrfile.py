"""The bytes of a Zarr v3 array as this format uses them: `zarr.json`, one chunk or one shard, the shard's index.

A segment is written here without zarr-python and read by it byte for byte (a test says so).  The other direction,
arrays that are compressed or laid out in another order, goes through zarr-python in `cache.segment`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache import fsio
from cache.errors import CacheCorrupt
from cache.recipe import parse_json

INNER_CHUNK_BYTES = 128 << 10
"""Size aimed at for an inner chunk of `rows`: what a reader without the fast path must read at least."""
ALLOWED_CODECS = frozenset({"bytes", "crc32c", "zstd", "blosc", "gzip"})
"""Anything else (a pickle codec behind a harmless name, say) is refused before zarr-python sees it."""
DTYPES = frozenset({"float16", "float32", "int64", "uint8", "uint32"})
GROUP_JSON = b'{"attributes":{},"node_type":"group","zarr_format":3}'
_MAX_AXIS = 1 << 53


class Layout(NamedTuple):
    """What a `zarr.json` says of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    """Shape of a chunk, or of a shard."""
    inner: tuple[int, ...] | None
    """Shape of the inner chunks where the array is sharded."""
    plain: bool
    """Whether the only codec is `bytes`, little-endian, so that the stored bytes are the array's."""


def inner_rows(row_bytes: int) -> int:
    """Rows an inner chunk holds."""
    return max(1, INNER_CHUNK_BYTES // row_bytes)


def array_json(shape: tuple[int, ...], dtype: str, chunk: tuple[int, ...], inner: tuple[int, ...] | None) -> bytes:
    """`zarr.json` of an uncompressed array, sharded where `inner` is given."""
    single_byte = np.dtype(dtype).itemsize == 1
    plain: list[dict[str, Any]] = [{"name": "bytes"}]
    if not single_byte:
        plain[0]["configuration"] = {"endian": "little"}
    codecs = plain
    if inner is not None:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        configuration = {"chunk_shape": inner, "codecs": plain, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0.0 if dtype.startswith("float") else 0,
            "codecs": codecs,
            "attributes": {},
        }
    ).encode()


def parse_array_json(path: Path, data: bytes) -> Layout:
    """The layout of the array whose `zarr.json` has these bytes; foreign codecs and types are refused."""
    found = parse_json(data, path)
    try:
        if found["data_type"] not in DTYPES:
            raise ValueError(f"data type {found['data_type']!r} is not one of the format's")
        shape, chunk = _axes(found["shape"]), _axes(found["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = found["codecs"]
        inner = None
        if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
            configuration = codecs[0]["configuration"]
            inner, codecs = _axes(configuration["chunk_shape"]), configuration["codecs"]
            if [codec["name"] for codec in configuration["index_codecs"]] != ["bytes", "crc32c"]:
                raise ValueError("the shard index is not stored as bytes, crc32c")
            if configuration.get("index_location", "end") != "end":
                raise ValueError("the shard index is not at the end")
        _check_codecs(codecs)  # a shard within a shard is refused here
        if not len(shape) == len(chunk) == len(chunk if inner is None else inner) > 0 or not all(
            (*chunk, *(inner or ()))
        ):
            raise ValueError(f"shape {shape}, chunk {chunk} and inner chunk {inner} do not fit each other")
        plain = len(codecs) == 1 and codecs[0]["name"] == "bytes"
        plain = plain and codecs[0].get("configuration", {}).get("endian", "little") == "little"
        return Layout(shape, np.dtype(found["data_type"]).newbyteorder("<"), chunk, inner, plain)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CacheCorrupt(f"{path}: {error}; not an array of a cache segment") from None


def _axes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n <= _MAX_AXIS for n in value):
        raise ValueError(f"{value!r} is no shape")
    return tuple(value)


def _check_codecs(codecs: Any) -> None:
    for codec in codecs:
        if codec["name"] not in ALLOWED_CODECS:
            raise ValueError(f"codec {codec['name']!r} is not allowed here")


def shard_index(chunks: int, chunk_bytes: int) -> bytes:
    """Index of a shard whose inner chunks lie one after the other: (offset, bytes) as uint64 pairs, then crc32c."""
    index = np.empty((chunks, 2), "<u8")
    index[:, 0] = np.arange(chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:, 1] = chunk_bytes
    data = index.tobytes()
    return data + fsio.crc32c(data).to_bytes(4, "little")


def is_plain(layout: Layout) -> bool:
    """Whether one uncompressed chunk, or one shard of uncompressed rows of inner chunks, holds the whole array."""
    whole = layout.shape[0] <= layout.chunk[0] and layout.shape[1:] == layout.chunk[1:]
    rows = layout.inner is None or (layout.inner[1:] == layout.shape[1:] and layout.chunk[0] % layout.inner[0] == 0)
    return layout.plain and whole and rows


def is_in_order(file: fsio.PlainFile, layout: Layout) -> bool:
    """Whether the rows in a shard's file lie one after the other, uncompressed: then the payload is the array.

    Raises:
        CacheCorrupt: the size does not fit the layout, or the shard index fails its crc32c.
    """
    if not is_plain(layout) or layout.inner is None:
        return False
    chunk_bytes = layout.inner[0] * layout.inner[1] * layout.dtype.itemsize
    chunks = layout.chunk[0] // layout.inner[0]
    payload, index_bytes = chunks * chunk_bytes, 16 * chunks + 4
    if file.size != payload + index_bytes:  # before anything of a declared size is allocated
        if file.size < payload + index_bytes:
            return False  # inner chunks left out: zarr-python fills them in
        raise CacheCorrupt(f"{file.path}: {file.size} bytes where {payload + index_bytes} are expected")
    found = file.read(index_bytes, payload)
    if fsio.crc32c(found[:-4]).to_bytes(4, "little") != found[-4:]:
        raise CacheCorrupt(f"{file.path}: the shard index does not match its crc32c; run `crossllm cache verify`")
    return found == shard_index(chunks, chunk_bytes)


def check_chunks(file: fsio.PlainFile, layout: Layout) -> None:
    """Placeholder: see the backends slice."""
