"""The bytes of a Zarr v3 array as this format uses them: `zarr.json`, one chunk or one shard, the shard's index.

A segment is written here without zarr-python and read by it byte for byte (a test says so).  The other direction,
arrays that are compressed or laid out in another order, goes through zarr-python in `crossllm.cache.store.segment`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.errors import VERIFY, CacheCorrupt, one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import Readable
from crossllm.cache.files.strict_json import parse_json
from crossllm.cache.store.layout import Compressor

INNER_CHUNK_BYTES = 128 << 10
"""Size aimed at for an inner chunk of `rows`: what a reader without the fast path must read at least."""
COMPRESSORS = frozenset({"zstd", "blosc"})
"""Each states the size of what it holds, so that it can be refused before anything is decoded; gzip does not."""
ALLOWED_CODECS = COMPRESSORS | {"bytes", "crc32c"}
"""Anything else (a pickle codec behind a harmless name, say) is refused before zarr-python sees it."""
ZSTD_LEVEL = 3
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
    codecs: tuple[str, ...]
    """Names of the codecs of a chunk, or of an inner chunk, in the order of encoding; the first is `bytes`."""
    little: bool
    """Whether `bytes` means little-endian."""

    @property
    def plain(self) -> bool:
        """Whether the stored bytes are the array's."""
        return self.codecs == ("bytes",) and self.little


def inner_rows(row_bytes: int) -> int:
    """Rows an inner chunk holds."""
    return max(1, INNER_CHUNK_BYTES // row_bytes)


def array_json(
    shape: tuple[int, ...],
    dtype: str,
    chunk: tuple[int, ...],
    inner: tuple[int, ...] | None,
    compressor: Compressor | None = None,
) -> bytes:
    """`zarr.json` of an array, sharded where `inner` is given, uncompressed where no compressor is."""
    single_byte = np.dtype(dtype).itemsize == 1
    plain: list[dict[str, Any]] = [{"name": "bytes"}]
    if not single_byte:
        plain[0]["configuration"] = {"endian": "little"}
    codecs = plain
    if compressor is not None:
        plain.append({"name": compressor, "configuration": {"level": ZSTD_LEVEL, "checksum": False}})
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
    """The layout of the array whose `zarr.json` has these bytes; foreign codecs, types and layouts are refused."""
    found = parse_json(data, path)
    try:
        if (found["zarr_format"], found["node_type"]) != (3, "array"):
            raise ValueError("not an array of Zarr format 3")
        if found["data_type"] not in DTYPES:
            raise ValueError(f"data type {found['data_type']!r} is not one of the format's")
        if found["chunk_grid"]["name"] != "regular" or found.get("storage_transformers"):
            raise ValueError("its chunks are no regular grid of files")
        keys = found["chunk_key_encoding"]
        if keys["name"] != "default" or keys.get("configuration", {}).get("separator", "/") != "/":
            raise ValueError("its chunks are not named c/0/0")
        shape, chunk = _axes(found["shape"]), _axes(found["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = found["codecs"]
        inner = None
        if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
            configuration = codecs[0]["configuration"]
            inner, codecs = _axes(configuration["chunk_shape"]), configuration["codecs"]
            _check_index_codecs(configuration)
        if not len(shape) == len(chunk) == len(chunk if inner is None else inner) > 0 or not all(
            (*chunk, *(inner or ()))
        ):
            raise ValueError(f"shape {shape}, chunk {chunk} and inner chunk {inner} do not fit each other")
        if any(held < whole for held, whole in zip(chunk, shape, strict=True)):
            raise ValueError(f"chunks of {chunk} do not hold the shape {shape} in one file")
        names = _codec_names(codecs)  # a shard within a shard is refused here
        little = codecs[0].get("configuration", {}).get("endian", "little") == "little"
        return Layout(shape, np.dtype(found["data_type"]).newbyteorder("<"), chunk, inner, names, little)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CacheCorrupt(f"{path}: {one_line(error)}; not an array of a cache segment") from None


def _axes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n <= _MAX_AXIS for n in value):
        raise ValueError(f"{value!r} is no shape")
    return tuple(value)


def _check_index_codecs(configuration: dict[str, Any]) -> None:
    codecs = configuration["index_codecs"]
    if [codec["name"] for codec in codecs] != ["bytes", "crc32c"]:
        raise ValueError("the shard index is not stored as bytes, crc32c")
    if codecs[0].get("configuration", {}).get("endian", "little") != "little":
        raise ValueError("the shard index is not little-endian")
    if configuration.get("index_location", "end") != "end":
        raise ValueError("the shard index is not at the end")


def _codec_names(codecs: Any) -> tuple[str, ...]:
    names = tuple(codec["name"] for codec in codecs)
    for name in names:
        if name not in ALLOWED_CODECS:
            raise ValueError(f"codec {name!r} is not allowed here")
    compressed = sum(name in COMPRESSORS for name in names)
    if names[:1] != ("bytes",) or names.count("bytes") > 1 or compressed > 1 or len(names) > 4:
        raise ValueError(f"its codecs are not bytes, then at most one compressor, a crc32c on each side of it: {names}")
    return names


def shard_index(sizes: NDArray[np.uint64]) -> bytes:
    """Index of a shard whose inner chunks lie one after the other: (offset, bytes) as uint64 pairs, then crc32c."""
    index = np.empty((len(sizes), 2), "<u8")
    index[:, 1] = sizes
    index[:, 0] = np.cumsum(sizes) - sizes
    data = index.tobytes()
    return data + fsio.crc32c(data).to_bytes(4, "little")


def is_plain(layout: Layout) -> bool:
    """Whether one uncompressed chunk, or one shard of uncompressed rows of inner chunks, holds the whole array."""
    whole = layout.shape[0] <= layout.chunk[0] and layout.shape[1:] == layout.chunk[1:]
    rows = layout.inner is None or (layout.inner[1:] == layout.shape[1:] and layout.chunk[0] % layout.inner[0] == 0)
    return layout.plain and whole and rows


def is_in_order(file: Readable, layout: Layout) -> bool:
    """Whether the rows in a shard's file lie one after the other, uncompressed: then the payload is the array.

    Raises:
        CacheCorrupt: the shard index fails its crc32c.
    """
    if not is_plain(layout) or layout.inner is None:
        return False
    chunk_bytes = layout.inner[0] * layout.inner[1] * layout.dtype.itemsize
    chunks = layout.chunk[0] // layout.inner[0]
    payload, index_bytes = chunks * chunk_bytes, 16 * chunks + 4
    if file.size != payload + index_bytes:  # before anything of a declared size is allocated
        return False  # inner chunks left out, or gaps between them
    found = file.read(index_bytes, payload)
    if fsio.crc32c(found[:-4]).to_bytes(4, "little") != found[-4:]:
        raise CacheCorrupt(f"{file.path}: the shard index does not match its crc32c; {VERIFY}")
    return found == shard_index(np.full(chunks, chunk_bytes, np.uint64))
