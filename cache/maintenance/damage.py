"""Damage as data: what is hit, where, and what can no longer be read because of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.cache.records.id_table import read_table
from crossllm.cache.store.commit import Commit, commit_paths, read_commit

Kind = Literal["record", "segment", "commit", "recipe", "records", "dataset", "newer"]
"""`records`: a table of ids; `newer`: a file of a later format, which only a later version may judge."""
SHOWN_IDS = 5


class Damage(NamedTuple):
    """One damaged record or file."""

    kind: Kind
    file: Path
    """The damaged file; of a record, the segment's folder."""
    what: str
    """One line: what is wrong, and what to do."""
    recipe: str = ""
    """`<modality>/<folder name>`."""
    segment: str = ""
    key: str = ""
    """Of a record, 64 hex digits."""
    ids: tuple[str, ...] = ()
    """The ids that stand for the key in the records table."""
    unreadable: int | None = 0
    """Records that nobody can read because of it; None where that cannot be told."""

    def __str__(self) -> str:
        return self.what

    def as_json(self) -> dict[str, Any]:
        """The fields, the path as text."""
        return self._asdict() | {"file": str(self.file)}


class Listing(NamedTuple):
    """The commit records of a recipe."""

    commits: list[Commit]
    damage: list[Damage]
    """One for each commit record that cannot be read."""

    def refuse_newer(self) -> None:
        """Raise `InputError` where a commit record is of a later format: nothing may be changed around it."""
        if newer := [found.what for found in self.damage if found.kind == "newer"]:
            raise InputError(newer)


def recipe_name(recipe_dir: Path) -> str:
    """How a recipe is named in lists: `<modality>/<folder name>`."""
    return f"{recipe_dir.parent.name}/{recipe_dir.name}"


def read_commits(recipe_dir: Path) -> Listing:
    """Every commit record of a recipe; one that another process unlinks meanwhile is left out."""
    found = Listing([], [])
    for path in commit_paths(recipe_dir):
        try:
            found.commits.append(read_commit(path))
        except FileNotFoundError:
            continue
        except InputError as error:
            found.damage.append(Damage("newer", path, str(error), recipe_name(recipe_dir), path.stem))
        except CacheCorrupt as error:
            count = _guess_records(recipe_dir / "segments" / path.stem)
            what = f"{error}; {'its' if count is None else f'at most {count}'} records cannot be read"
            found.damage.append(Damage("commit", path, what, recipe_name(recipe_dir), path.stem, unreadable=count))
    return found


def _guess_records(segment: Path) -> int | None:
    """Records of a segment whose commit record is damaged, by the size of its array of keys."""
    try:
        return os.lstat(segment / "digest" / "c" / "0" / "0").st_size // 32
    except OSError:
        return None


Names = Callable[[str, bytes], tuple[str, ...]]
"""Modality and key → ids."""


def names_in(cache_dir: Path) -> Names:
    """A look-up of the ids of a key, the records table read at the first one; a damaged table names nothing."""

    @lru_cache
    def table(modality: str) -> dict[bytes, list[str]]:
        ids: dict[bytes, list[str]] = {}
        try:
            for id_, entry in read_table(cache_dir, modality).items():
                ids.setdefault(entry.key, []).append(id_)
        except CacheCorrupt:
            return {}
        return ids

    return lambda modality, key: tuple(table(modality).get(key, ()))


def named(key: bytes, ids: tuple[str, ...]) -> str:
    """`record <key> (id, id, … and 3 more)`."""
    shown = ", ".join(map(printable, ids[:SHOWN_IDS]))
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"record {key.hex()}" + (f" ({shown}{more})" if ids else "")
