"""The layouts that `crossllm cache export` writes: one writer each, given the sequences one at a time.

Legend: L rows of a sequence, D width of a row.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from crossllm.cache.files import fsio

SHARD_BYTES, SHARD_TENSORS = 256 << 20, 10_000
"""A safetensors shard is closed at either: its tensors are in memory at once, and its header is bounded."""


class Item(NamedTuple):
    """One sequence of the recipe."""

    name: str
    """What it is called in the output: its first id where that is safe there, else its key in hex."""
    id: str
    """Its first id."""
    rows: Callable[[], np.ndarray]
    """Reads its rows, (L, D), or its pooled vector, (D,)."""


def write_hdf5(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """One dataset a sequence, with the id as attribute `original_id`: bio_embeddings' layout."""
    import h5py

    with h5py.File(path, "x") as file:
        for item in items:
            dataset = file.create_dataset(item.name, data=item.rows())
            dataset.attrs["original_id"] = item.id
    fsio.sync_file(path)


def write_npy(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """A folder of one array a sequence."""
    path.mkdir()
    for item in items:
        with fsio.SyncedFile(path / f"{item.name}.npy") as file:
            npy_format.write_array(file, item.rows(), allow_pickle=False)


def write_pt(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """A folder of one file a sequence, as fair-esm's `extract.py` writes them; layer 0 where the recipe names none."""
    import torch

    path.mkdir()
    number = int(layer) if layer is not None and layer.isdecimal() else 0
    for item in items:
        file = path / f"{item.name}.pt"
        rows = torch.from_numpy(item.rows().copy())
        torch.save({"label": item.id, "representations": {number: rows}}, file)
        fsio.sync_file(file)


def write_safetensors(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """A folder of shards with one tensor a sequence, and the index that says which shard holds it."""
    from safetensors.numpy import save_file

    path.mkdir()
    shards: dict[str, list[str]] = {}
    total, held = 0, dict[str, np.ndarray]()

    def close_shard() -> None:
        if held:
            name = f"model-{len(shards) + 1:05}.safetensors"
            save_file(held, path / name)
            fsio.sync_file(path / name)
            shards[name] = list(held)
            held.clear()

    size = 0
    for item in items:
        rows = item.rows().copy()
        held[item.name] = rows
        size, total = size + rows.nbytes, total + rows.nbytes
        if size >= SHARD_BYTES or len(held) >= SHARD_TENSORS:
            close_shard()
            size = 0
    close_shard()
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: shard for shard, names in shards.items() for name in names},
    }
    fsio.replace(path / "model.safetensors.index.json", json.dumps(index, indent=1).encode())


def write_csv(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """A table of pooled vectors: id, d0 … dD-1; the shortest digits that give the same float32 again."""
    with path.open("x", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        for number, item in enumerate(items):
            vector = item.rows()
            if number == 0:
                table.writerow(["id", *(f"d{i}" for i in range(len(vector)))])
            table.writerow([item.id, *map(str, vector)])
    fsio.sync_file(path)


def write_npz(path: Path, items: Iterator[Item], layer: str | None) -> None:
    """One pooled vector an id, as `numpy.savez` writes them, without holding them all."""
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for item in items:
            with archive.open(f"{item.name}.npy", "w", force_zip64=True) as file:
                npy_format.write_array(file, item.rows(), allow_pickle=False)
    fsio.sync_file(path)


WRITERS: dict[str, Callable[[Path, Iterator[Item], str | None], None]] = {
    "hdf5": write_hdf5,
    "npy": write_npy,
    "pt": write_pt,
    "safetensors": write_safetensors,
    "csv": write_csv,
    "npz": write_npz,
}
"""Layout → what writes it; the path is new, and the caller gives it its name when it is finished."""
FOLDERS = ("npy", "pt", "safetensors")
POOLED = ("csv", "npz")
