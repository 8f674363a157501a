"""What speaks for a pair: attributions against their analytic values, their sums, and what is deleted; molecules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from made_inputs import SMILES
from made_runs import QUICK, embedded_demo
from made_runs import rows as lines_of
from sklearn.metrics import roc_auc_score
from tolerances import assert_close
from torch import Tensor, nn

from crossllm.cache import CacheReader, CacheWriter, InputError, Recipe, canonical_smiles, choose_recipe, record_of
from crossllm.cache.records.record import letters_of
from crossllm.embed.encoders.molecular_graph import graph_of
from crossllm.embed.encoders.profile_molecule import MoleculeProfileEncoder
from crossllm.model.batch import Batch, Packed, segment_mean
from crossllm.model.interaction import InteractionModel
from crossllm.model.settings import FUSIONS, ModelConfig
from crossllm.model.standardise import Moments, Standardise
from crossllm.model.summary import summarise
from crossllm.pipeline import TrainedRun, load_run
from crossllm.pipeline.data.dataset import write_dataset
from crossllm.pipeline.data.demo import PROTEIN_MOTIFS, RNA_MOTIFS
from crossllm.pipeline.data.pairs import Pair
from crossllm.pipeline.explaining import attribution
from crossllm.pipeline.explaining.atoms import atoms_svg
from crossllm.pipeline.explaining.attribution import (
    Explained,
    Rows,
    deleted,
    integrated_gradients,
    occlusion,
    outputs,
    over_places,
    over_windows,
    windows_of,
)
from crossllm.pipeline.explaining.explain import explain
from crossllm.pipeline.explaining.explanation import ExplainOptions, Explanation
from crossllm.pipeline.features.fingerprints import molecule_of
from crossllm.pipeline.train import train
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.inputs import TrainOptions

WIDTHS = (7, 5)
LENGTHS = (11, 8)
STEPS = 24


class Linear(nn.Module):
    """Output of a pair: u · mean of A's tokens + v · mean of B's."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(WIDTHS[0])), nn.Parameter(torch.randn(WIDTHS[1]))

    def forward(self, batch: Batch) -> Tensor:
        return (segment_mean(batch.a) @ self.u)[batch.a_index] + (segment_mean(batch.b) @ self.v)[batch.b_index]


class Product(nn.Module):
    """Output of a pair: the product of the first column's means; neither partner tells it alone."""

    def forward(self, batch: Batch) -> Tensor:
        return segment_mean(batch.a)[batch.a_index, 0] * segment_mean(batch.b)[batch.b_index, 0]


def made_rows(rng: np.random.Generator) -> Rows:
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in zip(LENGTHS, WIDTHS, strict=True))
    return Rows(a, b)


def made_baseline(rng: np.random.Generator) -> Rows:
    return Rows(*(rng.normal(size=width).astype(np.float32) for width in WIDTHS))


def made_model(fusion: str, layers: int = 1, summary: int = 0) -> InteractionModel:
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, d_state=4, fusion=fusion, mixer_layers=layers, summary_width=summary)
    model = InteractionModel(*WIDTHS, config).eval()
    for side, width in zip((model.standardise_a, model.standardise_b), WIDTHS, strict=True):
        assert isinstance(side, Standardise)
        side.fit(Moments(torch.zeros(width), torch.full((width,), 0.5)))
    return model


def close(found: np.ndarray, expected: np.ndarray, what: str, looser: float = 1.0) -> None:
    assert_close(torch.from_numpy(found).float(), torch.from_numpy(np.asarray(expected)).float(), what, looser)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_of_a_linear_model_they_are_the_analytic_values(rng: np.random.Generator, window: int) -> None:
    """A token's share of the mean, a row's of its token, times what the row adds to the baseline's."""
    torch.manual_seed(0)
    model, rows, baseline = Linear(), made_rows(rng), made_baseline(rng)
    f = Explained(model, baseline, window, scale=2.0, shift=5.0)
    found = integrated_gradients(f, rows, 1)
    for side, base, weights, places in zip(rows, baseline, (model.u, model.v), found.places, strict=True):
        token = np.arange(len(side)) // window
        share = 1 / (token.max() + 1) / np.bincount(token)[token]
        close(places, 2 * share * ((side - base) @ weights.detach().numpy()), "analytic", looser=5)  # measured 2e-6
    assert found.errors == pytest.approx((0, 0), abs=1e-5)
    expected = outputs(f, [rows, Rows(np.broadcast_to(baseline.a, rows.a.shape), rows.b)])
    assert (found.value, found.without[0]) == pytest.approx(expected.tolist())


def test_given_the_other_partner_both_get_the_whole_product(rng: np.random.Generator) -> None:
    rows, nothing = made_rows(rng), Rows(*(np.zeros(width, np.float32) for width in WIDTHS))
    found = integrated_gradients(Explained(Product(), nothing, 1), rows, 1)
    mean_a, mean_b = rows.a[:, 0].mean(), rows.b[:, 0].mean()
    close(found.places.a, rows.a[:, 0] / len(rows.a) * mean_b, "A", looser=5)
    close(found.places.b, rows.b[:, 0] / len(rows.b) * mean_a, "B", looser=5)


@pytest.mark.slow
@pytest.mark.parametrize("summary", [0, 6])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_through_windows_they_are_the_gradients_of_the_rows_themselves(
    rng: np.random.Generator, fusion: str, summary: int
) -> None:
    model, rows, baseline = made_model(fusion, summary=summary), made_rows(rng), made_baseline(rng)
    found = integrated_gradients(Explained(model, baseline, 3, summary > 0), rows, STEPS)
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    for side in (0, 1):
        total = torch.zeros(rows[side].shape)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            both = [torch.from_numpy(own) for own in rows]
            start = torch.from_numpy(baseline[side])
            both[side] = (start + float(node) * (both[side] - start)).requires_grad_()
            packed = [averaged(own, 3) for own in both]
            if summary:
                whole = [Packed(own, torch.tensor([0, len(own)])) for own in both]
                packed = [own._replace(statistics=summarise(of)) for own, of in zip(packed, whole, strict=True)]
            zero = torch.zeros(1, dtype=torch.int64)
            output = model(Batch(packed[0], packed[1], zero, zero, torch.zeros(1)))
            total += weight * torch.autograd.grad(output.sum(), both[side])[0]
        expected = (total.numpy() * (rows[side] - baseline[side])).sum(1)
        close(found.places[side], expected, f"side {side}", looser=10)  # measured 4e-6


def averaged(rows: Tensor, window: int) -> Packed:
    """Means of windows, written so that torch differentiates them."""
    means = torch.stack([part.mean(0) for part in rows.split(window)])
    return Packed(means, torch.tensor([0, len(means)]))


@pytest.mark.parametrize(("fusion", "layers"), [*((fusion, 1) for fusion in FUSIONS), ("cross_mamba", 2)])
@pytest.mark.parametrize("summary", [0, 6])
def test_they_sum_to_what_each_partner_adds(rng: np.random.Generator, fusion: str, layers: int, summary: int) -> None:
    rows, baseline = made_rows(rng), made_baseline(rng)
    f = Explained(made_model(fusion, layers, summary), baseline, 1, summary > 0)
    found = integrated_gradients(f, rows, 64)
    for error, without in zip(found.errors, found.without, strict=True):
        assert abs(error) <= 0.01 * abs(found.value - without) + 1e-5
    coarse = integrated_gradients(f, rows, 1)
    assert max(map(abs, coarse.errors)) > 10 * max(map(abs, found.errors)), "one step is not enough"


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_how_variants_are_batched_changes_rounding_alone(rng: np.random.Generator, fusion: str) -> None:
    rows, baseline, model = made_rows(rng), made_baseline(rng), made_model(fusion)
    windows = windows_of(LENGTHS[0], 3), windows_of(LENGTHS[1], 3)
    together, alone = (Explained(model, baseline, 1, most_tokens=most) for most in (1 << 15, 1))
    for side in (0, 1):
        places = [integrated_gradients(f, rows, STEPS).places[side] for f in (together, alone)]
        close(places[1], places[0], f"attributions {side}", looser=10)  # measured 5e-6
    values = outputs(alone, [rows])
    for one, other in zip(*(occlusion(f, rows, windows) for f in (together, alone)), strict=True):
        close(values - one, values - other, "occlusion", looser=5)  # of the outputs: differences of them cancel


@pytest.mark.parametrize("window", [1, 3])
def test_occlusion_of_a_linear_model_is_its_attributions_sum(rng: np.random.Generator, window: int) -> None:
    torch.manual_seed(0)
    rows, f = made_rows(rng), Explained(Linear(), made_baseline(rng), window)
    windows = windows_of(LENGTHS[0], 4), windows_of(LENGTHS[1], 4)
    places = integrated_gradients(f, rows, 1).places
    for fall, own, spans in zip(occlusion(f, rows, windows), places, windows, strict=True):
        close(fall, over_windows(own, spans), "sum", looser=20)  # differences of outputs cancel: measured 1e-5


def test_windows_cover_every_place_and_no_more_than_there_are() -> None:
    for length in (1, 2, 5, 6, 100, 1000, 5000):
        for width in (1, 5, 64):
            found = windows_of(length, width)
            assert over_places(np.ones(len(found.starts)), found, length).min() > 0
            assert len(found.starts) <= attribution.MOST_WINDOWS + 1
            assert found.stops.max() == length
            assert (found.stops - found.starts == min(max(width, -(-length // attribution.MOST_WINDOWS)), length)).all()
    assert [own.tolist() for own in windows_of(6, 5)] == [[0, 1], [5, 6]]


def test_deleting_all_places_leaves_two_baselines(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    rows, baseline = made_rows(rng), made_baseline(rng)
    f = Explained(Linear(), baseline, 1)
    places = np.concatenate(integrated_gradients(f, rows, 1).places)
    orders = [np.argsort(-places), rng.permutation(len(places))]
    found = deleted(f, rows, orders, [0, 3, sum(LENGTHS)])
    whole = outputs(f, [rows])[0]
    for order, values in zip(orders, found, strict=True):
        expected = [whole, whole - places[order[:3]].sum(), whole - places.sum()]
        close(values, expected, "deleted", looser=5)
    assert found[0, 1] < found[1, 1]


@pytest.fixture(scope="module")
def finished(_trained: Path) -> Path:
    """A run that nothing here changes."""
    return _trained / "runs" / "demo"


QUICKLY = ExplainOptions(steps=16)


def pairs_of(run: TrainedRun, count: int) -> list[tuple[str, str]]:
    return [(line["a_id"], line["b_id"]) for line in lines_of(run.folder / "predictions.tsv")[:count]]


def same(found: Explanation, other: Explanation) -> None:
    for one, two in ((found.a, other.a), (found.b, other.b)):
        close(one.attribution, two.attribution, "attribution", looser=2)
        close(one.occlusion, two.occlusion, "occlusion", looser=2)
    close(found.deletion.random_mean, other.deletion.random_mean, "random deletions")
    assert (found.a.id, found.b.id) == (other.a.id, other.b.id)


@pytest.mark.slow
def test_a_pair_alone_is_explained_as_among_others(finished: Path) -> None:
    run = load_run(finished)
    pairs = pairs_of(run, 3)
    together = list(explain(run, pairs, QUICKLY))
    for pair, found in zip(pairs, together, strict=True):
        [alone] = explain(run, [pair], QUICKLY)
        same(alone, found)


@pytest.mark.slow
def test_an_explanation_is_of_the_runs_own_score(finished: Path) -> None:
    run = load_run(finished)
    [pair] = pairs_of(run, 1)
    readers = [
        CacheReader(finished.parents[1], choose_recipe(finished.parents[1], kind)) for kind in ("rna", "protein")
    ]
    each = []
    for fold in run.folds:
        [found] = explain(run, [pair], dataclasses.replace(QUICKLY, folds=(fold.name,)))
        assert (found.models, found.a.deviation) == (1, None)
        each.append(found)
    keys = [(record_of("rna", "", each[0].a.sequence).key, record_of("protein", "", each[0].b.sequence).key)]
    scores = run.score(*readers, keys)[:, 0]
    close(1 / (1 + np.exp(-np.array([found.value for found in each]))), scores, "score", looser=2)
    assert [found.votes for found in each] == run.predicted(scores[:, None])[:, 0].tolist()
    [both] = explain(run, [pair], QUICKLY)
    attributions = np.stack([found.a.attribution for found in each])
    close(both.a.attribution, attributions.mean(0), "mean over the models")
    assert both.a.deviation is not None
    close(both.a.deviation, attributions.std(0, ddof=1), "deviation over the models")
    assert both.deletion.top[0] == pytest.approx(both.value, abs=1e-5)
    assert both.deletion.share[0] == 0
    assert both.deletion.share[-1] == 1


@pytest.mark.slow
def test_on_a_trained_run_the_convergence_error_is_small(finished: Path) -> None:
    """Standardised statistics are clamped, so the path has kinks: 0.01 of a logit at 64 steps, measured 0.003 here."""
    run = load_run(finished)
    assert run.config.model.summary_width > 0
    for found in explain(run, pairs_of(run, 4), ExplainOptions(steps=256)):
        assert max(map(abs, found.errors)) < 0.01


@pytest.fixture(scope="module")
def affinities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished regression of RNAs and molecules: the oxygens of a molecule alone raise the affinity."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("explain") / "cache" / "made"
    rnas = [record_of("rna", f"r{n}", "".join(rng.choice(list("ACGU"), 12 + n))) for n in range(12)]
    spelt = [("C" * (1 + n % 5) + "O" * (n % 4 == 0)) + "C(=O)" * (n % 3) + "[NH3+]" for n in range(20)]
    molecules = [record_of("molecule", f"m{n}", smiles) for n, smiles in enumerate(dict.fromkeys(spelt))]
    pairs = [
        Pair(a.id, b.id, 100.0 + 20 * b.sequence.count("O") + float(rng.normal()), 0, ())
        for a in rnas for b in molecules
    ]  # fmt: skip
    sides = {"rna": rnas, "molecule": molecules}
    write_dataset(folder, "made", "regression", ("rna", "molecule"), sides, pairs, (), {})
    for modality, records in sides.items():
        recipe = Recipe(modality, "made", 1, 4, long="truncate:14")
        with CacheWriter(folder, recipe) as writer:
            for record in records:
                writer.add(record.key, _one_hot(record.sequence, modality)[:14])
    config = dataclasses.replace(QUICK, epochs=8, lr=1e-2, tokens="residue")
    train(TrainOptions(folder, config, quiet=True))
    return folder / "runs" / "made"


def _one_hot(sequence: str, modality: str) -> np.ndarray:
    letters = sequence if modality == "rna" else sequence.replace("[NH3+]", "N").replace("(=O)", "O")
    alphabet = "ACGU" if modality == "rna" else "CON?"
    return np.array([[letter == known for known in alphabet] for letter in letters], np.float32)


@pytest.mark.slow
def test_atoms_of_molecules_are_explained_in_the_unit_of_the_affinity(affinities: Path) -> None:
    run = load_run(affinities)
    [found] = explain(run, [("r1", "m4")], ExplainOptions(steps=128))
    assert found.b.sequence == "CCCCCOC(=O)[NH3+]"
    assert found.b.letters == ("C", "C", "C", "C", "C", "O", "C", "O", "[NH3+]")
    assert len(found.b.attribution) == 9
    assert found.votes is None
    oxygen = np.array(found.b.letters) == "O"
    assert found.b.attribution[oxygen].min() > found.b.attribution[~oxygen].max()
    assert found.value > 110
    assert found.b.attribution.sum() == pytest.approx(found.value - found.without[1], abs=1)


@pytest.mark.parametrize(
    "smiles", [*SMILES, "[Na+].[Cl-]", "Brc1cc(Cl)c[nH]1", "[2H]O[2H]", "C[C@@H](N)C(=O)[O-]", "*C[Se]C"]
)
def test_places_of_a_molecule_are_the_atoms_of_its_rows(smiles: str) -> None:
    """Of both kinds of encoders: `profile`, and the graph networks."""
    canonical = canonical_smiles(smiles)
    letters, molecule = letters_of("molecule", canonical), molecule_of(canonical)
    symbols = [re.search(r"[A-Z][a-z]?|[a-z]|\*", letter)[0].upper() for letter in letters]  # type: ignore[index]
    assert symbols == [atom.GetSymbol().upper() for atom in molecule.GetAtoms()]
    [(_, (rows,))] = MoleculeProfileEncoder().encode([record_of("molecule", "m", canonical)])
    assert len(rows) == len(letters) == len(graph_of(canonical).atoms)
    assert atoms_svg(canonical, np.linspace(-1, 1, len(letters)), "affinity").count("<ellipse") == len(letters)


@pytest.mark.slow
def test_a_cut_sequence_has_the_places_that_have_rows(affinities: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [found] = explain(load_run(affinities), [("r9", "m4")], QUICKLY)
    assert (len(found.a.sequence), len(found.a.letters), len(found.a.attribution)) == (21, 14, 14)
    assert "1 of 1 sequences of side a are cut, truncate:14" in capsys.readouterr().err


def refused(run: TrainedRun, pairs: Sequence[tuple[str, str]] = (("r0", "m0"),), **options: object) -> str:
    with pytest.raises(InputError) as error:
        explain(run, pairs, dataclasses.replace(QUICKLY, **options))  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.slow
def test_what_cannot_be_explained_is_refused_before_any_pair(affinities: Path) -> None:
    run = load_run(affinities)
    assert "'x' of side a has no sequence" in refused(run, [("x", "m0")])
    assert refused(run, [("x", "y")]).count("has no sequence") == 2
    assert "holds no pair" in refused(run, [])
    assert "has no fold '9'; its folds: 0, 1" in refused(run, folds=("9",))
    assert "whole numbers from 1" in refused(run, steps=0)
    assert "one vector a sequence" in refused(run._replace(window=1 << 62))


def motif_places(sequence: str, motifs: Sequence[Sequence[str]]) -> np.ndarray:
    """(L,) bool: where a planted motif stands."""
    found = np.zeros(len(sequence), bool)
    for motif in (spelling for family in motifs for spelling in family):
        for start in range(len(sequence) - len(motif) + 1):
            if sequence.startswith(motif, start):
                found[start : start + len(motif)] = True
    return found


@pytest.mark.slow
def test_the_planted_motifs_are_found(tmp_path: Path) -> None:
    """On correctly predicted positives of the demo, as short a training as finds them: measured 0.96."""
    config = TrainConfig(
        folds=2, epochs=7, lr=3e-3, tokens="residue", model=ModelConfig(dropout=0.1, standardise=False, summary_width=0)
    )
    folder = embedded_demo(tmp_path / "demo")
    train(TrainOptions(folder, config, baselines="none", quiet=True))
    run = load_run(folder / "runs" / "demo")
    tested = lines_of(run.folder / "predictions.tsv")
    positives = [(row["a_id"], row["b_id"]) for row in tested if row["label"] == row["predicted"] == "1"][::60]
    assert len(positives) > 15
    areas, falls, errors = [], [], []
    for found in explain(run, positives, ExplainOptions(steps=32)):
        truth = [motif_places(found.a.sequence, RNA_MOTIFS), motif_places(found.b.sequence, PROTEIN_MOTIFS)]
        attribution = np.concatenate([found.a.attribution, found.b.attribution])
        areas.append(roc_auc_score(np.concatenate(truth), attribution))
        falls.append((found.value - found.deletion.top[1], found.value - found.deletion.random_mean[1]))
        errors.append(found.relative_error)
    top, chance = np.transpose(falls)
    print(
        f"AUROC {np.mean(areas):.3f}, top tenth {top.mean():.2f}, random {chance.mean():.2f}, errors {max(errors):.4f}"
    )
    assert np.mean(areas) >= 0.9
    assert top.mean() > 2 * chance.mean()  # measured 4.6 times
    assert (top > chance).mean() >= 0.9
    assert np.median(errors) < 0.01  # measured 0.001; of single pairs up to 0.08
