from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Program
from made_runs import QUICK, rows

from crossllm.cache import CacheCorrupt, CacheWriter, Conflict, InputError, Recipe, key_of, list_recipes
from crossllm.embed.run.run import RunOptions, run
from crossllm.pipeline.data.dataset import default_run
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.evaluation.calibration import Calibration
from crossllm.pipeline.train import train
from crossllm.pipeline.training.fold import FoldResult, fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.run_folder import RunFolder
from crossllm.pipeline.training.target import Target

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.slow
def test_a_run_cut_off_between_folds_continues_to_the_same_result(
    small: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(dataclasses.replace(small, out=tmp_path / "whole"))
    from crossllm.pipeline.systems import model_folds as module

    fitted: list[int] = []

    def cut_off(*arguments: Any) -> Any:
        if fitted:
            raise KeyboardInterrupt
        fitted.append(1)
        return fit_fold(*arguments)

    monkeypatch.setattr(module, "fit_fold", cut_off)
    halved = dataclasses.replace(small, out=tmp_path / "halved", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(halved)
    assert not (tmp_path / "halved" / "metrics.json").exists()
    fitted.clear()
    continued = train(halved)
    assert fitted == [1], "only the second fold was fitted"
    assert continued.metrics == whole.metrics
    for name in ("predictions.tsv", "history.csv"):
        assert (continued.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    fitted.append(1)
    assert train(halved).metrics == whole.metrics, "a finished run is shown, not fitted again"


def test_a_run_folder_is_never_overwritten(trained: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="already holds a run"):
        train(trained)
    with pytest.raises(Conflict, match=r"train\.lr \(0\.5, there 0\.001\)"):
        train(dataclasses.replace(trained, resume=True, config=dataclasses.replace(QUICK, lr=0.5)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(Conflict, match="is not empty"):
        train(dataclasses.replace(trained, out=tmp_path / "mine"))


def test_resume_takes_the_settings_and_recipes_of_the_run(
    small: TrainOptions, program: Program, tmp_path: Path
) -> None:
    folder = small.cache_dir
    flags = ["--folds", "2", "--epochs", "1", "--d-model", "8", "--set", "dropout=0.2", "--cache", folder]
    first = program("train", *flags, "--baselines", "none")
    assert first.returncode == 0, first.stderr
    with CacheWriter(folder, Recipe("rna", "other", 1, 4)) as writer:  # from here on a recipe must be named
        writer.add(key_of("rna", "ACGU"), np.zeros((4, 4)))
    (folder / "runs" / "demo" / "metrics.json").unlink()
    again = program("train", "--cache", folder, "--resume", "--baselines", "none")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    other = program("train", "--cache", folder, "--resume", "--epochs", "2")
    assert other.returncode == 5
    assert "train.epochs (2, there 1)" in other.stderr
    assert program("train", "--cache", folder, "--out", tmp_path / "new").returncode == 2


def test_a_finished_run_keeps_its_groups(trained: TrainOptions) -> None:
    inputs = open_inputs(trained)
    assert inputs.dataset.extra == {}
    folder = default_run(trained.cache_dir)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["by"] = {"column": "kind", "groups": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert train(dataclasses.replace(trained, resume=True)).metrics == metrics
    assert json.loads((folder / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", {"task": "classification", "mean": 12345.0, "std": 1.0, "mse_weight": 0.5}),
        ("target", {"task": "regression", "mean": 0.0, "std": 1.0, "mse_weight": 0.5}),
        ("target", None),
        ("best_epochs", 1),
        ("best_epochs", []),
        ("best_epochs", [1, 3]),
        ("best_epochs", [1e300, 1]),
        ("best_epochs", [0, 1]),
        ("summary_share", 1.5),
        ("summary_share", "half"),
        ("history", []),
        ("history", [[1, "nan", "inf", {"a": 1}]]),
        ("history", [[2, 0.1, 0.2, 0.5]]),
        ("history", [[n, 0.1, 0.2, 0.5] for n in range(1, 9)]),
        ("threshold", "high"),
        ("calibration", None),
        ("calibration", {"kind": "platt", "x": [-1.0], "y": [0.0]}),
    ],
)
def test_a_checkpoint_edited_in_one_field_is_damage(trained: TrainOptions, field: str, value: Any) -> None:
    folder = default_run(trained.cache_dir)
    (folder / "metrics.json").unlink()
    path = folder / "checkpoints" / "fold-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CacheCorrupt, match=r"fold-0\.json"):
        train(dataclasses.replace(trained, resume=True))


@pytest.mark.parametrize(
    "body", ["{}", '{"score": 5}', '{"score": [7.5]}', '{"score": [null]}', "[", '{"score": [1e999]}']
)
def test_an_edited_checkpoint_is_damage_not_a_result(trained: TrainOptions, body: str) -> None:
    folder = default_run(trained.cache_dir)
    (folder / "metrics.json").unlink()
    (folder / "checkpoints" / "fold-0.json").write_text(body)
    with pytest.raises(CacheCorrupt, match=r"fold-0\.json"):
        train(dataclasses.replace(trained, resume=True))


def test_edited_metrics_are_damage(trained: TrainOptions) -> None:
    path = default_run(trained.cache_dir) / "metrics.json"
    huge = json.loads(path.read_text())
    huge["model"]["mcc"]["mean"] = 10**400
    for text in ('{"model": 1}', json.dumps(huge)):
        path.write_text(text)
        with pytest.raises(CacheCorrupt, match=r"metrics\.json"):
            train(dataclasses.replace(trained, resume=True))


def test_a_fold_named_like_a_path_stays_in_the_run_folder(small: TrainOptions) -> None:
    victim = small.cache_dir / "victim"
    victim.mkdir()
    text = (small.cache_dir / "pairs.tsv").read_text().splitlines()
    names = ["../../../victim", "a/b"]
    table = [text[0] + "\tfold"] + [f"{line}\t{names[n % 2]}" for n, line in enumerate(text[1:])]
    source = small.cache_dir.parent / "given.tsv"
    source.write_text("\n".join(table) + "\n")
    sides = (Side(m, small.cache_dir / f"{m}.fasta") for m in ("rna", "protein"))
    other = small.cache_dir.parent / "given"
    import_dataset(ImportOptions(*sides, source, other))
    for modality in ("rna", "protein"):
        run(RunOptions(modality, other / f"{modality}.fasta", other, "profile", quiet=True))
    given = dataclasses.replace(QUICK, split="given", epochs=1)
    folder = train(TrainOptions(other, given, quiet=True)).folder
    assert {p.name for p in (folder / "tensorboard").iterdir()} == {"fold-0", "fold-1"}
    assert victim.is_dir()
    assert {r["fold"] for r in rows(folder / "splits.tsv")} == set(names)


def test_a_rare_label_can_be_resumed(small: TrainOptions) -> None:
    """A validation part of one class has no AUROC; that is written and read again as null."""
    folder = RunFolder(small.cache_dir / "runs" / "x", {}, resume=True)
    score, state = np.full(3, 0.5, np.float32), {"w": torch.ones(1)}
    made = Calibration("platt", (1.5,), (-0.25,))
    result = FoldResult(score, 0.5, Target("classification"), [1], [Epoch(1, 0.1, 0.2, None)], state, made)
    folder.save_fold(0, result, "d")
    loaded = folder.load_fold(0, 3, Target("classification"), 1, "d")
    assert loaded is not None
    assert (loaded.history, loaded.calibration) == (result.history, made)


def test_a_run_whose_recipe_is_gone_says_which(small: TrainOptions) -> None:
    done = train(small)
    (done.folder / "metrics.json").unlink()
    digest = list_recipes(small.cache_dir, "rna")[0].digest
    for folder in (small.cache_dir / "embeddings" / "rna").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(InputError, match=f"--resume: the run was trained on the rna recipe {digest[:16]}, which"):
        train(dataclasses.replace(small, resume=True, recipe_a=digest))
    with pytest.raises(InputError, match="with `--encoder profile` where no weights are at hand"):
        train(dataclasses.replace(small, out=small.cache_dir / "other"))
