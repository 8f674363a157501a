from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Program
from made_weights import load, random_tensors, rows_of
from torch import Tensor

from cache import CacheReader, Record, choose_recipe, key_of, record_of
from cache.idtable import read_table
from cache.inspection import verify
from cache.molecules import canonical_smiles, read_molecules
from embed.gnn import expected_shapes, gcn
from embed.molgraph import graph_of, packed
from embed.weights import read_weights

TOLERANCE = 1e-5
"""Absolute, on rows of order one in float32."""
MOLECULES = (
    "C", "[Na+]", "CCO", "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O", "F/C=C/F", "F/C=C\\F", "C#N", "c1ccccc1O",
    "CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "*c1ccccc1", "N->[Cu]", "[2H]C", "C1CC1.C1CCC1.O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "[H][H]", "[U]",
)  # fmt: skip


def molecule(smiles: str, id_: str = "x") -> Record:
    return record_of("molecule", id_, canonical_smiles(smiles))


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator) -> Path:
    tensors = random_tensors(expected_shapes(300, 5), rng)
    held = {**tensors, **{f"batch_norms.{n}.num_batches_tracked": torch.tensor(7) for n in range(5)}}
    torch.save(held, tmp_path / "gcn.pth")
    return tmp_path / "gcn.pth"


def plain_gcn(smiles: str, weights: Mapping[str, Tensor], layers: int) -> np.ndarray:
    """Atom by atom and neighbour by neighbour in float64, straight from RDKit's molecule."""
    from rdkit import Chem

    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    found = Chem.MolFromSmiles(smiles)
    kinds = {Chem.BondType.SINGLE: 0, Chem.BondType.DOUBLE: 1, Chem.BondType.TRIPLE: 2, Chem.BondType.AROMATIC: 3}
    directions = {Chem.BondDir.ENDUPRIGHT: 1, Chem.BondDir.ENDDOWNRIGHT: 2}
    tags = {Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2}
    x = [
        w["x_embedding1.weight"][a.GetAtomicNum() - 1] + w["x_embedding2.weight"][tags.get(a.GetChiralTag(), 0)]
        for a in found.GetAtoms()
    ]
    for n in range(layers):
        type_of, way_of = w[f"gnns.{n}.edge_embedding1.weight"], w[f"gnns.{n}.edge_embedding2.weight"]
        after = []
        for atom in found.GetAtoms():
            links = [(atom, type_of[4] + way_of[0])]
            for bond in atom.GetBonds():
                links.append((bond.GetOtherAtom(atom), type_of[kinds[bond.GetBondType()]]
                              + way_of[directions.get(bond.GetBondDir(), 0)]))  # fmt: skip
            total = np.zeros(len(type_of[0]))
            for other, edge in links:
                norm = 1 / np.sqrt((atom.GetDegree() + 1) * (other.GetDegree() + 1))
                linear = w[f"gnns.{n}.linear.weight"] @ x[other.GetIdx()] + w[f"gnns.{n}.linear.bias"]
                total += norm * (linear + edge)
            own = {name: w[f"batch_norms.{n}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
            total = (total - own["running_mean"]) / np.sqrt(own["running_var"] + 1e-5) * own["weight"] + own["bias"]
            after.append(np.maximum(total, 0) if n < layers - 1 else total)
        x = after
    return np.stack(x)


@pytest.mark.parametrize("smiles", [s for s in MOLECULES if "*" not in s and "->" not in s])
def test_rows_equal_a_plain_loop_in_float64(smiles: str, rng: np.random.Generator) -> None:
    tensors = random_tensors(expected_shapes(16, 3), rng)
    canonical = canonical_smiles(smiles)
    found = gcn(graph_of(canonical), tensors, 3).numpy()
    assert np.abs(found - plain_gcn(canonical, tensors, 3)).max() < TOLERANCE


@pytest.fixture
def published(real_data: Path) -> Path:
    return real_data / "weights" / "pretrain_gnns_chem" / "gcn_contextpred.pth"


def test_the_published_weights_give_a_plain_loops_rows(published: Path) -> None:
    tensors, _ = read_weights(published)
    double = {name: tensor.double() for name, tensor in tensors.items()}
    encoder = load("molecule", "gnn-gcn", published)
    for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "N[C@@H](C)C(=O)O", "F/C=C/F", "[Na+].[Cl-]", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"):
        (rows,) = rows_of(encoder, [molecule(smiles)])
        expected = plain_gcn(canonical_smiles(smiles), tensors, 5)
        scale = np.abs(expected).max()
        assert np.abs(gcn(graph_of(canonical_smiles(smiles)), double, 5).numpy() - expected).max() < 1e-12 * scale
        # Its batch norms divide by variances down to 1e-3: float32 differs by 1.3e-5 of the largest number.
        assert np.abs(rows - expected).max() < 5e-5 * scale


def test_activations_have_the_statistics_that_the_weights_recorded(
    published: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running means were recorded while the weights were trained, on other molecules: evidence from outside that
    this is the network they belong to.  Measured correlations over 300 molecules: 1.000, 0.999, 0.996, 0.964, 0.865."""
    found: list[float] = []
    norm = F.batch_norm

    def watch(x: Tensor, mean: Tensor, *rest: Tensor, **options: object) -> Tensor:
        found.append(float(np.corrcoef(x.mean(0), mean)[0, 1]))
        return norm(x, mean, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "batch_norm", watch)
    records = read_molecules(real_data / "rsim" / "molecules.smi", "skip").records[:300]
    tensors, _ = read_weights(published)
    graph = packed([graph_of(record.sequence) for record in records])
    gcn(graph, tensors, 5)
    assert (np.array(found) > [0.99, 0.99, 0.99, 0.95, 0.8]).all(), found
    # The control: with single bonds for all, the second layer no longer fits.
    found.clear()
    gcn(graph._replace(bonds=np.zeros_like(graph.bonds)), tensors, 5)
    assert not (np.array(found) > [0.99, 0.99, 0.99, 0.95, 0.8]).all(), found


def test_rows_are_the_same_alone_and_batched(weights: Path) -> None:
    records = [molecule(s, s) for s in MOLECULES]
    together = rows_of(load("molecule", "gnn-gcn", weights), records)
    small = rows_of(load("molecule", "gnn-gcn", weights, batch_tokens=1), records)
    for record, rows, alone in zip(records, together, small, strict=True):
        assert rows.shape == (record.length, 300)
        assert np.isfinite(rows).all()
        assert np.abs(rows - alone).max() < TOLERANCE


def test_another_spelling_of_a_molecule_is_the_same_key_and_the_same_rows(
    weights: Path, rng: np.random.Generator
) -> None:
    from rdkit import Chem

    encoder = load("molecule", "gnn-gcn", weights)
    for smiles in MOLECULES:
        first = molecule(smiles)
        (rows,) = rows_of(encoder, [first])
        for _ in range(5):
            shuffled = Chem.MolFromSmiles(smiles)
            order = rng.permutation(shuffled.GetNumAtoms()).tolist()
            again = molecule(Chem.MolToSmiles(Chem.RenumberAtoms(shuffled, order), canonical=False))
            assert again == first
            assert rows_of(encoder, [again])[0].tobytes() == rows.tobytes()


def test_row_i_is_atom_i_of_the_smiles() -> None:
    record = molecule("OC(=O)c1ccc(Cl)nc1")
    letters = [c for c in record.sequence.replace("Cl", "L") if c.isalpha()]
    numbers = {"C": 5, "c": 5, "N": 6, "n": 6, "O": 7, "L": 16}
    assert graph_of(record.sequence).atoms[:, 0].tolist() == [numbers[letter] for letter in letters]
    assert len(letters) == record.length


def test_what_the_vocabulary_lacks_is_mapped_and_noted() -> None:
    wildcard, dative = graph_of("*C"), graph_of("N->[Cu]")
    assert wildcard.atoms[0].tolist() == [119, 0]
    assert wildcard.notes == ("with wildcard atoms, encoded as <mask>",)
    assert dative.bonds[:, 0].tolist() == [0, 0]
    assert dative.notes == ("with dative bonds, encoded as single",)
    assert graph_of("C$C").bonds[:, 0].tolist() == [5, 5], "a quadruple bond"
    assert graph_of("C$C").notes == ("with bonds of another type, encoded as <mask>",)
    assert set(graph_of("[NH4+].[13CH4]").notes) == {
        "with formal charges, which this encoder cannot see",
        "with isotopes, which this encoder cannot see",
    }
    assert graph_of("Cl[Pt@SP1](Cl)(N)N").notes == ("with chirality other than tetrahedral, encoded as none",)
    assert graph_of("CCO").notes == ()
    with pytest.raises(ValueError, match="is no canonical SMILES"):
        graph_of("C1CC")


def test_stereochemistry_is_seen() -> None:
    assert graph_of("N[C@@H](C)C(=O)O").atoms[:, 1].tolist() != graph_of("N[C@H](C)C(=O)O").atoms[:, 1].tolist()
    assert graph_of("F/C=C/F").bonds[:, 1].tolist() != graph_of("F/C=C\\F").bonds[:, 1].tolist()
    assert set(graph_of("F/C=C\\F").bonds[:, 1].tolist()) == {0, 1, 2}


def test_packed_graphs_share_no_edge() -> None:
    graphs = [graph_of(s) for s in ("CCO", "C", "c1ccccc1")]
    together = packed(graphs)
    assert len(together.atoms) == 10
    fragment = np.repeat([0, 1, 2], [3, 1, 6])
    assert (fragment[together.edges[0]] == fragment[together.edges[1]]).all()
    assert together.edges.shape[1] == len(together.bonds) == 4 + 0 + 12


def test_embed_run_from_a_file_to_verified_rows(program: Program, tmp_path: Path, weights: Path) -> None:
    lines = [f"m{n}\t{s}" for n, s in enumerate(MOLECULES)]
    (tmp_path / "molecules.smi").write_text("\n".join([*lines, "again\tOCC", "charged\t[NH4+]"]) + "\n")
    command = (
        "embed",
        "run",
        "--modality",
        "molecule",
        "-i",
        "molecules.smi",
        "--encoder",
        "gnn-gcn",
        "--weights",
        weights,
    )
    done = program(*command, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert f"20 records, {len(MOLECULES) + 1} distinct molecules" in done.stdout
    notes = done.stderr.splitlines()
    # Na+, NaCl and NH4+.
    assert "note: molecules.smi: 3 molecules: with formal charges, which this encoder cannot see" in notes
    assert "note: molecules.smi: 1 molecule: with wildcard atoms, encoded as <mask>" in notes
    cache = tmp_path / "cache" / "molecules"
    assert not verify(cache, data=True).damage
    reader, table = CacheReader(cache, choose_recipe(cache, "molecule")), read_table(cache, "molecule")
    assert table["again"].key == table["m2"].key == key_of("molecule", "CCO")
    (rows,) = rows_of(load("molecule", "gnn-gcn", weights), [molecule("CCO")])
    assert np.abs(reader[table["m2"].key] - rows).max() < TOLERANCE
    assert "nothing to embed" in program(*command).stdout


def test_the_default_for_molecules_cannot_run_yet_and_says_so(program: Program, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("a\tCCO\n")
    done = program("embed", "run", "--modality", "molecule", "-i", "m.smi")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr == (
        "error: --encoder: molebert, the default for molecule, cannot be run by this version yet "
        "(docs/known_issues.md); use `--encoder profile`, which needs no weights, "
        "or `--encoder gnn-gcn --weights PATH` (`embed pull gnn-gcn` fetches them)\n"
    )
    done = program("embed", "run", "--modality", "molecule", "-i", "m.smi", "--encoder", "gnn-gcn")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --encoder: gnn-gcn needs its weights; fetch them with `embed pull gnn-gcn`, name them with "
        "`--weights PATH`, or use `--encoder profile`, which needs none\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.smi"]


@pytest.mark.parametrize(("name", "says"), [
    ("molebert", "molebert cannot be run by this version yet"),
    ("profile", "has no weights"),
])  # fmt: skip
def test_pull_refuses_what_has_no_weights_to_pull(name: str, says: str, program: Program) -> None:
    done = program("embed", "pull", name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
