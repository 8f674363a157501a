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

from crossllm.cache import CacheReader, Record, choose_recipe, key_of, record_of
from crossllm.cache.errors import InputError
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.molecules import canonical_smiles, read_molecules
from crossllm.embed.encoders.gnn import CONVOLUTIONS, DIM, GCN, LAYERS, Convolution, atom_rows, expected_shapes
from crossllm.embed.encoders.molecular_graph import Graph, graph_of, packed
from crossllm.embed.run.run import RunOptions, run
from crossllm.embed.weights.checkpoint import read_weights

TOLERANCE = 1e-5
"""Absolute, on rows of order one in float32."""
MOLECULES = (
    "C", "[Na+]", "CCO", "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O", "F/C=C/F", "F/C=C\\F", "C#N", "c1ccccc1O",
    "CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "*c1ccccc1", "N->[Cu]", "[2H]C", "C1CC1.C1CCC1.O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "[H][H]", "[U]",
)  # fmt: skip


def molecule(smiles: str, id_: str = "x") -> Record:
    return record_of("molecule", id_, canonical_smiles(smiles))


every_network = pytest.mark.parametrize("name", CONVOLUTIONS)


def made(name: str, folder: Path, rng: np.random.Generator) -> Path:
    """Random weights of an encoder, as a file."""
    tensors = random_tensors(expected_shapes(CONVOLUTIONS[name], DIM, LAYERS), rng)
    held = {**tensors, **{f"batch_norms.{n}.num_batches_tracked": torch.tensor(7) for n in range(LAYERS)}}
    torch.save(held, folder / f"{name}.pth")
    return folder / f"{name}.pth"


def plain_rows(name: str, smiles: str, weights: Mapping[str, Tensor], layers: int) -> np.ndarray:
    """Atom by atom and neighbour by neighbour in float64, straight from RDKit's molecule."""
    from rdkit import Chem

    w = {key: tensor.double().numpy() for key, tensor in weights.items()}
    found = Chem.MolFromSmiles(smiles)
    kinds = {Chem.BondType.SINGLE: 0, Chem.BondType.DOUBLE: 1, Chem.BondType.TRIPLE: 2, Chem.BondType.AROMATIC: 3}
    directions = {Chem.BondDir.ENDUPRIGHT: 1, Chem.BondDir.ENDDOWNRIGHT: 2}
    tags = {Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 2}
    x = [
        w["x_embedding1.weight"][a.GetAtomicNum() - 1] + w["x_embedding2.weight"][tags.get(a.GetChiralTag(), 0)]
        for a in found.GetAtoms()
    ]
    for n in range(layers):
        own = {key.removeprefix(f"gnns.{n}."): value for key, value in w.items() if key.startswith(f"gnns.{n}.")}
        norm = {key: w[f"batch_norms.{n}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        after = []
        for atom in found.GetAtoms():
            links = [(atom, own["edge_embedding1.weight"][4] + own["edge_embedding2.weight"][0])]
            for bond in atom.GetBonds():
                links.append((bond.GetOtherAtom(atom), own["edge_embedding1.weight"][kinds[bond.GetBondType()]]
                              + own["edge_embedding2.weight"][directions.get(bond.GetBondDir(), 0)]))  # fmt: skip
            total = np.zeros(len(x[0]))
            for other, edge in links:
                if name == "gnn-gcn":
                    shared = 1 / np.sqrt((atom.GetDegree() + 1) * (other.GetDegree() + 1))
                    total += shared * (own["linear.weight"] @ x[other.GetIdx()] + own["linear.bias"] + edge)
                else:
                    total += x[other.GetIdx()] + edge
            if name == "molebert":
                inner = np.maximum(own["mlp.0.weight"] @ total + own["mlp.0.bias"], 0)
                total = own["mlp.2.weight"] @ inner + own["mlp.2.bias"]
            total = (total - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
            after.append(np.maximum(total, 0) if n < layers - 1 else total)
        x = after
    return np.stack(x)


@every_network
@pytest.mark.parametrize("smiles", [s for s in MOLECULES if "*" not in s and "->" not in s])
def test_rows_equal_a_plain_loop_in_float64(name: str, smiles: str, rng: np.random.Generator) -> None:
    tensors = random_tensors(expected_shapes(CONVOLUTIONS[name], 16, 3), rng)
    canonical = canonical_smiles(smiles)
    expected = plain_rows(name, canonical, tensors, 3)
    single = atom_rows(graph_of(canonical), tensors, CONVOLUTIONS[name], 3).numpy()
    assert np.abs(single - expected).max() < TOLERANCE * max(1.0, float(np.abs(expected).max()))
    double = {key: tensor.double() for key, tensor in tensors.items()}
    found = atom_rows(graph_of(canonical), double, CONVOLUTIONS[name], 3).numpy()
    assert np.abs(found - expected).max() < 1e-12 * max(1.0, float(np.abs(expected).max()))


@pytest.fixture
def published(real_data: Path) -> Path:
    return real_data / "weights" / "pretrain_gnns_chem" / "gcn_contextpred.pth"


def test_the_published_weights_give_a_plain_loops_rows(published: Path) -> None:
    tensors, _ = read_weights(published)
    double = {name: tensor.double() for name, tensor in tensors.items()}
    encoder = load("molecule", "gnn-gcn", published)
    for smiles in ("CC(=O)Oc1ccccc1C(=O)O", "N[C@@H](C)C(=O)O", "F/C=C/F", "[Na+].[Cl-]", "Cn1cnc2c1c(=O)n(C)c(=O)n2C"):
        (rows,) = rows_of(encoder, [molecule(smiles)])
        expected = plain_rows("gnn-gcn", canonical_smiles(smiles), tensors, 5)
        scale = np.abs(expected).max()
        assert (
            np.abs(atom_rows(graph_of(canonical_smiles(smiles)), double, GCN, 5).numpy() - expected).max()
            < 1e-12 * scale
        )
        # Its batch norms divide by variances down to 1e-3: float32 differs by 1.3e-5 of the largest number.
        assert np.abs(rows - expected).max() < 5e-5 * scale


@pytest.mark.slow
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
    atom_rows(graph, tensors, GCN, 5)
    assert (np.array(found) > [0.99, 0.99, 0.99, 0.95, 0.8]).all(), found
    # The control: with single bonds for all, the second layer no longer fits.
    found.clear()
    atom_rows(graph._replace(bonds=np.zeros_like(graph.bonds)), tensors, GCN, 5)
    assert not (np.array(found) > [0.99, 0.99, 0.99, 0.95, 0.8]).all(), found


@every_network
def test_rows_are_the_same_alone_and_batched(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    weights, records = made(name, tmp_path, rng), [molecule(s, s) for s in MOLECULES]
    together = rows_of(load("molecule", name, weights), records)
    small = rows_of(load("molecule", name, weights, batch_tokens=1), records)
    for record, rows, alone in zip(records, together, small, strict=True):
        assert rows.shape == (record.length, 300)
        assert np.isfinite(rows).all()
        assert np.abs(rows - alone).max() < TOLERANCE * np.abs(rows).max()


@every_network
def test_another_spelling_of_a_molecule_is_the_same_key_and_the_same_rows(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    from rdkit import Chem

    encoder = load("molecule", name, made(name, tmp_path, rng))
    for smiles in MOLECULES:
        first = molecule(smiles)
        (rows,) = rows_of(encoder, [first])
        for _ in range(5):
            shuffled = Chem.MolFromSmiles(smiles)
            order = rng.permutation(shuffled.GetNumAtoms()).tolist()
            again = molecule(Chem.MolToSmiles(Chem.RenumberAtoms(shuffled, order), canonical=False))
            assert again == first
            assert rows_of(encoder, [again])[0].tobytes() == rows.tobytes()


@every_network
def test_renumbered_atoms_give_renumbered_rows(name: str, rng: np.random.Generator) -> None:
    convolution = CONVOLUTIONS[name]
    double = {k: t.double() for k, t in random_tensors(expected_shapes(convolution, 24, 4), rng).items()}
    for smiles in MOLECULES:
        graph = graph_of(canonical_smiles(smiles))
        order, shuffled = rng.permutation(len(graph.atoms)), rng.permutation(graph.edges.shape[1])
        place = np.argsort(order)  # atom → where it stands now
        moved = Graph(graph.atoms[order], place[graph.edges][:, shuffled], graph.bonds[shuffled], ())
        rows = atom_rows(graph, double, convolution, 4)
        assert torch.allclose(
            atom_rows(moved, double, convolution, 4), rows[torch.from_numpy(order)], rtol=0, atol=1e-12
        )


@every_network
def test_parts_that_share_no_bond_do_not_see_each_other(name: str, rng: np.random.Generator) -> None:
    convolution = CONVOLUTIONS[name]
    double = {k: t.double() for k, t in random_tensors(expected_shapes(convolution, 24, 4), rng).items()}
    salt = "CC(=O)[O-].[Na+]"
    assert canonical_smiles(salt) == salt
    parts = [atom_rows(graph_of(part), double, convolution, 4) for part in salt.split(".")]
    assert torch.allclose(atom_rows(graph_of(salt), double, convolution, 4), torch.cat(parts), rtol=0, atol=1e-12)


PUBLISHED_NAMES = {
    "molebert": {
        "mlp.0.weight": (600, 300), "mlp.0.bias": (600,), "mlp.2.weight": (300, 600), "mlp.2.bias": (300,),
        "edge_embedding1.weight": (6, 300), "edge_embedding2.weight": (3, 300),
    },
    "gnn-gcn": {
        "linear.weight": (300, 300), "linear.bias": (300,),
        "edge_embedding1.weight": (6, 300), "edge_embedding2.weight": (3, 300),
    },
}  # fmt: skip
"""A layer's tensors in the published files, written out by hand."""


def published_names(name: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"x_embedding1.weight": (120, 300), "x_embedding2.weight": (3, 300)}
    for n in range(5):
        found |= {f"gnns.{n}.{key}": shape for key, shape in PUBLISHED_NAMES[name].items()}
        found |= {f"batch_norms.{n}.{key}": (300,) for key in ("weight", "bias", "running_mean", "running_var")}
    return found


@pytest.mark.slow
@every_network
def test_the_published_names_are_all_read_and_no_other(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    shapes, path = published_names(name), tmp_path / "made.pth"
    assert shapes == expected_shapes(CONVOLUTIONS[name], DIM, LAYERS)
    tensors = random_tensors(shapes, rng)
    torch.save(tensors, path)
    before = rows_of(load("molecule", name, path), [molecule("N[C@@H](C)C(=O)OC=C"), molecule("c1ccccc1C#N")])
    for changed in shapes:
        torch.save({**tensors, changed: tensors[changed] * 1.5 + 0.1}, path)
        after = rows_of(load("molecule", name, path), [molecule("N[C@@H](C)C(=O)OC=C"), molecule("c1ccccc1C#N")])
        assert any((a != b).any() for a, b in zip(after, before, strict=True)), f"{changed} is not read"


@every_network
def test_the_weights_of_the_other_network_are_named(
    name: str, program: Program, tmp_path: Path, rng: np.random.Generator
) -> None:
    (other,) = CONVOLUTIONS.keys() - {name}
    torch.save(random_tensors(published_names(other), rng), tmp_path / "made.pth")
    (tmp_path / "m.smi").write_text("a\tCCO\n")
    command = ("embed", "run", "--modality", "molecule", "-i", "m.smi", "--encoder", name, "--weights", "made.pth")
    done = program(*command, "--quiet")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --weights made.pth: these look like {other}: ")
    assert line.endswith(f"name `--encoder {other}`, or the weights of {name}")
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
@every_network
@pytest.mark.parametrize(("change", "says"), [
    ("missing", "batch_norms.4.running_var is missing"),
    ("extra", "pool.weight is not one of its tensors"),
    ("nested", "x_embedding1.weight is missing"),
    ("shape", "x_embedding2.weight has shape (4, 300), (3, 300) is expected"),
    ("type", "x_embedding2.weight is of type torch.int64, a floating type is expected"),
])  # fmt: skip
def test_weights_with_other_tensors_are_refused(
    name: str, change: str, says: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = random_tensors(published_names(name), rng)
    if change == "missing":
        del tensors["batch_norms.4.running_var"]
    elif change == "extra":
        tensors["pool.weight"] = torch.zeros(3)
    elif change == "nested":
        tensors = {f"gnn.{key}": tensor for key, tensor in tensors.items()}
    else:
        tensors["x_embedding2.weight"] = torch.zeros(4, 300) if change == "shape" else torch.zeros(3, 300).long()
    torch.save(tensors, tmp_path / "made.pth")
    (tmp_path / "m.smi").write_text("a\tCCO\n")
    options = RunOptions("molecule", tmp_path / "m.smi", tmp_path / "cache", name, tmp_path / "made.pth", quiet=True)
    with pytest.raises(InputError, match=r"^--weights \S*made\.pth: not the weights of this encoder: ") as found:
        run(options)
    assert says in str(found.value)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "cache").exists()


@every_network
def test_rows_equal_torch_geometrics(name: str, rng: np.random.Generator) -> None:
    """The sums of messages by another's hand; its own GINConv and GCNConv have no bond embeddings."""
    nn = pytest.importorskip(
        "torch_geometric.nn", reason="torch_geometric is no dependency; held to a plain loop above"
    )
    convolution: Convolution = CONVOLUTIONS[name]
    tensors = random_tensors(expected_shapes(convolution, 16, 1), rng)
    for key in ("gnns.0.edge_embedding1.weight", "gnns.0.edge_embedding2.weight"):
        tensors[key].zero_()
    for smiles in ("C", "CCO", "c1ccccc1O", "[Na+].[Cl-]"):
        graph = graph_of(canonical_smiles(smiles))
        x = tensors["x_embedding1.weight"][graph.atoms[:, 0]] + tensors["x_embedding2.weight"][graph.atoms[:, 1]]
        if name == "gnn-gcn":
            tensors["gnns.0.linear.bias"].zero_()  # theirs is added after the sum
            theirs = nn.GCNConv(16, 16, bias=False)
            theirs.lin.load_state_dict({"weight": tensors["gnns.0.linear.weight"]})
        else:
            mlp = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
            theirs = nn.GINConv(mlp)  # which starts the mlp anew
            own = "gnns.0.mlp."
            mlp.load_state_dict({key.removeprefix(own): t for key, t in tensors.items() if key.startswith(own)})
        norm = (tensors[f"batch_norms.0.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        with torch.inference_mode():
            expected = F.batch_norm(theirs(x, torch.from_numpy(graph.edges)), *norm)
        assert (atom_rows(graph, tensors, convolution, 1) - expected).abs().max() < TOLERANCE


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


@every_network
def test_embed_run_from_a_file_to_verified_rows(
    name: str, program: Program, tmp_path: Path, rng: np.random.Generator
) -> None:
    weights = made(name, tmp_path, rng)
    lines = [f"m{n}\t{s}" for n, s in enumerate(MOLECULES)]
    (tmp_path / "molecules.smi").write_text("\n".join([*lines, "again\tOCC", "charged\t[NH4+]"]) + "\n")
    # Mole-BERT is the default of molecules.
    named = () if name == "molebert" else ("--encoder", name)
    command = ("embed", "run", "--modality", "molecule", "-i", "molecules.smi", *named, "--weights", weights)
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
    (rows,) = rows_of(load("molecule", name, weights), [molecule("CCO")])
    assert np.abs(reader[table["m2"].key] - rows).max() < TOLERANCE * np.abs(rows).max()
    assert "nothing to embed" in program(*command).stdout


def test_without_its_weights_an_encoder_says_the_ways_on(program: Program, tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("a\tCCO\n")
    for flags, what in (((), "molebert, the default for molecule,"), (("--encoder", "gnn-gcn"), "gnn-gcn")):
        done = program("embed", "run", "--modality", "molecule", "-i", "m.smi", *flags)
        assert done.returncode == 2
        name = what.split(",")[0]
        assert done.stderr == (
            f"error: --encoder: {what} needs its weights; fetch them with `embed pull {name}`, name them with "
            "`--weights PATH`, or use `--encoder profile`, which needs none\n"
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.smi"]


@pytest.mark.parametrize(("name", "says"), [
    ("profile", "has no weights"),
])  # fmt: skip
def test_pull_refuses_what_has_no_weights_to_pull(name: str, says: str, program: Program) -> None:
    done = program("embed", "pull", name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
