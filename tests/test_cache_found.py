"""Faults that a user of the readers met: each file here was read wrongly in silence, or refused by a wrong cure."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rdkit import Chem

from crossllm.cache import InputError, read_records
from crossllm.cache.records.options import ReadOptions
from crossllm.cache.records.record_list import Records
from crossllm.pipeline.data.pairs import read_pairs


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
    lines = refusal(tmp_path, "molecule", text)
    assert len(lines) == 3
    assert lines[0].endswith(
        "in.txt:1: of several mol blocks before one '$$$$' (record a); put a line $$$$ after each 'M  END'"
    )
    found = read(tmp_path, "molecule", text, "skip")
    assert [record.id for record in found.records] == ["d"]
    starts = [1, first.count("\n") + 1, (first + mol("b", "CCN")).count("\n") + 1]
    assert [(problem.line, problem.record) for problem in found.skipped] == [*zip(starts, "abc", strict=True)]


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


@pytest.mark.slow
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


SMILES_FIRST = {
    "blanks": "CCO ethanol\nCCN   ethyl amine\n",
    "TABs": "CCO\tethanol\nCCN\tethyl amine\n",
    "both": "CCO ethanol\nCCN\tethyl amine\n",
    "RDKit's header": "SMILES Name \nCCO ethanol\nCCN ethyl amine\n",
    "a header with a TAB": "smiles\tid\nCCO\tethanol\nCCN\tethyl amine\n",
    "CRLF and an empty line": "CCO ethanol\r\n\r\nCCN ethyl amine\r\n",
}


@pytest.mark.parametrize("name", SMILES_FIRST)
def test_smiles_first_is_read_as_it_stands(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text(SMILES_FIRST[name], newline="")
    found = read_records(tmp_path / "m.smi", "molecule", asked=ReadOptions(smiles_first=True))
    assert [(record.id, record.sequence) for record in found.records] == [("ethanol", "CCO"), ("ethyl amine", "CCN")]


def test_smiles_first_with_a_comma_in_a_name(tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("ClCCCl 1,2-dichloroethane\nCCO ethanol\n")
    found = read_records(tmp_path / "m.smi", "molecule", asked=ReadOptions(smiles_first=True))
    assert [record.id for record in found.records] == ["1,2-dichloroethane", "ethanol"]


NOT_SMILES_FIRST = {
    "CCO\n": "m.smi:1: a molecule without an id; write it behind the SMILES",
    "CCO a\tb\n": "m.smi:1: more than a SMILES and an id; name the columns in a header",
    "CCO |$R1$| a\n": "m.smi:1: '|$R1$| a' behind the SMILES; CXSMILES?",
    "ethanol\tCCO\n": "'CCO' is a SMILES and 'ethanol' is none (1 such line): is the order id, SMILES? leave",
    "a\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n": "--smiles-first: ",
}


@pytest.mark.parametrize("text", NOT_SMILES_FIRST)
def test_what_is_not_smiles_first_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text(text)
    with pytest.raises(InputError) as refused:
        read_records(tmp_path / "m.smi", "molecule", asked=ReadOptions(smiles_first=True))
    (line,) = refused.value.lines
    assert NOT_SMILES_FIRST[text] in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["CCO ethanol\n", "CCO ethanol\nCCN ethyl amine\n", "CCO\tethanol\n", "CCO ethanol\nCCN\tx\n",
             "ClCCCl 1,2-dichloroethane\nCCO ethanol\n"]
)  # fmt: skip
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_smiles_first_is_named_where_it_helps(text: str, on_bad: str, tmp_path: Path) -> None:
    assert "--smiles-first" in refusal(tmp_path, "molecule", text, on_bad)[0]
    (tmp_path / "in.txt").write_text(text)
    assert read_records(tmp_path / "in.txt", "molecule", asked=ReadOptions(smiles_first=True)).records


def test_a_file_of_bad_records_alone_shows_the_first(tmp_path: Path) -> None:
    fault, all_ = refusal(tmp_path, "rna", "".join(f">r{n}\nAC-GU\n" for n in range(25)), "skip")
    assert "in.txt:1: letter '-' at nucleotide 3 of 5 is an alignment gap (record r0)" in fault
    assert "(25 such, lines 1, 3, 5, " in fault
    assert "in.txt: holds no records, 25 bad ones were left out; a FASTA file" in all_
    assert len(refusal(tmp_path, "molecule", "a\tC1\nb\tC(\n", "skip")) == 3


def tar(data: bytes = b">a\nACGU\n") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a.fasta")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def docx() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("[Content_Types].xml", "<Types/>")
        book.writestr("word/document.xml", "<document/>")
    return file.getvalue()


# What any reader of text calls it
KINDS: dict[str, tuple[bytes, str]] = {
    "tar": (tar(), "is a tar archive; unpack it first"),
    "tar.gz": (gzip.compress(tar()), "unpacked, is a tar archive; unpack it first"),
    "gzip in gzip": (gzip.compress(gzip.compress(b">a\nACGU\n")), "is a gzip file in a gzip file; unpack it once"),
    "pickle": (pickle.dumps({"a": "ACGU"}), "is a pickle of Python"),
    "docx": (docx(), "is a document of Word (.docx); save it as plain text"),
    "404": (b"404: Not Found", "is the error of a web server and not the file"),
    "404 page": (b"404 page not found\n", "is the error of a web server and not the file"),
    "html": (b"<!-- saved -->\n<!-- x -->\n<html><body></body></html>", "is a web page"),
    "vcf": (b"##fileformat=VCFv4.2\n#CHROM\tPOS\n", "is a VCF file of variants"),
    "gff": (b"##gff-version 3\nchr1\tx\tgene\t1\t9\t.\t+\t.\tID=x\n", "is a GFF file of intervals"),
    "nexus": (b"#NEXUS\nBegin data;\n", "is a NEXUS file; convert it to FASTA"),
}
# What readers of sequences and molecules call it
FORMS: dict[str, tuple[str, str]] = {
    "pdb": ("ATOM      1  N   MET A   1      27.340  24.430   2.614  1.00  9.67           N\n", "is a PDB file"),
    "pdb of hetatm": ("HETATM10000  C1  LIG A   1      27.340  24.430   2.614  1.00  9.67\n", "is a PDB file"),
    "pdb of models": ("MODEL        1\nATOM      1  N   MET A   1\n", "is a PDB file"),
    "mmcif": ("# by hand\n#\ndata_1ABC\n#\nloop_\n_atom_site.id\n1\n", "is an mmCIF file"),
    "sam": ("@HD\tVN:1.6\n@SQ\tSN:chr1\tLN:9\n", "is a SAM file"),
    "sam without a header": ("r1\t0\tchr1\t7\t60\t4M\t*\t0\t0\tACGT\tIIII\n", "is a SAM file"),
    "gtf": ('chr1\tx\texon\t1\t9\t.\t+\t.\tgene_id "x";\n', "is a GFF file of intervals"),
    "bed": ("chr1\t1\t9\tx\t0\t+\n", "is a BED file of intervals"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "rna": lambda path: read_records(path, "rna", "skip"),
    "protein": lambda path: read_records(path, "protein"),
    "molecule": lambda path: read_records(path, "molecule", "skip"),
    "pairs": lambda path: read_pairs(path, on_bad="skip"),
}


@pytest.mark.parametrize(
    ("kind", "reader"),
    [(k, r) for k in (*KINDS, *FORMS) for r in READERS if k in KINDS or r != "pairs"],
)
def test_other_files_are_called_by_their_names(tmp_path: Path, kind: str, reader: str) -> None:
    data, say = KINDS[kind] if kind in KINDS else (FORMS[kind][0].encode(), FORMS[kind][1])
    path = tmp_path / "in.txt"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        READERS[reader](path)
    (line,) = refused.value.lines
    assert say in line


def test_phylip_is_called_by_its_name(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "rna", " 2 8\nfirst     ACGUACGU\nsecond    ACGUACGA\n")
    assert "is a PHYLIP alignment; convert it to FASTA" in line


@pytest.mark.parametrize(
    ("modality", "text"),
    [
        ("molecule", "404: x\tC\n"), ("molecule", "data_1\tC\n_1\tC\n"), ("molecule", "ATOM  00001 \tC\n"),
        ("molecule", "#NEXUS\tC\n"), ("molecule", "@HD\tCCO\n"), ("molecule", "1\tC\n2\tCC\n"),
        ("rna", ">x\t1\t9\nACGU\n"), ("rna", ">404: Not Found\nACGU\n"), ("protein", ">ATOM      1\nMKV\n"),
    ],
)  # fmt: skip
def test_sound_files_that_look_a_little_like_others_are_read(tmp_path: Path, modality: str, text: str) -> None:
    assert read(tmp_path, modality, text).records
