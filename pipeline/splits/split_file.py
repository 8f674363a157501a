"""`splits.tsv`: a split as a file, written by `crossllm data split` and by every run, read by `train --split-file`.

Columns `a_id b_id fold`, and of a split by the partners `a_part b_part a_group b_group`; `-` stands for none.  A file
`splits.tsv.sha256` beside it, of the form that `sha256sum -c` reads, is checked where there is one; its second line, a
comment to that program, names the dataset that was cut.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.text_file import read_lines
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.folds import NONE, Cut, Folds
from crossllm.pipeline.splits.given import folds_of_values, is_no_fold

BASIC = ("a_id", "b_id", "fold")
OF_CUT = ("a_part", "b_part", "a_group", "b_group")
_MOST = 10**9
_OF = "# dataset "
"""In the file of the SHA-256, before the dataset's name and digest."""


def write_split(path: Path, dataset: Dataset, folds: Folds) -> str:
    """Write a split and, beside it, its SHA-256; the split's digest.

    Raises:
        InputError: something that is no split has this name: a folder, or the dataset's own `pairs.tsv`.
    """
    _refuse_another(path)
    text = split_text(dataset, folds)
    digest = hashlib.sha256(text.encode()).hexdigest()
    fsio.make_dirs(path.parent)
    fsio.replace(path, text.encode())
    fsio.replace(
        path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n{_OF}{dataset.name} {dataset.digest}\n".encode()
    )
    return folds.digest(dataset)


def _refuse_another(path: Path) -> None:
    """Raise `InputError` where something would be replaced that is no split."""
    if not path.exists():
        return
    if not path.is_file():
        raise InputError(f"{path}: is no file, a split is written into one; name it, e.g. splits.tsv")
    with path.open("rb") as file:
        header = file.readline(1000).decode(errors="replace")
    if header and tuple(header.split()[: len(BASIC)]) != BASIC:
        raise InputError(f"{path}: holds something else than a split, which stays; name another file, e.g. splits.tsv")


def split_text(dataset: Dataset, folds: Folds) -> str:
    """The file's contents."""
    header, rows = folds.table(dataset)
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue()


def read_split(path: Path, dataset: Dataset) -> tuple[Dataset, Folds]:
    """The pairs that stand in a split file, and their folds; pairs of the dataset that do not stand there are left out.

    Raises:
        InputError: it is no split of this dataset; one line a bad row.
        CacheCorrupt: it is not what its SHA-256 beside it says.
    """
    rows = _rows(path)
    _say_other_dataset(path, dataset)
    place = {pair: n for n, pair in enumerate(zip(dataset.a_ids, dataset.b_ids, strict=True))}
    found: dict[int, tuple[int, list[str]]] = {}
    problems = []
    for line, row in rows[1:]:
        n = place.get((row[0], row[1]))
        if n is None:
            problems.append(f"{path}:{line}: no pair '{printable(row[0])}', '{printable(row[1])}' in the dataset")
        elif n in found and found[n][1] != row:
            problems.append(f"{path}:{line}: the pair of line {found[n][0]} again, in another fold; remove one of them")
        else:
            found[n] = (line, row)
    if problems:
        raise InputError(problems)
    if not found:
        raise InputError(f"{path}: holds no pair; `crossllm data split` writes such files")
    pairs = sorted(found)
    if left := len(dataset.labels) - len(pairs):
        note(f"note: {left} pairs do not stand in {path} and are left out")
    dataset = dataset.subset(pairs)
    table = [found[n][1] for n in pairs]
    if len(rows[0][1]) == len(BASIC):
        return _without_none(path, dataset, [row[2] for row in table])
    return dataset, _of_cut(path, dataset, table)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The header and the rows of a split file, with their lines, every row as long as the header."""
    lines = [line for line in read_lines(path) if line.text]
    _check_digest(path)
    if bad_line := next((line for line in lines if line.problem), None):
        raise InputError(f"{path}:{bad_line.number}: {bad_line.problem}")
    table = [(line.number, next(csv.reader([line.text], delimiter="\t"))) for line in lines]
    if not table or tuple(table[0][1]) not in (BASIC, BASIC + OF_CUT):
        raise InputError(
            f"{path}: is no split; a table with the header '{' '.join(BASIC)}' is expected, TABs between, and for a "
            f"split by the partners '{' '.join(OF_CUT)}' after it"
        )
    if bad := next(((line, row) for line, row in table if len(row) != len(table[0][1])), None):
        raise InputError(f"{path}:{bad[0]}: {len(bad[1])} cells, the header has {len(table[0][1])}")
    return table


def _check_digest(path: Path) -> None:
    beside = path.with_name(path.name + ".sha256")
    if not beside.exists():
        return
    expected, got = (
        beside.read_text(encoding="utf-8", errors="replace").split()[:1],
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    if expected != [got]:
        raise CacheCorrupt(f"{path}: has SHA-256 {got[:16]}…, {beside.name} says otherwise; remove that file if the "
                           "split was changed on purpose")  # fmt: skip


def _say_other_dataset(path: Path, dataset: Dataset) -> None:
    """A note where the split says that it cut another dataset: ids alone would not show it."""
    try:
        lines = path.with_name(path.name + ".sha256").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    of = next((line.removeprefix(_OF).split() for line in lines if line.startswith(_OF)), [])
    if len(of) == 2 and of[1] != dataset.digest:
        name = f"'{printable(of[0])}'" + (" as it was then" if of[0] == dataset.name else "")
        note(
            f"note: {path}: cuts the dataset {name}, not '{printable(dataset.name)}' as it is; pairs are found by "
            "their ids, whose sequences or labels may be others"
        )


def _without_none(path: Path, dataset: Dataset, values: list[str]) -> tuple[Dataset, Folds]:
    """A split of folds or parts, whose pairs in none are left out."""
    keep = [n for n, value in enumerate(values) if not is_no_fold(value)]
    if not keep:
        raise InputError(f"{path}: no pair has a fold")
    if left := len(values) - len(keep):
        note(f"note: {left} pairs have no fold in {path} and are left out")
    dataset = dataset.subset(keep)
    return dataset, folds_of_values(dataset, [values[n] for n in keep], str(path))


def _of_cut(path: Path, dataset: Dataset, table: list[list[str]]) -> Folds:
    """A split by the partners."""
    numbers = [[_number(path, row[n]) for row in table] for n in range(len(BASIC), len(BASIC) + len(OF_CUT))]
    a_part, b_part, a_group, b_group = (np.array(values) for values in numbers)
    _check_sequences(path, dataset, a_part, b_part)
    names: list[str] = []
    blocks: list[tuple[int, int]] = []
    of_pair_name = [row[2] for row in table]
    if not {*of_pair_name} - {NONE}:
        raise InputError(f"{path}: no pair has a fold; write the split anew")
    for name in sorted({*of_pair_name} - {NONE}, key=_order):
        inside = np.array([other == name for other in of_pair_name])
        names.append(name)
        blocks.append(_block(path, name, inside, a_part, b_part, dataset.one_modality))
    of_pair = np.array([names.index(name) if name != NONE else -1 for name in of_pair_name])
    return Folds(names, of_pair, 0, cut=Cut(a_part, b_part, a_group, b_group, blocks, dataset.one_modality))


def _block(
    path: Path, name: str, inside: np.ndarray, a_part: np.ndarray, b_part: np.ndarray, one_modality: bool
) -> tuple[int, int]:
    """The block whose pairs are those that a fold tests."""
    i, j = int(a_part[inside][0]), int(b_part[inside][0])
    for block in ((i, -1), (-1, j), (i, j)):
        cut = Cut(a_part, b_part, a_part, b_part, [block], one_modality)
        if max(block) >= 0 and np.array_equal(cut.tested(0), inside):
            return block
    raise InputError(f"{path}: fold {printable(name)} does not test one block of parts; write the split anew")


def _check_sequences(path: Path, dataset: Dataset, a_part: np.ndarray, b_part: np.ndarray) -> None:
    """Raise `InputError` where one sequence lies in two parts: the split would test what it trained on."""
    seen: dict[tuple[str, bytes], int] = {}
    for side, keys, parts in (("a", dataset.a_keys, a_part), ("b", dataset.b_keys, b_part)):
        for n, (key, part) in enumerate(zip(keys, parts.tolist(), strict=True)):
            where = ("" if dataset.one_modality else side, key)
            if seen.setdefault(where, part) != part:
                id_ = (dataset.a_ids if side == "a" else dataset.b_ids)[n]
                raise InputError(
                    f"{path}: the sequence of '{printable(id_)}' lies in the parts {seen[where]} and {part}; write the "
                    "split anew, by sequence"
                )


def _number(path: Path, text: str) -> int:
    if text == NONE:
        return -1
    if not (text.isascii() and text.isdigit() and int(text) < _MOST):
        raise InputError(f"{path}: '{printable(text)}' is no number of a part or group")
    return int(text)


def _order(name: str) -> tuple[int, ...] | tuple[float, str]:
    """0x2 before 0x10."""
    numbers = name.split("x")
    return tuple(int(n) for n in numbers) if all(n.isascii() and n.isdigit() for n in numbers) else (float("inf"), name)
