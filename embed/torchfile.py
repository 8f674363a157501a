"""What every torch file and every tensor out of one is held to, wherever it comes from; imports no torch itself."""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_PICKLE = 8 << 20
"""Bytes of a torch file's list of tensors."""


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


def plain(tensor: Tensor) -> Tensor:
    """The values alone: no gradient is asked for, no negation or conjugation is put off."""
    return tensor.detach().resolve_conj().resolve_neg()
