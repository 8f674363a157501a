"""`Keys`: which of n keys one is, in arrays: 10⁶ keys take some 12 MB beside themselves and are sorted in a second.

Shapes: n keys held, m keys asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

ABSENT = -1


class Keys:
    """Keys, sorted by their first eight bytes.

    Keys are SHA-256 digests, so eight bytes nearly always tell two apart; the other 24 are compared all the same.
    """

    def __init__(self, digest: np.ndarray) -> None:
        self.digest = digest
        """(n, 32) the keys, uint8."""
        prefix = prefixes(digest)
        self._order = np.argsort(prefix, kind="stable").astype(np.int32 if len(prefix) < 1 << 31 else np.int64)
        self._prefix = prefix[self._order]

    def find(self, key: bytes) -> int:
        """Number of the first record of a key, or `ABSENT`."""
        at = int(np.searchsorted(self._prefix, np.uint64(int.from_bytes(key[:8], "big"))))
        return self._walk(at, key)

    def find_many(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """(m,) what `find` says of each key; the keys as a sequence, or as (m, 32) uint8."""
        if isinstance(keys, np.ndarray):
            wanted = keys
        else:
            if not all(len(key) == 32 for key in keys):
                raise ValueError("a key has 32 bytes")
            wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        if not len(self._prefix) or not len(wanted):
            return np.full(len(wanted), ABSENT)
        prefix = prefixes(wanted)
        at = np.minimum(np.searchsorted(self._prefix, prefix), len(self._prefix) - 1)
        alike = self._prefix[at] == prefix
        records = np.where(alike, self._order[at].astype(np.int64), ABSENT)
        other = alike & (self.digest[records] != wanted).any(1)  # perhaps another key of the same eight bytes
        for n in np.flatnonzero(other).tolist():
            records[n] = self._walk(int(at[n]), wanted[n].tobytes())
        return records

    def _walk(self, at: int, key: bytes) -> int:
        """The record of a key among those that share its first eight bytes, the first of which is `at`."""
        prefix = int.from_bytes(key[:8], "big")
        while at < len(self._prefix) and self._prefix[at] == prefix:
            record = int(self._order[at])
            if self.digest[record].tobytes() == key:
                return record
            at += 1
        return ABSENT

    @cached_property
    def firsts(self) -> np.ndarray:
        """Records without those whose key stands in an earlier one as well, rising."""
        same = self._prefix[1:] == self._prefix[:-1]
        doubtful = np.sort(self._order[np.flatnonzero(np.append(same, False) | np.append(False, same))])
        words = np.ascontiguousarray(self.digest[doubtful]).view(">u8")
        _, kept = np.unique(words, axis=0, return_index=True)
        left_out = np.delete(doubtful, kept)
        return np.delete(np.arange(len(self.digest)), left_out)


def prefixes(digest: np.ndarray) -> np.ndarray:
    """The first eight bytes of each of n keys (n, 32) as a number, (n,) uint64, in the same order."""
    return np.ascontiguousarray(digest[:, :8]).view(">u8").ravel().astype(np.uint64)
