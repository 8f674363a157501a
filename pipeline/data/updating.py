"""`crossllm data import --update`: what a grown dataset keeps, what it may not change, and what did change.

Embeddings are keyed by sequence and runs hold their own tables, so both stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crossllm.cache.errors import Conflict, printable
from crossllm.cache.records.modality import INPUT_NAMES
from crossllm.cache.records.record import Record
from crossllm.pipeline.data.pairs import Pair


def held_ids(cache_dir: Path, modality: str) -> set[str]:
    """The ids of a dataset's own FASTA or SMILES file; none where it holds none."""
    path = cache_dir / INPUT_NAMES[modality]
    if not path.exists():
        return set()
    with path.open(encoding="utf-8") as lines:
        if modality == "molecule":
            return {line.partition("\t")[0] for line in lines if line.strip()}
        return {line[1:].rstrip("\n") for line in lines if line.startswith(">")}


def refuse_removed(cache_dir: Path, records: Mapping[str, Sequence[Record]]) -> None:
    """Raise `Conflict`, a line an id, where a sequence of the dataset is in none of the new files."""
    lines = []
    for modality, found in records.items():
        gone = held_ids(cache_dir, modality) - {record.id for record in found}
        lines += [
            f"{cache_dir}: {modality} id '{printable(id_)}' of the dataset is not in the new files; an update keeps "
            "every sequence, add it to them or import into another --cache"
            for id_ in sorted(gone)
        ]
    if lines:
        raise Conflict(lines)


def changes(cache_dir: Path, records: Mapping[str, Sequence[Record]], pairs: Sequence[Pair], columns: Sequence[str],
            label_text: Mapping[float, str]) -> list[str]:  # fmt: skip
    """What an update is going to change, in words; nothing where all is as it was.

    Args:
        cache_dir: of the dataset as it stands.
        records: modality → records as they are going to be.
        pairs: likewise.
        columns: further columns of the new table.
        label_text: label → what stands for it in pairs.tsv.
    """
    said = []
    for modality, found in records.items():
        if more := len({record.id for record in found} - held_ids(cache_dir, modality)):
            said.append(f"{more} {modality} ids more")
    head, *rows = _table(cache_dir / "pairs.tsv")
    before = {(row[0], row[1]): row[2] for row in rows}
    now = {(pair.a_id, pair.b_id): label_text[pair.label] for pair in pairs}
    both = before.keys() & now.keys()
    counts = (
        (len(now.keys() - before.keys()), "more"),
        (len(before.keys() - now.keys()), "fewer"),
        (sum(before[pair] != now[pair] for pair in both), "with another label"),
    )
    said += [f"{count} pair{'s' * (count != 1)} {how}" for count, how in counts if count]
    for how, names in (
        ("new", [c for c in columns if c not in head[3:]]),
        ("gone", [c for c in head[3:] if c not in columns]),
    ):
        if names:
            said.append(f"column{'s' * (len(names) != 1)} {how}: {', '.join(map(printable, names))}")
    old = {name: {(row[0], row[1]): row[3 + n] for row in rows} for n, name in enumerate(head[3:])}
    for n, name in enumerate(columns):
        if name in old and (other := sum(old[name].get((p.a_id, p.b_id), p.extra[n]) != p.extra[n] for p in pairs)):
            said.append(f"column {printable(name)}: {other} other values")
    return said


def _table(path: Path) -> Iterator[list[str]]:
    if not path.exists():
        yield ["a_id", "b_id", "label"]
        return
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file, delimiter="\t")
