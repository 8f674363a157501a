"""`KeyIndex`: which record of a recipe holds a key, in arrays: 10⁶ records take some 50 MB and open in a second.

Shapes: n records over all segments, m keys asked for.  A record's number counts through the segments in their order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np

from cache.segment import Segment

ABSENT = -1


class KeyIndex:
    """The keys of several segments, sorted by their first eight bytes.

    Keys are SHA-256 digests, so eight bytes nearly always tell two apart; the other 24 are compared all the same.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        counts = [segment.commit.records for segment in segments]
        self._starts = [0, *accumulate(counts)]
        self.digest = np.concatenate([s.digest for s in segments]) if segments else np.empty((0, 32), np.uint8)
        """(n, 32) the keys."""
        for segment, start, stop in zip(segments, self._starts, self._starts[1:], strict=False):
            segment.digest = self.digest[start:stop]  # one copy in memory is enough
        prefix = prefixes(self.digest)
        self._order = np.argsort(prefix, kind="stable").astype(np.int32 if len(prefix) < 1 << 31 else np.int64)
        self._prefix = prefix[self._order]

    def find(self, key: bytes) -> int:
        """Number of the first record of a key, or `ABSENT`."""
        at = int(np.searchsorted(self._prefix, np.uint64(int.from_bytes(key[:8], "big"))))
        return self._walk(at, key)

    def find_many(self, keys: Sequence[bytes]) -> np.ndarray:
        """(m,) what `find` says of each key."""
        if not all(len(key) == 32 for key in keys):
            raise ValueError("a key has 32 bytes")
        wanted = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
        if not len(self._prefix) or not len(wanted):
            return np.full(len(wanted), ABSENT)
        at = np.searchsorted(self._prefix, prefixes(wanted))
        records = self._order[np.minimum(at, len(self._order) - 1)].astype(np.int64)
        for n in np.flatnonzero((self.digest[records] != wanted).any(1)).tolist():  # absent, or of the same eight bytes
            records[n] = self._walk(int(at[n]), keys[n])
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

    def place(self, record: int) -> tuple[int, int]:
        """Segment of a record, and its index in there."""
        number = bisect_right(self._starts, record) - 1
        return number, record - self._starts[number]

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
