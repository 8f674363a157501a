"""`KeyIndex`: which record of a recipe holds a key, in arrays: 10⁶ records take some 50 MB and open in a second.

Shapes: n records over all segments.  A record's number counts through the segments in their order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np

from crossllm.cache.records.keys import ABSENT, Keys
from crossllm.cache.store.segment import Segment


class KeyIndex(Keys):
    """The keys of several segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        counts = [segment.commit.records for segment in segments]
        self._starts = [0, *accumulate(counts)]
        super().__init__(np.concatenate([s.digest for s in segments]) if segments else np.empty((0, 32), np.uint8))
        for segment, start, stop in zip(segments, self._starts, self._starts[1:], strict=False):
            segment.digest = self.digest[start:stop]  # one copy in memory is enough
        self._offsets = [segment.offsets for segment in segments]

    def place(self, record: int) -> tuple[int, int]:
        """Segment of a record, and its index in there."""
        number = bisect_right(self._starts, record) - 1
        return number, record - self._starts[number]

    def length(self, key: bytes) -> int:
        """Rows of a key; `ABSENT` where there is none."""
        if (record := self.find(key)) == ABSENT:
            return ABSENT
        number, index = self.place(record)
        return int(self._offsets[number][index + 1] - self._offsets[number][index])

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) rows of each record."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets] or [np.empty(0, np.int64)])

    @property
    def count(self) -> int:
        """Distinct keys."""
        return len(self.firsts)

    @property
    def residues(self) -> int:
        """Rows of all distinct keys."""
        return int(self.lengths[self.firsts].sum())

    def keys(self, _segments: Sequence[Segment]) -> Iterator[bytes]:
        """Distinct keys in the order of the segments."""
        return (self.digest[record].tobytes() for record in self.firsts)
