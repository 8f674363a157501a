from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from crossllm.cache import InputError, canonical_smiles, key_of
from crossllm.cache.records.molecules import MAX_ATOMS, read_molecules
from crossllm.cache.records.raw_molecule import MAX_SMILES
from crossllm.cache.records.rdkit_child import RdkitChild, canonical
from crossllm.cache.records.reading import read_records
from crossllm.cache.records.record import length_of
from crossllm.cache.records.record_list import Records

ETHANOL = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")).split("\n", 1)[1]
"""A mol block without its title line."""
V3000 = Chem.MolToV3KMolBlock(Chem.MolFromSmiles("CCO")).split("\n", 1)[1]


@pytest.fixture(scope="module")
def _rdkit() -> Iterator[RdkitChild]:
    with RdkitChild() as child:
        yield child


@pytest.fixture(autouse=True)
def _one_child_for_all(_rdkit: RdkitChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files read in this process are read by one child, started once; those of the programs start their own."""
    monkeypatch.setattr("crossllm.cache.records.molecules.RdkitChild", lambda: nullcontext(_rdkit))


def read(tmp_path: Path, text: str | bytes, on_bad: str = "error") -> Records:
    path = tmp_path / "m.smi"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_molecules(path, on_bad)  # type: ignore[arg-type]


ACCEPTED = {
    "id tab smiles": "a\tOCC\n",
    "no newline at the end": "a\tOCC",
    "crlf": "a\tOCC\r\n",
    "bom": "\ufeffa\tOCC\n",
    "blank lines": "\na\tOCC\n\n",
    "tsv with a header": "smiles\tname\tactivity\nOCC\ta\t7\n",
    "csv": "id,smiles\na,OCC\n",
    "csv in capitals, quoted": 'SMILES,"Compound_ID"\n"OCC","a"\n',
    "semicolons": "id;smiles\na;OCC\n",
    "bars": "id|smiles\na|OCC\n",
    "a line break in a quoted cell": 'id,note,smiles\na,"one, ""1""\ntwo",OCC\n',
    "excel names the delimiter": "sep=;\nid;smiles\na;OCC\n",
    "row numbers without a name": ",id,smiles\n0,a,OCC\n",
    "empty columns": "id,smiles,,\na,OCC,,\n",
    "blanks after commas": 'id, smiles\na, "OCC"\n',
    "gzip": gzip.compress(b"a\tOCC\n"),
    "sdf": f"a\n{ETHANOL}> <x>\n1\n\n$$$$\n",
    "sdf of one without $$$$": f"a\n{ETHANOL}",
    "sdf, crlf": f"a\n{ETHANOL}$$$$\n".replace("\n", "\r\n"),
    "sdf, V3000": f"a\n{V3000}$$$$\n",
    "sdf, gzip": gzip.compress(f"a\n{ETHANOL}$$$$\n".encode()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_form_of_file_gives_the_same_record(name: str, tmp_path: Path) -> None:
    (record,) = read(tmp_path, ACCEPTED[name]).records
    assert (record.id, record.sequence, record.length) == ("a", "CCO", 3)
    assert record.key == key_of("molecule", "CCO")


SMILES_COLUMNS = (
    "smiles", "canonical_smiles", "isomeric_smiles", "CanonicalSMILES", "IsomericSMILES", "Canonical SMILES", "smi",
    "SMILES_string", "Structure",
)  # fmt: skip
ID_COLUMNS = ("ID", "molecule id", "CID", "ligand", "Compound", "drug", "Title", "ChEMBL ID")


@pytest.mark.parametrize(
    ("smiles", "id_"), [*((name, "ID") for name in SMILES_COLUMNS), *(("smiles", name) for name in ID_COLUMNS[1:])]
)
def test_columns_by_their_usual_names(smiles: str, id_: str, tmp_path: Path) -> None:
    for delimiter in ",\t":
        text = f"x,{id_},{smiles}\n1,a,OCC\n".replace(",", delimiter)
        assert [(r.id, r.sequence) for r in read(tmp_path, text).records] == [("a", "CCO")]


# name → (the file, lines of error, what the first one must say)
BAD: dict[str, tuple[str | bytes, int, str]] = {
    "empty": ("", 1, "m.smi: holds no records"),
    "white space": ("\n \n", 1, "m.smi: holds no records"),
    "header alone": ("id,smiles\n", 1, "m.smi: holds no records"),
    "words": ("a\tnot a smiles\n", 1, "m.smi:1: more than a SMILES: 'a smiles' (record a)"),
    "unparsable": ("a\tC\nb\tXQZ\n", 1, "m.smi:2: RDKit: syntax error while parsing: XQZ (record b); correct it"),
    "empty smiles": ("a\t\n", 1, "m.smi:1: an empty SMILES (record a)"),
    "unclosed ring": ("a\tC1CC\n", 1, "RDKit: unclosed ring (record a)"),
    "unclosed branch": ("a\tC(C\n", 1, "RDKit: extra open parentheses"),
    "cannot be kekulized": ("a\tc1cccc1\n", 1, "RDKit: Can't kekulize mol"),
    "valence": ("a\tC(C)(C)(C)(C)C\n", 1, "RDKit: Explicit valence for atom # 0 C, 5, is greater than permitted"),
    "aromatic outside a ring": ("a\tcc\n", 1, "RDKit: non-ring atom 0 marked aromatic"),
    "too long": (f"a\t{'C' * (MAX_SMILES + 1)}\n", 1, "a SMILES of 2001 characters, at most 2000"),
    "too many atoms": (f"a\t{'C' * (MAX_ATOMS + 1)}\n", 1, "501 heavy atoms, 1 to 500 are taken (record a)"),
    "cxsmiles": ("a\tCCO |$_R1;;$|\n", 1, "more than a SMILES: '|$_R1;;$|' (record a); give the SMILES alone"),
    "cxsmiles without a space": ("a\tCCO|$_R1;;$|\n", 1, "CXSMILES? give the part before '|' alone"),
    "two joined": ("a\tCCO;CCN\n", 1, "two SMILES joined by ';'? give each a record of its own"),
    "reaction": ("a\tCCO>>CC=O\n", 1, "a reaction, no molecule"),
    "not ascii": ("a\tCé\n", 1, "a SMILES with 'é' (record a)"),
    "not utf-8": (b"a\tC\xe9\n", 1, "byte 0xe9 at column 4 is not UTF-8"),
    "nul": ("a\tC\0C\n", 1, "control character 0x00"),
    "charge that overflows": ("a\t[C+200]\n", 1, "an isotope or a charge with too many digits: '+200'"),
    "isotope that overflows": ("a\t[99999C]\n", 1, "an isotope or a charge with too many digits: '[99999'"),
    "one column": ("CCO\n", 1, "1 column, 2 expected; separate by a TAB, id first: id TAB SMILES"),
    "space for a tab": ("CCO ethanol\n", 1, "1 column, 2 expected; SMILES first? say so by --smiles-first, or"),
    "three columns": ("a\tC\tx\n", 1, "3 columns, 2 expected"),
    "short row": ("id,smiles,x\na,C\n", 1, "m.smi:2: 2 columns, the header has 3"),
    "open quote": ('id,smiles\na,"CCO\n', 1, "m.smi:2: a quote is not closed"),
    "csv without a smiles column": (
        "id,formula\na,C\n", 1,
        "m.smi:1: no SMILES column in the header 'id, formula'; one of smiles, canonical_smiles, isomeric_smiles, smi, "
    ),
    "csv without an id column": ("ref,smiles\nx,C\n", 1, "m.smi:1: no id column in the header 'ref, smiles'; one of"),
    "csv without a header": ("a,CCO\nb,CCN\n", 1, "m.smi:1: 'CCO' is a SMILES: no header line? write id,smiles"),
    "no id column": ("ref\tsmiles\nx\tC\n", 1, "m.smi:1: no id column in the header 'ref, smiles'"),
    "smiles first": ("CC(=O)O\tacetic\n", 1, "is the order SMILES, id? say so by --smiles-first"),
    "no id": ("\tCCO\n", 1, "a molecule without an id"),
    "fasta": (">x\nACGU\n", 2, "1 column, 2 expected"),
    "id with two molecules": ("a\tCCO\na\tCCN\n", 1, "m.smi:2: this id stands on line 1 with another sequence"),
    "two bad": ("a\tC1\nb\t\nc\tC\n", 2, "m.smi:1: RDKit: unclosed ring (record a)"),
    "zip": (b"PK\x03\x04rest", 1, "zip archive"),
    "utf-16": ("a\tC\n".encode("utf-16"), 1, "UTF-16"),
    "gzip cut short": (gzip.compress(b"a\tCCO\n" * 99)[:-9], 1, "gzip file ends early"),
    "sdf without M END": (f"a\n{ETHANOL}$$$$\n".replace("M  END\n", ""), 1, "m.smi:1: a mol block without 'M  END'"),
    "sdf cut short": (f"a\n{ETHANOL}$$$$\nb\n{ETHANOL}"[:-40], 1, "'M  END' (record b); is the file cut short?"),
    "sdf without a title": (f"\n{ETHANOL}$$$$\n", 1, "m.smi:1: a molecule without an id"),
    "sdf with no such element": (f"a\n{ETHANOL}$$$$\n".replace(" C  ", " Qx ", 1), 1, "RDKit: Element 'Qx' not found"),
    "sdf with a bond to itself": (f"a\n{ETHANOL}$$$$\n".replace("1  2  1  0", "1  1  1  0"), 1, "add self-bond"),
    "sdf with a bond to nowhere": (f"a\n{ETHANOL}$$$$\n".replace("1  2  1  0", "1  9  1  0"), 1, "m.smi:1: RDKit"),
    "sdf beyond all bounds": (f"a\n{ETHANOL}".replace("M  END", "\n" * (1 << 20) + "M  END"), 1, "at most 1048576"),
    "sdf of no atoms": ("a\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n", 1, "0 heavy atoms"),
    "sdf with a bad count": ("a\n\n\n999999  0  0 V2000\nM  END\n$$$$\n", 1, "m.smi:1: RDKit"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_molecules(name: str, tmp_path: Path) -> None:
    text, lines, say = BAD[name]
    with pytest.raises(InputError) as refusal:
        read(tmp_path, text)
    assert len(refusal.value.lines) == lines, refusal.value.lines
    assert say in refusal.value.lines[0]
    assert all("m.smi" in line and "\n" not in line for line in refusal.value.lines)
    assert all(str(tmp_path) in line and "site-packages" not in line for line in refusal.value.lines)


@pytest.mark.parametrize("name", ["unclosed ring", "two joined", "sdf without M END", "empty"])
def test_embed_run_refuses_bad_molecules_and_leaves_nothing(name: str, program: Program, tmp_path: Path) -> None:
    text, lines, say = BAD[name]
    (tmp_path / "m.smi").write_text(str(text))
    done = program("embed", "run", "--modality", "molecule", "-i", "m.smi", "--encoder", "profile")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == lines
    assert say in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m.smi"]


def test_embed_run_skips_bad_molecules_counts_and_lists_them(program: Program, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("a\tCCO\nb\tC1CC\nc\t\nd\t[Na+].[Cl-]\ne\t*C\n")
    command = ("embed", "run", "--modality", "molecule", "-i", "m.smi", "--encoder", "profile", "--on-bad", "skip")
    done = program(*command)
    assert done.returncode == 0, done.stderr
    assert "3 records, 3 distinct molecules, 7 atoms: embedded 3" in done.stdout
    assert "note: m.smi: 1 record: several fragments (a salt or a mixture), kept whole" in done.stderr
    assert "note: m.smi: 1 record: with wildcard atoms, kept as unknown" in done.stderr
    listed = (tmp_path / "cache" / "m" / "skipped.embed-molecule.tsv").read_text().splitlines()
    assert [line.split("\t")[1:3] for line in listed[1:]] == [["2", "b"], ["3", "c"]]


def test_ids_with_one_molecule_are_merged_whatever_its_spelling(tmp_path: Path) -> None:
    found = read(tmp_path, "a\tCCO\na\tOCC\nb\tC(O)C\n")
    assert [(r.id, r.sequence) for r in found.records] == [("a", "CCO"), ("b", "CCO")]
    assert found.notes == {"repeated id with the same sequence, kept once": 1}
    with pytest.raises(InputError, match="holds no records, 2 bad ones were left out"):
        read(tmp_path, "a\tCCO\na\tCCN\n", "skip")
    assert [r.id for r in read(tmp_path, "a\tCCO\na\tCCN\nb\tC\n", "skip").records] == ["b"]


SAME = [
    ("OCC", "C(O)C"), ("c1ccccc1", "C1=CC=CC=C1"), ("[H]OC([H])([H])C", "CCO"), ("N[C@@H](C)C(=O)O", "C[C@H](N)C(O)=O"),
    ("F/C=C/F", "F\\C=C\\F"), ("[Cl-].[Na+]", "[Na+].[Cl-]"), ("CN(=O)=O", "C[N+](=O)[O-]"), ("[CH3:1]O", "O[CH3:1]"),
    ("[CH3:1][OH:2]", "CO"), ("[H:3][CH2:1][OH:2]", "CO"), ("[13CH3:1]C", "[13CH3]C"), ("[NH4+:7]", "[NH4+]"),
    ("[C@:1]([H:9])(F)(Cl)Br", "[C@]([H])(F)(Cl)Br"),
]  # fmt: skip
OTHER = [("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"), ("F/C=C/F", "F/C=C\\F"), ("CC(=O)O", "CC(=O)[O-]"), ("C", "[13CH4]"),
         ("CC=O", "C=CO")]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), SAME)
def test_one_molecule_is_one_key(one: str, two: str) -> None:
    assert canonical_smiles(one) == canonical_smiles(two)


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_charge_isotope_stereo_and_tautomer_are_kept(one: str, two: str) -> None:
    assert canonical_smiles(one) != canonical_smiles(two)


def test_atom_map_numbers_are_left_out_and_counted(tmp_path: Path) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("[CH3:1][OH:2]")).split("\n", 1)[1]
    assert "  1  0  0\n" in block, "the mol block has no map numbers"
    for text in ("a\t[CH3:1][OH:2]\n", f"a\n{block}$$$$\n"):
        found = read(tmp_path, text)
        assert [(r.sequence, r.length) for r in found.records] == [("CO", 2)]
        assert found.notes == {"with atom-map numbers, left out": 1}


def test_canonical_smiles_refuses_what_rdkit_cannot_read() -> None:
    with pytest.raises(ValueError, match="unclosed ring"):
        canonical_smiles("C1CC")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="CNOcno[]()=#@+-123%./\\*HFl", max_size=25))
def test_whatever_is_typed_gives_an_answer_and_a_canonical_form_is_its_own(text: str) -> None:
    answer = canonical(text)
    if answer.problem is None and answer.atoms:
        assert canonical(answer.smiles).smiles == answer.smiles
        assert length_of("molecule", answer.smiles) == answer.atoms == Chem.MolFromSmiles(answer.smiles).GetNumAtoms()
    else:
        assert answer.problem is None or "\n" not in answer.problem


@pytest.mark.slow
def test_every_molecule_of_rsim_is_read_or_listed(real_data: Path) -> None:
    found = read_molecules(real_data / "rsim" / "molecules.smi", "skip")
    assert (len(found.records), len(found.skipped)) == (782, 10)
    for record in found.records:
        assert canonical(record.sequence).smiles == record.sequence
        assert length_of("molecule", record.sequence) == Chem.MolFromSmiles(record.sequence).GetNumAtoms()


@pytest.mark.parametrize("smiles", ["", "[C+200]", "[99999C]", "C" * 2001, "CCO x", "C.C\tx", "C1CC", "C" * 501])
def test_canonical_smiles_refuses_what_a_file_is_refused_for(smiles: str) -> None:
    with pytest.raises(ValueError, match=r"SMILES|RDKit|digits|atoms"):
        canonical_smiles(smiles)


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        ("InChI=1S/CH4/h1H4", r"an InChI, no SMILES .*; give SMILES"),
        ("CC>>CO", r"a reaction, no molecule .*; give each of its molecules a record"),
        ("CC>O>CO", "a reaction, no molecule"),
    ],
)
def test_what_stands_for_a_smiles_is_named(structure: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"id,smiles\na,{structure}\n")
    with pytest.raises(InputError, match=said):
        read_molecules(tmp_path / "m.csv")


def test_bonds_of_any_kind_are_said_and_dative_bonds_are_molecules(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,smiles\na,[#6]~[#8]\nb,[NH3]->[Cu]\nc,[Cu]<-[NH3]\n")
    found = read_molecules(tmp_path / "m.csv")
    assert found.notes["with bonds of any kind ('~', as SMARTS have), kept as unknown"] == 1
    (tmp_path / "again.csv").write_text("id,smiles\n" + "".join(f"{r.id},{r.sequence}\n" for r in found.records))
    assert [r.key for r in read_molecules(tmp_path / "again.csv").records] == [r.key for r in found.records]


def test_a_file_of_reactions_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.rxn").write_text("$RXN\n\n\n\n  1  1\n")
    with pytest.raises(InputError, match="is a file of reactions; give their molecules as SDF or SMILES"):
        read_records(tmp_path / "r.rxn", "molecule")
