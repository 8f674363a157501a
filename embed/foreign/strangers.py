"""Why arrays belong to no sequence: the same id written in another way, or a record of another modality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from crossllm.cache.errors import printable
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import MODALITIES
from crossllm.cache.records.record_list import Records
from crossllm.cache.records.similar_ids import SimilarIds
from crossllm.embed.foreign.entry import Entry

_LOOKED_AT = 1000
"""Arrays that are looked up for a hint; what is wrong with names is seldom wrong with one alone."""


def nothing_fits(given: Path, unmatched: Sequence[Entry], records: Records, fasta: Path, cache_dir: Path) -> str:
    """What is said where not one array of `given` belongs to a sequence; the rest is as of `hint_of`."""
    if not unmatched:
        return f"{given}: holds no arrays; one a sequence is expected"
    theirs, ours = unmatched[0], records.records[0]
    called = f"'{printable(theirs.name)}'" + (f" (id '{printable(theirs.stated)}')" if theirs.stated else "")
    hint = hint_of(unmatched, records, fasta, cache_dir)
    return (
        f"{given}: none of its {len(unmatched)} arrays belongs to a sequence of {fasta}: "
        f"they are called e.g. {called}, the sequences e.g. '{printable(ours.id)}'; "
        + (hint or "name them by these ids, or by MD5 or SHA-256 of the sequence")
    )


def hint_of(unmatched: Sequence[Entry], records: Records, fasta: Path, cache_dir: Path) -> str | None:
    """What to do about the first array that is nearly called like a sequence; None where none is.

    Args:
        unmatched: arrays of sequences that the FASTA does not hold.
        records: of the FASTA.
        fasta: for messages.
        cache_dir: its tables of ids may list the arrays as records of another modality.
    """
    if not unmatched:
        return None
    here = SimilarIds(dict.fromkeys(record.id for record in records.records).keys(), fasta.name)
    others = [(other, read_table(cache_dir, other)) for other in MODALITIES if other != records.modality]
    for entry in islice(unmatched, _LOOKED_AT):
        name = entry.name if entry.stated is None else entry.stated
        called = f"'{printable(name)}'"
        if (why := here.unseen(name)) is not None:
            return f"{called}: {why}"
        if other := next((other for other, table in others if name in table), None):
            return f"{called}: the cache has it as a record of {other}: is --modality {records.modality} right?"
        if (why := here.written_otherwise(name) or _last_part(here, name)) is not None:
            return f"{called}: {why}"
    return None


def _last_part(here: SimilarIds, name: str) -> str | None:
    """What to do about a name that ends in an id, as a path does."""
    last = name.rpartition("/")[2]
    if last != name and last in here.ids:
        return f"it ends in the id '{printable(last)}': name the array by that alone, or import that folder by itself"
    return None
