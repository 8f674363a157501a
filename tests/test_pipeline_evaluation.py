"""What a result says: undefined metrics, intervals, curves, digits, one fixed split, two runs in one folder."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from made_runs import QUICK, embedded_demo, rows
from scipy import stats
from torch.nn import functional as F

from crossllm.cache import CacheCorrupt, Conflict, InputError
from crossllm.model import bce_loss
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.evaluation.metrics import Partners, Scored, compute, summarise, why_undefined
from crossllm.pipeline.evaluation.table import WIDTH, table
from crossllm.pipeline.reporting.plots import precision_at, roc_at
from crossllm.pipeline.splits.given import given_folds
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.train import train
from crossllm.pipeline.training.config import resolve
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.training.run_folder import RunFolder


def perfect(label: list[int]) -> Scored:
    values = np.array(label)
    return Scored(values, values * 0.8 + 0.1, values)


def test_a_fold_of_one_class_is_left_out_and_not_counted_as_0() -> None:
    folds = [perfect([0, 1, 0, 1]), perfect([1, 1, 1]), perfect([1, 0, 0])]
    found = summarise("classification", folds, seed=0)
    assert found["mcc"].mean == 1
    assert found["mcc"].ci95 == (1, 1)
    assert np.isnan(found["mcc"].per_fold[1])
    assert found["mcc"].std == 0
    assert found["recall"].per_fold == (1, 1, 1)
    assert [why_undefined("classification", fold) for fold in folds] == [None, "all 3 test pairs are positive", None]


def test_a_replicate_without_a_positive_is_left_out() -> None:
    """One positive of six: a third of the replicates draw it not at all, and each counted as 0."""
    label = np.array([1, 0, 0, 0, 0, 0])
    found = summarise("classification", [Scored(label, label * 1.0, label)], seed=0)
    for name in ("mcc", "f1", "recall", "precision", "auroc", "auprc"):
        assert found[name].ci95 == (1, 1), name


def test_a_single_fold_has_no_deviation() -> None:
    assert np.isnan(summarise("classification", [perfect([0, 1])], seed=0)["mcc"].std)


def test_sequences_are_drawn_and_not_pairs(rng: np.random.Generator) -> None:
    """Pairs that share a sequence go together: the interval is that of few sequences, not of many pairs."""
    a, b = (side.ravel() for side in np.meshgrid(np.arange(6), np.arange(40), indexing="ij"))
    label = rng.integers(0, 2, len(a))
    right = rng.random(6) < 0.5  # a sequence is told right with all of its partners, or wrong with all
    predicted = np.where(right[a] | (a == 0), label, 1 - label)
    fold = Scored(label, predicted * 1.0, predicted)
    pairs = summarise("classification", [fold], 0)["accuracy"]
    sequences = summarise("classification", [fold], 0, [Partners(a, b)])["accuracy"]
    assert sequences.mean == pairs.mean
    assert np.ptp(sequences.ci95) > 3 * np.ptp(pairs.ci95)


def test_the_interval_is_that_of_a_plain_loop(rng: np.random.Generator) -> None:
    """Two folds that share sequences: each replicate draws every sequence once for both."""
    folds, partners = [], []
    for _ in range(2):
        a, b = rng.integers(0, 5, 30), rng.integers(0, 7, 30)
        label = rng.integers(0, 2, 30)
        folds.append(Scored(label, rng.random(30), rng.integers(0, 2, 30)))
        partners.append(Partners(a, b))
    means, draws = [], np.random.default_rng(3)
    for _ in range(2):
        size = [1 + max(int(getattr(p, side).max()) for p in partners) for side in "ab"]
        drawn = [draws.multinomial(n, np.full(n, 1 / n), size=25) for n in size]
        for r in range(25):
            values = []
            for fold, p in zip(folds, partners, strict=True):
                times = drawn[0][r][p.a] * drawn[1][r][p.b]
                label, predicted = np.repeat(fold.label, times), np.repeat(fold.predicted, times)
                values.append(sk.accuracy_score(label, predicted))
            means.append(np.mean(values))
    found = summarise("classification", folds, 3, partners, replicates=100)["accuracy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossllm.pipeline.evaluation.metrics.BLOCK", 25)
        again = summarise("classification", folds, 3, partners, replicates=50)["accuracy"]
    assert again.ci95 == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.mean == again.mean


def test_a_curve_is_drawn_a_fold_and_its_area_is_the_tables(rng: np.random.Generator) -> None:
    at = np.linspace(0, 1, 20_001)
    for scale in (0.1, 0.9):  # two models on two scales: joined, their curve would be another
        label = rng.integers(0, 2, 200)
        fold = Scored(label, scale * np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1), label)
        found = compute("classification", fold, np.ones((1, 200)))
        assert np.trapezoid(roc_at(fold, at), at) == pytest.approx(found["auroc"][0], abs=1e-3)
        assert np.trapezoid(precision_at(fold, at), at) == pytest.approx(found["auprc"][0], abs=1e-3)


@pytest.mark.slow
def test_a_run_says_what_is_undefined_and_leaves_curves_with_the_tables_numbers(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    done = train(TrainOptions(folder, QUICK, quiet=True))
    svg = (done.folder / "roc_pr.svg").read_text()
    auroc = done.metrics["model"]["auroc"]
    assert f"model, AUROC {auroc['mean']:.3f} ± {auroc['std']:.3f}" in svg
    assert "share of positives" in svg
    assert done.metrics["undefined"] == {}
    metrics = json.loads((done.folder / "metrics.json").read_text())
    metrics["undefined"] = {"1": "all 3 test pairs are positive"}
    metrics["model"]["mcc"]["per_fold"][1] = None
    text = " ".join(table(metrics).split())
    assert "fold 1: all 3 test pairs are positive; it is left out of the mean" in text
    assert "undefined there (MCC)" in text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_table_is_at_most_80_wide(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    metrics = train(TrainOptions(folder, QUICK, quiet=True)).metrics
    odd = {"mean": -0.0421, "std": 0.1, "ci95": [-0.1234, -0.0567], "per_fold": [-0.1, 0.1]}
    metrics["baselines"]["random_embedding"] = dict.fromkeys(metrics["model"], odd)
    metrics["dataset"] = "d" * 100
    metrics["by"] = {"column": "c" * 50, "groups": {"g" * 60: {"pairs": 10**6, "model": metrics["model"],
                     "baselines": metrics["baselines"]}}}  # fmt: skip
    lines = table(metrics).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("random_embedding") for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_predictions_give_the_same_correlation_as_the_metrics(tmp_path: Path) -> None:
    """Affinities near one another, far from 0: nine digits were not enough."""
    folder = tmp_path / "demo"
    embedded_demo(folder, entities=30, pairs=160)
    table_rows = rows(folder / "pairs.tsv")
    source = tmp_path / "p.tsv"
    lines = [f"{row['a_id']}\t{row['b_id']}\t{1e5 + 1e-3 * n}" for n, row in enumerate(table_rows)]
    source.write_text("a_id\tb_id\tlabel\n" + "\n".join(lines) + "\n")
    from crossllm.embed.run.run import RunOptions, run
    from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset

    sides = Side("rna", folder / "rna.fasta"), Side("protein", folder / "protein.fasta")
    import_dataset(ImportOptions(*sides, source, tmp_path / "c", task="regression"))
    for side in sides:
        run(RunOptions(side.modality, side.path, tmp_path / "c", "profile", quiet=True))
    done = train(TrainOptions(tmp_path / "c", QUICK, quiet=True))
    found = rows(done.folder / "predictions.tsv")
    per_fold = []
    for name in sorted({row["fold"] for row in found}):
        own = [(float(row["label"]), float(row["score"])) for row in found if row["fold"] == name]
        per_fold.append(stats.pearsonr(*zip(*own, strict=True))[0])
    assert done.metrics["model"]["pearson"]["per_fold"] == pytest.approx(per_fold, abs=1e-9)


def with_column(folder: Path, values: list[str]) -> Dataset:
    from crossllm.pipeline.data.dataset import load_dataset

    dataset, _ = load_dataset(folder)
    return dataset._replace(extra={"split": values})


PARTS = ["train"] * 90 + ["Valid"] * 30 + ["TEST"] * 40


def test_a_column_of_parts_is_one_fixed_split(tmp_path: Path) -> None:
    dataset = with_column(embedded_demo(tmp_path / "demo", entities=30, pairs=160), PARTS)
    folds = given_folds(dataset, "split")
    assert folds.names == ["test"]
    part = cut_parts(dataset, folds, 0, 0.15, 0)
    assert [len(part.train), len(part.validation), len(part.test)] == [90, 30, 40]
    assert part.test.tolist() == list(range(120, 160))
    assert folds.pair_names()[::53] == ["train", "train", "valid", "test"]
    without = dataset._replace(extra={"split": ["train"] * 120 + ["test"] * 40})
    part = cut_parts(without, given_folds(without, "split"), 0, 0.15, 0)
    assert sorted([*part.train, *part.validation]) == list(range(120))
    assert len(part.validation) > 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["train"] * 100 + ["valid"] * 60, "no pair is 'test'"),
        (["valid"] * 100 + ["test"] * 60, "no pair is 'train'"),
        (["train"] * 80 + ["test"] * 40 + ["3"] * 40, "'3' beside train, valid and test"),
    ],
)
def test_a_column_that_mixes_parts_and_folds_is_refused(tmp_path: Path, values: list[str], said: str) -> None:
    dataset = with_column(embedded_demo(tmp_path / "demo", entities=30, pairs=160), values)
    with pytest.raises(InputError, match=said):
        given_folds(dataset, "split")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_fixed_split_is_fitted_chosen_and_scored_once(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    lines = (folder / "pairs.tsv").read_text().splitlines()
    source = tmp_path / "p.tsv"
    body = [f"{line}\t{part}" for line, part in zip(lines[1:], PARTS, strict=True)]
    source.write_text("\n".join([lines[0] + "\tsplit", *body]) + "\n")
    from crossllm.embed.run.run import RunOptions, run
    from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset

    sides = Side("rna", folder / "rna.fasta"), Side("protein", folder / "protein.fasta")
    import_dataset(ImportOptions(*sides, source, tmp_path / "c"))
    for side in sides:
        run(RunOptions(side.modality, side.path, tmp_path / "c", "profile", quiet=True))
    config = dataclasses.replace(QUICK, split="given", fold_column="split")
    done = train(TrainOptions(tmp_path / "c", config, quiet=True))
    assert done.metrics["folds"] == 1
    assert done.metrics["tested"] == 40
    tested = rows(done.folder / "predictions.tsv")
    assert {row["fold"] for row in tested} == {"test"}
    assert len(tested) == 40
    named = rows(done.folder / "splits.tsv")
    assert [row["fold"] for row in named] == [part.lower() for part in PARTS]
    assert done.metrics["model"]["mcc"]["std"] is None
    assert "a fixed split, 40 pairs tested" in table(done.metrics)


def test_two_runs_are_never_at_work_in_one_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", {"run": {}}, resume=True)
    with pytest.raises(Conflict, match="another run is at work in it"):
        RunFolder(tmp_path / "run", {"run": {}}, resume=True)
    first.close()
    RunFolder(tmp_path / "run", {"run": {}}, resume=True).close()


def test_of_two_that_start_together_the_settings_of_one_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's `config.toml` appears between looking for it and writing one's own."""
    from crossllm.cache.files import fsio

    take = fsio.Lock

    def meanwhile(path: Path) -> fsio.Lock:
        (path.parent / "config.toml").write_text("[train]\nlr = 0.5\n")
        return take(path)

    monkeypatch.setattr(fsio, "Lock", meanwhile)
    with pytest.raises(Conflict, match="already holds a run"):
        RunFolder(tmp_path / "run", {"train": {"lr": 0.1}}, resume=False)
    assert (tmp_path / "run" / "config.toml").read_text() == "[train]\nlr = 0.5\n"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_fold_of_another_run_is_no_fold_of_this_one(tmp_path: Path) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    options = TrainOptions(folder, QUICK, quiet=True, out=tmp_path / "one")
    train(options)
    other = dataclasses.replace(options, config=dataclasses.replace(QUICK, lr=5e-4), out=tmp_path / "two")
    train(other)
    for name in ("fold-0.json", "fold-0.safetensors"):
        (tmp_path / "two" / "checkpoints" / name).write_bytes((tmp_path / "one" / "checkpoints" / name).read_bytes())
    (tmp_path / "two" / "metrics.json").unlink()
    with pytest.raises(CacheCorrupt, match="with other settings or other test pairs"):
        train(dataclasses.replace(other, resume=True))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_another_number_of_threads_is_said_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = embedded_demo(tmp_path / "demo", entities=30, pairs=160)
    options = TrainOptions(folder, QUICK, quiet=True, out=tmp_path / "run")
    whole = train(options)
    config = tmp_path / "run" / "config.toml"
    assert f"threads = {torch.get_num_threads()}" in config.read_text()
    config.write_text(re.sub("threads = .*", "threads = 64", config.read_text()))
    assert train(dataclasses.replace(options, resume=True)).metrics == whole.metrics
    assert "was begun with 64 threads" in capsys.readouterr().err


def test_the_loss_is_a_setting(rng: np.random.Generator) -> None:
    from crossllm.model.losses import focal_loss
    from crossllm.model.settings import FOCAL_ALPHA, FOCAL_GAMMA
    from crossllm.pipeline.training.target import Target, fit_target

    logit = torch.from_numpy(rng.normal(size=50)).float()
    label = torch.from_numpy(rng.integers(0, 2, 50)).float()
    target = Target("classification")
    assert target.loss(logit, label, resolve()) == focal_loss(logit, label, FOCAL_GAMMA, FOCAL_ALPHA)
    assert target.loss(logit, label, resolve(sets=["loss=bce"])) == F.binary_cross_entropy_with_logits(logit, label)
    assert bce_loss(logit, label) == F.binary_cross_entropy_with_logits(logit, label)
    chosen = resolve(sets=["focal_gamma=0", "focal_alpha=0.75"])
    weight = torch.where(label > 0.5, 0.75, 0.25)
    plain = F.binary_cross_entropy_with_logits(logit, label, weight, reduction="mean")
    target = fit_target("classification", label.numpy(), np.arange(50), chosen)
    assert target.loss(logit, label, chosen).item() == pytest.approx(plain.item())
    with pytest.raises(InputError, match="the loss is bce, focal alone has it"):
        resolve(sets=["loss=bce", "focal_gamma=1"])
