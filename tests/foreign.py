"""Small sets of embeddings made elsewhere, for the tests of `crossllm cache import` and `export`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from conftest import Program
from safetensors.numpy import save_file

from crossllm.cache import CacheReader, choose_recipe, key_of, normalise
from crossllm.cache.console.runner import run as run_program
from crossllm.embed.foreign.importing import ImportOptions, ImportSummary, import_embeddings
from crossllm.pipeline.cli import crossllm

SEQUENCES = {"a": "ACGU", "b": "GGAUC", "c": "UUACGGA"}
"""The ids and sequences of `seqs.fasta`."""
DIM = 6


CANARY = "canary"
Rows = dict[str, np.ndarray]


class Done(NamedTuple):
    """What a command ended in."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """`crossllm …` as a user runs it, but in this process: a second saved for each of many cases."""
    before = signal.getsignal(signal.SIGTERM)
    capsys.readouterr()
    try:
        with pytest.raises(SystemExit) as ended:
            run_program(crossllm, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, said.out, said.err)


def write_fasta(path: Path, sequences: Mapping[str, str] = SEQUENCES) -> Path:
    path.write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in sequences.items()))
    return path


def rows_for(rng: np.random.Generator, sequences: Mapping[str, str] = SEQUENCES) -> dict[str, np.ndarray]:
    return {id_: rng.normal(size=(len(s), DIM)).astype(np.float16) for id_, s in sequences.items()}


def write_hdf5(path: Path, rows: Mapping[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file.create_dataset(name, data=values)
    return path


def write_npy(path: Path, rows: Mapping[str, np.ndarray]) -> Path:
    path.mkdir()
    for name, values in rows.items():
        np.save(path / f"{name}.npy", values)
    return path


def write_pt(path: Path, rows: Mapping[str, np.ndarray], layers: tuple[int, ...] = (33,)) -> Path:
    path.mkdir()
    for name, values in rows.items():
        tensors = {layer: torch.from_numpy(values + (layer != 33)) for layer in layers}
        torch.save({"label": name, "representations": tensors}, path / f"{name}.pt")
    return path


def write_safetensors(path: Path, rows: Mapping[str, np.ndarray]) -> Path:
    save_file(dict(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray]], Path]] = {
    "hdf5": write_hdf5, "npy": write_npy, "pt": write_pt, "safetensors": write_safetensors,
}  # fmt: skip


def run(tmp_path: Path, given: Path, sequences: dict[str, str] = SEQUENCES, **changed: object) -> ImportSummary:
    """Import `given` with a FASTA of the sequences into the cache `c`."""
    fasta = write_fasta(tmp_path / "seqs.fasta", sequences)
    asked = {"modality": "rna", "input": given, "fasta": fasta, "cache_dir": tmp_path / "c", "quiet": True}
    return import_embeddings(ImportOptions(**(asked | changed)))  # type: ignore[arg-type]


def stored(cache_dir: Path, modality: str = "rna", recipe: str | None = None) -> dict[bytes, np.ndarray]:
    reader = CacheReader(cache_dir, choose_recipe(cache_dir, modality, recipe))
    return {key: np.array(reader[key]) for key in reader}


def keyed(
    rows: Mapping[str, np.ndarray], sequences: Mapping[str, str], modality: str = "rna"
) -> dict[bytes, np.ndarray]:
    return {key_of(modality, normalise(modality, sequences[id_])): values for id_, values in rows.items()}


def assert_same_bits(found: Mapping[bytes, np.ndarray], expected: Mapping[bytes, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        assert found[key].dtype == rows.dtype
        assert found[key].tobytes() == rows.tobytes()


class Payload:
    """Unpickled, it would create the canary."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (CANARY,)


def write_bytes(name: str, data: bytes) -> Callable[[Path, Rows], Path]:
    def make(folder: Path, rows: Rows) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut_short(write: Callable[..., Path], name: str, left: int) -> Callable[[Path, Rows], Path]:
    def make(folder: Path, rows: Rows) -> Path:
        path = write(folder / name, rows)
        path.write_bytes(path.read_bytes()[:-left])
        return path

    return make


def assert_import_refused(capsys: pytest.CaptureFixture[str], folder: Path, make: Callable[[], Path], say: str) -> None:
    """Exit 2, one line that says `say` and names the input, and nothing left in the folder (the working one)."""
    write_fasta(folder / "seqs.fasta", SEQUENCES | {"a2": SEQUENCES["a"]})
    path = make()
    before = sorted(folder.rglob("*"))
    done = in_process(
        capsys, "cache", "import", "--modality", "rna", "--input", path, "--fasta", "seqs.fasta", "--cache", "c"
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert say in done.stderr, done.stderr
    assert str(path) in done.stderr
    assert "; " in done.stderr
    assert "raceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before, "something was left behind, or a payload ran"


def assert_payload_skipped(program: Program, folder: Path, path: Path) -> None:
    """The whole program with `skip` imports the other two of `SEQUENCES`, and the canary is not there."""
    write_fasta(folder / "seqs.fasta")
    done = program(
        "crossllm", "cache", "import", "--modality", "rna", "--input", path, "--fasta", "seqs.fasta", "--cache", "c",
        "--on-bad", "skip",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 sequences with rows, 1 without: imported 2" in done.stdout
    assert not (folder / CANARY).exists()
