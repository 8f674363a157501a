"""`crossllm cache import`: which stored array belongs to which sequence."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign import (
    DIM,
    SEQUENCES,
    WRITERS,
    assert_same_bits,
    keyed,
    rows_for,
    run,
    stored,
    write_hdf5,
    write_npy,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from crossllm.cache import Conflict, InputError, Records, choose_recipe, key_of, record_of
from crossllm.cache.records.molecules import canonical_smiles
from crossllm.embed.foreign import matching
from crossllm.embed.foreign.entry import Entry
from crossllm.embed.foreign.matching import match


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


NAMES = {
    "md5, bio_embeddings": _md5,
    "md5 of the DNA letters": lambda text: _md5(text.replace("U", "T")),
    "sha256 with the length, biotrainer": lambda text: hashlib.sha256(f"{text}_{len(text)}".encode()).hexdigest(),
    "our key": lambda text: key_of("rna", text).hex(),
}


@pytest.mark.parametrize("layout", ["hdf5", "npy", "safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_named_by_a_hash_of_the_sequence(
    name: str, layout: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = rows_for(rng)
    run(tmp_path, WRITERS[layout](tmp_path / "x", {NAMES[name](SEQUENCES[id_]): rows[id_] for id_ in rows}))
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))


@pytest.mark.parametrize("stated", [str, np.bytes_])
def test_original_id_goes_before_the_name(stated: type, tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = {"a": "ACGU", "b": "GGAU"}  # of one length, so that only the name can tell
    rows = rows_for(rng, sequences)
    path = write_hdf5(tmp_path / "x.h5", {"a": rows["b"], "b": rows["a"]})
    with h5py.File(path, "a") as file:
        file["a"].attrs["original_id"], file["b"].attrs["original_id"] = stated("b"), stated("a the first")
    run(tmp_path, path, sequences)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, sequences))


def test_ids_that_hdf5_and_prottrans_rewrite(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = {"g/one": "ACGU", "/two//x": "GGAUC", "sp.1/2": "UUACGGA", "plain": "CCC", "g/deep/er": "GAGA"}
    rows = rows_for(rng, sequences)
    path = write_hdf5(tmp_path / "x.h5", {id_.replace("sp.1/2", "sp_1_2"): values for id_, values in rows.items()})
    with h5py.File(path) as file:
        assert isinstance(file["g"], h5py.Group), "'/' made no group"
    run(tmp_path, path, sequences)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, sequences))


@pytest.mark.parametrize("sequences", [{"a.b": "ACGU", "a/b": "GGAU"}, {"a.b": "ACGU", "a_b": "GGAU"}])
def test_a_rewritten_name_that_may_be_either_is_refused(
    sequences: dict[str, str], tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = rows_for(rng, sequences)
    path = write_npy(tmp_path / "x", {"a_b": rows["a.b"]})
    with pytest.raises(InputError, match=r"name (may stand|stands) for"):
        run(tmp_path, path, sequences)
    run(tmp_path, path, {"a.b": "ACGU"})
    assert_same_bits(stored(tmp_path / "c"), {key_of("rna", "ACGU"): rows["a.b"]})


def test_a_length_tells_a_name_from_a_rewritten_one(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = {"a.b": "ACGUAC", "a_b": "GGAU"}
    rows = rows_for(rng, {"a_b": "GGAU"})
    run(tmp_path, write_npy(tmp_path / "x", rows), sequences)
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, sequences))


DISTINCT = {
    "rna": ["ACGU", "GGUU"],
    "protein": ["MKTA", "MKUA"],  # U is selenocysteine, T threonine
    "molecule": ["C1CCCCC1", "c1ccccc1"],  # lower case is aromatic
}
HASHES = {
    "md5": _md5,
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "sha256 with the length": lambda text: hashlib.sha256(f"{text}_{len(text)}".encode()).hexdigest(),
}


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize("how", HASHES)
@pytest.mark.parametrize("modality", DISTINCT)
def test_a_hash_names_its_own_sequence_and_no_other(
    modality: str, how: str, turn: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Letters that mean the same in one modality do not in another, whatever the order of the file."""
    spelt = DISTINCT[modality][::turn]
    rows = {text: rng.normal(size=(len(text) if modality != "molecule" else 6, DIM)).astype("f2") for text in spelt}
    path = write_hdf5(tmp_path / "x.h5", {HASHES[how](text): values for text, values in rows.items()})
    form = "{}\t{}\n" if modality == "molecule" else ">{}\n{}\n"
    (tmp_path / "in").write_text("".join(form.format(f"id{n}", text) for n, text in enumerate(spelt)))
    run(tmp_path, path, modality=modality, fasta=tmp_path / "in")
    expected = {key_of(modality, canonical_smiles(t) if modality == "molecule" else t): r for t, r in rows.items()}
    assert_same_bits(stored(tmp_path / "c", modality), expected)


def test_a_hash_of_one_of_two_is_not_bound_to_the_other(tmp_path: Path, rng: np.random.Generator) -> None:
    """Only the hash of benzene is there: cyclohexane, of as many atoms, stays without rows."""
    rows = rng.normal(size=(6, DIM)).astype("f2")
    (tmp_path / "m.smi").write_text("hexane\tC1CCCCC1\nbenzene\tc1ccccc1\n")
    path = write_npy(tmp_path / "x", {_md5("c1ccccc1"): rows})
    run(tmp_path, path, modality="molecule", fasta=tmp_path / "m.smi")
    assert_same_bits(stored(tmp_path / "c", "molecule"), {key_of("molecule", "c1ccccc1"): rows})


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.text("ACDEFGHIKLMNPQRSTVWYU", min_size=1, max_size=4), min_size=1, max_size=6, unique=True))
def test_every_protein_is_found_by_its_own_hashes(sequences: list[str]) -> None:
    records = Records("protein", [record_of("protein", f"i{n}", s) for n, s in enumerate(sequences)], Counter(), [])
    for record in records.records:
        for spelt in (record.sequence, record.sequence.lower()):
            for hashed in HASHES.values():
                found = match([Entry(Path("x"), hashed(spelt), (1, 2), "float16")], records, Path("not read"), {})
                assert list(found.by_key) == [record.key]


def test_a_hash_that_two_sequences_claim_is_refused(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MD5 can be made to collide: here by a stand-in for it."""
    monkeypatch.setattr(matching, "_hashes", lambda text: iter(["0" * 32]))
    rows = rows_for(rng)
    with pytest.raises(InputError, match=r"this hash is that of 'a' and 'b' \(record 0{32}\); name both"):
        run(tmp_path, write_npy(tmp_path / "x", rows | {"0" * 32: rows["a"]}))


@pytest.mark.parametrize("layout", ["hdf5", "npy", "safetensors"])
def test_a_name_whose_first_word_is_an_id_is_not_that_id(layout: str, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rows_for(rng)
    source = WRITERS[layout](tmp_path / "x", {"a mutant": rows["a"], "b": rows["b"]})
    done = run(tmp_path, source)
    assert (done.imported, done.unmatched) == (1, 1)
    assert_same_bits(stored(tmp_path / "c"), keyed({"b": rows["b"]}, SEQUENCES))


def test_a_name_that_is_a_whole_header_of_the_fasta_is_its_id(tmp_path: Path, rng: np.random.Generator) -> None:
    """ProtTrans calls a dataset by the whole header, with '_' for '/' and '.'."""
    rows = rows_for(rng)
    (tmp_path / "in.fa").write_text(">a the first, v1.2\nACGU\n>b\nGGAUC\n>c last\nUUACGGA\n>c2 last\nCC\n")
    given_ = {"a the first, v1_2": rows["a"], "b": rows["b"], "c last": rows["c"]}
    run(tmp_path, write_hdf5(tmp_path / "x.h5", given_), fasta=tmp_path / "in.fa")
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, SEQUENCES))
    (tmp_path / "in.fa").write_text(">a.1 x\nACGU\n>a/1 x\nACGG\n")
    with pytest.raises(InputError, match=r"this name may stand for 'a\.1' or 'a/1'"):
        run(tmp_path, write_npy(tmp_path / "y", {"a_1 x": rows["a"]}), fasta=tmp_path / "in.fa")


def test_another_mapping_is_another_source(tmp_path: Path, rng: np.random.Generator) -> None:
    sequences = {"a": "ACGU", "b": "GGAU"}  # of one length: only the mapping can tell
    rows = rows_for(rng, sequences)
    path = write_npy(tmp_path / "x", {"one": rows["a"], "two": rows["b"]})
    keys = {id_: key_of("rna", sequence).hex() for id_, sequence in sequences.items()}
    table = path / "mapping.tsv"
    table.write_text(f"name\tid\tkey\none\ta\t{keys['a']}\ntwo\tb\t{keys['b']}\n")
    run(tmp_path, path, sequences)
    assert run(tmp_path, path, sequences).already == 2
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert choose_recipe(tmp_path / "c", "rna").options["mapping"] == digest
    assert_same_bits(stored(tmp_path / "c"), keyed(rows, sequences))
    table.write_text(f"name\tid\tkey\none\tb\t{keys['b']}\ntwo\ta\t{keys['a']}\n")
    with pytest.raises(Conflict, match="mapping"):
        run(tmp_path, path, sequences)
