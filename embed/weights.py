"""Weights from files of others: safetensors, or PyTorch files that open without running any code.

A `.pth` is a pickle, and a pickle is a program.  Here it is only ever opened with `weights_only=True`, which builds
tensors and plain containers, and one further class, `argparse.Namespace`, which official ESM-2 files hold.  What does
not open that way is refused; there is no second attempt.  Nothing else beside the file (config.json, code) is read.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError, one_line, printable
from embed.encoder import Loading
from embed.shards import MAX_HEADER, weight_map
from embed.torchfile import NotTensors, load_tensors_only, plain, tensor_problem, zip_problem

if TYPE_CHECKING:
    from torch import Tensor

_NEITHER = "neither safetensors nor a PyTorch file that opens with weights_only=True"
_ZIP = b"PK\x03\x04"
_SHOWN = 3
"""Tensors named in an error, then the count of the rest."""


def weights_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits; of a folder see `_joined`.  Nothing is opened as weights."""
    return _joined({file: _file_digest(file) for file in weight_files(path)})


def weight_files(path: Path) -> list[Path]:
    """The file itself, or the safetensors of a Hugging Face folder: one, or the shards that its index names.

    Raises:
        InputError: there is no such file, or the folder holds no safetensors.
    """
    if not path.is_dir():
        return [path]
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if not index.exists():
        raise InputError(
            f"--weights {path}: a folder without model.safetensors or model.safetensors.index.json; name the file that "
            "holds the tensors"
        )
    return [path / name for name in sorted(set(weight_map(index).values()))]


def _joined(digests: Mapping[Path, str]) -> str:
    """One file's digest; of several shards the SHA-256 of their lines `name digest`, by name."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{p.name} {digest}\n" for p, digest in digests.items()).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open_weights(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file, or of a folder's shards, by name, on the CPU, and the digest of the bytes.

    A PyTorch file may hold them at the top or under `model` or `state_dict`.

    Raises:
        InputError: no such file, or one that is neither format, damaged, or holds more than tensors.
    """
    tensors: dict[str, Tensor] = {}
    digests: dict[Path, str] = {}
    for file in weight_files(path):
        found, digests[file] = _read_file(file)
        if twice := sorted(tensors.keys() & found.keys()):
            raise InputError(
                f"--weights {file}: '{printable(twice[0])}' stands in another shard too; download them again"
            )
        tensors |= found
    return tensors, _joined(digests)


def _read_file(path: Path) -> tuple[dict[str, Tensor], str]:
    with open_weights(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        head = file.read(9)
        file.seek(0)
        if len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
            found = _safetensors(path)
        else:
            found = _pytorch(path, file)
    return _state_dict(path, found), digest


def read_settled(loading: Loading) -> dict[str, Tensor]:
    """The tensors of the file that an encoder's recipe was made for.

    Raises:
        InputError: the file cannot be read, or is not what the recipe says.
    """
    path = loading.weights
    assert path is not None  # find_encoder asked for it
    found, digest = read_weights(path)
    if digest != loading.recipe.weights:
        raise InputError(f"--weights {path}: was changed while it was read; run the same command again")
    return found


def open_weights(path: Path) -> BufferedReader:
    """The file, open for reading; `InputError` where there is none."""
    if not path.exists():
        raise InputError(f"--weights {path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"--weights {path}: is no plain file; name the file that holds the tensors")
    return path.open("rb")


def pick_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], ignored: str
) -> dict[str, Tensor]:
    """The expected tensors, as they are stored.

    Args:
        path: the file, for messages.
        found: its tensors by name.
        expected: name → shape.
        ignored: pattern of the names that may be there and are not used.

    Raises:
        InputError: names that are missing or too many, tensors that are not plain, of another shape or not of a
            floating type.
    """
    faults = [f"{name} is missing" for name in expected if name not in found]
    extra = [name for name in found if name not in expected and not re.fullmatch(ignored, name)]
    faults += [f"{printable(name)} is not one of its tensors" for name in extra]
    for name, shape in expected.items():
        if name in found and (odd := tensor_problem(found[name])) is not None:
            faults.append(f"{name} is not a plain tensor: it is {odd}")
        elif name in found and tuple(found[name].shape) != shape:
            faults.append(f"{name} has shape {tuple(found[name].shape)}, {shape} is expected")
        elif name in found and not found[name].is_floating_point():
            faults.append(f"{name} is of type {found[name].dtype}, a floating type is expected")
    if faults:
        more = f"; and {len(faults) - _SHOWN} more like these" if len(faults) > _SHOWN else ""
        raise InputError(f"--weights {path}: not the weights of this encoder: {'; '.join(faults[:_SHOWN])}{more}")
    return {name: plain(found[name]) for name in expected}


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except OSError:
        raise
    except Exception as error:  # safetensors raises a class of its own from Rust, and what torch raises on its types
        raise InputError(
            f"--weights {path}: a damaged safetensors file ({one_line(error)}); download it again"
        ) from None


def _pytorch(path: Path, file: BufferedReader) -> Any:
    if file.read(4) == _ZIP and (problem := zip_problem(file)) is not None:
        raise InputError(f"--weights {path}: {_NEITHER}: it {problem}")
    file.seek(0)
    try:
        return load_tensors_only(file, allowed=[argparse.Namespace])
    except NotTensors as error:
        held = f" (it holds {error.held})" if error.held else ""
        raise InputError(
            f"--weights {path}: {_NEITHER}{held}; if you trust it, open it yourself and save its state dict alone: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from None


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    from torch import Tensor

    for name in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items()):
        raise InputError(f"--weights {path}: holds no state dict, a table of tensors by name; save model.state_dict()")
    return dict(found)
