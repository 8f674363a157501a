"""A `mapping.tsv` of molecules says the SMILES and the RDKit that its keys are of; types that numpy has no name for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossllm.cache import InputError, canonical_smiles, choose_recipe, key_of
from crossllm.embed.foreign.exporting import ExportOptions, export_embeddings
from crossllm.embed.foreign.importing import ImportOptions, import_embeddings
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.data.importing import ImportOptions as DatasetOptions
from crossllm.pipeline.data.importing import Side, import_dataset

MOLECULES = {"m1": "OCC", "m2": "c1ccccc1O"}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    (tmp_path / "m.smi").write_text("".join(f"{id_}\t{smiles}\n" for id_, smiles in MOLECULES.items()))
    (tmp_path / "r.fasta").write_text(">r\nACGU\n")
    (tmp_path / "p.tsv").write_text("a_id\tb_id\tlabel\nr\tm1\t1\nr\tm2\t0\n")
    sides = Side("rna", tmp_path / "r.fasta"), Side("molecule", tmp_path / "m.smi")
    import_dataset(DatasetOptions(*sides, tmp_path / "p.tsv", tmp_path / "c"))
    run(RunOptions("molecule", tmp_path / "c" / "molecules.smi", tmp_path / "c", "profile", quiet=True))
    export_embeddings(ExportOptions(tmp_path / "c", "molecule", "npy", tmp_path / "out", quiet=True))
    return tmp_path / "out"


def test_the_mapping_of_molecules_says_their_smiles_and_rdkit(exported: Path, tmp_path: Path) -> None:
    header, *lines = (exported / "mapping.tsv").read_text().splitlines()
    assert header == "name\tid\tkey\tsmiles\trdkit"
    rdkit = choose_recipe(tmp_path / "c", "molecule").tokenizer
    assert rdkit.startswith("rdkit-")
    for line in lines:
        name, id_, key, smiles, version = line.split("\t")
        assert (name, smiles, version) == (id_, canonical_smiles(MOLECULES[id_]), rdkit)
        assert key == key_of("molecule", smiles).hex()
    done = import_embeddings(ImportOptions("molecule", exported, tmp_path / "m.smi", tmp_path / "d", quiet=True))
    assert done.imported == 2


def test_a_key_of_another_rdkit_is_said_with_both_smiles(exported: Path, tmp_path: Path) -> None:
    table = (exported / "mapping.tsv").read_text().splitlines()
    cells = table[1].split("\t")
    cells[2], cells[3], cells[4] = key_of("molecule", "OCC").hex(), "OCC", "rdkit-2024.3.1"
    (exported / "mapping.tsv").write_text("\n".join([table[0], "\t".join(cells), *table[2:]]) + "\n")
    with pytest.raises(InputError) as refusal:
        import_embeddings(ImportOptions("molecule", exported, tmp_path / "m.smi", tmp_path / "d", quiet=True))
    assert "is that of 'OCC', written by rdkit-2024.3.1" in str(refusal.value)
    assert f"id '{cells[1]}' is '{canonical_smiles(MOLECULES[cells[1]])}' here" in str(refusal.value)


def test_a_mapping_of_before_is_read(exported: Path, tmp_path: Path) -> None:
    table = [line.split("\t")[:3] for line in (exported / "mapping.tsv").read_text().splitlines()]
    (exported / "mapping.tsv").write_text("".join("\t".join(cells) + "\n" for cells in table))
    done = import_embeddings(ImportOptions("molecule", exported, tmp_path / "m.smi", tmp_path / "d", quiet=True))
    assert done.imported == 2


@pytest.mark.parametrize(("raw", "said"), [("V2", "bfloat16"), ("V1", "float8")])
@pytest.mark.parametrize("layout", ["npy", "hdf5"])
def test_half_types_that_numpy_has_no_name_for(raw: str, said: str, layout: str, tmp_path: Path) -> None:
    """What `np.save` and h5py write of ml_dtypes' types: raw values of one or two bytes."""
    (tmp_path / "s.fasta").write_text(">s\nACGU\n")
    values = np.zeros((4, 3), raw)
    if layout == "npy":
        (tmp_path / "x").mkdir()
        np.save(tmp_path / "x" / "s.npy", values, allow_pickle=False)
    else:
        import h5py

        with h5py.File(tmp_path / "x", "w") as file:
            file["s"] = values
    with pytest.raises(InputError, match=rf"{said} of ml_dtypes or JAX.*array\.astype\('float32'\)"):
        import_embeddings(ImportOptions("rna", tmp_path / "x", tmp_path / "s.fasta", tmp_path / "d", quiet=True))
