from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDLogger

from crossllm.cache import record_of
from crossllm.cache.records.molecules import canonical_smiles
from crossllm.cache.records.rdkit_child import canonical
from crossllm.embed.encoders.molecular_graph import read_smiles
from crossllm.embed.encoders.profile_molecule import SHELLS, MoleculeProfileEncoder, columns, profile
from crossllm.embed.encoders.registry import ENCODERS

NAMES = columns()
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
ODD = ("*", "[Fe+2]", "[H][H]", "N->[Cu]", "[Og]", "[U]", "[Na+].[Cl-]", "[2H]C", "*CC", "[se]1cccc1", "[C+4]", "[H+]",
       "C$C", "Cl[Pt](Cl)(N)N", "S(F)(F)(F)(F)(F)F", "[He]", "O=[Os](=O)(=O)=O", "C[N+](C)(C)C", "[CH3]", "[*-]",
       "B1OB(O)OB(O)O1", "[Si](C)(C)(C)C", "c1ccc2c(c1)ccc1ccccc12", "C12C3C4C1C5C4C3C25", "N#[N+][O-]")  # fmt: skip


def rows_of(smiles: str) -> np.ndarray:
    record = record_of("molecule", "x", canonical_smiles(smiles))
    ((_, (rows,)),) = MoleculeProfileEncoder().encode([record])
    return rows


def test_every_column_has_a_name_of_its_own_and_the_table_the_true_width() -> None:
    assert len(set(NAMES)) == len(NAMES) == MoleculeProfileEncoder().dim == ENCODERS["molecule", "profile"].dim


@pytest.mark.parametrize("smiles", [*ODD, ASPIRIN])
def test_rows_are_finite_and_one_an_atom(smiles: str) -> None:
    rows = rows_of(smiles)
    assert rows.shape == (record_of("molecule", "x", canonical_smiles(smiles)).length, len(NAMES))
    assert np.isfinite(rows.astype(np.float16)).all()


FRAGMENTS = (
    "C",
    "c1ccccc1",
    "N",
    "O",
    "[NH3+]",
    "[O-]",
    "*",
    "F",
    "[Fe]",
    "S(=O)(=O)",
    "[C@H](C)",
    "/C=C/",
    "P",
    "[Zn+2]",
    "C#N",
    "[13C]",
    "->[Cu]",
    "[Se]",
    ".",
    "B",
    "[nH]1cccc1",
    "%12",
    "C1CC1",
    "(C)",
    "Br",
    "I",
    "[2H]",
    "=O",
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map("".join))
def test_rows_are_finite_for_whatever_rdkit_reads(smiles: str) -> None:
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    answer = canonical(smiles)
    if answer.problem is not None:
        return
    rows = profile(read_smiles(answer.smiles))
    assert rows.shape == (answer.atoms, len(NAMES))
    assert record_of("molecule", "x", answer.smiles).length == answer.atoms
    assert np.isfinite(rows.astype(np.float16)).all()
    assert canonical(answer.smiles).smiles == answer.smiles, "canonical SMILES are their own canonical form"


def test_rows_are_bit_equal_alone_and_batched() -> None:
    records = [record_of("molecule", s, canonical_smiles(s)) for s in (*ODD, ASPIRIN)]
    together = dict(MoleculeProfileEncoder().encode(records))
    for record in records:
        assert together[record.key][0].tobytes() == rows_of(record.sequence).tobytes()


def column(smiles: str, name: str) -> list[float]:
    return [round(float(v), 4) for v in rows_of(smiles)[:, NAMES.index(name)]]


def test_own_columns_equal_what_chemistry_says() -> None:
    assert canonical_smiles(ASPIRIN) == ASPIRIN  # CC(=O)Oc1ccccc1C(=O)O: atoms 0 … 12 below
    one_where = {
        "is C": [0, 1, 4, 5, 6, 7, 8, 9, 10], "is O": [2, 3, 11, 12], "aromatic": [4, 5, 6, 7, 8, 9],
        "in a ring of 6": [4, 5, 6, 7, 8, 9], "in a ring of 5": [], "3 hydrogens": [0], "hybridisation sp3": [0],
        "degree 3": [1, 4, 9, 10], "hydrogen-bond donor": [12], "degree 1": [0, 2, 11, 12],
    }  # fmt: skip
    for name, atoms in one_where.items():
        assert column(ASPIRIN, name) == [float(n in atoms) for n in range(13)], name
    assert set(column(ASPIRIN, "formal charge")) == {0}
    # Whole-molecule values of the same models, as RDKit publishes them.
    from rdkit.Chem import rdMolDescriptors

    molecule = Chem.MolFromSmiles(ASPIRIN)
    assert sum(column(ASPIRIN, "polar surface")) * 20 == pytest.approx(rdMolDescriptors.CalcTPSA(molecule), abs=0.01)
    logp, refractivity = rdMolDescriptors.CalcCrippenDescriptors(molecule, includeHs=False)
    assert sum(column(ASPIRIN, "logP")) == pytest.approx(logp, abs=0.001)
    assert sum(column(ASPIRIN, "molar refractivity")) * 5 == pytest.approx(refractivity, abs=0.01)
    assert sum(column(ASPIRIN, "rotatable bonds")) / 2 == rdMolDescriptors.CalcNumRotatableBonds(
        molecule, rdMolDescriptors.NumRotatableBondsOptions.NonStrict
    )


def test_charges_stereochemistry_and_missing_parameters() -> None:
    assert column("[NH3+]CC(=O)[O-]", "formal charge") == [1, 0, 0, 0, -1]
    assert column("[Fe+3]", "formal charge, -1 to 1") == [1]
    assert column("[Zn]C", "partial charge unknown") in ([1, 1], [1, 0], [0, 1])
    assert column("[Zn]C", "partial charge")[column("[Zn]C", "partial charge unknown").index(1)] == 0
    assert column("CCO", "partial charge unknown") == [0, 0, 0]
    assert sum(column("N[C@@H](C)C(=O)O", "CIP S")) == 1, "L-alanine"
    assert sum(column("N[C@H](C)C(=O)O", "CIP R")) == 1
    assert column("F/C=C/F", "at an E double bond") == [0, 1, 1, 0] == column("F/C=C\\F", "at a Z double bond")
    assert column("*C", "is a wildcard") == [1, 0]
    assert sum(column("[Zn]C", "is another element")) == 1


def test_shells_equal_a_plain_walk_of_the_bonds() -> None:
    for smiles in (ASPIRIN, "C12C3C4C1C5C4C3C25", "[Na+].[Cl-]", "ClC(Br)C(F)I"):
        canonical_form = canonical_smiles(smiles)
        molecule, rows = Chem.MolFromSmiles(canonical_form), rows_of(smiles)
        neighbours = {a.GetIdx(): {b.GetIdx() for b in a.GetNeighbors()} for a in molecule.GetAtoms()}
        for atom in neighbours:
            seen, edge = {atom}, {atom}
            for shell in SHELLS:
                edge = set().union(*(neighbours[a] for a in edge)) - seen
                seen |= edge
                away = f"{shell} bond{'s' if shell > 1 else ''} away"
                count = rows[atom, NAMES.index(f"log10 atoms {away}")]
                assert count == pytest.approx(np.log10(1 + len(edge)))
                for name in ("is C", "aromatic", "logP"):
                    own = [rows[a, NAMES.index(name)] for a in sorted(edge)]
                    expected = np.mean(own) if own else 0
                    assert rows[atom, NAMES.index(f"{name}, mean {away}")] == pytest.approx(expected, abs=1e-6)
                halogens = [molecule.GetAtomWithIdx(a).GetSymbol() in ("F", "Cl", "Br", "I") for a in edge]
                found = rows[atom, NAMES.index(f"is a halogen, mean {away}")]
                assert found == pytest.approx(np.mean(halogens) if halogens else 0)


def test_size_columns_tell_molecule_from_fragment() -> None:
    rows = rows_of("CCCC.[Na+].[Cl-]")
    assert rows[:, NAMES.index("log10 atoms")].tolist() == pytest.approx([np.log10(6)] * 6)
    fragment = sorted(rows[:, NAMES.index("log10 atoms of its fragment")].tolist())
    assert fragment == pytest.approx([0, 0, *[np.log10(4)] * 4])
    farthest = sorted(rows[:, NAMES.index("bonds to the farthest atom, log10")].tolist())
    assert farthest == pytest.approx([0, 0, np.log10(3), np.log10(3), np.log10(4), np.log10(4)])
