"""`--store` and `--compressor`, as a user gives them: written, mixed, resumed, refused together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Program

from crossllm.cache import CacheReader, choose_recipe
from crossllm.cache.store.commit import commit_paths, read_commit

SEQUENCES = {"a": "ACGU" * 9, "b": "GGAUC" * 40, "c": "A"}


def embed_run(program: Program, folder: Path, ids: str, *flags: str) -> dict[str, object]:
    """`embed run` over some of the sequences; its summary."""
    (folder / "some.fasta").write_text("".join(f">{i}\n{SEQUENCES[i]}\n" for i in ids))
    arguments = ("--modality", "rna", "--input", folder / "some.fasta", "--cache", folder / "made")
    done = program("embed", "run", *arguments, "--encoder", "profile", "--json", *flags)
    assert done.returncode == 0, done.stderr
    summary: dict[str, object] = json.loads(done.stdout)
    return summary


def stores(cache_dir: Path) -> list[str]:
    """What the segments are laid down as."""
    (folder,) = (cache_dir / "embeddings" / "rna").iterdir()
    found = []
    for path in commit_paths(folder):
        commit = read_commit(path)
        meta = folder / "segments" / commit.segment / "rows" / "zarr.json"
        found.append("zstd" if commit.store == "zarr" and "zstd" in meta.read_text() else commit.store)
    return sorted(found)


def test_a_cache_of_every_store_is_resumed_verified_and_read(tmp_path: Path, program: Program) -> None:
    assert embed_run(program, tmp_path, "a", "--store", "h5")["embedded"] == 1
    assert embed_run(program, tmp_path, "ab", "--compressor", "zstd")["embedded"] == 1
    assert embed_run(program, tmp_path, "abc", "--compressor", "none")["embedded"] == 1
    assert embed_run(program, tmp_path, "abc", "--store", "h5")["embedded"] == 0
    assert stores(tmp_path / "made") == ["h5", "zarr", "zstd"]
    done = program("crossllm", "cache", "verify", "--cache", "made", "--data")
    assert done.returncode == 0, done.stderr
    assert "3 segments, 3 records" in done.stdout
    reader = CacheReader(tmp_path / "made", choose_recipe(tmp_path / "made", "rna"))
    assert {len(reader[key]) for key in reader} == {36, 200, 1}


@pytest.mark.parametrize(("store", "compressor"), [("h5", "none"), ("zarr", "zstd"), ("zarr", "none")])
def test_import_takes_the_same_flags(tmp_path: Path, program: Program, store: str, compressor: str) -> None:
    (tmp_path / "arrays").mkdir()
    rng = np.random.default_rng(1)
    rows = {name: rng.normal(size=(len(text), 5)).astype(np.float16) for name, text in SEQUENCES.items()}
    for name, array in rows.items():
        np.save(tmp_path / "arrays" / f"{name}.npy", array)
    (tmp_path / "some.fasta").write_text("".join(f">{i}\n{text}\n" for i, text in SEQUENCES.items()))
    arguments = ("--modality", "rna", "--input", "arrays", "--fasta", "some.fasta", "--cache", "made")
    done = program("crossllm", "cache", "import", *arguments, "--store", store, "--compressor", compressor)
    assert done.returncode == 0, done.stderr
    assert stores(tmp_path / "made") == ["zstd" if compressor == "zstd" else store]
    reader = CacheReader(tmp_path / "made", choose_recipe(tmp_path / "made", "rna"))
    assert {reader[key].tobytes() for key in reader} == {array.tobytes() for array in rows.values()}


@pytest.mark.parametrize(
    "flags", [("--store", "h5", "--compressor", "zstd"), ("--store", "hdf5"), ("--compressor", "gzip")]
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, program: Program, flags: tuple[str, ...]
) -> None:
    (tmp_path / "some.fasta").write_text(">a\nACGU\n")
    (tmp_path / "a.npy").write_bytes(b"")
    for command in (
        ("embed", "run", "--input", "some.fasta", "--encoder", "profile"),
        ("crossllm", "cache", "import", "--input", "a.npy", "--fasta", "some.fasta"),
    ):
        done = program(*command, "--modality", "rna", "--cache", "made", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert flags[0] in done.stderr or flags[2] in done.stderr
        assert not (tmp_path / "made").exists()
