"""Which layout a file or folder of embeddings has, told by its first bytes and never by its name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, printable
from crossllm.cache.files.file_kind import LOOK, wrong_kind, wrong_text
from crossllm.embed.foreign.entry import SUFFIXES, BadEntry, Entry, Source, entry_name

LAYOUTS = ("hdf5", "npy", "pt", "safetensors")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LARGEST_USER_BLOCK = 1 << 20


class Found(NamedTuple):
    """The files of one layout, and what else lay there."""

    layout: str
    files: list[Path]
    broken: list[Entry]
    """Files whose ending promises a layout that their bytes do not keep."""
    ignored: int
    """Other files of the folder, hidden entries, and links to folders."""


def find_files(path: Path) -> Found:
    """The embeddings that a file or folder holds.

    Raises:
        InputError: there are none, or those of several layouts.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; it is read more than once, so save it to disk first")
        try:
            return Found(sniff(path), [path], [], 0)
        except BadEntry as bad:
            raise InputError(f"{path}: {bad}") from None
    by_layout: dict[str, list[Path]] = {}
    files, broken, ignored = _walk(path)
    for file in files:
        try:
            by_layout.setdefault(sniff(file), []).append(file)
        except BadEntry as bad:
            if file.suffix.lower() in SUFFIXES:
                broken.append(Entry(file, entry_name(path, file), problem=str(bad)))
            else:
                ignored += file.suffix not in (".tsv", ".json")
    if len(by_layout) > 1:
        examples = " and ".join(f"{layout} ({files[0].name})" for layout, files in sorted(by_layout.items()))
        raise InputError(f"{path}: holds {examples} where one layout is expected; give each a folder of its own")
    if not by_layout:
        lines = [f"{entry.file}: {entry.problem}" for entry in broken]
        what = "holds no embeddings; HDF5, .npy, fair-esm .pt or safetensors files are expected in it"
        raise InputError(lines or f"{path}: {what}")
    layout, files = by_layout.popitem()
    return Found(layout, files, broken, ignored)


def open_source(path: Path, found: Found, layer: str | None) -> Source:
    """The reader of a layout; its libraries are imported here and not before."""
    if layer is not None and found.layout != "pt":
        raise InputError(f"--layer {printable(layer)}: {path} is {found.layout}, only .pt holds layers; leave it out")
    if found.layout == "hdf5":
        from crossllm.embed.foreign.hdf5 import Hdf5Source

        return Hdf5Source(found.files)
    if found.layout == "npy":
        from crossllm.embed.foreign.npy_files import NpySource

        return NpySource(path, found.files)
    from crossllm.embed.foreign.torch_files import PtSource, SafetensorsSource

    return PtSource(path, found.files, layer) if found.layout == "pt" else SafetensorsSource(path, found.files)


def sniff(path: Path) -> str:
    """The layout of a file.

    Raises:
        BadEntry: it has none of them.
    """
    if not path.is_file():  # follows links; a pipe would wait for ever
        raise BadEntry("is no regular file; save it to disk first")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(LOOK)
        if not head:
            raise BadEntry("is empty; copy or download it again")
        if (kind := wrong_kind(head)) is not None:
            raise BadEntry(str(kind))
        start = 0
        while start <= min(size - len(_HDF5), _LARGEST_USER_BLOCK):  # HDF5 may begin after a user block of 512·2ⁿ bytes
            file.seek(start)
            if file.read(len(_HDF5)) == _HDF5:
                return "hdf5"
            start = start * 2 or 512
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 48:
        return "safetensors"
    if head[:1] == b"\x80":
        raise BadEntry(
            "is a bare pickle or a torch file of before 1.6, which is never opened; save it again with a newer torch"
        )
    if head.startswith(b"\x1f\x8b"):
        raise BadEntry("is a gzip file; unpack it first")
    if (kind := wrong_text(head)) is not None:
        raise BadEntry(f"is {kind.what}, and holds no embeddings; give the HDF5, npy, torch .pt or safetensors file")
    raise BadEntry(
        f"begins with '{printable(head[:16].decode('latin-1'), 24)}' as none of HDF5, npy, torch .pt and safetensors "
        "does; save it in one of these"
    )


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadEntry(f"is a damaged or cut torch .pt ({error}); copy or download it again") from None
    if any(name.endswith("data.pkl") for name in names):
        return "pt"
    if names and all(name.endswith(".npy") for name in names):
        raise BadEntry("is an .npz archive; unpack it (`unzip FILE.npz -d FOLDER`) and import the folder of .npy")
    raise BadEntry("is a zip archive, no torch .pt; unpack it first")


def _walk(folder: Path) -> tuple[list[Path], list[Entry], int]:
    """Files under a folder by name, the folders in it that cannot be read, and how many entries were passed over.

    Passed over are hidden files and folders, and links to folders.
    """
    found: list[Path] = []
    closed: list[Entry] = []
    ignored = 0

    def refused(error: OSError) -> None:
        where = Path(error.filename)
        what = f"cannot be read ({error.strerror}); check its permissions, or move it away"
        closed.append(Entry(where, where.relative_to(folder).as_posix(), problem=what))

    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=False):
        taken = [name for name in folders if not name.startswith(".") and not Path(parent, name).is_symlink()]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
        ignored += len(folders) - len(taken) + sum(name.startswith(".") for name in names)
        folders[:] = taken
    return sorted(found), closed, ignored
