"""`train --final`: one model on all pairs after the folds, and `--model final` of what uses a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_pairs import new_pairs, table

from crossllm.cache import InputError
from crossllm.pipeline import load_run
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.evaluation.calibration import fit_calibration
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.use.predicting import PredictOptions, predict_table

pytestmark = pytest.mark.slow


def test_a_finished_run_is_given_its_model_of_all_pairs(trained: TrainOptions, tmp_path: Path) -> None:
    run = trained.cache_dir / "runs" / "demo"
    with pytest.raises(InputError, match=r"has no model of all pairs; `train --resume --final` fits one"):
        load_run(run, "final")
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    metrics = json.loads((run / "metrics.json").read_text())
    train(dataclasses.replace(trained, final=True, resume=True))
    after = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    assert after.keys() - before.keys() == {"fold-final.json", "fold-final.safetensors"}
    assert {name: after[name] for name in before} == before
    assert json.loads((run / "metrics.json").read_text())["model"] == metrics["model"]
    (final,) = load_run(run, "final").folds
    found = table(run / "predictions.tsv")
    order = sorted(found, key=lambda row: row["fold"])  # as the folds' test parts follow each other
    label, score = (np.array([float(row[name]) for row in order]) for name in ("label", "score"))
    expected = fit_calibration(label.astype(int), score.astype(np.float32))
    assert final.calibration is not None
    assert final.calibration.kind == expected.kind
    np.testing.assert_allclose(final.calibration.x, expected.x, rtol=1e-4)
    body = json.loads((run / "checkpoints" / "fold-final.json").read_text())
    epochs = [json.loads(before[f"fold-{n}.json"])["best_epochs"] for n in (0, 1)]
    assert body["best_epochs"] == [round(float(np.median(of_one))) for of_one in zip(*epochs, strict=True)]
    assert len(body["history"]) == max(body["best_epochs"])
    assert body["score"] == []
    train(dataclasses.replace(trained, final=True, resume=True))
    assert (run / "checkpoints" / "fold-final.safetensors").read_bytes() == after["fold-final.safetensors"]

    new = new_pairs(trained.cache_dir, tmp_path / "new")
    sides = {"a": Side("rna", new.folder / "rna.fasta"), "b": Side("protein", new.folder / "protein.fasta")}
    predict_table(
        PredictOptions(run, new.folder / "pairs.tsv", tmp_path / "out.tsv", model="final", quiet=True, **sides)
    )
    for row in table(tmp_path / "out.tsv"):
        assert row["uncertainty"] == ""
        assert row["score"] == row["score_low"] == row["score_high"]


def test_with_the_way_of_the_papers_there_is_none(trained: TrainOptions, tmp_path: Path) -> None:
    config = dataclasses.replace(trained.config, protocol="paper")
    with pytest.raises(InputError, match="--final: takes what it needs from the folds' held-out pairs"):
        train(dataclasses.replace(trained, config=config, final=True, out=tmp_path / "paper"))
