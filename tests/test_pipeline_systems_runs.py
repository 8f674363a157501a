"""Runs of other systems than our model: what they leave, how they are shown, compared, swept and refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from forked_rows import forked_child
from made_runs import rows
from made_splits import made_dataset
from made_systems import SETTINGS
from zygote import Zygote

from crossllm.cache import Conflict, InputError
from crossllm.embed.run.run import RunOptions
from crossllm.embed.run.run import run as embed
from crossllm.pipeline import load_run
from crossllm.pipeline.evaluation.table import table
from crossllm.pipeline.experiments import row_processes
from crossllm.pipeline.experiments.ablation import AblationOptions, ablate
from crossllm.pipeline.experiments.compare import compare
from crossllm.pipeline.train import Run, train
from crossllm.pipeline.training.config import resolve
from crossllm.pipeline.training.inputs import TrainOptions


@pytest.fixture
def trees(small: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """What trains `kmer_trees`, few of them."""
    for name in ("kmer_trees", "rpiseq_rf"):
        for what, value in SETTINGS[name].items():
            monkeypatch.setattr(what, value)
    return of_system(small, "kmer_trees")


def of_system(options: TrainOptions, name: str) -> TrainOptions:
    config = dataclasses.replace(options.config, system=name)
    return dataclasses.replace(options, config=config, baselines="none", out=options.cache_dir / "runs" / name)


def files(run: Run) -> set[str]:
    return {path.name for path in run.folder.iterdir()}


@pytest.mark.slow
def test_a_run_of_another_system_is_a_run_like_any(trees: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(dataclasses.replace(trees, baselines="id_only", by=None))
    assert {"predictions.tsv", "predictions.id_only.tsv", "calibration.png", "roc_pr.svg", "leaks.json",
            "usage.json"} <= files(run)  # fmt: skip
    assert not {"history.csv", "loss_curves.png", "tensorboard"} & files(run), "no epochs, no curves"
    assert not list(run.folder.glob("checkpoints/*.safetensors"))
    assert {"system": "kmer_trees", "reads": "sequences"}.items() <= run.metrics.items()
    assert not {"parameters", "scan", "compute", "fusion", "tokens"} & run.metrics.keys()
    assert run.metrics["calibration"]["kind"] == {"platt": 2}
    assert "scan by" not in capsys.readouterr().err
    text = table(run.metrics)
    assert re.search(r"^kmer_trees  +-?\d\.\d{3} ± ", text, re.MULTILINE)
    assert not re.search(r"^model ", text, re.MULTILINE)
    assert "kmer_trees on sequences" in " ".join(text.split())
    assert "tokens" not in text
    assert "kmer_trees, AUROC" in (run.folder / "roc_pr.svg").read_text()
    found = rows(run.folder / "predictions.tsv")
    assert len(found) == 160
    assert all(0 <= float(row["score"]) <= 1 and 0 <= float(row["probability"]) <= 1 for row in found)
    usage = json.loads((run.folder / "usage.json").read_text())
    assert usage["seconds"] > 0
    assert usage["rows_read"] == 0


@pytest.mark.slow
def test_it_goes_on_after_its_first_fold_to_the_same_files(
    trees: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(trees)
    fit, fitted = sys.modules["crossllm.pipeline.systems.folds"].fit_system, []

    def counted(*arguments: Any) -> Any:
        if arguments[3] in fitted:
            raise KeyboardInterrupt
        fitted.append(arguments[3])
        if arguments[3] == 1 and len(fitted) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr("crossllm.pipeline.systems.folds.fit_system", counted)
    halved = dataclasses.replace(trees, out=trees.cache_dir / "runs" / "halved", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(halved)
    fitted.clear()
    again = train(halved)
    assert fitted == [1], "the first fold was there"
    assert again.metrics == whole.metrics
    for name in ("predictions.tsv", "metrics.json"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    with pytest.raises(Conflict, match=r"train.system \(rpiseq_rf, there kmer_trees\)"):
        train(dataclasses.replace(of_system(trees, "rpiseq_rf"), out=halved.out, resume=True))


@pytest.mark.slow
def test_two_systems_are_compared_and_neither_predicts(trees: TrainOptions) -> None:
    runs = [train(trees), train(of_system(trees, "rpiseq_rf"))]
    (found,) = compare([run.folder for run in runs])
    assert found.pairs == 160
    assert "the reference is kmer_trees, the run rpiseq_rf" in found.remarks
    assert not [remark for remark in found.remarks if "split" in remark], "the same folds"
    means = [run.metrics["model"]["auroc"]["mean"] for run in runs]
    assert found.metrics["auroc"].difference == pytest.approx(means[1] - means[0])
    with pytest.raises(InputError, match="kmer_trees, which keeps scores and no weights"):
        load_run(runs[0].folder)


@pytest.mark.slow
def test_affinities_have_intervals_by_trees_and_no_other_forest(
    trees: TrainOptions, rng: np.random.Generator, tmp_path: Path
) -> None:
    folder = tmp_path / "affinities"
    made_dataset(folder, rng, pairs=150, task="regression")
    for modality in ("rna", "protein"):
        embed(RunOptions(modality, folder / f"{modality}.fasta", folder, "profile", quiet=True))
    trees = dataclasses.replace(trees, cache_dir=folder)
    run = train(trees)
    assert run.metrics["task"] == "regression"
    assert 0.5 <= run.metrics["interval"]["coverage"]["mean"] <= 1
    assert {"low", "high"} <= rows(run.folder / "predictions.tsv")[0].keys()
    refused = of_system(trees, "rpiseq_rf")
    with pytest.raises(InputError, match=r"rpiseq_rf: predicts classes, .*these take it: crossllm_mamba, kmer_trees"):
        train(refused)
    assert refused.out is not None
    assert not refused.out.exists(), "refused before there is a run"


@pytest.mark.slow
def test_ablate_sweeps_systems(programs: Zygote, small: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    out = small.cache_dir / "swept"
    monkeypatch.setattr(row_processes, "start_child", forked_child(programs))
    sets = ("folds=2", "epochs=1", "d_model=8")
    grid = ("system=rpiseq_rf,crossllm_mamba",)
    assert ablate(AblationOptions(small.cache_dir, grid, sets=sets, out=out, baselines="none")).failed == 0
    first, second = rows(out / "ablation.tsv")
    assert (first["system"], second["system"]) == ("rpiseq_rf", "crossllm_mamba")
    assert first["parameters"] == ""
    assert int(second["parameters"]) > 0
    metrics = [json.loads((out / "rows" / f"system={name}" / "metrics.json").read_text())
               for name in ("rpiseq_rf", "crossllm_mamba")]  # fmt: skip
    assert [found["system"] for found in metrics] == ["rpiseq_rf", "crossllm_mamba"]
    assert float(second["difference"]) == pytest.approx(
        metrics[1]["model"]["mcc"]["mean"] - metrics[0]["model"]["mcc"]["mean"], abs=1e-9
    )


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["system=rpiseqrf"], "--set system: 'rpiseqrf' is not one of .*; did you mean 'rpiseq_rf'"),
        (["system=cfrp", "protocol=paper"], "cfrp chooses nothing on the scored pairs"),
        (["gate=static"], "gate static: is of biollmnet alone"),
        (["system=cfrp", "gate=static"], "gate static: is of biollmnet alone"),
    ],
)
def test_a_wrong_name_and_settings_without_use_are_one_line(sets: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        resolve(None, sets)
    assert len(caught.value.lines) == 1


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("systems_table", ROOT / "benchmarks" / "systems_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_all_systems(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run for each system, set and split, with random folds where a set has none of its own."""
    asked = []

    def run(*command: object) -> str:
        asked.append([str(word) for word in command])
        out = Path(asked[-1][asked[-1].index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "usage.json").write_text('{"seconds": 30}')
        found = {"mean": 0.57, "std": 0.02}
        return json.dumps({"model": {"mcc": found, "auroc": {"mean": None, "std": None}}})

    monkeypatch.setattr(script, "run", run)
    for name in ("rpi1460", "rpi488"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "dataset.toml").touch()
    script.main(["--work", str(tmp_path), "--systems", "rpiseq_rf", "cfrp", "--quick", "--splits", "given"])
    assert [[word for word in words if word in ("rpiseq_rf", "cfrp", "given")] for words in asked] == [
        ["rpiseq_rf", "given"], ["rpiseq_rf"],
    ]  # fmt: skip
    assert all({"--resume", "none", "--seeds"} <= {*words} for words in asked)
    text = (tmp_path / "systems.md").read_text()
    assert capsys.readouterr().out.rstrip() == text.rstrip()
    lines = text.splitlines()
    assert lines[-2] == (
        "| rpi1460, given | `rpiseq_rf` | 0.570 ± 0.020 | – | 30 | 0.570 (as BioLLMNet's table has it) | 1.00 |"
    )
    assert lines[-1] == "| rpi488, random | `rpiseq_rf` | 0.570 ± 0.020 | – | 30 | – | – |"
    with pytest.raises(SystemExit, match="no dataset there"):
        script.main(["--work", str(tmp_path), "--sets", "rpi1807"])
