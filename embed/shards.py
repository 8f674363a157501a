"""`model.safetensors.index.json`: which shard beside it holds which tensor."""

from __future__ import annotations

import re
from pathlib import Path

from cache.errors import CacheCorrupt, InputError
from cache.recipe import parse_json

MAX_HEADER = 8 << 20
"""Bytes of a safetensors header and of an index."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → shard, of an index; a shard is a name in the same folder, never a path."""
    try:
        if not index.is_file():
            raise InputError(f"{index}: is no plain file; copy or download it again")
        if index.stat().st_size > MAX_HEADER:
            raise InputError(f"{index}: more than {MAX_HEADER} bytes; make more shards, or leave the index out")
        found = parse_json(index.read_bytes(), index).get("weight_map", {})
    except CacheCorrupt as error:
        raise InputError(str(error).replace("the file is damaged", "make it again or delete it")) from None
    if not isinstance(found, dict) or not all(isinstance(s, str) and _PLAIN_NAME.fullmatch(s) for s in found.values()):
        raise InputError(
            f"{index}: its weight_map is no table of tensors and files beside it; delete it or make it again"
        )
    return found
