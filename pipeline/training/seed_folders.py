"""The folder of a run that was repeated with several seeds: which seeds, and where each of its runs lies.

OUT/config.toml      settings, and the table [seeds]: first, count
OUT/seed-S/          the run of seed S, complete and as any other
OUT/metrics.json     summary, written when all are finished
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files.plain_file import read_bytes

_MAX_TOML = 1 << 20
MOST_SEEDS = 1000


def seed_folder(run: Path, seed: int) -> Path:
    """Where the run of one seed lies."""
    return run / f"seed-{seed}"


def held_seeds(run: Path) -> range | None:
    """The seeds of a folder with several; None where it holds one run or none.

    Raises:
        CacheCorrupt: its table [seeds] was edited into something else.
    """
    where = run / "config.toml"
    if not where.is_file():
        return None
    try:
        found = tomllib.loads(read_bytes(where, _MAX_TOML).decode()).get("seeds")
    except (ValueError, RecursionError):
        return None  # whoever reads the settings says what is wrong with it
    if found is None:
        return None
    try:
        first, count = found["first"], found["count"]
        if not (type(first) is int and type(count) is int and first >= 0 and 1 <= count <= MOST_SEEDS):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CacheCorrupt(f"{where}: [seeds] {found} is not `first` and `count`; train again") from None
    return range(first, first + count)
