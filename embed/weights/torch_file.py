"""What every torch file, and every tensor out of one, is held to; torch is imported when one is opened."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE = 8 << 20
"""Bytes of a torch file's list of tensors."""
_FORBIDDEN = re.compile(r"(?:GLOBAL|[Gg]lobal:?) (\w+(?:\.\w+)+)")


def zip_problem(file: IO[bytes]) -> str | None:
    """Why a torch file in the zip form is not to be opened: damaged, or it unpacks to more than it is."""
    size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"is a damaged or cut torch file ({error}); copy or download it again"
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    listed = sum(part.file_size for part in parts if part.filename.endswith(".pkl"))
    if packed or sum(part.file_size for part in parts) > size or listed > MAX_PICKLE:
        return "unpacks to more than torch ever writes; damaged or a decompression bomb, leave it out"
    return None


def tensor_problem(tensor: Tensor) -> str | None:
    """Why a tensor is none of plain numbers in memory; None for one that is."""
    import torch

    if tensor.is_nested:
        return "nested"
    if tensor.is_meta:
        return "without values (device meta)"
    if tensor.layout is not torch.strided:
        return f"of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return "quantised"
    return None


class NotTensors(Exception):
    """A torch file that holds more than tensors, or is damaged; nothing of it has been run."""

    def __init__(self, held: str | None) -> None:
        self.held = held
        """What it held that is not allowed, where torch says so; its advice to allow it is left out."""
        super().__init__(held)


def load_tensors_only(source: Path | IO[bytes], *, allowed: Sequence[type] = (), mmap: bool = False) -> Any:
    """What a torch file holds, if it is tensors and plain containers: `weights_only=True`, and no second attempt.

    Args:
        source: the file; with `mmap` its path.
        allowed: further classes that it may hold.
        mmap: leave the values on disk until they are read.

    Raises:
        NotTensors: it holds anything else, or is damaged.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what `tensor_problem` refuses anyway
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a crafted pickle can raise anything
        found = _FORBIDDEN.search(str(error))
        raise NotTensors(found[1] if found else None) from None


def plain(tensor: Tensor) -> Tensor:
    """The values alone: no gradient is asked for, no negation or conjugation is put off."""
    return tensor.detach().resolve_conj().resolve_neg()
