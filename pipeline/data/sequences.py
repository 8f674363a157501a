"""The sequences of a dataset: key → normalised RNA, protein or canonical SMILES, from the files beside its pairs."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.modality import INPUT_NAMES
from crossllm.cache.records.record import key_of

_MAX_BYTES = 1 << 34


def read_sequences(cache_dir: Path, modality: str) -> dict[bytes, str]:
    """Key → sequence, of every record of one modality.

    Raises:
        InputError: the dataset holds no such file.
        CacheCorrupt: the file is not as it was imported.
    """
    path = cache_dir / INPUT_NAMES[modality]
    head = tomllib.loads((cache_dir / "dataset.toml").read_text(encoding="utf-8"))
    try:
        data = read_bytes(path, _MAX_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; the dataset's sequences stood there: import it again") from None
    if hashlib.sha256(data).hexdigest() != head["sha256"].get(path.name):
        raise CacheCorrupt(f"{path}: is not as it was imported; change the source and import it into another --cache")
    return {key_of(modality, sequence): sequence for sequence in _sequences(data.decode(), modality)}


def _sequences(text: str, modality: str) -> Iterator[str]:
    """In the two layouts that `write_dataset` writes: a header line and one line, or an id, a TAB and a SMILES."""
    lines = text.splitlines()
    if modality == "molecule":
        yield from (line.rpartition("\t")[2] for line in lines)
    else:
        yield from lines[1::2]
