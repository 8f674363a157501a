"""Affinities from the table to the metrics: loss, scaling, baselines, groups, a model that learns a planted one."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from made_baselines import baseline, material_of
from safetensors.torch import load_file
from scipy import stats

from crossllm.cache import CacheReader, CacheWriter, InputError, Recipe, record_of
from crossllm.model.ensemble import Ensemble
from crossllm.model.losses import affinity_loss
from crossllm.model.settings import ModelConfig
from crossllm.pipeline import load_run
from crossllm.pipeline.baselines.registry import BASELINES
from crossllm.pipeline.data.dataset import load_dataset, write_dataset
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.data.pairs import Pair
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute, pooled, summarise
from crossllm.pipeline.evaluation.table import table
from crossllm.pipeline.reporting.plots import draw_losses, draw_result
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds
from crossllm.pipeline.train import train
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import FoldResult, fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.predicting import predict
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.run_folder import RunFolder
from crossllm.pipeline.training.target import Target, fit_target

QUICK = TrainConfig(folds=3, epochs=3, tokens="pooled", model=ModelConfig(d_model=8, d_state=4))


@pytest.fixture
def affinities(tmp_path: Path, rng: np.random.Generator) -> Path:
    """40 RNAs × 30 molecules, 400 pairs: affinity 5 + 2 · (what the rows of both hold) + noise; a column `kind`."""
    folder = tmp_path / "cache" / "made"
    rnas = [record_of("rna", f"r{n}", "ACGU"[n % 4] * (3 + n)) for n in range(40)]
    molecules = [record_of("molecule", f"m{n}", "C" * (2 + n)) for n in range(30)]
    hidden = {r.key: rng.normal() for r in (*rnas, *molecules)}
    drawn = rng.choice(40 * 30, 400, replace=False)
    pairs = []
    for at in drawn.tolist():
        a, b = rnas[at // 30], molecules[at % 30]
        label = 5 + 2 * (hidden[a.key] + hidden[b.key]) + 0.1 * rng.normal()
        pairs.append(Pair(a.id, b.id, float(label), 0, ("even" if at % 2 else "odd",)))
    sides = {"rna": rnas, "molecule": molecules}
    write_dataset(folder, "made", "regression", ("rna", "molecule"), sides, pairs, ("kind",), {})
    for modality, records in sides.items():
        with CacheWriter(folder, Recipe(modality, "made", 1, 8)) as writer:
            for record in records:
                rows = rng.normal(size=(record.length, 8)) * 0.1
                rows[:, 0] = hidden[record.key]
                writer.add(record.key, rows)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e6])
def test_metrics_equal_scipy_on_the_resampled_pairs(rng: np.random.Generator, unit: float) -> None:
    label = unit * np.round(rng.normal(5, 1.5, 700), 1)  # rounded: many equal values
    score = unit * np.round(label / unit + rng.normal(0, 1, 700), 1)
    times = rng.multinomial(700, np.full(700, 1 / 700), size=2)
    found = compute("regression", Scored(label, score, score), np.concatenate([np.ones((1, 700)), times]))
    for row, weight in enumerate([np.ones(700, int), *times]):
        x, y = np.repeat(label, weight), np.repeat(score, weight)
        assert found["pearson"][row] == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
        assert found["spearman"][row] == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
        assert found["rmse"][row] == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
        assert found["mae"][row] == pytest.approx(np.mean(np.abs(x - y)))
        larger = x[:, None] > x[None, :]
        alike = np.sign(y[:, None] - y[None, :])[larger]
        assert found["concordance"][row] == pytest.approx(((alike + 1) / 2).mean())


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e6])
def test_what_is_undefined_is_nan(unit: float) -> None:
    constant = np.full(5, 3.1 * unit)
    found = compute("regression", Scored(constant, np.arange(5.0), np.arange(5.0)), np.ones((1, 5)))
    assert all(np.isnan(found[name][0]) for name in ("pearson", "spearman", "concordance"))
    assert found["mae"][0] > 0


def test_the_loss_is_what_it_says(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=50), rng.normal(size=50)
    expected = 0.3 * np.mean((x - y) ** 2) + 0.7 * (1 - stats.pearsonr(x, y)[0])
    assert float(affinity_loss(torch.tensor(x), torch.tensor(y), 0.3)) == pytest.approx(expected, abs=1e-6)
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, y)]
    assert torch.autograd.gradcheck(lambda p, t: affinity_loss(p, t, 0.3), tensors)


@pytest.mark.parametrize("size", [1, 4])
def test_the_loss_has_a_gradient_where_the_correlation_is_undefined(size: int) -> None:
    prediction = torch.zeros(size, requires_grad=True)
    affinity_loss(prediction, torch.ones(size)).backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_scaling_sees_the_training_part_alone() -> None:
    labels = np.array([1.0, 3.0, 1000.0, -1000.0])
    target = fit_target("regression", labels, np.array([0, 1]), TrainConfig())
    assert (target.mean, target.std) == (2.0, 1.0)
    for constant in (1.0, 0.9, 1e7 + 0.1):  # 0.9 has a deviation of 3e-16
        assert fit_target("regression", np.full(99, constant), np.arange(98), TrainConfig()).std == 1.0
    output = torch.tensor([0.5, -1.0])
    np.testing.assert_allclose(target.scale(target.score(output)), output.numpy())
    large = 1e7 + np.linspace(-0.3, 0.3, 50)  # three values in float32
    scaled = fit_target("regression", large, np.arange(50), TrainConfig()).scale(large).astype(np.float32)
    assert len(set(scaled.tolist())) == 50


@pytest.mark.slow
def test_a_planted_affinity_is_learnt_and_the_run_says_so(affinities: Path) -> None:
    config = TrainConfig(folds=3, epochs=12, lr=1e-2, tokens="pooled", model=ModelConfig(d_model=16, d_state=4))
    done = train(TrainOptions(affinities, config, by="kind", quiet=True))
    assert done.metrics["task"] == "regression"
    assert done.metrics["tokens"] == "pooled"
    assert done.metrics["model"]["pearson"]["mean"] >= 0.9
    assert done.metrics["model"].keys() == set(METRICS["regression"])
    assert done.metrics["baselines"].keys() == {"additive", "id_only", "id_only_sequence", "one_number"}
    found = rows(done.folder / "predictions.tsv")
    label, score = (np.array([float(r[c]) for r in found]) for c in ("label", "score"))
    assert len(found) == 400
    per_fold = [stats.pearsonr(*(v[[r["fold"] == f for r in found]] for v in (label, score)))[0] for f in "012"]
    assert done.metrics["model"]["pearson"]["mean"] == pytest.approx(np.mean(per_fold))
    low, high = (np.array([float(r[c]) for r in found]) for c in ("low", "high"))
    interval = done.metrics["interval"]
    within = [np.mean(((low <= label) & (label <= high))[[r["fold"] == f for r in found]]) for f in "012"]
    assert interval["coverage"]["per_fold"] == pytest.approx(within)
    assert 0.75 < interval["coverage"]["mean"] < 1, "for 90 %, of 40 validation pairs a fold"
    assert interval["width"]["mean"] == pytest.approx(np.mean(high - low), rel=1e-3)
    loaded = load_run(done.folder)
    ends = loaded.intervals(np.zeros((3, 1)))
    np.testing.assert_allclose(ends[1] - ends[0], np.array(interval["width"]["per_fold"])[:, None])
    with pytest.raises(InputError, match="predicts affinities, which have no calibration; use intervals"):
        loaded.probability(np.zeros((3, 1)))
    kinds = {(r["a_id"], r["b_id"]): r["kind"] for r in rows(affinities / "pairs.tsv")}
    for kind, group in done.metrics["by"]["groups"].items():
        chosen = [kinds[r["a_id"], r["b_id"]] == kind for r in found]
        assert group["pairs"] == sum(chosen)
        assert group["model"]["pearson"]["mean"] == pytest.approx(stats.pearsonr(label[chosen], score[chosen])[0])
        assert group["baselines"]["additive"].keys() == set(METRICS["regression"])
    for name in ("scatter", "loss_curves"):
        assert (done.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (done.folder / f"{name}.svg").read_bytes()
    events = list((done.folder / "tensorboard").glob("fold-*/events.out.tfevents.*"))
    assert len(events) == 3
    assert all(event.stat().st_size > 1000 for event in events)


@pytest.mark.slow
def test_a_checkpoint_and_its_scaling_give_the_predictions_again(affinities: Path) -> None:
    options = TrainOptions(affinities, QUICK, quiet=True)
    done = train(options)
    inputs = open_inputs(options)
    model = Ensemble(1, 8, 8, QUICK.model)
    model.load_state_dict(load_file(done.folder / "checkpoints" / "fold-1.safetensors"))
    body = json.loads((done.folder / "checkpoints" / "fold-1.json").read_text())
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    test = np.flatnonzero(inputs.folds.of_pair == 1)
    output = predict(model, batches, test, QUICK, torch.device("cpu")).numpy()
    saved = [float(r["score"]) for r in rows(done.folder / "predictions.tsv") if r["fold"] == "1"]
    np.testing.assert_allclose(output * body["target"]["std"] + body["target"]["mean"], saved, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_finished_run_is_scored_by_another_column_without_training(
    affinities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(TrainOptions(affinities, QUICK, quiet=True))
    assert "by" not in first.metrics

    def refuse(*_: object) -> None:
        raise AssertionError("a fold was fitted again")

    monkeypatch.setattr("crossllm.pipeline.systems.model_folds.fit_fold", refuse)
    again = train(TrainOptions(affinities, QUICK, by="kind", resume=True, quiet=True))
    assert again.metrics["by"]["groups"].keys() == {"even", "odd"}
    assert again.metrics["model"] == first.metrics["model"]


def test_the_test_fold_chooses_nothing(affinities: Path) -> None:
    """Other affinities in the test fold: the same weights, epoch and predictions, bit for bit."""
    inputs = open_inputs(TrainOptions(affinities, QUICK))
    parts = cut_parts(inputs.dataset, inputs.folds, 0, QUICK.validation, 0)
    found = []
    for shift in (0.0, 50.0):
        labels = inputs.dataset.labels.copy()
        labels[parts.test] += shift
        batches = PairBatches.of_dataset(inputs.dataset._replace(labels=labels), inputs.readers, inputs.window)
        found.append(fit_fold(batches, parts, QUICK, 5, torch.device("cpu"), lambda e: None))
    one, other = found
    assert (one.target, one.best_epoch, one.history) == (other.target, other.best_epoch, other.history)
    assert one.score.tobytes() == other.score.tobytes()


class _OtherRows:
    """A reader whose rows of all keys but `known` are turned round and grown."""

    def __init__(self, reader: CacheReader, known: set[bytes]) -> None:
        self.recipe, self._reader, self._known = reader.recipe, reader, known

    def __getitem__(self, key: bytes) -> np.ndarray:
        rows = self._reader[key]
        return rows if key in self._known else -100 * rows - 5

    def length(self, key: bytes) -> int:
        return self._reader.length(key)


def test_what_is_fitted_sees_the_training_part_alone(affinities: Path) -> None:
    """Other rows and labels outside of the training part: the same moments, scaling and weights, bit for bit."""
    inputs = open_inputs(TrainOptions(affinities, QUICK))
    dataset = inputs.dataset
    known = [set(sorted(set(keys))[:20]) for keys in (dataset.a_keys, dataset.b_keys)]
    inside = np.array([a in known[0] and b in known[1] for a, b in zip(dataset.a_keys, dataset.b_keys, strict=True)])
    outside = np.flatnonzero(~inside)
    parts = Parts(np.flatnonzero(inside), outside[::2], outside[1::2])
    one_epoch = dataclasses.replace(QUICK, epochs=1)  # later, the validation part chooses the epoch
    other = (_OtherRows(inputs.readers[0], known[0]), _OtherRows(inputs.readers[1], known[1]))
    labels = dataset.labels + np.where(inside, 0, 77)
    found = [
        fit_fold(batches, parts, one_epoch, 5, torch.device("cpu"), lambda e: None)
        for batches in (
            PairBatches.of_dataset(dataset, inputs.readers, inputs.window),
            PairBatches.of_dataset(dataset._replace(labels=labels), other, inputs.window),  # type: ignore[arg-type]
        )
    ]
    assert found[0].target == found[1].target
    assert found[0].state.keys() == found[1].state.keys()
    assert all(torch.equal(found[0].state[name], found[1].state[name]) for name in found[0].state)
    assert not np.array_equal(found[0].score, found[1].score), "the other rows were read"


def test_labels_far_off_the_others_end_in_one_line(affinities: Path) -> None:
    inputs = open_inputs(TrainOptions(affinities, QUICK))
    parts = cut_parts(inputs.dataset, inputs.folds, 0, QUICK.validation, 0)
    labels = inputs.dataset.labels.copy()
    labels[parts.validation[0]] = 1e25
    batches = PairBatches.of_dataset(inputs.dataset._replace(labels=labels), inputs.readers, inputs.window)
    with pytest.raises(InputError, match="the validation loss became inf"):
        fit_fold(batches, parts, QUICK, 5, torch.device("cpu"), lambda e: None)


@pytest.mark.parametrize("name", ["additive", "id_only", "id_only_sequence"])
def test_baselines_see_names_only_and_never_the_test_labels(affinities: Path, name: str) -> None:
    dataset, _ = load_dataset(affinities)
    folds = random_folds(dataset, 3, 0)
    parts = cut_parts(dataset, folds, 0, 0.15, 0)
    (found,) = baseline(material_of(affinities, dataset), name, [parts])
    other = dataset.labels.copy()
    other[parts.test] = 0
    (again,) = baseline(material_of(affinities, dataset._replace(labels=other)), name, [parts])
    assert found.score.tobytes() == again.score.tobytes()
    # The planted affinity is additive: every baseline of this kind must find it.
    assert compute("regression", found, np.ones((1, len(found.label))))["pearson"][0] >= 0.9


@pytest.mark.slow
def test_all_baselines_are_of_affinities_too(affinities: Path) -> None:
    done = train(TrainOptions(affinities, dataclasses.replace(QUICK, tokens="pooled"), quiet=True, baselines="all"))
    assert list(done.metrics["baselines"]) == list(BASELINES["regression"])
    for name, found in done.metrics["baselines"].items():
        assert found["rmse"]["mean"] > 0, name
    # Each sequence's own part of the affinity stands in its rows.
    assert all(done.metrics["baselines"][f"one_partner_{side}"]["pearson"]["mean"] > 0.4 for side in "ab")


def test_an_unseen_partner_adds_nothing(affinities: Path) -> None:
    dataset, _ = load_dataset(affinities)
    fresh = dataset._replace(a_keys=[bytes([n % 256, n // 256]) for n in range(400)], b_keys=[b"b"] * 400)
    parts = cut_parts(fresh, random_folds(fresh, 3, 0), 0, 0.15, 0)
    score = baseline(material_of(affinities, fresh), "additive", [parts])[0].score
    np.testing.assert_allclose(score, score[0])


@pytest.mark.parametrize(("by", "say"), [("kin", "no column 'kin'"), ("a_id", "no column 'a_id'")])
def test_a_column_that_is_not_there(affinities: Path, by: str, say: str) -> None:
    with pytest.raises(InputError, match=say):
        train(TrainOptions(affinities, QUICK, by=by))
    assert not (affinities / "runs").exists()


@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "\N{CJK UNIFIED IDEOGRAPH-7532}", "a" * 200, "v\x07"])
def test_groups_of_any_name_are_drawn_and_printed(affinities: Path, name: str) -> None:
    inputs = open_inputs(TrainOptions(affinities, QUICK))
    groups = np.array([name if n % 2 else "even" for n in range(400)])
    scored = {"model": [Scored(inputs.dataset.labels, inputs.dataset.labels, inputs.dataset.labels)]}
    folder = RunFolder(affinities / "runs" / "x", {}, resume=True)
    undefined = {"mean": None, "std": None, "ci95": [None, None], "per_fold": [None]}
    numbers = dict.fromkeys(METRICS["regression"], undefined)
    draw_result(folder, "regression", scored, {"model": numbers, "baselines": {}}, (name, groups))
    result = FoldResult(np.zeros(1), None, Target("regression"), [1], [Epoch(1, 0.5, 0.4, None)], {})
    draw_losses(folder, [name, "b"], [result, result], optimistic=False)
    assert (folder.path / "scatter.png").stat().st_size > 10_000
    metrics = {
        "task": "regression", "dataset": name, "pairs": 4, "folds": 2, "split": "random", "tokens": "pooled",
        "encoders": {"a": "x", "b": "y"}, "shared_between_folds": 0, "ids_are_sequences": False,
        "model": numbers, "baselines": {"additive": numbers},
        "by": {"column": "kind", "groups": {name: {"pairs": 4, "model": numbers, "baselines": {"additive": numbers}}}},
    }  # fmt: skip
    text = table(metrics)
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\n" not in text
    assert "reaches the model" not in text, "undefined is not above undefined"


def test_affinities_through_the_program(affinities: Path, program: Program) -> None:
    flags = ["--cache", affinities, "--tokens", "pooled", "--epochs", "2", "--folds", "2", "--set", "d_model=8"]
    done = program("train", *flags, "--by", "kind", "--baselines", "fast")
    assert done.returncode == 0, done.stderr
    for word in ("Pearson", "additive", "id_only_sequence", "C-index", "Pearson by kind", "even", "odd"):
        assert word in done.stdout
    assert "MCC" not in done.stdout
    assert "threshold" not in done.stdout


def test_measurements_of_two_ids_with_one_sequence_are_counted(tmp_path: Path) -> None:
    (tmp_path / "r.fasta").write_text(">r1\nACGU\n>r2\nACGT\n>r3\nGG\n")
    (tmp_path / "m.smi").write_text("m1\tCCO\nm2\tOCC\n")
    lines = ["r1\tm1\t5.5", "r1\tm1\t6.5", "r2\tm2\t7", "r3\tm1\t1"]
    (tmp_path / "p.tsv").write_text("a_id\tb_id\tlabel\n" + "\n".join(lines) + "\n")
    sides = Side("rna", tmp_path / "r.fasta"), Side("molecule", tmp_path / "m.smi")
    said = import_dataset(ImportOptions(*sides, tmp_path / "p.tsv", tmp_path / "c"))
    assert "3 pairs, regression" in said
    assert "2 molecule ids of 1 distinct" in said
    dataset, found = load_dataset(tmp_path / "c")
    assert dataset.labels.tolist() == [6.0, 7.0, 1.0]
    assert sum(found.notes.values()) == 2, "r1 m1 and r2 m2 are one pair of sequences with two affinities"
    assert (tmp_path / "c" / "molecules.smi").read_text() == "m1\tCCO\nm2\tCCO\n"


@pytest.mark.slow
def test_rsim_baselines_are_those_reported(real_data: Path, tmp_path: Path) -> None:
    """About 0.65 is reported for the additive one, over pairs that share sequences between folds; ours do not."""
    source = real_data / "rsim"
    sides = Side("rna", source / "rna.fasta"), Side("molecule", source / "molecules.smi")
    import_dataset(ImportOptions(*sides, source / "pairs.tsv", tmp_path / "rsim", on_bad="skip"))
    dataset, _ = load_dataset(tmp_path / "rsim")
    assert len(dataset.labels) == 1421
    folds = random_folds(dataset, 5, 0)
    parts = [cut_parts(dataset, folds, n, 0.15, 0) for n in range(5)]
    scored = baseline(material_of(tmp_path / "rsim", dataset), "additive", parts)
    assert 0.6 <= summarise("regression", scored, 0, replicates=10)["pearson"].mean <= 0.67
    assert len(pooled(scored).label) == 1421
