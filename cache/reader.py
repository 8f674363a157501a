"""`CacheReader`: key → rows[L, D], a view of the mapped shard where the shard is a plain array."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cache.commit import commit_paths, live_commits, read_commit
from cache.recipe import Recipe
from cache.segment import Segment


class CacheReader:
    """The committed records of one recipe, as they stood when the reader was opened.

    The index is two arrays sorted by the first eight bytes of the keys, not a dict: 10⁶ records take some 50 MB.

        reader = CacheReader(Path("cache/rpi1460"), choose_recipe(cache_dir, "rna", None))
        rows = reader[key]      # (L, D) float16, read-only, no copy
    """

    def __init__(self, cache_dir: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = recipe.folder(cache_dir)
        commits = live_commits([read_commit(path) for path in commit_paths(self.folder)])
        self.segments = [Segment(self.folder, recipe, commit) for commit in commits]
        digests = [s.digest for s in self.segments]
        digest = np.concatenate(digests) if digests else np.empty((0, 32), np.uint8)
        prefix = np.ascontiguousarray(digest[:, :8]).view(">u8").ravel().astype(np.uint64)
        order = np.argsort(prefix, kind="stable")
        self._prefix, self._order = prefix[order], order
        self._starts = np.cumsum([0, *(len(d) for d in digests)])
        self._unique: int | None = None

    def __getitem__(self, key: bytes) -> np.ndarray:
        """Rows of a key, shape (L, D), read-only.

        Raises:
            KeyError: the key is not in the cache.
            CacheCorrupt: the stored bytes do not match their crc32c.
        """
        found = self._find(key)
        if found is None:
            raise KeyError(self._absent(key))
        segment, index = found
        return segment.rows(index)

    def __contains__(self, key: bytes) -> bool:
        return self._find(key) is not None

    def __len__(self) -> int:
        """Distinct keys; a record that two writers both made counts once."""
        if self._unique is None:
            self._unique = len(set(self))
        return self._unique

    def __iter__(self) -> Iterator[bytes]:
        """Keys in the order of the segments; a key stored twice comes once."""
        seen: set[bytes] = set()
        for segment in self.segments:
            for digest in segment.digest:
                key = digest.tobytes()
                if key not in seen:
                    seen.add(key)
                    yield key

    def length(self, key: bytes) -> int:
        """Rows of a key, L, without touching them."""
        found = self._find(key)
        if found is None:
            raise KeyError(self._absent(key))
        segment, index = found
        return int(segment.offsets[index + 1] - segment.offsets[index])

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of `keys` that the cache does not hold, in their order."""
        return [key for key in keys if key not in self]

    def _absent(self, key: bytes) -> str:
        return f"no rows for key {key.hex()} in recipe {self.recipe.folder_name}"

    def _find(self, key: bytes) -> tuple[Segment, int] | None:
        """Segment and record index of a key: a binary search on eight bytes, then the whole 32."""
        prefix = np.uint64(int.from_bytes(key[:8], "big"))
        at = int(np.searchsorted(self._prefix, prefix))
        while at < len(self._prefix) and self._prefix[at] == prefix:
            record = int(self._order[at])
            number = int(np.searchsorted(self._starts, record, side="right")) - 1
            segment, index = self.segments[number], record - int(self._starts[number])
            if segment.digest[index].tobytes() == key:
                return segment, index
            at += 1
        return None
