"""`crossllm cache export`: other tools read it, importing it again gives the same rows, and ids never become paths."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from foreign import DIM, assert_same_bits, in_process, keyed, rows_for, stored, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from crossllm.cache import CacheWriter, Conflict, InputError, Recipe, record_of
from crossllm.cache.records.id_table import publish_table
from crossllm.embed.foreign import export_layouts
from crossllm.embed.foreign.exporting import ExportOptions, export_embeddings, name_keys
from crossllm.embed.foreign.importing import ImportOptions, import_embeddings

HOSTILE = ["plain", "Plain", "../../escape", "/etc/passwd", "..", ".", ".hidden", "a/b", "a", "a\\b", "é" * 30, "-rf",
           "x" * 300, "__metadata__", "=cmd()", "sp|P1|N", "0" * 64, "CON.txt", "mapping"]  # fmt: skip
SEQUENCES = {id_: "ACGU" * (n + 1) for n, id_ in enumerate(HOSTILE)} | {"twin of plain": "ACGU"}
LAYOUTS = ["hdf5", "npy", "pt", "safetensors"]


@pytest.fixture
def rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return rows_for(rng, {id_: s for id_, s in SEQUENCES.items() if id_ in HOSTILE})


@pytest.fixture
def made(tmp_path: Path, rows: dict[str, np.ndarray]) -> Path:
    """A cache of the hostile ids, and of one sequence without an id."""
    folder = tmp_path / "c"
    with CacheWriter(folder, Recipe("rna", "made", 1, DIM, layer="12")) as writer:
        for id_, values in rows.items():
            writer.add(record_of("rna", id_, SEQUENCES[id_]).key, values)
        writer.add(record_of("rna", "", "GGGG").key, np.ones((4, DIM), np.float16))
    publish_table(folder, "rna", [record_of("rna", id_, sequence) for id_, sequence in SEQUENCES.items()])
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exported_and_imported_again_is_the_same_bit_for_bit(
    layout: str, made: Path, rows: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.iterdir())
    done = export_embeddings(ExportOptions(made, "rna", layout, tmp_path / "out", quiet=True))
    assert (done.sequences, done.ids) == (len(HOSTILE), len(SEQUENCES))
    assert "1 sequences of this recipe have no id" in capsys.readouterr().err
    new = {path.name for path in set(tmp_path.iterdir()) - before}
    assert new == ({"out", "out.mapping.tsv"} if layout == "hdf5" else {"out"}), "something was written elsewhere"
    fasta = tmp_path / "seqs.fasta"
    write_fasta(fasta, {id_: s for id_, s in SEQUENCES.items() if " " not in id_})
    again = import_embeddings(ImportOptions("rna", tmp_path / "out", fasta, tmp_path / "d", quiet=True))
    assert (again.imported, again.unmatched, again.layout) == (len(HOSTILE), 0, layout)
    assert_same_bits(stored(tmp_path / "d"), keyed(rows, SEQUENCES))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_its_mapping_an_export_is_read_by_ids_and_keys(
    layout: str, made: Path, rows: dict[str, np.ndarray], tmp_path: Path
) -> None:
    done = export_embeddings(ExportOptions(made, "rna", layout, tmp_path / "out", quiet=True))
    Path(done.mapping).unlink()
    fasta = write_fasta(tmp_path / "seqs.fasta", {id_: s for id_, s in SEQUENCES.items() if " " not in id_})
    import_embeddings(ImportOptions("rna", tmp_path / "out", fasta, tmp_path / "d", quiet=True))
    assert_same_bits(stored(tmp_path / "d"), keyed(rows, SEQUENCES))


def test_the_layouts_are_what_others_write(made: Path, rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    for layout in LAYOUTS:
        export_embeddings(ExportOptions(made, "rna", layout, tmp_path / layout, quiet=True))
    with h5py.File(tmp_path / "hdf5") as file:
        assert np.array_equal(file["plain"][()], rows["plain"])
        assert {d.attrs["original_id"] for d in file.values()} == set(HOSTILE)
        assert not [name for name, found in file.items() if not isinstance(found, h5py.Dataset)]
    assert np.array_equal(np.load(tmp_path / "npy" / "plain.npy"), rows["plain"])
    held = torch.load(tmp_path / "pt" / "plain.pt", weights_only=True)
    assert held["label"] == "plain"
    assert held["representations"][12].dtype == torch.float16
    index = json.loads((tmp_path / "safetensors" / "model.safetensors.index.json").read_text())
    with safe_open(tmp_path / "safetensors" / index["weight_map"]["plain"], "np") as shard:
        assert np.array_equal(shard.get_tensor("plain"), rows["plain"])


def test_safetensors_shards_are_bounded(
    made: Path, rows: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_layouts, "SHARD_BYTES", 600)
    monkeypatch.setattr(export_layouts, "SHARD_TENSORS", 4)
    export_embeddings(ExportOptions(made, "rna", "safetensors", tmp_path / "out", quiet=True))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > len(HOSTILE) // 4
    fasta = write_fasta(tmp_path / "seqs.fasta", {id_: s for id_, s in SEQUENCES.items() if " " not in id_})
    import_embeddings(ImportOptions("rna", tmp_path / "out", fasta, tmp_path / "d", quiet=True))
    assert_same_bits(stored(tmp_path / "d"), keyed(rows, SEQUENCES))


@pytest.mark.parametrize("pool", [None, "mean", "max"])
def test_pooled_tables(pool: str | None, made: Path, rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    for layout in ("csv", "npz"):
        export_embeddings(ExportOptions(made, "rna", layout, tmp_path / f"x.{layout}", pool=pool, quiet=True))  # type: ignore[arg-type]
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", *(f"d{i}" for i in range(DIM))]
    found = {id_: np.array(values, np.float32) for id_, *values in lines}
    assert found.keys() == SEQUENCES.keys()
    for id_, values in rows.items():
        wide = values.astype(np.float64)
        expected = (wide.max(axis=0) if pool == "max" else wide.mean(axis=0)).astype(np.float32)
        assert np.array_equal(found[id_], expected)
    mapping = [line.split("\t") for line in (tmp_path / "x.npz.mapping.tsv").read_text().splitlines()[1:]]
    assert sorted(id_ for _, id_, _ in mapping) == sorted(SEQUENCES)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        assert set(archive) == {name for name, _, _ in mapping}
        assert not [name for name in archive if "/" in name or name.startswith(".")]
        for name, id_, _ in mapping:
            assert np.array_equal(archive[name], found[id_])


@pytest.mark.parametrize("layout", [*LAYOUTS, "csv", "npz"])
@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
def test_an_output_is_never_written_over(there: str, layout: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
    else:
        out.symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Conflict, match="never written over"):
        export_embeddings(ExportOptions(made, "rna", layout, out, quiet=True))
    assert sorted(tmp_path.rglob("*")) == before
    assert there != "file" or out.read_text() == "mine"


def test_a_mapping_of_another_export_is_kept(made: Path, tmp_path: Path) -> None:
    (tmp_path / "x.h5.mapping.tsv").write_text("mine")
    with pytest.raises(Conflict):
        export_embeddings(ExportOptions(made, "rna", "hdf5", tmp_path / "x.h5", quiet=True))
    assert (tmp_path / "x.h5.mapping.tsv").read_text() == "mine"
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("layout", [*LAYOUTS, "csv", "npz"])
def test_cut_off_midway_it_leaves_nothing(
    layout: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(
        "crossllm.embed.foreign.exporting.pooled", lambda rows, how: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    monkeypatch.setattr(
        "crossllm.embed.foreign.exporting._publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        export_embeddings(ExportOptions(made, "rna", layout, tmp_path / "out", quiet=True))
    assert sorted(tmp_path.rglob("*")) == before


def test_usage(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given_ = ("cache", "export", "--cache", made, "--modality", "rna", "--format", "npy", "--output", tmp_path / "out")
    done = in_process(capsys, *given_, "--pool", "mean")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--pool mean: npy holds all rows" in done.stderr
    assert in_process(capsys, *given_, "--recipe", "other").returncode == 2
    assert json.loads(in_process(capsys, *given_, "--json").stdout)["sequences"] == len(HOSTILE)
    said = in_process(capsys, *given_[:-1], tmp_path / "again").stdout
    assert f"{len(HOSTILE)} arrays, one a distinct sequence, for {len(SEQUENCES)} ids → " in said
    assert f"which id has which: {tmp_path / 'again' / 'mapping.tsv'}" in said
    pooled = in_process(capsys, *given_[:-3], "csv", "-o", tmp_path / "again.csv").stdout
    assert f"{len(SEQUENCES)} pooled vectors, one an id → " in pooled
    again = in_process(capsys, *given_)
    assert (again.returncode, again.stderr.count("\n")) == (5, 1)


def test_nothing_to_export(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c", Recipe("rna", "made", 1, DIM)) as writer:
        writer.add(record_of("rna", "", "GGGG").key, np.ones((4, DIM), np.float16))
    with pytest.raises(InputError, match="no rna id of its records has rows"):
        export_embeddings(ExportOptions(tmp_path / "c", "rna", "npy", tmp_path / "out", quiet=True))


@settings(max_examples=200, derandomize=True)
@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc"]), min_size=1, max_size=6), unique=True),
    layout=st.sampled_from([*LAYOUTS, "npz"]),
)
def test_names_are_safe_and_told_apart(ids: list[str], layout: str) -> None:
    keys = {bytes([n % 256]) * 32: [id_] for n, id_ in enumerate(ids)}
    named = name_keys(keys, layout)
    assert [n.key for n in named] == list(keys)
    assert len({n.name.casefold() for n in named}) == len(ids)
    for n in named:
        assert n.name in (n.id, n.key.hex())
        assert "/" not in n.name
        assert n.name not in (".", "..")
        assert layout == "hdf5" or n.name.isascii()


@pytest.mark.parametrize("layout", ["npy", "csv"])
@pytest.mark.parametrize(
    "place", ["embeddings", "embeddings/rna/x", "records/x", "records", "link/x", "../c/records/x"]
)
def test_an_output_among_the_caches_own_files_is_refused(
    place: str, layout: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "link").symlink_to(made / "embeddings" / "rna")
    before = sorted(tmp_path.rglob("*"))
    done = in_process(
        capsys, "cache", "export", "--cache", made, "--modality", "rna", "--format", layout, "-o", made / place
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "which holds the cache's own files; choose another --output" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    beside = ExportOptions(made, "rna", layout, made / "exported", quiet=True)
    assert export_embeddings(beside).sequences == len(HOSTILE)
