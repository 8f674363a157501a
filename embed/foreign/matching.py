"""Which stored array belongs to which sequence: by id, by a hash of the sequence, or by an id that a tool rewrote."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.errors import InputError, Problem, printable
from crossllm.cache.files.text_file import read_lines
from crossllm.cache.records.record import Record
from crossllm.cache.records.record_list import Records
from crossllm.embed.foreign.entry import BadEntry, Entry

MAPPING_HEADER = "name\tid\tkey"
MOLECULES_HEADER = f"{MAPPING_HEADER}\tsmiles\trdkit"
"""Of molecules: the key is that of RDKit's canonical SMILES, which another version may write otherwise."""
_HASH = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")


class Mapped(NamedTuple):
    """A line of a `mapping.tsv`."""

    key: bytes
    id: str
    smiles: str = ""
    rdkit: str = ""
    """`rdkit-2026.9.1`, which wrote the SMILES that the key is made of."""


class Matched(NamedTuple):
    """What became of the entries."""

    by_key: dict[bytes, list[Entry]]
    """Key of a sequence → the arrays that claim to be its rows; one, where all is well."""
    unmatched: list[Entry]
    """Arrays of sequences that the FASTA does not hold."""
    problems: list[Problem]


def match(entries: Iterable[Entry], records: Records, fasta: Path, mapping: dict[str, Mapped]) -> Matched:
    """Tie stored arrays to sequences.

    Args:
        entries: what the source holds, broken ones included.
        records: of the FASTA.
        fasta: read again for its whole headers if an array is not named by an id.
        mapping: name → key, from a `mapping.tsv`; it goes before everything else.
    """
    names = _Names(records, fasta)
    matched = Matched({}, [], [])
    by_plain_name: list[tuple[Entry, Record]] = []
    for entry in entries:
        if entry.problem is not None:
            matched.problems.append(Problem(entry.file, 0, entry.problem, entry.name))
            continue
        try:
            record = names.mapped(mapping[entry.name]) if entry.name in mapping else names.find(entry)
        except BadEntry as bad:
            matched.problems.append(Problem(entry.file, 0, str(bad), entry.name))
            continue
        if record is None:
            matched.unmatched.append(entry)
            continue
        matched.by_key.setdefault(record.key, []).append(entry)
        if entry.name not in mapping and entry.stated is None and record.id == entry.name:
            by_plain_name.append((entry, record))
    for entry, record in by_plain_name:
        _check_twins(names, matched, entry, record)
    return matched


def _check_twins(names: _Names, matched: Matched, entry: Entry, record: Record) -> None:
    """`a_b` may be the id a_b, or ProtTrans' writing of a.b: refused when both are in the FASTA and fit."""
    for twin in names.rewritten.get(entry.name, ()):
        fits = len(entry.shape) > 1 and twin.length == entry.shape[-2]
        if twin.key != record.key and twin.key not in matched.by_key and fits and record.key in matched.by_key:
            matched.by_key[record.key].remove(entry)
            if not matched.by_key[record.key]:
                del matched.by_key[record.key]
            what = (
                f"this name stands for '{entry.name}' or for a rewritten '{printable(twin.id)}'; rename one of the two"
            )
            matched.problems.append(Problem(entry.file, 0, what, entry.name))
            return


class _Names:
    """The records of a FASTA by everything an embedding tool may have called them."""

    def __init__(self, records: Records, fasta: Path) -> None:
        self._modality, self._fasta = records.modality, fasta
        self.by_id = {record.id: record for record in records.records}
        self.by_key = records.distinct()

    def mapped(self, line: Mapped) -> Record | None:
        """The record of a line of `mapping.tsv`, by its key; None if the FASTA does not hold it.

        Raises:
            BadEntry: the molecule of that id has another key here, as another RDKit writes its SMILES otherwise, and so
                orders the atoms, of which the rows are.
        """
        if (record := self.by_key.get(line.key)) is not None:
            return record
        here = self.by_id.get(line.id)
        if here is None or self._modality != "molecule":
            return None
        theirs, ours = printable(line.smiles or "another SMILES", 60), printable(here.sequence, 60)
        raise BadEntry(
            f"its key is that of '{theirs}', written by {line.rdkit or 'another RDKit'}; id '{printable(line.id)}' is "
            f"'{ours}' here, and the order of the atoms may be another; embed the molecules anew, or import with the "
            "RDKit that exported them"
        )

    def find(self, entry: Entry) -> Record | None:
        """The record of an entry, None if the FASTA does not hold it."""
        named = entry.name if entry.stated is None else entry.stated
        return (
            self.by_id.get(named)
            or (self._by_hash(entry.name) if _HASH.fullmatch(entry.name) else None)
            or self._by_header(entry)
            or self._by_rewritten(named)
        )

    def _by_header(self, entry: Entry) -> Record | None:
        """An id with more words after it: a stated one, or a name that is a whole header of this very FASTA.

        A name alone is not enough: `p mutant` would be taken for `p`.
        """
        if entry.stated is None:
            ids = sorted(self.headers.get(entry.name, ()))
            if len(ids) > 1:
                raise _either([self.by_id[id_] for id_ in ids if id_ in self.by_id])
            return self.by_id.get(ids[0]) if ids else None
        words = entry.stated.split(maxsplit=1)
        return self.by_id.get(words[0]) if words else None

    def _by_hash(self, name: str) -> Record | None:
        found = self.by_hash.get(name, [])
        if len(found) > 1:
            ids = " and ".join(f"'{printable(record.id)}'" for record in found[:2])
            raise BadEntry(f"this hash is that of {ids}; name both arrays by their ids")
        return found[0] if found else None

    def _by_rewritten(self, name: str) -> Record | None:
        found = self.rewritten.get(name, [])
        if len({record.key for record in found}) > 1:
            raise _either(found)
        return found[0] if found else None

    @cached_property
    def headers(self) -> dict[str, set[str]]:
        """Whole header of the FASTA → its ids."""
        return read_headers(self._fasta, self._modality)

    @cached_property
    def by_hash(self) -> dict[str, list[Record]]:
        """Hex digest → records: bio_embeddings (MD5), biotrainer (SHA-256 with the length), and our own keys.

        A hash of one record's own spelling goes before what another may have been spelt like; several records stand
        under one hash only where neither is nearer to it than the other.
        """
        found: dict[str, list[Record]] = {key.hex(): [record] for key, record in self.by_key.items()}
        for respelt in (False, True):
            claims: defaultdict[str, list[Record]] = defaultdict(list)
            for record in self.by_key.values():
                texts = _spellings(self._modality, record.sequence) if respelt else {record.sequence}
                for name in {name for text in texts for name in _hashes(text)}:
                    claims[name].append(record)
            for name, records in claims.items():
                found.setdefault(name, records)
        return found

    @cached_property
    def rewritten(self) -> dict[str, list[Record]]:
        """Id as a tool may have had to write it → records: ProtTrans' '_', and what HDF5 makes of slashes and dots."""
        found: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.by_id.values():
            for name in _rewritten(record.id) - {record.id}:
                found[name].append(record)
        return dict(found)


def _either(found: Sequence[Record]) -> BadEntry:
    ids = " or ".join(f"'{printable(record.id)}'" for record in found[:3])
    return BadEntry(f"this name may stand for {ids}; rename them in the FASTA and in the embeddings")


def _rewritten(name: str) -> set[str]:
    in_hdf5 = "/".join(part for part in name.split("/") if part not in ("", "."))
    return {re.sub(r"[/.]", "_", name), name.replace("/", "_"), in_hdf5}


def _hashes(text: str) -> Iterator[str]:
    """What the tools call a sequence that is spelt like this."""
    data = text.encode("ascii")
    yield hashlib.md5(data, usedforsecurity=False).hexdigest()
    yield hashlib.sha256(data).hexdigest()
    yield hashlib.sha256(f"{text}_{len(text)}".encode("ascii")).hexdigest()


def _spellings(modality: str, sequence: str) -> set[str]:
    """How a file may have spelt a normalised sequence before its tool hashed it.

    Only what the normaliser reads as the same: U is a residue of its own in a protein, and lower case means aromatic
    in a SMILES.
    """
    if modality == "molecule":
        return {sequence}
    spelt = {sequence, sequence.replace("U", "T")} if modality == "rna" else {sequence}
    return spelt | {text.lower() for text in spelt}


def read_headers(fasta: Path, modality: str) -> dict[str, set[str]]:
    """Header of several words → id (the first), as it stands in a FASTA and as HDF5 and ProtTrans rewrite it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    if modality == "molecule":
        return found
    for _, text, problem in read_lines(fasta):
        header = text[1:].strip()
        words = header.split(maxsplit=1)
        if problem is None and text.startswith(">") and len(words) > 1:
            for name in {header, *_rewritten(header)}:
                found[name].add(words[0])
    return dict(found)


def mapping_path(path: Path) -> Path:
    """Where the `mapping.tsv` of a folder or file of embeddings is, if it has one."""
    return path / "mapping.tsv" if path.is_dir() else path.with_name(path.name + ".mapping.tsv")


def read_mapping(path: Path) -> dict[str, Mapped]:
    """Name → line, from the `mapping.tsv` of `crossllm cache export`, in a folder or beside a file; {} without one."""
    table = mapping_path(path)
    if not table.exists():
        return {}
    found: dict[str, Mapped] = {}
    width = len(MAPPING_HEADER.split("\t"))
    for number, text, problem in read_lines(table):
        cells = text.split("\t")
        if number == 1:
            width = len(cells)
            if text not in (MAPPING_HEADER, MOLECULES_HEADER):
                problem = f"header '{printable(text)}' where '{printable(MAPPING_HEADER)}' is expected; delete the file"
        elif len(cells) != width or not re.fullmatch(r"[0-9a-f]{64}", cells[2]):
            problem = "name, id and a key of 64 hex digits are expected; make it again or delete it"
        else:
            line = Mapped(bytes.fromhex(cells[2]), cells[1], *cells[3:])
            if found.setdefault(cells[0], line).key != line.key:
                problem = f"'{printable(cells[0])}' has another key further up; make it again or delete it"
        if problem is not None:
            raise InputError(f"{table}:{number}: {problem}")
    return found


def check_length(entry: Entry, length: int, record: Record) -> None:
    """Raise `BadEntry` unless the array has one row a residue."""
    if length == record.length:
        return
    what = f"{length} rows where its sequence has {record.length}"
    if length in (record.length + 1, record.length + 2):
        one = length == record.length + 1
        extra, cut = ("one row", "1,0 or 0,1") if one else ("two rows", "1,1")
        raise BadEntry(f"{what}; {extra} of BOS or EOS kept? strip the special tokens: --strip {cut}")
    if length < record.length:
        if length == 1:
            raise BadEntry(f"{what}; is it one pooled vector a sequence? say so with --pooled")
        raise BadEntry(f"{what}; was the model's input cut? embed the whole sequence or leave it out")
    raise BadEntry(f"{what}; is this the FASTA it was made from?")
