"""A folder of `.npy` files, one a sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from crossllm.cache.errors import one_line
from crossllm.embed.foreign.entry import BadEntry, Entry, entry_name

_READ_HEADER = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


class NpySource:
    """Reads one array from each file; objects are never unpickled."""

    layout = "npy"
    layer: str | None = None

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root, self._files = root, files

    def entries(self) -> Iterator[Entry]:
        """An entry a file, from its header alone."""
        for file in self._files:
            name = entry_name(self._root, file)
            try:
                shape, dtype = _header(file)
                yield Entry(file, name, shape, dtype)
            except BadEntry as bad:
                yield Entry(file, name, problem=str(bad))

    def read(self, entry: Entry) -> np.ndarray:
        """The array of one file; its header is held to the file's size again before anything is allocated."""
        _header(entry.file)
        try:
            values: np.ndarray = np.load(entry.file, allow_pickle=False)
        except ValueError as error:
            raise BadEntry(f"cannot be read ({error}); make or download it again") from None
        return values

    def close(self) -> None:
        """No file stays open."""


def _header(path: Path) -> tuple[tuple[int, ...], str]:
    """Shape and type, once the file is known to be exactly as large as they say."""
    with path.open("rb") as file:
        try:
            version = npy_format.read_magic(file)
            if version not in _READ_HEADER:
                raise BadEntry(f"npy version {version[0]}.{version[1]} where 1.0 or 2.0 is read; save a plain array")
            shape, _, dtype = _READ_HEADER[version](file)
        except BadEntry:
            raise
        except Exception as error:  # ValueError, SyntaxError, TokenError, …: the header is Python text
            raise BadEntry(f"its npy header cannot be read ({one_line(error)}); make or download it again") from None
        start = file.tell()
    if dtype.hasobject:
        raise BadEntry("holds Python objects (a pickle), which are never opened; save a float array")
    found, said_size = path.stat().st_size, start + math.prod(shape) * dtype.itemsize
    if found != said_size:
        what = f"{found} bytes where its header (shape {shape}, {dtype.name}) says {said_size}"
        raise BadEntry(f"{what}; it is cut short or damaged, copy or download it again")
    return shape, dtype.name
