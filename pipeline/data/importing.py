"""`crossllm data import`: FASTA files and a pairs table → a dataset.  All is checked before a file is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.messages import note, say_notes, write_skipped
from crossllm.cache.errors import InputError, printable
from crossllm.cache.files.paths import as_text, url_problem
from crossllm.cache.records.modality import OnBad, check_modality
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import Record
from crossllm.cache.records.record_list import Records
from crossllm.cache.remote.opening import shown
from crossllm.pipeline.data.dataset import dataset_name, write_dataset
from crossllm.pipeline.data.labels import LabelNames, Task, check_names
from crossllm.pipeline.data.one_table import read_one_table
from crossllm.pipeline.data.pairs import Columns, Pairs, Where, read_pairs
from crossllm.pipeline.data.updating import held_ids


class Side(NamedTuple):
    """One partner's input, `--a rna=FILE`."""

    modality: str
    path: Path


@dataclass(frozen=True)
class ImportOptions:
    """What `crossllm data import` was asked for."""

    a: Side
    b: Side
    pairs: Path | None
    """None where one table holds everything."""
    cache_dir: Path
    columns: Columns = Columns()
    where: tuple[Where, ...] = ()
    task: Task | None = None
    """None: found from the labels."""
    names: LabelNames = LabelNames()
    """Labels of the two classes, and of what was not measured."""
    on_bad: OnBad = "error"
    table: Path | None = None
    """Of sequences and labels; the sides then name its columns in place of files."""
    reading: ReadOptions = ReadOptions()
    """How the partners' files are read where they do not say so themselves."""
    update: bool = False
    """Write over the dataset that the folder holds: what it was and more."""


def parse_side(text: str) -> Side:
    """`MODALITY=FILE`.

    Raises:
        InputError: it has no such form, or the modality is not known.
    """
    modality, equals, path = text.partition("=")
    if not equals or not path:
        raise InputError(f"'{printable(text)}' is not MODALITY=FILE, e.g. rna=rna.fasta")
    check_modality(modality)
    if (problem := url_problem(path)) is not None:
        raise InputError(problem)
    return Side(modality, Path(path))


def import_dataset(options: ImportOptions) -> str:
    """Check and write the dataset; a line that says what was written.

    Raises:
        InputError: bad records or pairs, one line each; nothing was written.
        Conflict: the folder holds another dataset.
    """
    check_names(options.names, options.task)  # before large files are read
    options.reading.refuse_unused({options.a.modality, options.b.modality})
    records_a, records_b, found = _read_table(options) if options.table is not None else _read_files(options)
    merged = _merge_sides(options, records_a, records_b)
    used = {options.a.modality: {p.a_id for p in found.pairs}}
    used.setdefault(options.b.modality, set()).update(p.b_id for p in found.pairs)
    if options.update:  # what has been embedded stays in the dataset, in a pair or not
        for modality in merged:
            used[modality] |= held_ids(options.cache_dir, modality)
    kept = {modality: [r for r in merged[modality] if r.id in used[modality]] for modality in merged}
    for modality, records in merged.items():
        if unused := len(records) - len(kept[modality]):
            note(f"note: {unused} {modality} records stand in no pair and are left out")
    files = {"table": options.table} if options.table is not None else {"pairs": options.pairs}
    source = {
        "a": as_text(options.a.path.name),
        "b": as_text(options.b.path.name),
        **{what: as_text(path.name) for what, path in files.items() if path is not None},
        "where": [f"{w.column}={w.value}" for w in options.where],
    } | {what: list(labels) for what, labels in options.names._asdict().items() if labels}
    name = dataset_name(Path(shown(options.cache_dir)))
    sides = options.a.modality, options.b.modality
    changed = write_dataset(
        options.cache_dir, name, found.task, sides, kept, found.pairs, found.extra_columns, source, options.update
    )
    if changed is not None:
        note(f"note: update: {'; '.join(changed) or 'nothing has changed'}")
    skipped = [*records_a.skipped, *(() if records_b is records_a else records_b.skipped)]
    write_skipped(options.cache_dir, "data-import", [*skipped, *found.skipped])
    positive = sum(p.label == 1 for p in found.pairs)
    labels = f" ({positive} positive)" if found.task == "classification" else ""
    counts = ", ".join(f"{len(kept[m])} {m} ids of {len({r.key for r in kept[m]})} distinct sequences" for m in kept)
    return f"{len(found.pairs)} pairs{labels}, {found.task}; {counts} → {shown(options.cache_dir)}"


def _read_files(options: ImportOptions) -> tuple[Records, Records, Pairs]:
    """A file for each partner, and one of pairs."""
    assert options.pairs is not None  # the command asks for it where there is no table
    read: dict[Side, Records] = {}
    for side in (options.a, options.b):
        if side not in read:
            read[side] = read_records(side.path, side.modality, options.on_bad, options.reading)
            say_notes(side.path, read[side].notes, read[side].skipped, "records")
    records_a, records_b = read[options.a], read[options.b]
    found = read_pairs(
        options.pairs,
        dict.fromkeys(r.id for r in records_a.records).keys(),
        dict.fromkeys(r.id for r in records_b.records).keys(),
        columns=options.columns,
        where=options.where,
        task=options.task,
        names=options.names,
        on_bad=options.on_bad,
    )
    say_notes(options.pairs, found.notes, found.skipped, "rows")
    return records_a, records_b, found


def _read_table(options: ImportOptions) -> tuple[Records, Records, Pairs]:
    """One table of sequences and labels."""
    path, a, b = options.table, options.a, options.b
    assert path is not None
    found = read_one_table(
        path, ((a.modality, str(a.path)), (b.modality, str(b.path))), options.columns.label, options.where,
        options.task, options.names, options.reading, options.on_bad,
    )  # fmt: skip
    for records in (found.a, found.b) if a.modality != b.modality else (found.a,):
        say_notes(path, records.notes, (), "records")
    say_notes(path, found.pairs.notes, found.pairs.skipped, "rows")
    return found


def _merge_sides(options: ImportOptions, a: Records, b: Records) -> dict[str, Sequence[Record]]:
    """Modality → records; two sides of one modality share one list, in which an id has one sequence."""
    if a.modality != b.modality:
        return {a.modality: a.records, b.modality: b.records}
    merged: dict[str, Record] = {}
    conflicts = []
    for record in (*a.records, *b.records):
        if merged.setdefault(record.id, record).key != record.key:
            conflicts.append(
                f"{options.b.path}: id '{printable(record.id)}' has another sequence in {options.a.path}; rename one"
            )
    if conflicts:
        raise InputError(conflicts)
    return {a.modality: list(merged.values())}
