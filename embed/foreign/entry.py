"""Embeddings made elsewhere: what the reader of every layout gives, and the bounds that all of them are held to.

Legend: L rows of a sequence, D width of a row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from crossllm.cache.errors import printable

SUFFIXES = {
    ".npy": "npy", ".pt": "pt", ".pth": "pt", ".safetensors": "safetensors", ".h5": "hdf5", ".hdf5": "hdf5",
}  # fmt: skip
"""Ending → the layout it promises; a file that breaks the promise is reported, not passed over."""
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""The types rows may have, and the bytes of one value."""
_RAW = {"void16": "bfloat16 of ml_dtypes or JAX", "void8": "float8 of ml_dtypes or JAX"}
"""Types of numpy that stand for none of its own → what was saved so (seen with ml_dtypes 0.6, numpy 2.4)."""
MAX_ROWS, MAX_DIM = 10**7, 1 << 16
MAX_BYTES = 2 << 30
"""Bytes of one sequence's rows: one array at a time is in memory."""


class BadEntry(Exception):
    """One stored array cannot be used: what is wrong and, after '; ', what to do."""


class Entry(NamedTuple):
    """One stored array, as its source describes it; nothing of its values has been read."""

    file: Path
    name: str
    """What the source calls it: dataset path, file name without its ending, or tensor name."""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    stated: str | None = None
    """The id that the array itself states: HDF5 attribute `original_id`, `label` of a `.pt`."""
    problem: str | None = None
    """Why it cannot be used; None for a sound one."""


def entry_name(root: Path, file: Path) -> str:
    """The name of a file that holds one array: its path within the folder, without the ending."""
    name = file.relative_to(root).as_posix() if root != file else file.name
    return name[: -len(file.suffix)] if file.suffix.lower() in SUFFIXES else name


class Source(Protocol):
    """A file or folder of embeddings in one of the layouts."""

    layout: str
    layer: str | None
    """The layer taken, where the layout has layers; known once `entries` has been read through."""

    def entries(self) -> Iterator[Entry]:
        """Every stored array, in the source's order."""
        ...

    def read(self, entry: Entry) -> np.ndarray:
        """The values of one array, of its shape and a float type of numpy.

        Raises:
            BadEntry: they cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of files and processes."""
        ...


def shape_of(entry: Entry) -> tuple[int, int]:
    """(L, D) of an array of shape (L, D) or (1, L, D).

    Raises:
        BadEntry: it has another shape, another type, or is beyond the bounds.
    """
    if entry.dtype in _RAW:
        raise BadEntry(
            f"type {entry.dtype}: raw values, as numpy and h5py save {_RAW[entry.dtype]}, without saying which it was; "
            "convert before saving: array.astype('float32'), or tensor.float().numpy()"
        )
    if entry.dtype not in ITEM_BYTES:
        raise BadEntry(
            f"type {printable(entry.dtype)} where {', '.join(ITEM_BYTES)} are taken; save it as one of these"
        )
    shape = entry.shape[1:] if len(entry.shape) == 3 and entry.shape[0] == 1 else entry.shape
    if len(shape) == 1:
        what = f"one vector of {shape[0]} where rows (L, D) are expected"
        raise BadEntry(f"{what}; export it per residue, or take pooled vectors with --pooled")
    if len(shape) != 2 or min(shape) < 1:
        raise BadEntry(f"shape {entry.shape} where (L, D) or (1, L, D) is expected; save one array a sequence")
    size = math.prod(shape) * ITEM_BYTES[entry.dtype]
    if shape[0] > MAX_ROWS or shape[1] > MAX_DIM or size > MAX_BYTES:
        most = f"at most {MAX_ROWS} rows of {MAX_DIM} and {MAX_BYTES >> 30} GiB are taken"
        raise BadEntry(f"shape {entry.shape}, {size} bytes, where {most}; leave it out")
    return shape[0], shape[1]


def read_rows(source: Source, entry: Entry) -> np.ndarray:
    """The rows of one array, shape (L, D)."""
    values = source.read(entry)
    if values.shape != entry.shape:
        raise BadEntry(f"shape {values.shape} where it said {entry.shape} before; did the file change meanwhile?")
    return values.reshape(shape_of(entry))


def sha256_of(path: Path, files: Sequence[Path]) -> str:
    """SHA-256 of a file's bytes; of a folder, that of its `name TAB sha256` lines in order of the names."""
    if not path.is_dir():
        return _sha256_of_file(path)
    lines = sorted(f"{file.relative_to(path).as_posix()}\t{_sha256_of_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
