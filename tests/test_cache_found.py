"""Faults that a user of the readers met: each file here was read wrongly in silence, or refused by a wrong cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdkit import Chem

from crossllm.cache import InputError, read_records
from crossllm.cache.records.record_list import Records


def read(tmp_path: Path, modality: str, text: str, on_bad: str = "error") -> Records:
    path = tmp_path / "in.txt"
    path.write_text(text)
    return read_records(path, modality, on_bad)  # type: ignore[arg-type]


def refusal(tmp_path: Path, modality: str, text: str, on_bad: str = "error") -> tuple[str, ...]:
    with pytest.raises(InputError) as refused:
        read(tmp_path, modality, text, on_bad)
    return refused.value.lines


def mol(title: str, smiles: str) -> str:
    return title + Chem.MolToMolBlock(Chem.MolFromSmiles(smiles))


@pytest.mark.parametrize("field", ["", "> <x>\n1\n\n"])
def test_mol_files_joined_without_the_end_of_a_record(tmp_path: Path, field: str) -> None:
    first = mol("a", "CCO") + field
    text = first + mol("b", "CCN") + mol("c", "C") + "$$$$\n" + mol("d", "CC") + "$$$$\n"
    (line,) = refusal(tmp_path, "molecule", text)
    at = first.count("\n") + 1
    assert line.endswith(
        f"in.txt:{at}: a second mol block before '$$$$' (record a); put a line $$$$ after each 'M  END'"
    )
    found = read(tmp_path, "molecule", text, "skip")
    assert [record.id for record in found.records] == ["d"]
    assert [(problem.line, problem.record) for problem in found.skipped] == [(at, "a")]


def test_a_mol_block_in_a_data_field_is_no_second_molecule(tmp_path: Path) -> None:
    text = mol("a", "CCO") + "> <parent>\n" + mol("p", "C").replace("\n\n", "\n-\n") + "\n$$$$\n"
    assert [record.sequence for record in read(tmp_path, "molecule", text).records] == ["CCO"]


def test_nucleotides_with_ambiguous_letters_are_no_proteins(tmp_path: Path) -> None:
    text = "".join(f">r{n}\n{'ACGTTGCAAC' * 4}RYK\n" for n in range(5))
    (line,) = refusal(tmp_path, "protein", text)
    assert "5 of 5 sequences are made of A, C, G, T/U or N by 90 % or more (e.g. 'r0', 43 letters)" in line
    assert "--allow-nucleotides" in line


def test_proteins_of_few_kinds_of_residues_stay_proteins(tmp_path: Path) -> None:
    text = ">silk\n" + "GAGAGS" * 9 + "GAGAGYLP\n>short\nACG\n>collagen\n" + "GPPGAPGKN" * 9 + "\n"
    assert len(read(tmp_path, "protein", text).records) == 3


@pytest.mark.parametrize("data", ["rpi1460", "rpi488", "rpi1807"])
def test_no_real_protein_is_taken_for_nucleotides_nor_rna_for_proteins(real_data: Path, data: str) -> None:
    for modality in ("protein", "rna"):
        notes = read_records(real_data / data / f"{modality}.fasta", modality, "skip").notes
        assert not [note for note in notes if "given as" in note]


def test_peptides_of_letters_that_are_codes_of_nucleotides_are_no_rna(tmp_path: Path) -> None:
    text = ">p0\nYYKRRTYWCMAYSSDVDKDAWGAG\n>p1\nKRKRSSYYHHDDVVMMWWSS\n"
    (line,) = refusal(tmp_path, "rna", text)
    assert "2 of 2 sequences are less than half A, C, G, T/U or N (e.g. 'p0', 24 letters)" in line
    assert "proteins given as RNA? use --modality protein" in line


def test_rna_of_unknown_letters_stays_rna(tmp_path: Path) -> None:
    text = f">n\n{'N' * 40}\n>x\n{'X' * 40}\n>m\n{'ACGURYN' * 9}\n>short\nRYRY\n"
    assert len(read(tmp_path, "rna", text).records) == 4


@pytest.mark.parametrize("code", ["P1", "F1", "XX", "N3"])
def test_pir_is_called_by_its_name(tmp_path: Path, code: str) -> None:
    for modality in ("protein", "rna"):
        (line,) = refusal(tmp_path, modality, f">{code};CRAB\nALPHA CRYSTALLIN B\n MKVA*\n")
        assert "is a PIR/NBRF file" in line
        assert "convert it to FASTA" in line
    assert read(tmp_path, "protein", ">P1x;CRAB\nMKV\n").records


def ids_from(tmp_path: Path, *columns: str) -> str:
    """The column that the ids are taken from."""
    cells = ",".join(f"v{n}" for n in range(len(columns)))
    records = read(tmp_path, "molecule", f"{','.join(columns)},smiles\n{cells},CCO\n").records
    return columns[int(records[0].id[1:])]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("Target ID", "Name"), "Name"), (("Assay_ID", "title"), "title"), (("target_chembl_id", "ID"), "ID"),
        (("BindingDB Reactant_set_id", "PubChem CID"), "PubChem CID"), (("Document ChEMBL ID", "name"), "name"),
        (("Patent ID", "ProteinID", "x.id"), "x.id"), (("VALID", "id"), "id"), (("FATTY ACID", "name"), "name"),
        (("LIPID", "name"), "name"), (("STEROID", "FLUID", "drug"), "drug"), (("valid", "zinc_id"), "zinc_id"),
        (("id", "CompoundID"), "CompoundID"), (("id", "Molecule ChEMBL ID"), "Molecule ChEMBL ID"),
        (("ID", "mol.id"), "mol.id"), (("MonomerID", "id"), "id"), (("MonomerID", "name"), "MonomerID"),
        (("id", "DRUGBANKID"), "DRUGBANKID"), (("id", "pubchem_cid"), "pubchem_cid"), (("id", "drugId"), "drugId"),
    ],
)  # fmt: skip
def test_ids_are_those_of_the_molecules(tmp_path: Path, columns: tuple[str, ...], expected: str) -> None:
    for order in (columns, columns[::-1]):
        assert ids_from(tmp_path, *order) == expected


@pytest.mark.parametrize("columns", ["ID,id", "ChEMBL ID,CID", "zinc id,asinex id", "Name,name"])
def test_columns_of_ids_with_equal_right_are_named(tmp_path: Path, columns: str) -> None:
    (line,) = refusal(tmp_path, "molecule", f"{columns},smiles\na,b,CCO\n")
    one, two = columns.split(",")
    assert f"in.txt:1: 2 columns may be the id column: '{one}', '{two}'; name one by --id-column" in line


def test_columns_of_smiles_that_differ_in_case_only_are_named(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "molecule", "id,SMILES,smiles\na,C,CC\n")
    assert "2 columns may be the SMILES column: 'SMILES', 'smiles'; name one by --smiles-column" in line


@pytest.mark.parametrize("column", ["Target ID", "assay_id", "Reactant_set_id", "VALID"])
def test_ids_of_other_things_are_no_ids_of_molecules(tmp_path: Path, column: str) -> None:
    (line,) = refusal(tmp_path, "molecule", f"{column},smiles\na,CCO\n")
    assert f"in.txt:1: no id column in the header '{column}, smiles'" in line
    assert line.endswith("or name it by --id-column")


@pytest.mark.parametrize(
    ("text", "header"),
    [("a,CCO\nb,CCN\n", "id,smiles"), ("CCO,a\n", "smiles,id"), ("a,7,c1ccccc1\n", "id,column2,smiles")],
)
def test_a_table_without_a_header_is_told_to_write_one(tmp_path: Path, text: str, header: str) -> None:
    (line,) = refusal(tmp_path, "molecule", text)
    assert f"is a SMILES: no header line? write {header} above" in line
    assert read(tmp_path, "molecule", f"{header}\n{text}").records, "the cure works"


@pytest.mark.parametrize("header", ["Ligand SMILES\tID", "name\tStructure string\tpIC50"])
def test_a_tsv_whose_smiles_column_is_not_known_is_one_line(tmp_path: Path, header: str) -> None:
    rows = [("CCO", "m1"), ("CCN", "m2")] if header.startswith("L") else [("m1", "CCO", "7"), ("m2", "CCN", "8")]
    text = "\n".join(map("\t".join, [header.split("\t"), *rows])) + "\n"
    (line,) = refusal(tmp_path, "molecule", text)
    assert "in.txt:1: no SMILES column in the header" in line
    assert "name it by --smiles-column" in line
    assert ("e.g. --smiles-column 'Ligand SMILES'" in line) == header.startswith("Ligand")


def test_an_id_that_speaks_of_smiles_is_no_header(tmp_path: Path) -> None:
    assert len(read(tmp_path, "molecule", "smiles_1\tCCO\nsmiles_2\tCCN\n").records) == 2


def test_smiles_files_by_blanks_have_a_cure_that_works(tmp_path: Path) -> None:
    text = "CCO ethanol\nCCN ethylamine\n"
    (line,) = refusal(tmp_path, "molecule", text)
    assert line.endswith("replace the blanks by TABs, and put a header line smiles TAB id above")
    cured = "smiles\tid\n" + text.replace(" ", "\t")
    assert [record.id for record in read(tmp_path, "molecule", cured).records] == ["ethanol", "ethylamine"]
    (line,) = refusal(tmp_path, "molecule", "CCO an alcohol\nCCN ethylamine\n")
    assert "replace the first blank of each line by a TAB, and put a header line" in line
    (line,) = refusal(tmp_path, "molecule", "ethanol CCO\nethylamine CCN\n")
    assert "replace the blanks by TABs, id first: id TAB SMILES" in line


def test_a_file_of_bad_records_alone_shows_the_first(tmp_path: Path) -> None:
    lines = refusal(tmp_path, "rna", "".join(f">r{n}\nAC-GU\n" for n in range(25)), "skip")
    assert len(lines) == 21
    assert "in.txt:1: letter '-' at nucleotide 3 of 5 is an alignment gap (record r0)" in lines[0]
    assert "in.txt:39: " in lines[19]
    assert "in.txt: holds no records, 25 bad ones were left out; the first 20 are above" in lines[20]
    assert len(refusal(tmp_path, "molecule", "a\tC1\nb\tC(\n", "skip")) == 3
