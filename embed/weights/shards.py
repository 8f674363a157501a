"""The files of a model: one, or those that a Hugging Face folder holds, and the JSON beside them.

`model.safetensors.index.json` says which shard beside it holds which tensor.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.cache.files.strict_json import parse_json

MAX_HEADER = 8 << 20
"""Bytes of a safetensors header and of an index."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
_ONE_FILE = ("model.safetensors", "pytorch_model.bin")
_OTHER_FILES = (".safetensors", ".pth", ".pt")


def weight_files(path: Path) -> list[Path]:
    """The file itself, or those of a Hugging Face folder: one, or the shards that its index names.

    Safetensors come before `pytorch_model.bin`, which is a `.pt` by another name and opened as one.

    Raises:
        InputError: the folder holds neither.
    """
    if not path.is_dir():
        return [path]
    for name in _ONE_FILE:
        if (path / name).exists():
            return [path / name]
        if (index := path / f"{name}.index.json").exists():
            return [path / shard for shard in sorted(set(weight_map(index).values()))]
    if snapshots := sorted((path / "snapshots").glob("*/")):
        raise InputError(f"--weights {path}: a model in the Hugging Face hub's cache; name a snapshot: {snapshots[0]}")
    others = sorted(file for file in path.iterdir() if file.suffix in _OTHER_FILES and file.is_file())
    which = f"; it holds {printable(others[0].name)}" if len(others) == 1 else ""
    raise InputError(
        f"--weights {path}: a folder without model.safetensors or pytorch_model.bin, or the index of their shards; "
        f"name the file that holds the tensors{which}"
    )


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → shard, of an index; a shard is a name in the same folder, never a path."""
    found = json_object(index, MAX_HEADER, "make more shards, or leave the index out").get("weight_map", {})
    if not isinstance(found, dict) or not all(isinstance(s, str) and _PLAIN_NAME.fullmatch(s) for s in found.values()):
        raise InputError(
            f"{index}: its weight_map is no table of tensors and files beside it; delete it or make it again"
        )
    return found


def json_object(path: Path, most: int, when_larger: str) -> dict[str, Any]:
    """What a JSON file of at most so many bytes holds, read as strictly as the cache's own.

    Raises:
        InputError: no plain file, more bytes (`when_larger`: what to do then), or no such object.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: is no plain file; copy or download it again")
        if path.stat().st_size > most:
            raise InputError(f"{path}: more than {most} bytes; {when_larger}")
        return parse_json(path.read_bytes(), path)
    except CacheCorrupt as error:
        raise InputError(str(error).replace("the file is damaged", "make it again or delete it")) from None
