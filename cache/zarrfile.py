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


def plain_array(raw: np.ndarray, layout: Layout, path: Path) -> np.ndarray | None:
    """The array that the bytes of an `is_plain` file hold, without a copy; None where its shard is in another order.

    A shard is in order when its index says that every inner chunk is there, one after the other: then its payload is
    the array in C order, rows first.

    Raises:
        CacheCorrupt: the size does not fit the layout, or the shard index fails its crc32c.
    """
    row_bytes = int(np.prod(layout.shape[1:], dtype=np.int64)) * layout.dtype.itemsize
    payload, chunks = layout.chunk[0] * row_bytes, 0
    if layout.inner is not None:
        chunks = layout.chunk[0] // layout.inner[0]
    index_bytes = 16 * chunks + 4 if chunks else 0
    if len(raw) != payload + index_bytes:  # before anything of a declared size is allocated
        if chunks and len(raw) < payload + index_bytes:
            return None  # inner chunks left out: zarr-python fills them in
        raise CacheCorrupt(f"{path}: {len(raw)} bytes where {payload + index_bytes} are expected")
    if layout.inner is not None:
        found = raw[payload:].tobytes()
        if fsio.crc32c(found[:-4]).to_bytes(4, "little") != found[-4:]:
            raise CacheCorrupt(f"{path}: the shard index does not match its crc32c; run `crossllm cache verify`")
        if found != shard_index(chunks, layout.inner[0] * row_bytes):
            return None
    return raw[: layout.shape[0] * row_bytes].view(layout.dtype).reshape(layout.shape)
