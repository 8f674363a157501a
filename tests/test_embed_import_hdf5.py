"""HDF5 for `crossllm cache import`: what its files may look like, and the child that reads them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign import SEQUENCES, assert_same_bits, keyed, rows_for, run, stored, write_hdf5

from crossllm.cache import CacheCorrupt
from crossllm.embed.foreign import hdf5
from crossllm.embed.foreign.entry import Entry


def test_groups_in_a_circle_a_user_block_and_filters(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=1024) as file:
        for (name, values), how in zip(
            rows.items(), ({}, {"compression": "lzf"}, {"compression": "gzip"}), strict=True
        ):
            file.create_dataset(f"g/{name}", data=values, shuffle=bool(how), fletcher32=bool(how), **how)
            file[f"g/{name}"].attrs["original_id"] = name
        file["g/up"] = file["/"]
        file["again"] = file["g"]
    assert run(tmp_path, tmp_path / "x.h5").imported == 3
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


@pytest.mark.slow
def test_a_source_opens_each_file_once_a_pass(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the FASTA, and for arrays that are there twice."""
    sequences = {f"s{n}": "ACGU" * (n + 1) for n in range(12)}
    rows = rows_for(rng, sequences)
    (tmp_path / "x").mkdir()
    for start in (0, 1):  # every other one, and the first two of the one in the other as well
        held = {f"s{n}": rows[f"s{n}"] for n in {*range(start, 12, 2), 0, 1}}
        write_hdf5(tmp_path / "x" / f"{start}.h5", held)
    started: list[Path] = []
    child = hdf5.Hdf5Child
    monkeypatch.setattr(hdf5, "Hdf5Child", lambda path: (started.append(path), child(path))[1])
    assert run(tmp_path, tmp_path / "x", sequences).imported == 12
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, sequences))
    assert len(started) <= 2 * 4, "to list, to compare, to check and to store, each file once"


def test_a_child_that_dies_is_damage_not_a_hang(tmp_path: Path, rng: np.random.Generator) -> None:
    """The stand-in for an HDF5 file that crashes its library: the child is killed between two questions."""
    rows = rows_for(rng)
    source = hdf5.Hdf5Source([write_hdf5(tmp_path / "x.h5", rows)])
    entries: list[Entry] = list(source.entries())
    assert np.array_equal(source.read(entries[0]), rows[entries[0].name])
    child = source._child
    assert child is not None
    child.process.kill()
    with pytest.raises(CacheCorrupt, match=r"x\.h5: the HDF5 library crashed on it.*signal 9"):
        source.read(entries[1])
    source.close()


def test_a_child_that_takes_too_long_is_stopped(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = hdf5.Hdf5Source([write_hdf5(tmp_path / "x.h5", rows_for(rng))])
    entries = list(source.entries())
    monkeypatch.setattr(hdf5, "SECONDS", 0.2)  # the watch looks once a second
    child = source._child
    assert child is not None
    with pytest.raises(CacheCorrupt, match=r"took more than 0\.2 s"):
        child._line()  # nothing was asked, so nothing comes
    source.close()
    assert entries
