from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from cache import InputError, key_of
from cache.molecules import MAX_ATOMS, MAX_SMILES, canonical_smiles, read_molecules
from cache.rdkit_child import Answer, RdkitChild, canonical
from cache.records import Records, length_of

ETHANOL = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")).split("\n", 1)[1]
"""A mol block without its title line."""
V3000 = Chem.MolToV3KMolBlock(Chem.MolFromSmiles("CCO")).split("\n", 1)[1]
# Of RDKit's issue 1360: once two hours and 200 GB in the search for rings.
HIGHLY_CYCLIC = (
    "COC1=CC=C(C=C1)C2C3=C(C=CC4=CC=CC=C43)OC5=CC6=C(C=C5)C7=NC8=C9C=CC1=CC9=C(N8)N=C3C4=C5C=CC(=C4)OC4=C(C(C8=C(C=CC9="
    "CC=CC=C98)OC8=CC9=C(C=C8)C8=NC9=NC9=C%10C=C(C=CC%10=C(N9)N=C9C%10=C(C=C(C=C%10)OC%10=C2C2=CC=CC=C2C=C%10)C(=N9)NC2"
    "=NC(=N8)C8=C2C=C(C=C8)OC2=C(C(C8=C(C=CC9=CC=CC=C98)OC8=CC9=C(C=C8)C(=NC5=N3)N=C9NC6=N7)C3=CC=C(C=C3)OC)C3=CC=CC=C3C"
    "=C2)OC2=C(C(C3=C(O1)C=CC1=CC=CC=C13)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C2)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C4"
)


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
    "reaction": ("a\tCCO>>CC=O\n", 1, "RDKit: syntax error"),
    "not ascii": ("a\tCé\n", 1, "a SMILES with 'é' (record a)"),
    "not utf-8": (b"a\tC\xe9\n", 1, "byte 0xe9 at column 4 is not UTF-8"),
    "nul": ("a\tC\0C\n", 1, "control character 0x00"),
    "charge that overflows": ("a\t[C+200]\n", 1, "an isotope or a charge with too many digits: '+200'"),
    "isotope that overflows": ("a\t[99999C]\n", 1, "an isotope or a charge with too many digits: '[99999'"),
    "one column": ("CCO\n", 1, "1 columns, 2 expected; write id TAB SMILES"),
    "space for a tab": ("CCO ethanol\n", 1, "1 columns, 2 expected"),
    "three columns": ("a\tC\tx\n", 1, "3 columns, 2 expected"),
    "short row": ("id,smiles,x\na,C\n", 1, "m.smi:2: 2 columns, 3 expected"),
    "open quote": ('id,smiles\na,"CCO\n', 1, "m.smi:2: 0 columns, 2 expected"),
    "csv without a smiles column": ("id,structure\na,C\n", 1, "m.smi:1: a CSV without a column 'smiles'"),
    "no id column": ("ref\tsmiles\nx\tC\n", 1, "m.smi:1: no id column in the header 'ref smiles'"),
    "smiles first": ("CC(=O)O\tacetic\n", 1, "is the order SMILES, id? id TAB SMILES is expected"),
    "no id": ("\tCCO\n", 1, "a molecule without an id"),
    "fasta": (">x\nACGU\n", 2, "1 columns, 2 expected"),
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
    "sdf beyond all bounds": (f"a\n{ETHANOL}$$$$\n".replace("M  END", "\n" * (1 << 20) + "M  END"), 1, "at most 1048576 are taken"),
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
    listed = (tmp_path / "cache" / "m" / "skipped.tsv").read_text().splitlines()
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
]  # fmt: skip
OTHER = [("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O"), ("F/C=C/F", "F/C=C\\F"), ("CC(=O)O", "CC(=O)[O-]"), ("C", "[13CH4]"),
         ("CC=O", "C=CO")]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), SAME)
def test_one_molecule_is_one_key(one: str, two: str) -> None:
    assert canonical_smiles(one) == canonical_smiles(two)


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_charge_isotope_stereo_and_tautomer_are_kept(one: str, two: str) -> None:
    assert canonical_smiles(one) != canonical_smiles(two)


def test_canonical_smiles_refuses_what_rdkit_cannot_read() -> None:
    with pytest.raises(ValueError, match="unclosed ring"):
        canonical_smiles("C1CC")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="CNOcno[]()=#@+-123%./\\*HFl", max_size=25))
def test_whatever_is_typed_gives_an_answer_and_a_canonical_form_is_its_own(text: str) -> None:
    answer = canonical(text)
    if answer.problem is None and answer.atoms:
        assert canonical(answer.smiles).smiles == answer.smiles
        assert length_of("molecule", answer.smiles) == answer.atoms == Chem.MolFromSmiles(answer.smiles).GetNumAtoms()
    else:
        assert answer.problem is None or "\n" not in answer.problem


def test_every_molecule_of_rsim_is_read_or_listed(real_data: Path) -> None:
    found = read_molecules(real_data / "rsim" / "molecules.smi", "skip")
    assert (len(found.records), len(found.skipped)) == (782, 10)
    for record in found.records:
        assert canonical(record.sequence).smiles == record.sequence
        assert length_of("molecule", record.sequence) == Chem.MolFromSmiles(record.sequence).GetNumAtoms()


def test_a_molecule_that_once_took_hours_is_answered_in_time() -> None:
    with RdkitChild() as child:
        started = time.monotonic()
        answer = child.canonical(HIGHLY_CYCLIC)
        assert time.monotonic() - started < 15
        assert answer.problem is None or "was stopped after 10 s" in answer.problem or "died" in answer.problem
        assert child.canonical("OCC").smiles == "CCO"


def v3000_of(atoms: int) -> str:
    """A mol block of single carbons: memory without end from few bytes."""
    lines = "".join(f"M  V30 {n} C 0 0 0 0\n" for n in range(1, atoms + 1))
    head = f"big\n\n\n  0  0  0     0  0            999 V3000\nM  V30 BEGIN CTAB\nM  V30 COUNTS {atoms} 0 0 0 0\n"
    return f"{head}M  V30 BEGIN ATOM\n{lines}M  V30 END ATOM\nM  V30 END CTAB\nM  END\n"


def test_a_molecule_over_its_time_is_stopped_and_the_next_is_read() -> None:
    slow = v3000_of(20_000)  # seconds, where one of a drug's size takes a thousandth
    with RdkitChild(seconds=0.25) as child:
        answer = child.canonical(slow)
        assert answer.problem == "RDKit was stopped after 0.25 s on this molecule"
        assert child._process is None
        child._seconds = 20.0
        assert child.canonical("OCC").smiles == "CCO"
        assert child.canonical(slow).problem is None, "the control: it is the time alone that stops it"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_molecule_over_its_memory_is_an_answer_and_the_next_is_read() -> None:
    with RdkitChild() as child:
        child.canonical("C")
        assert child._process is not None
        status = Path(f"/proc/{child._process.pid}/status").read_text()
        taken = int(status.split("VmSize:")[1].split()[0]) << 10
    with RdkitChild(seconds=60, memory=taken + (24 << 20)) as child:
        assert child.canonical("OCC").smiles == "CCO"
        answer = child.canonical(v3000_of(20_000))
        assert answer.problem is not None
        assert "ran out of memory" in answer.problem or "died on this molecule" in answer.problem
        assert child.canonical("OCC").smiles == "CCO"


def test_a_child_that_dies_is_an_answer_and_is_replaced() -> None:
    with RdkitChild() as child:
        child.canonical("C")
        assert child._process is not None
        first = child._process.pid
        os.kill(first, signal.SIGKILL)
        assert "RDKit died on this molecule" in (child.canonical("C").problem or "")
        assert child.canonical("OCC").smiles == "CCO"
        assert child._process is not None
        assert child._process.pid != first
        last = child._process
    assert last.poll() is not None, "no child outlives the reader"


def test_a_stopped_molecule_is_one_bad_record_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = RdkitChild.canonical

    def hang_on_propane(self: RdkitChild, structure: str) -> Answer:
        if structure == "CCC":
            assert self._process is not None
            os.kill(self._process.pid, signal.SIGSTOP)
            self._seconds = 0.1
        return ask(self, structure)

    monkeypatch.setattr(RdkitChild, "canonical", hang_on_propane)
    text = "a\tC\nslow\tCCC\n"
    found = read(tmp_path, text, "skip")
    assert [r.id for r in found.records] == ["a"]
    (problem,) = found.skipped
    assert str(problem) == f"{tmp_path}/m.smi:2: RDKit was stopped after 0.1 s on this molecule (record slow); " + (
        "correct it or leave it out with --on-bad skip"
    )


def test_a_folder_called_cache_beside_the_user_is_not_imported_by_the_child(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "__init__.py").write_text("raise SystemExit('the wrong cache')")
    (tmp_path / "rdkit.py").write_text("raise SystemExit('the wrong rdkit')")
    (tmp_path / "m.smi").write_text("a\tOCC\n")
    code = "import sys; sys.path.remove(''); from cache.rdkit_child import RdkitChild as R\n"
    code += "with R() as c: print(c.canonical('OCC')[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "CCO\n", done.stderr
