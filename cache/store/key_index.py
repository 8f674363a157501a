"""`KeyIndex`: which record of a recipe holds a key, in arrays: 10⁶ records take some 50 MB and open in a second.

Shapes: n records over all segments.  A record's number counts through the segments in their order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from crossllm.cache.records.keys import Keys
from crossllm.cache.store.segment import Segment


class KeyIndex(Keys):
    """The keys of several segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        counts = [segment.commit.records for segment in segments]
        self._starts = [0, *accumulate(counts)]
        super().__init__(np.concatenate([s.digest for s in segments]) if segments else np.empty((0, 32), np.uint8))
        for segment, start, stop in zip(segments, self._starts, self._starts[1:], strict=False):
            segment.digest = self.digest[start:stop]  # one copy in memory is enough

    def place(self, record: int) -> tuple[int, int]:
        """Segment of a record, and its index in there."""
        number = bisect_right(self._starts, record) - 1
        return number, record - self._starts[number]
