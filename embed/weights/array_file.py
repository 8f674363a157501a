"""NumPy's `.npz`, a zip of `.npy` arrays, opened without pickle and held to what its own headers say.

An `.npy` of objects is a pickle, and a pickle is a program: arrays of plain numbers alone are taken.  Nothing is
unpacked: `numpy.savez` stores its arrays as they are, so that no array can be larger than the file.
"""

from __future__ import annotations

import zipfile
from io import BufferedReader, BytesIO
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

from crossllm.cache.errors import one_line, printable

if TYPE_CHECKING:
    from torch import Tensor

_MAX_ARRAYS = 10_000
_MAX_HEADER = 1_000
"""Bytes of an array's header; numpy writes little more than a hundred."""


class NotArrays(Exception):
    """An archive that is no `.npz` of plain numbers, or damaged; its text completes `it …`."""


def is_array_archive(file: BufferedReader | BytesIO) -> bool:
    """Whether a zip holds `.npy` members and nothing else; a torch file never does."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def load_arrays(file: BufferedReader | BytesIO) -> dict[str, Tensor]:
    """The arrays of an `.npz` by name, as tensors that own their memory.

    Raises:
        NotArrays: an array of objects, of another type than torch has, or larger or smaller than it says; a member
            that is compressed, encrypted, damaged or there twice.
    """
    import torch

    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            _refuse_odd_members(parts, size)
            found = {}
            for part in parts:
                with archive.open(part) as member:
                    found[part.filename.removesuffix(".npy")] = torch.from_numpy(_array(member, part))
            return found
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, TypeError) as error:
        raise NotArrays(f"is damaged ({one_line(error, 120)})") from None


def _refuse_odd_members(parts: list[zipfile.ZipInfo], size: int) -> None:
    if len(parts) > _MAX_ARRAYS:
        raise NotArrays(f"holds {len(parts)} arrays, more than {_MAX_ARRAYS}")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise NotArrays("is compressed; save it again with numpy.savez")
    if any(part.flag_bits & 1 for part in parts):
        raise NotArrays("is encrypted")
    if sum(part.file_size for part in parts) > size:
        raise NotArrays("says that it holds more bytes than it has")
    if len({part.filename for part in parts}) < len(parts):
        raise NotArrays("holds an array twice")


def _array(member: IO[bytes], part: zipfile.ZipInfo) -> np.ndarray:
    """One array, in memory only once its header is known to be true."""
    name = printable(part.filename.removesuffix(".npy"), 60)
    version = npy.read_magic(member)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise NotArrays(f"holds '{name}' in version {version[0]}.{version[1]} of the .npy format")
    try:
        shape, by_columns, dtype = read(member, max_header_size=_MAX_HEADER)
    except ValueError:  # its text advises to switch the protection off
        raise NotArrays(f"holds '{name}' with a header that cannot be read") from None
    if dtype.hasobject:
        raise NotArrays(f"holds Python objects in '{name}', which only pickle reads")
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise NotArrays(f"holds '{name}' of type {dtype}, plain numbers are expected")
    count = 1
    for side in shape:  # Python's own integers, which do not overflow
        count *= side
    size = count * dtype.itemsize
    possible = min(shape, default=0) >= 0 and size <= part.file_size
    data = member.read(size) if possible else b""
    if not possible or len(data) != size or member.read(1):
        raise NotArrays(f"holds '{name}' with other bytes than its shape {shape} has")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
    return array.astype(dtype.newbyteorder("="), order="C")  # a copy that can be written, as torch wants it
