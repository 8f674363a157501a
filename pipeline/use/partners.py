"""The sequences that ids of new pairs stand for: those of the files given for a side, then those of the run's dataset.

Shapes: S distinct sequences of a side that stand in a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import say_notes
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import Records
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.use.run_data import RunData


class _Ids(Set[str]):
    """Ids of a file and of a dataset, as one set; neither is copied."""

    def __init__(self, own: Mapping[str, int], held: Mapping[str, object]) -> None:
        self._own, self._held = own, held

    def __contains__(self, id_: object) -> bool:
        return id_ in self._own or id_ in self._held

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (id_ for id_ in self._held if id_ not in self._own)

    def __len__(self) -> int:
        return len(self._own) + sum(id_ not in self._own for id_ in self._held)


class Partners:
    """One side of new pairs: ids are numbered by their distinct sequence, in order of first appearance.

        partners = Partners(data, "a", records, Path("rna.fasta"))
        number = partners.number("r7")              # 0; the next id of the same sequence has it too
        key = partners.keys[number]

    Args:
        data: of the run.
        side: a or b.
        records: what a file for the side holds; None: ids are those of the run's dataset alone.
        source: that file.
    """

    def __init__(self, data: RunData, side: str, records: Records | None, source: Path | None) -> None:
        place = "ab".index(side)
        self.side, self.modality, self.source = side, data.modalities[place], source
        self._cache_dir = data.cache_dir
        self._records: Sequence[Record] = [] if records is None else records.records
        self._places = {record.id: n for n, record in enumerate(self._records)}
        self._table = data.tables[place]
        self.ids: Set[str] = _Ids(self._places, self._table)
        """All that have a sequence."""
        self.keys: list[bytes] = []
        """(S,) key of each number."""
        self._of_id: dict[str, int] = {}
        self._of_key: dict[bytes, int] = {}
        self._own: list[int | None] = []
        """(S,) place among the file's records; None for a sequence of the dataset."""

    def number(self, id_: str) -> int | None:
        """Of an id's sequence; None for an id without one."""
        if (found := self._of_id.get(id_)) is not None:
            return found
        own = self._places.get(id_)
        if own is not None:
            key = self._records[own].key
        elif (entry := self._table.get(id_)) is not None:
            key = entry.key
        else:
            return None
        number = self._of_key.setdefault(key, len(self.keys))
        if number == len(self.keys):
            self.keys.append(key)
            self._own.append(own)
        elif self._own[number] is None:
            self._own[number] = own
        self._of_id[id_] = number
        return number

    def lengths(self) -> np.ndarray:
        """(S,) nucleotides, residues or atoms of each numbered sequence."""
        held = {entry.key: entry.length for entry in self._table.values()} if None in self._own else {}
        own = (None if n is None else self._records[n].length for n in self._own)
        return np.array([held[key] if n is None else n for key, n in zip(self.keys, own, strict=True)], np.int64)

    def own_ids(self) -> Iterator[str]:
        """Ids of the file in its order; without a file, of the dataset."""
        return iter(self._places) if self.source is not None else iter(self._table)

    def sequences(self, numbers: Sequence[int]) -> list[str]:
        """The normalised sequence, or canonical SMILES, of each number.

        Raises:
            CacheCorrupt: the dataset's file of sequences is not as it was imported.
        """
        held: dict[bytes, str] = {}
        found = []
        for number in numbers:
            own = self._own[number]
            if own is None and not held:
                held = read_sequences(self._cache_dir, self.modality)
            found.append(held[self.keys[number]] if own is None else self._records[own].sequence)
        return found

    def records(self, numbers: Sequence[int]) -> list[Record]:
        """A record of each number: as the file has it, or one whose id is the key."""
        texts = self.sequences(numbers)
        return [
            self._records[own]
            if (own := self._own[n]) is not None
            else record_of(self.modality, self.keys[n].hex(), text)
            for n, text in zip(numbers, texts, strict=True)
        ]


class Reading(NamedTuple):
    """How files of sequences are read."""

    on_bad: OnBad = "error"
    options: ReadOptions = ReadOptions()


def open_partners(data: RunData, sides: tuple[Side | None, Side | None], reading: Reading) -> tuple[Partners, Partners]:
    """Both sides of new pairs, the files read and checked.

    Raises:
        InputError: a file of another modality than the run's, or bad records in it, one line each.
    """
    check_modalities(data, sides)
    read: dict[Side, Records] = {}
    found = []
    for name, side in zip("ab", sides, strict=True):
        if side is not None and side not in read:
            read[side] = read_records(side.path, side.modality, reading.on_bad, reading.options)
            say_notes(side.path, read[side].notes, read[side].skipped, "records")
        records = None if side is None else read[side]
        found.append(Partners(data, name, records, None if side is None else side.path))
    return found[0], found[1]


def check_modalities(data: RunData, sides: tuple[Side | None, Side | None]) -> None:
    """Raise `InputError` where a file is said to hold another modality than the run was trained on."""
    wanted = "; ".join(f"--{name} {modality}=FILE" for name, modality in zip("ab", data.modalities, strict=True))
    for name, side, modality in zip("ab", sides, data.modalities, strict=True):
        if side is not None and side.modality != modality:
            raise InputError(
                f"--{name} {side.modality}={printable(str(side.path))}: side {name} of this run is {modality}, not "
                f"{side.modality}; give {wanted}"
            )
