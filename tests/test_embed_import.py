"""`crossllm cache import`: which array belongs to which sequence, what is stored of it, and what is said."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from foreign import (
    DIM,
    SEQUENCES,
    WRITERS,
    assert_same_bits,
    in_process,
    keyed,
    rows_for,
    run,
    stored,
    write_fasta,
    write_hdf5,
    write_npy,
    write_pt,
    write_safetensors,
)
from safetensors.torch import save_file

from crossllm.cache import Conflict, InputError, choose_recipe, key_of, read_table
from crossllm.cache.maintenance.inspection import verify
from crossllm.embed.foreign.importing import ImportOptions, import_embeddings


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_rows_bit_for_bit(layout: str, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    done = run(tmp_path, WRITERS[layout](tmp_path / f"My Model.{layout}", rows))
    assert (done.layout, done.imported, done.already, done.without, done.unmatched) == (layout, 3, 0, 0, 0)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))
    recipe = choose_recipe(tmp_path / "c", "rna")
    assert recipe.encoder.startswith("my-model")
    assert (recipe.encoder_version, recipe.weights, recipe.tokenizer, recipe.dim) == (0, None, "imported", DIM)
    assert (recipe.dtype, recipe.compute, recipe.layer) == ("float16", "float16", "33" if layout == "pt" else None)
    assert (recipe.options["layout"], recipe.options["source"]) == (layout, f"My Model.{layout}")
    assert set(read_table(tmp_path / "c", "rna")) == set(SEQUENCES)
    assert not verify(tmp_path / "c", data=True).damage


@pytest.mark.parametrize("layout", WRITERS)
def test_twice_adds_nothing(layout: str, tmp_path: Path, rng: np.random.Generator) -> None:
    source = WRITERS[layout](tmp_path / "x", rows_for(rng))
    run(tmp_path, source)
    before = sorted((tmp_path / "c").rglob("*"))
    done = run(tmp_path, source)
    assert (done.imported, done.already) == (0, 3)
    assert sorted((tmp_path / "c").rglob("*")) == before


def test_the_digest_is_of_the_content(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    file, folder = write_hdf5(tmp_path / "x.h5", rows), write_npy(tmp_path / "x", rows)
    run(tmp_path, file)
    run(tmp_path, folder, cache_dir=tmp_path / "d")
    assert choose_recipe(tmp_path / "c", "rna").options["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [f"{p.name}\t{hashlib.sha256(p.read_bytes()).hexdigest()}\n" for p in sorted(folder.iterdir())]
    assert choose_recipe(tmp_path / "d", "rna").options["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_another_source_of_the_same_name_is_a_conflict(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    run(tmp_path, write_hdf5(tmp_path / "x.h5", rows))
    other = write_hdf5(tmp_path / "x.h5", {id_: values + 1 for id_, values in rows.items()})
    with pytest.raises(Conflict, match=r"sha256.*--source NAME"):
        run(tmp_path, other)
    assert run(tmp_path, other, source="Second, one").recipe.startswith("second-one-")
    with pytest.raises(Conflict, match="dtype: float32, not float16"):
        run(tmp_path, other, source="Second, one", dtype="float32")
    with pytest.raises(InputError, match="no letter or digit"):
        run(tmp_path, other, source="…")


def test_one_array_serves_every_id_of_its_sequence(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    twins = SEQUENCES | {"a2": "acgt"}
    run(tmp_path, write_hdf5(tmp_path / "x.h5", rows), twins)
    table = read_table(tmp_path / "c", "rna")
    assert table["a"].key == table["a2"].key
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


def test_the_same_rows_under_two_ids_are_taken_once(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_for(rng)
    done = run(tmp_path, write_hdf5(tmp_path / "x.h5", rows | {"a2": rows["a"]}), SEQUENCES | {"a2": "ACGU"})
    assert done.imported == 3
    assert "1 array: there twice with the same rows" in capsys.readouterr().err


def test_different_rows_of_one_sequence_are_both_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    path = write_hdf5(tmp_path / "x.h5", rows | {"a2": rows["a"] + 1})
    done = run(tmp_path, path, SEQUENCES | {"a2": "ACGU"}, on_bad="skip")
    assert (done.imported, done.skipped) == (2, 1)
    assert key_of("rna", "ACGU") not in stored(tmp_path / "c")
    assert "'a' and 'a2'" in (tmp_path / "c" / "skipped.cache-import-rna.tsv").read_text()


@pytest.mark.parametrize("layout", ["hdf5", "npy", "pt", "safetensors"])
def test_a_leading_axis_of_one_is_dropped(layout: str, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng, SEQUENCES | {"one": "A"})
    run(tmp_path, WRITERS[layout](tmp_path / "x", {id_: v[None] for id_, v in rows.items()}), SEQUENCES | {"one": "A"})
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES | {"one": "A"}))


@pytest.mark.parametrize("source", ["f4", "f8", ">f2", ">f4"])
@pytest.mark.parametrize("layout", ["hdf5", "npy"])
def test_types_are_cast_and_counted(
    layout: str, source: str, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {id_: rng.normal(size=(len(s), DIM)).astype(source) for id_, s in SEQUENCES.items()}
    path = WRITERS[layout](tmp_path / "x", rows)
    run(tmp_path, path)
    assert_same_bits(stored(tmp_path / "c"), keyed({i: r.astype("f2") for i, r in rows.items()}, SEQUENCES))
    assert ("3 arrays: values rounded from" in capsys.readouterr().err) == (source != ">f2")
    run(tmp_path, path, dtype="float32", cache_dir=tmp_path / "d")
    assert_same_bits(stored(tmp_path / "d"), keyed({i: r.astype("f4") for i, r in rows.items()}, SEQUENCES))
    assert ("rounded" in capsys.readouterr().err) == (source == "f8")
    assert choose_recipe(tmp_path / "d", "rna").compute == np.dtype(source).name


def test_bfloat16_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    tensors = {id_: torch.from_numpy(rows).to(torch.bfloat16) for id_, rows in rows_for(rng).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    run(tmp_path, tmp_path / "x.safetensors", dtype="float32")
    assert_same_bits(stored(tmp_path / "c"), keyed({i: t.float().numpy() for i, t in tensors.items()}, SEQUENCES))
    assert choose_recipe(tmp_path / "c", "rna").compute == "bfloat16"


def test_the_asked_layer_is_taken_and_named(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    path = write_pt(tmp_path / "x", rows, layers=(6, 33))
    assert choose_recipe(tmp_path / "c", "rna", run(tmp_path, path, layer="33").recipe).layer == "33"
    run(tmp_path, path, layer="6", cache_dir=tmp_path / "d")
    assert_same_bits(stored(tmp_path / "d"), keyed({i: r + np.float16(1) for i, r in rows.items()}, SEQUENCES))
    with pytest.raises(InputError, match="has no rows of layer 7, only of 6, 33"):
        run(tmp_path, path, layer="7")
    with pytest.raises(InputError, match=r"only \.pt holds layers"):
        run(tmp_path, write_hdf5(tmp_path / "x.h5", rows), layer="7")


def test_fair_esm_files_in_folders_of_their_ids(tmp_path: Path, rng: np.random.Generator) -> None:
    """`extract.py` makes a folder of what stands before '/' in a label, and the label is the whole header."""
    sequences = {"db/x1": "MKV", "y": "MKVLE"}
    rows = rows_for(rng, sequences)
    (tmp_path / "x" / "db").mkdir(parents=True)
    for id_, label in {"db/x1": "db/x1", "y": "y hypothetical protein"}.items():
        held = {"label": label, "representations": {33: torch.from_numpy(rows[id_])}}
        torch.save(held, tmp_path / "x" / f"{label}.pt")
    run(tmp_path, tmp_path / "x", sequences, modality="protein")
    assert_same_bits(stored(tmp_path / "c", "protein"), keyed(rows, sequences, "protein"))


def test_shards_with_an_index(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    (tmp_path / "x").mkdir()
    shards = {"one.safetensors": ["a"], "two.safetensors": ["b", "c"]}
    for name, ids in shards.items():
        write_safetensors(tmp_path / "x" / name, {id_: rows[id_] for id_ in ids})
    weight_map = {id_: name for name, ids in shards.items() for id_ in ids}
    (tmp_path / "x" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    run(tmp_path, tmp_path / "x")
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


def test_what_is_left_out_is_counted(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_for(rng)
    del rows["c"]
    path = write_npy(tmp_path / "x", rows | {"stranger": rows["a"]})
    (path / "notes.txt").write_text("hello")
    fasta = write_fasta(tmp_path / "seqs.fasta", SEQUENCES)
    arguments = ("--modality", "rna", "--input", path, "--fasta", fasta, "--cache", tmp_path / "c")
    done = in_process(capsys, "cache", "import", *arguments, "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["imported"], said["without"], said["unmatched"], said["skipped"]) == (2, 1, 1, 0)
    assert "1 array: of no sequence in seqs.fasta, not imported (e.g. stranger)" in done.stderr
    assert "1 sequences have no sound rows in x (e.g. c)" in done.stderr
    assert "1 other files there, not read" in done.stderr
    again = in_process(capsys, "cache", "import", *arguments)
    assert "nothing to import, 2 are in" in again.stdout


def test_hidden_entries_and_links_to_folders_are_counted(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_for(rng)
    path = write_npy(tmp_path / "x", rows)
    write_npy(tmp_path / "elsewhere", {"d": rows["a"]})
    (path / "linked").symlink_to(tmp_path / "elsewhere")
    (path / ".hidden").mkdir()
    (path / ".DS_Store").write_text("")
    assert run(tmp_path, path).imported == 3
    assert "3 other files there, not read (hidden ones, links to folders)" in capsys.readouterr().err


def test_what_names_a_file_may_hold_is_escaped_in_the_recipe(tmp_path: Path, rng: np.random.Generator) -> None:
    run(tmp_path, write_hdf5(tmp_path / "a\nb.h5", rows_for(rng)))
    assert choose_recipe(tmp_path / "c", "rna").options["source"] == "a\\nb.h5"


def test_an_npz_is_refused_with_a_way_that_works(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    np.savez(tmp_path / "x.npz", **rows)
    with pytest.raises(InputError, match=r"\.npz archive; unpack it \(`unzip FILE\.npz -d FOLDER`\) and import the f"):
        run(tmp_path, tmp_path / "x.npz")
    shutil.unpack_archive(tmp_path / "x.npz", tmp_path / "x", "zip")
    run(tmp_path, tmp_path / "x")
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


def test_skip_lists_every_kind_and_stores_the_rest(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    bad = {"b": np.vstack([rows["b"], rows["b"][:1]]), "c": np.full_like(rows["c"], np.nan)}
    done = run(tmp_path, write_hdf5(tmp_path / "x.h5", rows | bad), on_bad="skip")
    assert (done.imported, done.skipped) == (1, 2)
    lines = (tmp_path / "c" / "skipped.cache-import-rna.tsv").read_text().splitlines()
    assert lines[0] == "file\tline\trecord\twhat"
    assert [line.split("\t")[2] for line in lines[1:]] == ["b", "c"]
    assert_same_bits(stored(tmp_path / "c"), keyed({"a": rows["a"]}, SEQUENCES))


def test_skip_with_nothing_left_is_an_error_and_writes_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = {id_: values * np.nan for id_, values in rows_for(rng).items()}
    with pytest.raises(InputError) as refused:
        run(tmp_path, write_hdf5(tmp_path / "x.h5", rows), on_bad="skip")
    assert len(refused.value.lines) == 3
    assert not (tmp_path / "c").exists()


def test_only_the_missing_are_added(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    path = write_hdf5(tmp_path / "x.h5", rows)
    assert run(tmp_path, path, {"a": SEQUENCES["a"]}).imported == 1
    done = run(tmp_path, path)
    assert (done.imported, done.already) == (2, 1)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


def test_repeated_arrays_are_compared_by_their_values(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    wide, other = rows["a"].astype("f8"), rows["a"].copy()
    wide[0, 0], rows["a"][0, 0] = 0.0, -0.0
    other[-1, -1] += 1
    twins = SEQUENCES | {"a2": "ACGU"}
    assert run(tmp_path, write_hdf5(tmp_path / "x.h5", rows | {"a2": wide}), twins).imported == 3
    with pytest.raises(InputError, match="hold different rows"):
        run(tmp_path, write_hdf5(tmp_path / "y.h5", rows | {"a2": other}), twins)


REAL = {
    "rsim/rnafm_embeddings.h5": ("rna", "rsim/rna.fasta", 289, [f"Target_{n}" for n in (100, 103, 104, 97, 99)]),
    "rpi1460/unirep64_embeddings.h5": ("protein", "rpi1460/protein.fasta", 635, []),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_published_embeddings(name: str, real_data: Path, tmp_path: Path) -> None:
    modality, fasta, count, short = REAL[name]
    done = import_embeddings(
        ImportOptions(modality, real_data / name, real_data / fasta, tmp_path / "c", on_bad="skip", quiet=True)
    )
    assert (done.imported, done.unmatched, done.skipped) == (count, 0, len(short))
    skipped = tmp_path / "c" / "skipped.cache-import-rna.tsv"
    listed = [line.split("\t")[2] for line in skipped.read_text().splitlines()[1:]] if skipped.exists() else []
    assert sorted(listed) == short
    found, table = stored(tmp_path / "c", modality), read_table(tmp_path / "c", modality)
    assert len(found) == count
    with h5py.File(real_data / name) as file:
        expected = {table[id_].key: file[id_][()] for id_ in file if id_ not in short}
    assert_same_bits(found, expected)
