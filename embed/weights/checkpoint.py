"""Weights from files of others: safetensors, NumPy's .npz, or PyTorch files that open without running any code.

A `.pth` is a pickle, and a pickle is a program.  Here it is only ever opened with `weights_only=True`, which builds
tensors and plain containers, and one further class, `argparse.Namespace`, which official ESM-2 files hold.  What does
not open that way is refused; there is no second attempt.  Nothing else beside the file is read but the digest that
`embed pull` keeps there, and `config.json`, which `crossllm.embed.weights.hf_config` compares; code never is.

A large file is mapped, so that its tensors take no memory of their own; a small one is read whole, and what was
digested is what is opened.  A mapping is by name: `check_unchanged` says afterwards that the file stayed what it was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossllm.cache.errors import InputError, one_line, printable
from crossllm.cache.files.file_kind import LOOK, wrong_kind
from crossllm.embed.encoder import Loading
from crossllm.embed.weights.array_file import NotArrays, is_array_archive, load_arrays
from crossllm.embed.weights.digests import changed_while_read, file_digest, refuse_changed
from crossllm.embed.weights.model_size import refuse_other_size
from crossllm.embed.weights.shards import MAX_HEADER, weight_files
from crossllm.embed.weights.torch_file import NotTensors, load_tensors_only, plain, tensor_problem, zip_problem

if TYPE_CHECKING:
    from torch import Tensor

_NEITHER = "neither safetensors nor a PyTorch file that opens with weights_only=True"
_ZIP = b"PK\x03\x04"
_SHOWN = 3
"""Tensors named in an error, then the count of the rest."""
_MAPPED_FROM = 64 << 20
"""Bytes from which a file is mapped."""
_COPIED_TO = 4 << 20
"""Bytes up to which a tensor is copied out of a mapped file: norms, biases and tables of positions are used as they
are stored; larger ones are joined and converted by whoever asked for them."""


def weights_digest(path: Path, quiet: bool = False) -> str:
    """The SHA-256 of a file's bytes, 64 hex digits; of a folder see `_joined`.  Nothing is opened as weights.

    Raises:
        InputError: no such file.
        CacheCorrupt: the file is not what the digest kept beside it says.
    """
    digests = {}
    for file in weight_files(path):
        with open_weights(file) as opened:
            digests[file] = file_digest(opened, file, quiet)
        refuse_changed(file, digests[file])
    return _joined(digests)


def _joined(digests: Mapping[Path, str]) -> str:
    """One file's digest; of several shards the SHA-256 of their lines `name digest`, by name."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = (os.fsencode(path.name) + f" {digest}\n".encode() for path, digest in digests.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()


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
        if os.fstat(file.fileno()).st_size >= _MAPPED_FROM:
            digest, data = file_digest(file, path), None
            file.seek(0)
        else:
            data = file.read()
            digest = hashlib.sha256(data).hexdigest()
        opened = file if data is None else BytesIO(data)
        head = opened.read(LOOK)
        opened.seek(0)
        if not head:
            raise InputError(f"--weights {path}: is empty; copy or download it again")
        if (kind := wrong_kind(head)) is not None:
            raise InputError(f"--weights {path}: {kind}")
        if head.startswith(b"\x1f\x8b"):
            raise InputError(f"--weights {path}: is a gzip file; unpack it first")
        if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
            found = _safetensors(path, data)
        elif head.startswith(_ZIP) and is_array_archive(opened):
            found = _numpy(path, opened)
        else:
            found = _pytorch(path, opened)
    return _state_dict(path, found), digest


def read_verified(loading: Loading) -> dict[str, Tensor]:
    """The tensors of the file that an encoder's recipe was made for; call `check_unchanged` when they are consumed.

    Raises:
        InputError: the file cannot be read, is not what the recipe says, or holds another size of the encoder.
    """
    path = loading.weights
    assert path is not None  # find_encoder asked for it
    found, digest = read_weights(path)
    if digest != loading.recipe.weights:
        raise InputError(changed_while_read(path))
    refuse_other_size(loading, found)
    return found


def check_unchanged(loading: Loading) -> None:
    """Raise `InputError` where the file is no longer the one that the recipe was made for.

    After tensors of a mapped file have been copied: what was copied is then what was digested.
    """
    assert loading.weights is not None
    if weights_digest(loading.weights) != loading.recipe.weights:
        raise InputError(changed_while_read(loading.weights))


def open_weights(path: Path) -> BufferedReader:
    """The file, open for reading; `InputError` where there is none."""
    if not path.exists():
        raise InputError(f"--weights {path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"--weights {path}: is no plain file; name the file that holds the tensors")
    return path.open("rb")


def select_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], ignored: str
) -> dict[str, Tensor]:
    """The expected tensors, in the type they are stored in; small ones are copies, others may be views of a file.

    Args:
        path: the file, for messages.
        found: its tensors by name.
        expected: name → shape.
        ignored: pattern of the names that may be there and are not used.

    Raises:
        InputError: names that are missing or too many, tensors that are not plain, of another shape or not of a
            floating type.
    """
    extra = [name for name in found if name not in expected and not re.fullmatch(ignored, name)]
    faults = [f"{name} is missing{_nearest(name, extra)}" for name in expected if name not in found]
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
    return {name: _copied(plain(found[name])) for name in expected}


def _nearest(name: str, others: Iterable[str]) -> str:
    """` (the nearest here is NAME)`, or nothing where no other name is like it."""
    near = get_close_matches(name, others, 1)
    return f" (the nearest here is {printable(near[0])})" if near else ""


def _copied(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.nbytes <= _COPIED_TO else tensor


def _safetensors(path: Path, data: bytes | None) -> Any:
    """The tensors of `data`, or where that is None of the file, mapped."""
    from safetensors.torch import load, load_file

    try:
        return load_file(path, device="cpu") if data is None else load(data)
    except OSError:
        raise
    except Exception as error:  # safetensors raises a class of its own from Rust, and what torch raises on its types
        raise InputError(
            f"--weights {path}: a damaged safetensors file ({one_line(error)}); download it again"
        ) from None


def _numpy(path: Path, file: BufferedReader | BytesIO) -> dict[str, Tensor]:
    try:
        return load_arrays(file)
    except NotArrays as error:
        raise InputError(f"--weights {path}: an .npz that {error}; copy or download it again") from None


def _pytorch(path: Path, file: BufferedReader | BytesIO) -> Any:
    """What a torch file holds; that of a zip on disk is mapped, torch's form before 1.6 cannot be."""
    file.seek(0)
    is_zip = file.read(4) == _ZIP
    if is_zip and (problem := zip_problem(file)) is not None:
        raise InputError(f"--weights {path}: {_NEITHER}: it {problem}")
    file.seek(0)
    # torch takes what is called .safetensors for that, whatever it holds.
    mapped = is_zip and not isinstance(file, BytesIO) and path.suffix != ".safetensors"
    try:
        return load_tensors_only(path if mapped else file, allowed=[argparse.Namespace], mmap=mapped)
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
