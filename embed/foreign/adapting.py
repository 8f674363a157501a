"""What `--strip` and `--pooled` make of arrays, before anything else looks at them: a source around a source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.embed.foreign.entry import Entry, Source


class Adaption(NamedTuple):
    """How the arrays of a source become rows."""

    strip: tuple[int, int] = (0, 0)
    """Rows cut from the start and from the end: those of BOS and EOS."""
    pooled: bool = False
    """One vector a sequence, stored as its only row."""


class Adapted:
    """A `Source` whose arrays are cut, or single vectors taken as one row."""

    def __init__(self, source: Source, adaption: Adaption) -> None:
        self._source, self._adaption = source, adaption
        self.layout, self.layer = source.layout, source.layer
        self._plain: dict[tuple[Path, str], Entry] = {}

    def entries(self) -> Iterator[Entry]:
        """Every stored array, with the shape that it is going to have; what cannot be adapted has its problem."""
        for entry in self._source.entries():
            if entry.problem is not None:
                yield entry
                continue
            self._plain[entry.file, entry.name] = entry
            yield self._pooled(entry) if self._adaption.pooled else self._cut(entry)
        self.layer = self._source.layer

    def read(self, entry: Entry) -> np.ndarray:
        """The values of one array, adapted."""
        values = self._source.read(self._plain[entry.file, entry.name])
        if self._adaption.pooled:
            return values.reshape(1, -1)
        first, last = self._adaption.strip
        return values[..., first : values.shape[-2] - last, :]

    def close(self) -> None:
        """Let go of files and processes."""
        self._source.close()

    def _cut(self, entry: Entry) -> Entry:
        if len(entry.shape) < 2:
            return entry  # whoever looks at shapes says what is wrong with it
        rows = entry.shape[-2] - sum(self._adaption.strip)
        if rows < 1:
            strip = ",".join(map(str, self._adaption.strip))
            return entry._replace(problem=f"{entry.shape[-2]} rows, of which --strip {strip} leaves none; leave it out")
        return entry._replace(shape=(*entry.shape[:-2], rows, entry.shape[-1]))

    @staticmethod
    def _pooled(entry: Entry) -> Entry:
        if not entry.shape or any(size != 1 for size in entry.shape[:-1]):
            what = f"shape {entry.shape} where --pooled expects one vector (D,) a sequence; leave the flag out for rows"
            return entry._replace(problem=what)
        return entry._replace(shape=(1, entry.shape[-1]))
