"""Rows of several caches of one recipe as if they were one: a run's own, and the one that new sequences went into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from crossllm.cache.store.joined_reader import JoinedReader, recipes_of
from crossllm.cache.store.reader import CacheReader, Packed
from crossllm.cache.store.recipe import Recipe


def open_chained(folders: Sequence[Path], recipe: Recipe) -> ChainedReader | JoinedReader:
    """The rows of a run's recipe, or of those that it joins, in any of these caches."""
    chains = [ChainedReader([CacheReader(folder, part) for folder in folders]) for part in recipes_of(recipe)]
    return chains[0] if len(chains) == 1 else JoinedReader(chains)


class ChainedReader:
    """The first cache that holds a key gives its rows.

    Args:
        readers: of one recipe, at least one.
    """

    def __init__(self, readers: Sequence[CacheReader]) -> None:
        self._readers = tuple(readers)
        self.recipe: Recipe = readers[0].recipe
        self.folder: Path = readers[0].folder

    def absent(self, keys: Sequence[bytes]) -> np.ndarray:
        """(m,) bool: which of m keys none of the caches holds."""
        found = np.ones(len(keys), bool)
        for reader in self._readers:
            left = np.flatnonzero(found)
            found[left] = reader.absent([keys[n] for n in left.tolist()])
        return found

    def __contains__(self, key: bytes) -> bool:
        return any(key in reader for reader in self._readers)

    def __getitem__(self, key: bytes) -> np.ndarray:
        """(L, D) rows of a key.

        Raises:
            KeyError: no cache holds it.
            CacheCorrupt: the stored bytes do not match their checksum.
        """
        return self._holder(key)[key]

    def length(self, key: bytes) -> int:
        """Rows of a key, without touching them."""
        return self._holder(key).length(key)

    def gather(self, keys: Sequence[bytes]) -> Packed:
        """Rows of many keys, one after the other, in their order."""
        if len(self._readers) == 1:
            return self._readers[0].gather(keys)
        offsets = np.cumsum([0, *map(self.length, keys)])
        rows = np.empty((int(offsets[-1]), self.recipe.dim), np.dtype(self.recipe.dtype))
        for n, key in enumerate(keys):
            rows[offsets[n] : offsets[n + 1]] = self[key]
        return Packed(rows, offsets)

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """A hint that these keys are next."""
        asked = list(keys)
        for reader in self._readers:
            reader.prefetch(asked)

    def _holder(self, key: bytes) -> CacheReader:
        return next((reader for reader in self._readers[:-1] if key in reader), self._readers[-1])


RowsOfRun = ChainedReader | JoinedReader
"""Of one recipe, or of several that are joined."""
