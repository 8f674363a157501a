"""`IdList`: a million ids in some 35 MB, which of them stand there twice, and where one is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from crossllm.cache.records.keys import ABSENT


class IdList:
    """Ids, one after the other in one run of bytes; n of them.  What is appended after a search is found too."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        # Of Python's own hash, which differs from process to process: never stored, and no proof that two are equal.
        self._hashes = array("q")
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def append(self, id_: str) -> None:
        """Add one."""
        self._text += id_.encode()
        self._ends.append(len(self._text))
        self._hashes.append(hash(id_))
        self._sorted = None

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, n: int) -> str:
        return self._text[self._ends[n] : self._ends[n + 1]].decode()

    def find(self, id_: str) -> int:
        """Place of the first such id, or `ABSENT`."""
        hashes, order = self._by_hash()
        wanted = hash(id_)
        at = int(np.searchsorted(hashes, wanted))
        while at < len(hashes) and hashes[at] == wanted:
            if self[place := int(order[at])] == id_:
                return place
            at += 1
        return ABSENT

    def find_many(self, ids: Sequence[str]) -> np.ndarray:
        """(m,) what `find` says of each id."""
        found = np.full(len(ids), ABSENT, np.int64)
        hashes, order = self._by_hash()
        if not len(hashes):
            return found
        wanted = np.fromiter(map(hash, ids), np.int64, len(ids))
        at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        for n in np.flatnonzero(hashes[at] == wanted).tolist():
            place = int(order[at[n]])
            found[n] = place if self[place] == ids[n] else self.find(ids[n])
        return found

    def repeats(self) -> Iterator[tuple[int, int]]:
        """`(place, place of the first)` of every id that stands further up already, in no order."""
        hashes, order = self._by_hash()
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        group: dict[str, int] = {}
        for at, before in zip(same.tolist(), [-2, *same[:-1].tolist()], strict=True) if len(same) else ():
            if at != before + 1:
                place = int(order[at])
                group = {self[place]: place}
            place = int(order[at + 1])
            first = group.setdefault(self[place], place)
            if first != place:
                yield place, first

    def _by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes, rising, and whose they are; of equal hashes the earlier one first."""
        if self._sorted is None:
            hashes = np.frombuffer(self._hashes, np.int64)
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], order.astype(np.int32 if len(order) < 1 << 31 else np.int64)
        return self._sorted
