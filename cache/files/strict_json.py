"""`parse_json`: JSON of others, read strictly and within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crossllm.cache.errors import CacheCorrupt, one_line

_MAX_DEPTH = 32
_MAX_PARTS, _MAX_VALUES = 100_000, 400_000


def parse_json(data: bytes, where: Path) -> dict[str, Any]:
    """A JSON object in UTF-8 without duplicate keys, NaN or Infinity, at most 32 deep; else `CacheCorrupt`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        # Counted before it is parsed: a few million tiny values take a hundred times the file's bytes.
        if sum(map(data.count, (b"{", b"[", b":"))) > _MAX_PARTS or data.count(b",") > _MAX_VALUES:
            raise ValueError("more values than such a file ever holds")
        found = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
        if _deeper(found, _MAX_DEPTH):
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    except (ValueError, RecursionError) as error:
        raise CacheCorrupt(f"{where}: {one_line(error)}; the file is damaged") from None
    if not isinstance(found, dict):
        raise CacheCorrupt(f"{where}: not a JSON object; the file is damaged")
    return found


def _deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists lie within each other in more than so many levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (levels == 0 or any(_deeper(v, levels - 1) for v in inner))
