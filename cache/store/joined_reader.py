"""Several recipes of one modality read as one: their columns side by side, `unirep+profile`.

Shapes: L rows of a sequence, D columns of all recipes together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from crossllm.cache.errors import InputError
from crossllm.cache.store.reader import CacheReader, Packed
from crossllm.cache.store.recipe import Recipe, choose_recipe
from crossllm.cache.store.row_source import IO

JOIN = "+"
"""Between the names of joined recipes; no encoder has it in its name."""


class JoinedRecipe(Recipe):
    """Stands where one recipe stands; its digest and its name are those of its parts, joined."""

    parts: tuple[Recipe, ...]

    @classmethod
    def of(cls, parts: Sequence[Recipe]) -> JoinedRecipe:
        """Of recipes of one modality, in the order of their columns."""
        first = parts[0]
        joined = cls(
            first.modality, JOIN.join(p.encoder for p in parts), first.encoder_version, sum(p.dim for p in parts)
        )
        object.__setattr__(joined, "parts", tuple(parts))
        return joined

    @property
    def digest(self) -> str:
        """The digests of the parts, joined."""
        return JOIN.join(part.digest for part in self.parts)

    @property
    def folder_name(self) -> str:
        """The folder names of the parts, joined."""
        return JOIN.join(part.folder_name for part in self.parts)

    @property
    def pooled(self) -> bool:
        """Whether all parts are."""
        return all(part.pooled for part in self.parts)

    def rows_of(self, length: int) -> int:
        """Rows of a sequence: those of its parts that have one a residue."""
        return max(part.rows_of(length) for part in self.parts)


class OneRecipe(Protocol):
    """Rows of one recipe: a `CacheReader`, or several caches as one."""

    folder: Path
    recipe: Recipe

    def __getitem__(self, key: bytes) -> np.ndarray:
        """(L, D) rows of a key."""

    def __contains__(self, key: bytes) -> bool: ...

    def length(self, key: bytes) -> int:
        """L."""

    def absent(self, keys: Sequence[bytes]) -> np.ndarray:
        """(m,) bool: which of m keys are not held."""

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """A hint that these keys are next."""


class JoinedReader:
    """What a `CacheReader` is to one recipe: a key is there when each recipe holds it.

    A recipe of one vector a sequence gives that vector to each row.
    """

    def __init__(self, readers: Sequence[OneRecipe]) -> None:
        self.readers = tuple(readers)
        self.recipe: Recipe = JoinedRecipe.of([reader.recipe for reader in readers])
        self.folder = readers[0].folder

    def __getitem__(self, key: bytes) -> np.ndarray:
        """(L, D) rows of a key.

        Raises:
            InputError: the recipes hold different numbers of rows of it.
        """
        length = self.length(key)
        return np.concatenate([np.broadcast_to(rows, (length, rows.shape[1])) for rows in self._each(key)], axis=1)

    def __contains__(self, key: bytes) -> bool:
        return all(key in reader for reader in self.readers)

    def length(self, key: bytes) -> int:
        """L."""
        lengths = {reader.length(key) for reader in self.readers if not reader.recipe.pooled} or {1}
        if len(lengths) > 1:
            counts = ", ".join(f"{r.recipe.folder_name} {r.length(key)}" for r in self.readers)
            raise InputError(
                f"{self.folder.parent}: record {key.hex()} has not as many rows in each joined recipe: {counts}; "
                "join recipes of one --long policy"
            )
        return lengths.pop()

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that some recipe does not hold, in their order."""
        asked = list(keys)
        return [asked[n] for n in np.flatnonzero(self.absent(asked)).tolist()]

    def absent(self, keys: Sequence[bytes]) -> np.ndarray:
        """(m,) bool: which of m keys some recipe does not hold."""
        found: np.ndarray = np.logical_or.reduce([reader.absent(keys) for reader in self.readers])
        return found

    def gather(self, keys: Sequence[bytes]) -> Packed:
        """Rows of many keys, one after the other, and where each begins."""
        rows = [self[key] for key in keys]
        return Packed(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """Tell the system which keys are wanted next."""
        wanted = list(keys)
        for reader in self.readers:
            reader.prefetch(wanted)

    def _each(self, key: bytes) -> list[np.ndarray]:
        return [reader[key] for reader in self.readers]


def open_rows(cache_dir: Path, modality: str, named: str | None = None, io: IO = "mmap") -> CacheReader | JoinedReader:
    """The rows of a recipe, or of several whose names have a `+` between them.

    Raises:
        InputError: as `choose_recipe`; or one recipe is named twice.
    """
    if named is None or JOIN not in named:
        return CacheReader(cache_dir, choose_recipe(cache_dir, modality, named), io=io)
    recipes = [choose_recipe(cache_dir, modality, name) for name in named.split(JOIN)]
    if len({recipe.digest for recipe in recipes}) < len(recipes):
        raise InputError(f"{cache_dir}: --recipe '{named}' joins a recipe to itself; name each once")
    return JoinedReader([CacheReader(cache_dir, recipe, io=io) for recipe in recipes])


def parts_of(reader: OneRecipe | JoinedReader) -> tuple[OneRecipe, ...]:
    """The readers of one recipe each that a reader is made of."""
    return reader.readers if isinstance(reader, JoinedReader) else (reader,)


def recipes_of(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipes that a recipe joins, or itself."""
    return recipe.parts if isinstance(recipe, JoinedRecipe) else (recipe,)
