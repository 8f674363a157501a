"""`crossllm cache export`: a recipe's rows, as other tools read them, keyed by id.

An id becomes a name in the output only where it is safe as one; else the key in hex stands for it, and `mapping.tsv`
says which is which.  The output appears whole under its name, or not at all, and never in place of another.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import progress
from crossllm.cache.errors import Conflict, InputError
from crossllm.cache.files import fsio
from crossllm.cache.files.text_file import read_lines
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.modality import INPUT_NAMES
from crossllm.cache.records.record import key_of
from crossllm.cache.store.reader import CacheReader
from crossllm.cache.store.recipe import choose_recipe
from crossllm.embed.encoders.windows import cut_note, left_out
from crossllm.embed.foreign.export_layouts import FOLDERS, POOLED, WRITERS, Item
from crossllm.embed.foreign.matching import MAPPING_HEADER, MOLECULES_HEADER

_SAFE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEX = re.compile(r"[0-9a-f]{64}")
_LONGEST_HDF5_NAME = 1000


@dataclass(frozen=True)
class ExportOptions:
    """What `cache export` was asked for."""

    cache_dir: Path
    modality: str
    layout: str
    output: Path
    recipe: str | None = None
    """Which one, where there are several."""
    pool: Literal["mean", "max"] | None = None
    """Of csv and npz; None: mean."""
    quiet: bool = False


class ExportSummary(NamedTuple):
    """What one export wrote."""

    output: str
    mapping: str
    recipe: str
    """Folder name of the recipe."""
    layout: str
    sequences: int
    ids: int


class Named(NamedTuple):
    """A key under one name of the output."""

    name: str
    id: str
    key: bytes


def export_embeddings(options: ExportOptions) -> ExportSummary:
    """Write every sequence of a recipe that has an id.

    Raises:
        InputError: there is nothing to export, or the output lies in the cache's own folders.
        Conflict: the output exists.
    """
    if options.pool is not None and options.layout not in POOLED:
        raise InputError(
            f"--pool {options.pool}: {options.layout} holds all rows; leave the flag out, or use csv or npz"
        )
    _refuse_inside(options)
    mapping = _mapping_path(options)
    for path in (options.output, mapping):
        if path.exists() or path.is_symlink():
            raise Conflict(f"{path}: is there already, and is never written over; choose another --output")
    recipe = choose_recipe(options.cache_dir, options.modality, options.recipe)
    reader = CacheReader(options.cache_dir, recipe)
    ids = _ids_by_key(options, reader)
    named = name_keys(ids, options.layout)
    table = _mapping_table(ids, named, _smiles(options), recipe.tokenizer)
    items = _items(options, reader, named)
    fsio.make_dirs(options.output.absolute().parent)
    temporary = options.output.with_name(f".tmp-{fsio.new_name()}")
    try:
        WRITERS[options.layout](temporary, items, recipe.layer)
        _publish(options, temporary, mapping, table)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    return ExportSummary(
        str(options.output),
        str(mapping),
        recipe.folder_name,
        options.layout,
        len(ids),
        sum(map(len, ids.values())),
    )


def _refuse_inside(options: ExportOptions) -> None:
    """Raise `InputError` for an output among the cache's own files, where readers would take it for damage."""
    output = options.output.resolve()
    for name in ("embeddings", "records"):
        if output.is_relative_to((options.cache_dir / name).resolve()):
            where = f"{options.cache_dir / name}, which holds the cache's own files"
            raise InputError(f"{options.output}: lies in {where}; choose another --output")


def _mapping_path(options: ExportOptions) -> Path:
    if options.layout in FOLDERS:
        return options.output / "mapping.tsv"
    return options.output.with_name(options.output.name + ".mapping.tsv")


def _ids_by_key(options: ExportOptions, reader: CacheReader) -> dict[bytes, list[str]]:
    """Key → its ids, of all that the recipe holds; what is left out is said."""
    found: dict[bytes, list[str]] = {}
    lengths: dict[bytes, int] = {}
    without = 0
    for id_, entry in read_table(options.cache_dir, options.modality).items():
        if entry.key in reader:
            found.setdefault(entry.key, []).append(id_)
            lengths[entry.key] = entry.length
        else:
            without += 1
    if not found:
        raise InputError(
            f"{options.cache_dir}: no {options.modality} id of its records has rows in {reader.recipe.folder_name}; "
            "run `embed run` or `crossllm cache import` on the sequences"
        )
    if without:
        note(f"note: {options.cache_dir}: {without} ids have no rows in this recipe, not exported")
    if (cut := left_out(reader.recipe, list(lengths.values()))).sequences:
        note(f"note: {options.cache_dir}: {cut_note(reader.recipe, cut)}")
    if nameless := len(reader) - len(found):
        note(f"note: {options.cache_dir}: {nameless} sequences of this recipe have no id, not exported")
    return found


def name_keys(ids: dict[bytes, list[str]], layout: str) -> list[Named]:
    """What each key is called in the output: its first id where that is safe as a name, else its 64 hex digits.

    Pooled vectors stand under every id.  Names that differ in case alone are not both taken: some file systems would
    see one file.
    """
    named: list[Named] = []
    taken: set[str] = set()
    for key, all_ids in ids.items():
        for id_ in all_ids if layout in POOLED else all_ids[:1]:
            name = id_ if layout == "csv" or (_is_safe(id_, layout) and id_.casefold() not in taken) else key.hex()
            if name not in taken:  # several unsafe ids of one sequence
                named.append(Named(name, id_, key))
            taken.add(name if layout == "csv" else name.casefold())
    return named


def _is_safe(id_: str, layout: str) -> bool:
    """Whether an id may be a name: never a path, never one that could be taken for a key."""
    if _HEX.fullmatch(id_.casefold()):
        return False
    if layout == "hdf5":  # any name will do that HDF5 does not take apart
        return "/" not in id_ and id_ not in (".", "..") and id_.isprintable() and len(id_) <= _LONGEST_HDF5_NAME
    return _SAFE_FILE.fullmatch(id_) is not None


def _smiles(options: ExportOptions) -> dict[bytes, str] | None:
    """Key → canonical SMILES, as far as the cache's own file of molecules has it; None for sequences."""
    if options.modality != "molecule":
        return None
    own = options.cache_dir / INPUT_NAMES["molecule"]
    if not own.is_file():  # only `data import` keeps one
        return {}
    lines = (line.text.split("\t") for line in read_lines(own) if line.problem is None)
    return {key_of("molecule", cells[1]): cells[1] for cells in lines if len(cells) > 1 and cells[1].isascii()}


def _mapping_table(
    ids: dict[bytes, list[str]], named: list[Named], smiles: dict[bytes, str] | None, rdkit: str
) -> bytes:
    """`mapping.tsv`: a line for each id, with the name it has in the output; of a molecule its SMILES and RDKit too."""
    by_id = {(n.key, n.id): n.name for n in named}
    first = {n.key: n.name for n in reversed(named)}
    lines = [MAPPING_HEADER if smiles is None else MOLECULES_HEADER]
    for key, all_ids in ids.items():
        more = "" if smiles is None else f"\t{smiles.get(key, '')}\t{rdkit}"
        lines += [f"{by_id.get((key, id_), first[key])}\t{id_}\t{key.hex()}{more}" for id_ in all_ids]
    return ("\n".join(lines) + "\n").encode()


def _items(options: ExportOptions, reader: CacheReader, named: list[Named]) -> Iterator[Item]:
    for name, id_, key in progress(named, len(named), "exporting", options.quiet):
        if options.layout in POOLED:
            yield Item(name, id_, lambda key=key: pooled(reader[key], options.pool or "mean"))  # type: ignore[misc]
        else:
            yield Item(name, id_, lambda key=key: reader[key])  # type: ignore[misc]


def pooled(rows: np.ndarray, how: Literal["mean", "max"]) -> np.ndarray:
    """One vector a sequence, float32: the mean over its residues (summed in float64) or the largest value of each."""
    vector: np.ndarray = rows.mean(axis=0, dtype=np.float64) if how == "mean" else rows.max(axis=0)
    return vector.astype(np.float32)


def _publish(options: ExportOptions, temporary: Path, mapping: Path, table: bytes) -> None:
    """Give the finished output its name; a mapping beside a file comes first, and goes again if the file cannot."""
    taken = Conflict(f"{options.output}: is there by now, and is never written over; choose another --output")
    if options.layout in FOLDERS:
        fsio.replace(temporary / mapping.name, table)
        if not fsio.move_new(temporary, options.output):
            raise taken
        return
    if not fsio.publish(mapping, table):
        raise Conflict(f"{mapping}: is there by now, and is never written over; choose another --output")
    if not fsio.move_new(temporary, options.output):
        mapping.unlink(missing_ok=True)
        raise taken
