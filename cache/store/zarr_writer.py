"""Writing the Zarr group of a segment: rows are streamed into one shard, chunk by chunk where they are compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossllm.cache.files import fsio
from crossllm.cache.store.commit import FileSum, Written
from crossllm.cache.store.layout import Compressor
from crossllm.cache.store.segment import CHUNK, ROWS
from crossllm.cache.store.zarr_format import GROUP_JSON, ZSTD_LEVEL, array_json, inner_rows, shard_index


class ZarrBody:
    """The files of a Zarr segment; the rows never wait in memory."""

    def __init__(self, path: Path, dim: int, dtype: str, compressor: Compressor | None) -> None:
        self._path, self._dim, self._dtype, self._compressor = path, dim, dtype, compressor
        self._files: dict[str, FileSum] = {}
        encode = None if compressor is None else zstd_encoder()
        self._make_folder("rows")
        self._shard = Shard(path / ROWS, dim * np.dtype(dtype).itemsize, encode)

    @property
    def row_bytes(self) -> int:
        """Bytes of rows written so far, as they are uncompressed."""
        return self._shard.row_bytes

    def add(self, rows: np.ndarray) -> None:
        """Append the bytes of one record, shape (bytes,), uint8."""
        self._shard.write(rows)

    def close(self, small: dict[str, np.ndarray]) -> Written:
        """Finish the shard, write the other files; each is synced."""
        rows, per_chunk, chunks = self._shard.close()
        self._files[ROWS] = FileSum(self._shard.file.size, self._shard.file.crc)
        shape, shard, inner = (rows, self._dim), (chunks * per_chunk, self._dim), (per_chunk, self._dim)
        self._write("rows/zarr.json", array_json(shape, self._dtype, shard, inner, self._compressor))
        for name, array in small.items():
            self._make_folder(name)
            self._write(f"{name}/zarr.json", array_json(array.shape, array.dtype.name, array.shape, None))
            self._write(CHUNK[name], array.tobytes())
        self._write("zarr.json", GROUP_JSON)
        return Written(self._files, {})

    def abandon(self) -> None:
        """Close the shard, unsynced."""
        self._shard.file.close(sync=False)

    def _make_folder(self, array: str) -> None:
        for folder in reversed(Path(CHUNK[array]).parents[:-1]):
            fsio.make_new_dir(self._path / folder)

    def _write(self, name: str, data: bytes) -> None:
        with fsio.SyncedFile(self._path / name) as file:
            file.write(data)
        self._files[name] = FileSum(file.size, file.crc)


class Shard:
    """A shard of whole rows, written front to back: inner chunks in order without gaps, then their index."""

    def __init__(self, path: Path, row_bytes: int, encode: Callable[[bytes], bytes] | None) -> None:
        self.file = fsio.SyncedFile(path)
        self.row_bytes = 0
        self._one_row, self._encode = row_bytes, encode
        self._chunk_bytes = inner_rows(row_bytes) * row_bytes
        self._held = bytearray()
        self._sizes: list[int] = []

    def write(self, data: np.ndarray) -> None:
        """Append bytes of rows, shape (bytes,), uint8; of a compressed shard at most one chunk is held back."""
        self.row_bytes += data.size
        if self._encode is None:
            self.file.write(data)
            return
        view = memoryview(data)  # type: ignore[arg-type]
        while len(view):
            room = self._chunk_bytes - len(self._held)
            self._held += view[:room]
            view = view[room:]
            if len(self._held) == self._chunk_bytes:
                self._put_held(self._encode)

    def close(self) -> tuple[int, int, int]:
        """Fill the last chunk up with zeros, write the index, sync: rows, rows of a chunk, chunks."""
        rows = self.row_bytes // self._one_row
        # A shard of less than a chunk has one chunk of just its rows.
        chunk_bytes = min(self._chunk_bytes, self.row_bytes)
        chunks = -(-self.row_bytes // chunk_bytes)
        padding = bytes(chunks * chunk_bytes - self.row_bytes)
        if self._encode is None:
            self.file.write(padding)
            self._sizes = [chunk_bytes] * chunks
        elif self._held:
            self._held += padding
            self._put_held(self._encode)
        self.file.write(shard_index(np.asarray(self._sizes, np.uint64)))
        self.file.close()
        return rows, chunk_bytes // self._one_row, chunks

    def _put_held(self, encode: Callable[[bytes], bytes]) -> None:
        data = encode(bytes(self._held))
        self.file.write(data)
        self._sizes.append(len(data))
        self._held.clear()


def zstd_encoder() -> Callable[[bytes], bytes]:
    """Bytes → one zstd frame that states its content's size."""
    from numcodecs.zstd import Zstd

    codec = Zstd(ZSTD_LEVEL)
    return lambda data: bytes(codec.encode(data))
