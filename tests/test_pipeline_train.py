from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Program
from made_runs import QUICK, embedded_demo, rows
from safetensors.torch import load_file
from sklearn import metrics as sk

from crossllm.cache import CacheReader, InputError
from crossllm.cache.store.reader import Packed as StoredRows
from crossllm.embed.run.run import RunOptions, run
from crossllm.model.ensemble import Ensemble
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.baselines.registry import BASELINES
from crossllm.pipeline.data.dataset import default_run
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.splits.choosing import choose_folds
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.train import train
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import fit_fold, fold_seed
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.predicting import predict
from crossllm.pipeline.training.progress import Epoch

pytestmark = pytest.mark.slow

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
"""`make chaos`: all epochs of the demo."""


def test_a_run_folder_holds_what_it_says_and_metrics_follow_from_predictions(small: TrainOptions) -> None:
    done = train(small)
    assert done.folder == small.cache_dir / "runs" / "demo"
    expected = {"config.toml", "splits.tsv", "history.csv", "metrics.json", "checkpoints", "predictions.tsv",
                "predictions.id_only.tsv", "predictions.id_only_sequence.tsv", "predictions.one_number.tsv",
                "tensorboard", "loss_curves.png", "loss_curves.svg", "roc_pr.png", "roc_pr.svg", ".lock",
                "calibration.png", "calibration.svg", "usage.json", "leaks.json", "provenance.json"}  # fmt: skip
    assert {p.name for p in done.folder.iterdir()} == expected
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert metrics == done.metrics
    assert (metrics["task"], metrics["split"], metrics["folds"]) == ("classification", "random", 2)
    pairs = {(r["a_id"], r["b_id"]): (float(r["label"]), r["fold"]) for r in rows(done.folder / "predictions.tsv")}
    assert len(pairs) == len(rows(done.folder / "predictions.tsv")) == 160, "every pair is tested once"
    assert {p: f for p, (_, f) in pairs.items()} == {
        (r["a_id"], r["b_id"]): r["fold"] for r in rows(done.folder / "splits.tsv")
    }
    for name, file in (("model", "predictions.tsv"), ("id_only", "predictions.id_only.tsv")):
        found = metrics["model"] if name == "model" else metrics["baselines"][name]
        assert found.keys() == metrics["model"].keys()
        per_fold: dict[str, list[float]] = {"mcc": [], "auroc": []}
        for fold in "01":
            own = [r for r in rows(done.folder / file) if r["fold"] == fold]
            label, score, predicted = (np.array([float(r[c]) for r in own]) for c in ("label", "score", "predicted"))
            per_fold["mcc"].append(sk.matthews_corrcoef(label, predicted))
            per_fold["auroc"].append(sk.roc_auc_score(label, score))
        for metric, values in per_fold.items():
            assert found[metric]["mean"] == pytest.approx(np.mean(values))
            assert found[metric]["std"] == pytest.approx(np.std(values, ddof=1))


def test_checkpoints_hold_the_weights_that_made_the_predictions(trained: TrainOptions) -> None:
    folder = default_run(trained.cache_dir)
    inputs = open_inputs(trained)
    a, b = inputs.readers
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    model = Ensemble(1, a.recipe.dim, b.recipe.dim, QUICK.model)
    model.load_state_dict(load_file(folder / "checkpoints" / "fold-0.safetensors"))
    test = np.flatnonzero(inputs.folds.of_pair == 0)
    score = predict(model, batches, test, QUICK, torch.device("cpu")).sigmoid().numpy()
    saved = [float(r["score"]) for r in rows(folder / "predictions.tsv") if r["fold"] == "0"]
    np.testing.assert_array_equal(score, np.array(saved, np.float32))


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_gives_the_same_run_and_another_seed_another(small: TrainOptions, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        options = dataclasses.replace(small, out=tmp_path / name, config=dataclasses.replace(QUICK, seed=seed))
        train(options)
        texts.append((tmp_path / name / "history.csv").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert (tmp_path / "x" / "predictions.tsv").read_bytes() == (tmp_path / "y" / "predictions.tsv").read_bytes()


def test_a_pair_without_an_embedding_is_an_error_or_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_demo(folder, entities=30, pairs=160)
    run(RunOptions("rna", folder / "rna.fasta", folder, "profile", quiet=True))
    with pytest.raises(InputError, match="holds no protein embeddings"):
        open_inputs(TrainOptions(folder, QUICK))
    some = (folder / "protein.fasta").read_text().split("\n")[:50]
    (tmp_path / "some.fasta").write_text("\n".join(some) + "\n")
    run(RunOptions("protein", tmp_path / "some.fasta", folder, "profile", quiet=True))
    with pytest.raises(
        InputError, match=r"has no rows in profile-[0-9a-f]+; run `embed run --modality protein --encoder profile"
    ) as caught:
        open_inputs(TrainOptions(folder, QUICK))
    assert len(caught.value.lines) == 5
    kept = open_inputs(TrainOptions(folder, QUICK, on_bad="skip")).dataset
    assert 0 < len(kept.labels) < 160
    assert not set(kept.b_ids) & {f"protein{n:04d}" for n in range(25, 30)}


def test_train_through_the_program(program: Program, small: TrainOptions) -> None:
    folder = small.cache_dir
    flags = ["--folds", "2", "--epochs", "1", "--d-model", "8", "--tokens", "window:2", "--cache", folder]
    done = program("train", *flags, "--baselines", "fast")
    assert done.returncode == 0, done.stderr
    assert "model" in done.stdout
    assert "id_only_sequence" in done.stdout
    assert "Traceback" not in done.stderr
    assert program("train", *flags).returncode == 5
    again = program("train", *flags, "--resume", "--json")
    assert json.loads(again.stdout)["tokens"] == "window:2"
    refused = program("train", *flags, "--tokens", "pool")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert program("train", *flags, "--split", "given").returncode == 2


@pytest.mark.skipif(not CHAOS, reason="`make test` asks it of the model that test_pipeline_predict.py trains")
def test_the_demo_is_learnt(tmp_path: Path) -> None:
    """One fold of `make demo`, its settings: MCC ≥ 0.8 on pairs that nothing was chosen on; measured 0.94."""
    config = TrainConfig(folds=3, epochs=12, lr=3e-3, model=ModelConfig(standardise=False, summary_width=0))
    inputs = open_inputs(TrainOptions(embedded_demo(tmp_path / "demo"), config))
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    parts = cut_parts(inputs.dataset, inputs.folds, 0, config.validation, config.seed)
    history: list[Epoch] = []
    result = fit_fold(batches, parts, config, fold_seed(config.seed, 0), torch.device("cpu"), history.append)
    assert history == result.history
    mcc = sk.matthews_corrcoef(inputs.dataset.labels[parts.test], result.score >= result.threshold)
    assert mcc >= 0.8


class ShuffledRows:
    """A reader that gives each sequence the rows of another one, always the same."""

    def __init__(self, reader: CacheReader, keys: list[bytes], rng: np.random.Generator) -> None:
        self.folder, self.recipe, self._reader = reader.folder, reader.recipe, reader
        distinct = sorted(set(keys))
        self._other = dict(zip(distinct, [distinct[n] for n in rng.permutation(len(distinct))], strict=True))

    def __getitem__(self, key: bytes) -> np.ndarray:
        return self._reader[self._other[key]]

    def length(self, key: bytes) -> int:
        return self._reader.length(self._other[key])

    def gather(self, keys: Sequence[bytes]) -> StoredRows:
        return self._reader.gather([self._other[key] for key in keys])

    def prefetch(self, keys: Iterable[bytes]) -> None:
        self._reader.prefetch(self._other[key] for key in keys)


def test_with_one_sides_rows_shuffled_the_model_falls_to_one_partner(tmp_path: Path, rng: np.random.Generator) -> None:
    """What it reads of the proteins is then of others: it knows no more than the RNA tells alone."""
    config = TrainConfig(folds=3, epochs=5, lr=3e-3, model=ModelConfig(standardise=False, summary_width=0))
    inputs = open_inputs(TrainOptions(embedded_demo(tmp_path / "demo"), config))
    parts = cut_parts(inputs.dataset, inputs.folds, 0, config.validation, config.seed)
    shuffled = ShuffledRows(inputs.readers[1], inputs.dataset.b_keys, rng)
    batches = PairBatches.of_dataset(inputs.dataset, (inputs.readers[0], shuffled), inputs.window)
    result = fit_fold(batches, parts, config, fold_seed(config.seed, 0), torch.device("cpu"), lambda _epoch: None)
    label = inputs.dataset.labels[parts.test]
    similar: Any = None  # one partner's rows are all that it takes
    material = Material(
        inputs.dataset, tmp_path / "demo", inputs.readers, inputs.window, config, torch.device("cpu"), similar,
        quiet=True,
    )  # fmt: skip
    alone = BASELINES["classification"]["one_partner_a"](material, parts, 0)
    model, baseline = (sk.roc_auc_score(label, score) for score in (result.score, alone.score))
    print(f"AUROC: the model {model:.3f}, one_partner_a {baseline:.3f}")
    assert abs(model - baseline) < 0.08
    assert model < 0.6


def test_a_split_that_cannot_be_cut_leaves_no_run_folder(small: TrainOptions) -> None:
    with pytest.raises(InputError):
        train(dataclasses.replace(small, config=dataclasses.replace(QUICK, split="given")))
    with pytest.raises(InputError):
        train(dataclasses.replace(small, config=dataclasses.replace(QUICK, folds=100)))
    assert not (small.cache_dir / "runs").exists()


def test_pairs_in_no_fold_are_left_out_and_counted(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = open_inputs(small)
    column = [("0", "1", "-")[n % 3] for n in range(160)]
    given = SplitOptions("given", fold_column="cold")
    kept = choose_folds(inputs.dataset._replace(extra={"cold": column}), given, small.cache_dir).dataset
    assert len(kept.labels) == column.count("0") + column.count("1")
    assert "53 pairs have no fold in column 'cold'" in capsys.readouterr().err
    with pytest.raises(InputError, match="no pair has a fold"):
        choose_folds(inputs.dataset._replace(extra={"cold": ["-"] * 160}), given, small.cache_dir)


def test_the_test_fold_chooses_nothing(small: TrainOptions) -> None:
    """Other labels in the test fold: the same weights, epoch, threshold and scores, bit for bit."""
    inputs = open_inputs(small)
    parts = cut_parts(inputs.dataset, inputs.folds, 0, QUICK.validation, 0)
    found = []
    for turned in (False, True):
        labels = inputs.dataset.labels.copy()
        if turned:
            labels[parts.test] = 1 - labels[parts.test]
        batches = PairBatches.of_dataset(inputs.dataset._replace(labels=labels), inputs.readers, inputs.window)
        found.append(fit_fold(batches, parts, QUICK, 5, torch.device("cpu"), lambda epoch: None))
    one, other = found
    assert (one.threshold, one.best_epoch, one.history) == (other.threshold, other.best_epoch, other.history)
    assert one.score.tobytes() == other.score.tobytes()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.mark.usefixtures("undrawn")
def test_the_loss_trace_is_the_recorded_one(small: TrainOptions) -> None:
    """tests/data/loss_trace.csv: a change here is a change of the model, the data order or the optimiser."""
    done = train(dataclasses.replace(small, config=dataclasses.replace(QUICK, epochs=3, sharing=1)))
    recorded = rows(Path(__file__).parent / "data" / "loss_trace.csv", ",")
    found = rows(done.folder / "history.csv", ",")
    assert [(r["fold"], r["epoch"]) for r in found] == [(r["fold"], r["epoch"]) for r in recorded]
    for column in ("train_loss", "validation_loss"):
        # Float32 sums in another order on another processor: measured 0 on this one.
        np.testing.assert_allclose([float(r[column]) for r in found], [float(r[column]) for r in recorded], rtol=1e-3)


def test_train_loads_no_encoder_and_no_foreign_library(small: TrainOptions) -> None:
    code = f"""
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.train import train
config = TrainConfig(folds=2, epochs=1, model=ModelConfig(d_model=8, d_state=4))
train(TrainOptions(Path({str(small.cache_dir)!r}), config, quiet=True))
print("LOADED", *sorted(set(sys.modules) & set("embed transformers rdkit dask zarr esm".split())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "LOADED"), done.stderr


def test_moments_are_those_of_the_training_parts_distinct_entities(small: TrainOptions) -> None:
    inputs = open_inputs(small)
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    chosen = np.arange(0, 160, 3)
    for side, (found, keys) in enumerate(
        zip(batches.moments(chosen), (inputs.dataset.a_keys, inputs.dataset.b_keys), strict=True)
    ):
        rows = np.concatenate([inputs.readers[side][key] for key in {keys[n] for n in chosen}]).astype(np.float64)
        np.testing.assert_allclose(found.mean.numpy(), rows.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.std.numpy(), rows.std(0), rtol=1e-4, atol=1e-5)


def test_a_constant_column_has_no_deviation_left(small: TrainOptions) -> None:
    inputs = open_inputs(small)

    class Constant:
        recipe = inputs.readers[0].recipe

        def __getitem__(self, key: bytes) -> np.ndarray:
            return np.full((7, 57), 373.1, np.float32)

        def length(self, key: bytes) -> int:
            return 7

    batches = PairBatches.of_dataset(inputs.dataset, (Constant(), Constant()), 1)  # type: ignore[arg-type]
    for found in batches.moments(np.arange(100)):
        np.testing.assert_allclose(found.mean.numpy(), 373.1, rtol=1e-6)
        assert not found.std.any()


@pytest.mark.usefixtures("undrawn")
def test_standardise_can_be_left_out(small: TrainOptions) -> None:
    plain = dataclasses.replace(QUICK, model=dataclasses.replace(QUICK.model, standardise=False))
    folder = train(dataclasses.replace(small, config=plain)).folder
    state = load_file(folder / "checkpoints" / "fold-0.safetensors")
    assert not [name for name in state if name.startswith("standardise")]
