"""The bytes of `index/HEX32.idx` (docs/format.md): segments, blocks of sorted keys, a table of the blocks, a footer.

Shapes: S segments, R replaced ones, n keys in B blocks, m keys of one block.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

INDEX_FORMAT = 1
FOOTER_MOST = 1 << 16
BLOCK_KEYS = 1 << 18
"""About so many keys are in a block: what is checked at the first touch, in some 2 ms."""
TAIL = 24
"""Bytes of a key behind the eight of its prefix."""
LAYOUTS: tuple[tuple[Literal["zarr", "h5"], Literal["zstd"] | None], ...] = (
    ("zarr", None),
    ("zarr", "zstd"),
    ("h5", None),
)
"""Store and compressor of a segment, by the number that stands for them."""


class SegmentTable(NamedTuple):
    """What the index says of its segments."""

    names: list[str]
    """(S) rising, 32 hex digits each."""
    replaced: list[str]
    """(R) segments that these supersede, rising."""
    records: np.ndarray
    """(S,) int64 records of each."""
    sizes: np.ndarray
    """(S,) int64 bytes of all files of each."""
    layouts: np.ndarray
    """(S,) int64 places in `LAYOUTS`."""

    def pack(self) -> bytes:
        """The table as it stands in the file."""
        names = bytes.fromhex("".join(self.names + self.replaced))
        return names + b"".join(column.astype("<i8").tobytes() for column in self[2:])

    @classmethod
    def parse(cls, data: bytes, segments: int, replaced: int) -> SegmentTable:
        """The table of so many segments.

        Raises:
            ValueError: it has not the bytes of these.
        """
        end = 16 * (segments + replaced)
        names = [data[at : at + 16].hex() for at in range(0, end, 16)]
        columns = np.frombuffer(data[end:], "<i8").reshape(3, segments)
        return cls(names[:segments], names[segments:], *columns)


class Block(NamedTuple):
    """Keys of one block, in the order of the keys, and of equal ones in that of the records."""

    prefix: np.ndarray
    """(m,) the first eight bytes of each key as a number."""
    record: np.ndarray
    """(m,) the record's number, counted through the segments."""
    length: np.ndarray
    """(m,) rows of it."""
    tail: np.ndarray
    """(m, 24) the other bytes of each key."""

    def pack(self, wide: bool) -> bytes:
        """The block as it stands in the file."""
        number = number_type(wide)
        parts = (self.prefix.astype("<u8"), self.record.astype(number), self.length.astype(number), self.tail)
        return b"".join(part.tobytes() for part in parts)

    @classmethod
    def view(cls, data: np.ndarray, count: int, wide: bool) -> Block:
        """Views of the bytes of a block, (bytes,) uint8."""
        number = np.dtype(number_type(wide))
        ends = np.cumsum([8 * count, number.itemsize * count, number.itemsize * count])
        prefix, record, length, tail = np.split(data, ends)
        return cls(prefix.view("<u8"), record.view(number), length.view(number), tail.reshape(count, TAIL))


def number_type(wide: bool) -> str:
    """Type of the numbers of records and of rows."""
    return "<i8" if wide else "<u4"


def block_bytes(count: int, wide: bool) -> int:
    """Of so many keys."""
    return count * (8 + TAIL + 2 * np.dtype(number_type(wide)).itemsize)


def block_of(prefix: np.ndarray, bits: int) -> np.ndarray:
    """Number of the block that keys of these prefixes are in, of 2^bits blocks."""
    return (prefix >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(prefix), np.int64)


Footer = dict[str, Any]
"""`format recipe segments replaced keys distinct rows bits wide`; `table` and `blocks`: [place, bytes, crc32c]."""
