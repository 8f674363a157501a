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
