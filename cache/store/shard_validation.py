"""What a compressed or unordered shard must prove before zarr-python decodes it: no chunk is larger than it says.

Decoders allocate what a frame declares, or grow until it ends.  So every chunk's frame must declare exactly the bytes
of an inner chunk, and a declared size is enough: zstd and blosc stop there.
"""

from __future__ import annotations

import struct
from math import prod
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from crossllm.cache.errors import VERIFY, CacheCorrupt
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import Readable
from crossllm.cache.store.zarr_format import COMPRESSORS, Layout

MAX_INNER_CHUNK = 64 << 20
"""Bytes of an inner chunk, decoded: the least that zarr-python holds in memory to read one row."""
FREE_BYTES, MAX_RATIO = 1 << 30, 1000
"""A shard may hold this many bytes of rows however small its file is; more only at up to this ratio to it."""
_CRC = 4
_ABSENT = np.uint64((1 << 64) - 1)
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_HEADER = 18
"""Bytes of the longest zstd frame header, its magic number among them."""
_BLOSC_HEADER = 16


def check_chunks(file: Readable, layout: Layout) -> None:
    """Raise `CacheCorrupt` unless every chunk of a shard lies inside its file and declares the size it must have."""
    Chunks(file, layout).check()


class Chunks:
    """The inner chunks of a shard, n of them: where they lie, and whether they may be decoded."""

    def __init__(self, file: Readable, layout: Layout) -> None:
        """Read the index alone.

        Raises:
            CacheCorrupt: the rows are no shard, or its index is damaged or names what it must not.
        """
        if layout.inner is None:
            _refuse(file, "its rows are no shard")
        if any(whole % part for whole, part in zip(layout.chunk, layout.inner, strict=True)):
            _refuse(file, f"inner chunks of {layout.inner} do not fill a shard of {layout.chunk}")
        self._chunk_bytes = prod(layout.inner) * layout.dtype.itemsize
        if self._chunk_bytes > MAX_INNER_CHUNK:
            _refuse(file, f"inner chunks of {self._chunk_bytes} bytes where at most {MAX_INNER_CHUNK} are taken")
        if prod(layout.shape) * layout.dtype.itemsize > max(FREE_BYTES, MAX_RATIO * file.size):
            _refuse(file, f"{file.size} bytes are said to hold an array of {layout.shape}")
        self._file, self._layout, self._rows = file, layout, layout.inner[0]
        self._across = prod(w // p for w, p in zip(layout.chunk[1:], layout.inner[1:], strict=True))
        """Chunks beside each other, that hold the same rows."""
        self._index = _index(file, layout.chunk[0] // self._rows * self._across)
        """(n, 2) offset and size of each chunk, uint64; all ones where it was left out."""

    def check(self, start: int = 0, stop: int | None = None) -> None:
        """Raise `CacheCorrupt` unless the chunks of rows `start` to `stop` declare the size that they must have."""
        declared = self._chunk_bytes
        tail = 0
        compressor = None
        for name in self._layout.codecs[1:]:
            if name in COMPRESSORS:
                compressor = name
            elif compressor is None:
                declared += _CRC
            else:
                tail += _CRC
        for at, size in self._there(start, stop).tolist():
            found = size - tail if compressor is None else _declared(self._file, compressor, at, size - tail)
            if found != declared:
                _refuse(self._file, f"the chunk at byte {at} declares {found} bytes where {declared} are expected")

    def ranges(self, start: int, stop: int) -> list[tuple[int, int]]:
        """First and last byte, exclusive, of each chunk that holds rows `start` to `stop`."""
        return [(at, at + size) for at, size in self._there(start, stop).tolist()]

    def _there(self, start: int, stop: int | None) -> NDArray[np.uint64]:
        """Of rows `start` to `stop`, the chunks that were not left out, (m, 2), by offset."""
        last = None if stop is None else -(-stop // self._rows) * self._across
        found = self._index[start // self._rows * self._across : last]
        found = found[(found != _ABSENT).any(axis=1)]
        return np.asarray(found[np.argsort(found[:, 0], kind="stable")])


def _index(file: Readable, chunks: int) -> NDArray[np.uint64]:
    """Offset and size of every chunk, shape (chunks, 2), from the shard's index."""
    payload = file.size - 16 * chunks - _CRC
    if payload < 0:
        _refuse(file, f"has no room for the index of {chunks} chunks")
    index = file.read(16 * chunks + _CRC, payload)
    if fsio.crc32c(index[:-_CRC]).to_bytes(_CRC, "little") != index[-_CRC:]:
        _refuse(file, "the shard index does not match its crc32c")
    found = np.frombuffer(index[:-_CRC], "<u8").reshape(-1, 2)
    places = found[(found != _ABSENT).any(axis=1)]
    places = places[np.argsort(places[:, 0], kind="stable")]
    at, size = places[:, 0], places[:, 1]
    if (at > payload).any() or (size > payload - at).any():
        _refuse(file, "the shard index names bytes outside the file")
    if (at[:-1] + size[:-1] > at[1:]).any():
        _refuse(file, "chunks overlap in the shard index")
    return np.asarray(found, np.uint64)


def _declared(file: Readable, compressor: str, at: int, size: int) -> int:
    """Bytes that the one frame of a chunk says it holds; anything but one whole frame is refused."""
    try:
        return (_zstd_declared if compressor == "zstd" else _blosc_declared)(file, at, size)
    except (struct.error, IndexError, ValueError) as error:
        _refuse(file, f"the chunk at byte {at} is not one whole {compressor} frame: {error}")


def _zstd_declared(file: Readable, at: int, size: int) -> int:
    """The content size of a zstd frame (RFC 8878, 3.1.1), its blocks walked through to its end."""
    header = file.read(min(size, _ZSTD_HEADER), at)
    magic, flags = struct.unpack_from("<IB", header)
    if magic != _ZSTD_MAGIC:
        raise ValueError(f"begins with {magic:08x}")
    single, checksum = flags >> 5 & 1, flags >> 2 & 1
    content_at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    content_bytes = (single, 2, 4, 8)[flags >> 6]
    if content_bytes == 0:
        raise ValueError("states no content size")
    content = int.from_bytes(_exactly(header[content_at : content_at + content_bytes], content_bytes), "little")
    _walk_blocks(file, at, at + size, at + content_at + content_bytes, 4 * checksum)
    return content + (256 if content_bytes == 2 else 0)


def _walk_blocks(file: Readable, start: int, end: int, at: int, after: int) -> None:
    """Go from block to block of a zstd frame; its last one, and `after` bytes of checksum, must end at `end`."""
    last = 0
    while not last:
        header = int.from_bytes(_exactly(file.read(min(3, max(0, end - at)), at), 3), "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3:
            raise ValueError(f"a reserved block at byte {at - start}")
        at += 3 + (1 if kind == 1 else size)  # kind 1: one byte, `size` times
    if at + after != end:
        raise ValueError(f"ends {end - at - after} bytes before the chunk")


def _blosc_declared(file: Readable, at: int, size: int) -> int:
    """The uncompressed size of a blosc buffer (c-blosc 1 header)."""
    header = file.read(min(size, _BLOSC_HEADER), at)
    _version, _codec, _flags, width, content, block, stored = struct.unpack("<BBBBIII", header)
    if stored != size or width == 0 or not 0 < block <= max(content, 1):
        raise ValueError(f"{stored} bytes in blocks of {block}, values of {width}; the index says {size} bytes")
    return int(content)


def _exactly(data: bytes, count: int) -> bytes:
    if len(data) != count:
        raise ValueError("it is cut short")
    return data


def _refuse(file: Readable, what: str) -> NoReturn:
    raise CacheCorrupt(f"{file.path}: {what}; {VERIFY}")
