"""A dataset on disk (`dataset.toml`, `pairs.tsv`, FASTA files, `records/`), written once and read by `train`."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tomllib
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tomli_w

from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.id_table import new_rows, publish_table, read_table
from crossllm.cache.records.modality import INPUT_NAMES, MODALITIES, OnBad
from crossllm.cache.records.record import Record, check_id
from crossllm.cache.remote.by_path import replace
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.data.pairs import Pair, Pairs, read_pairs
from crossllm.pipeline.data.updating import changes, refuse_removed

FORMAT = 1
_KEPT = ("embeddings",)
"""Keys of dataset.toml that its owner writes, and that an import leaves as they are."""
_KEPT_LINES = re.compile(rf"^[ \t]*({'|'.join(_KEPT)})[ \t]*=.*(\r?\n|\Z)".encode(), re.MULTILINE)
_MAX_TOML = 1 << 20
_LINES = {"rna": ">{0.id}\n{0.sequence}\n", "protein": ">{0.id}\n{0.sequence}\n", "molecule": "{0.id}\t{0.sequence}\n"}
"""Modality → a record in its file of the dataset."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_NOT_IN_NAMES = re.compile(r"^[.-]+|[^A-Za-z0-9_.-]")


class Dataset(NamedTuple):
    """Pairs with the keys of their sequences; row i of every array is pair i."""

    name: str
    task: Task
    modality_a: str
    modality_b: str
    a_ids: list[str]
    b_ids: list[str]
    a_keys: list[bytes]
    b_keys: list[bytes]
    labels: np.ndarray
    """(P,) float64."""
    extra: dict[str, list[str]]
    """Further columns of the table: fold, species, …"""
    digest: str
    """SHA-256 of dataset.toml, without what its owner wrote there (`_KEPT`), and of pairs.tsv."""

    @property
    def one_modality(self) -> bool:
        """Whether a partner may stand on either side."""
        return self.modality_a == self.modality_b

    def subset(self, pairs: Sequence[int]) -> Dataset:
        """The dataset of these pairs, in this order."""

        def kept(values: list[Any]) -> list[Any]:
            return [values[n] for n in pairs]

        return self._replace(
            a_ids=kept(self.a_ids),
            b_ids=kept(self.b_ids),
            a_keys=kept(self.a_keys),
            b_keys=kept(self.b_keys),
            labels=self.labels[list(pairs)],
            extra={name: kept(values) for name, values in self.extra.items()},
        )

    def numbers(self, *, by_sequence: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """(P,) number of each pair's partner, for both sides; one numbering where both are of one modality.

        Args:
            by_sequence: number the distinct sequences, else the ids.
        """
        names: tuple[Sequence[Hashable], Sequence[Hashable]] = (
            (self.a_keys, self.b_keys) if by_sequence else (self.a_ids, self.b_ids)
        )
        seen: dict[Hashable, int] = {}
        a = np.array([seen.setdefault(name, len(seen)) for name in names[0]])
        seen = seen if self.one_modality else {}
        return a, np.array([seen.setdefault(name, len(seen)) for name in names[1]])

    def sequence_pairs(self) -> np.ndarray:
        """(P,) number of the distinct (A sequence, B sequence) of each pair: folds are cut by these, not by ids.

        Where both sides are of one modality, (x, y) and (y, x) are the same two sequences.
        """
        numbers: dict[tuple[bytes, bytes], int] = {}
        pairs: Iterable[tuple[bytes, bytes]] = zip(self.a_keys, self.b_keys, strict=True)
        if self.one_modality:
            pairs = ((min(pair), max(pair)) for pair in pairs)
        return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs])


def write_dataset(
    cache_dir: Path,
    name: str,
    task: Task,
    sides: tuple[str, str],
    records: dict[str, list[Record]],
    pairs: Sequence[Pair],
    extra_columns: tuple[str, ...],
    source: dict[str, Any],
    update: bool = False,
    embeddings: str | None = None,
) -> list[str] | None:
    """Write a dataset into a cache folder; `dataset.toml` comes last, so that a folder with one is complete.

    Args:
        sides: modalities of a and b.
        records: modality → its records.
        source: where the data comes from, for people: kept as written under `[source]`.
        update: the folder may hold a dataset that this one takes the place of.  Killed in the middle, the same again
            makes it whole.
        embeddings: the folder, seen from `cache_dir`, whose embeddings a new dataset takes; None: its own.

    Returns:
        What an update changed, in words; None where there was nothing to update.

    Raises:
        InputError: an id could not be read back.
        Conflict: the folder holds another dataset, or the update lacks or changes a sequence of it.
    """
    for id_ in {id_ for pair in pairs for id_ in pair[:2]} | {r.id for found in records.values() for r in found}:
        check_id(id_)
    table = io.StringIO()
    rows = csv.writer(table, delimiter="\t", lineterminator="\n")
    rows.writerow(("a_id", "b_id", "label", *extra_columns))
    rows.writerows((p.a_id, p.b_id, _label_text(p.label, task), *p.extra) for p in pairs)
    files = {
        INPUT_NAMES[modality]: "".join(_LINES[modality].format(r) for r in found).encode()
        for modality, found in records.items()
    }
    files["pairs.tsv"] = table.getvalue().encode()
    head: dict[str, Any] = {
        **({} if embeddings is None else {"embeddings": embeddings}),
        "format": FORMAT,
        "name": name,
        "task": task,
        "a": {"modality": sides[0]},
        "b": {"modality": sides[1]},
        "source": source,
        "sha256": {path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    }
    changed: list[str] | None = None
    if (cache_dir / "dataset.toml").exists():
        held = _read_toml(cache_dir / "dataset.toml")
        other = (held["task"], held["a"], held["b"]) != (task, head["a"], head["b"])
        if other or (held.get("sha256") != head["sha256"] and not update):
            ways = "use another --cache" if other else "add to it with --update, or use another --cache"
            raise Conflict(f"{cache_dir}: already holds another dataset; {ways}")
        kept = {name: held[name] for name in _KEPT if name in held}
        head = kept | head | kept | {"name": held["name"]}
        if update:
            refuse_removed(cache_dir, records)
            texts = {p.label: _label_text(p.label, task) for p in pairs}
            changed = changes(cache_dir, records, pairs, extra_columns, texts)
    else:
        _refuse_foreign_files(cache_dir, files)
    files["dataset.toml"] = tomli_w.dumps(head).encode()
    for modality, found in records.items():
        new_rows(cache_dir, modality, found)  # a conflict on either side, before anything is written
    fsio.make_dirs(cache_dir)
    for modality, found in records.items():
        publish_table(cache_dir, modality, found)
    for path, data in files.items():
        replace(cache_dir / path, data)
    return changed


def _label_text(label: float, task: Task) -> str:
    """A class as 0 or 1; an affinity with all of its digits."""
    return str(int(label)) if task == "classification" else repr(label)


def dataset_name(cache_dir: Path) -> str:
    """Name of a dataset: its folder's, with what no run folder should be called by replaced."""
    return _NOT_IN_NAMES.sub("_", cache_dir.resolve().name) or "dataset"


def default_run(cache_dir: Path) -> Path:
    """The folder of a run that was given no other."""
    return cache_dir / "runs" / str(_read_toml(cache_dir / "dataset.toml")["name"])


def _refuse_foreign_files(cache_dir: Path, files: dict[str, bytes]) -> None:
    """A file of the user's own (`--cache .`) is never written over."""
    for name, data in files.items():
        path = cache_dir / name
        if path.exists() and (not path.is_file() or path.read_bytes() != data):
            raise Conflict(f"{path}: exists and is not this dataset's; choose an empty folder for --cache")


def load_dataset(cache_dir: Path, on_bad: OnBad = "error") -> tuple[Dataset, Pairs]:
    """The dataset of a cache folder, and what reading its pairs had to say.

    Raises:
        InputError: there is none, a file of it is damaged by hand, or a pair has an id without a sequence.
    """
    head = _read_toml(cache_dir / "dataset.toml")
    sides = head["a"]["modality"], head["b"]["modality"]
    tables = {modality: read_table(cache_dir, modality) for modality in set(sides)}
    table_a, table_b = (tables[side] for side in sides)
    path = cache_dir / "pairs.tsv"
    if hashlib.sha256(path.read_bytes()).hexdigest() != head["sha256"]["pairs.tsv"]:
        raise CacheCorrupt(f"{path}: is not as it was imported; change the source and import it into another --cache")
    found = read_pairs(
        path, dict.fromkeys(table_a).keys(), dict.fromkeys(table_b).keys(), task=head["task"], on_bad=on_bad
    )
    pairs = found.pairs
    digest = hashlib.sha256(_without_kept((cache_dir / "dataset.toml").read_bytes()) + path.read_bytes()).hexdigest()
    extra = {name: [p.extra[i] for p in pairs] for i, name in enumerate(found.extra_columns)}
    dataset = Dataset(
        head["name"],
        head["task"],
        *sides,
        [p.a_id for p in pairs],
        [p.b_id for p in pairs],
        [table_a[p.a_id].key for p in pairs],
        [table_b[p.b_id].key for p in pairs],
        np.array([p.label for p in pairs]),
        extra,
        digest,
    )
    if both := _contradictory(dataset):
        found.notes["with the two sequences of another row, under other ids, and another label; kept"] += both
    return dataset, found


def _without_kept(head: bytes) -> bytes:
    """The bytes of dataset.toml without its owner's lines: where embeddings lie changes no number of a run."""
    top, table, rest = head.partition(b"\n[")
    return _KEPT_LINES.sub(b"", top + table[:1]) + table[1:] + rest


def _contradictory(dataset: Dataset) -> int:
    """Pairs that, as sequences, carry two labels (RPI1807 has some): no model of sequences can fit them."""
    groups = dataset.sequence_pairs()
    low, high = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(low, groups, dataset.labels)
    np.maximum.at(high, groups, dataset.labels)
    return int((low < high)[groups].sum())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        head = tomllib.loads(read_bytes(path, _MAX_TOML).decode())
    except FileNotFoundError:
        raise InputError(
            f"{path}: no dataset here; make one with `crossllm data import` or `crossllm data demo`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; correct the file") from None
    try:
        sides = (head["a"]["modality"], head["b"]["modality"])
        known = head["task"] in ("classification", "regression") and all(side in MODALITIES for side in sides)
        newer = head["format"] > FORMAT
        if not _NAME.fullmatch(head["name"]) or not isinstance(head["sha256"]["pairs.tsv"], str):
            raise TypeError("name or sha256")
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: {error} is missing or of the wrong type; import the dataset again") from None
    if newer or not known:
        raise InputError(
            f"{path}: format {head['format']}, task '{printable(str(head['task']))}' and sides {sides} are not "
            f"what this version reads (format {FORMAT}, {', '.join(MODALITIES)})"
        )
    return head
