"""Baselines in a run: which are fitted, what is kept of them, and how a run is gone on with that has others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import Program
from made_runs import QUICK, rows
from test_pipeline_baselines import Planted

from crossllm.cache import CacheCorrupt, InputError
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.baselines.random_embedding import random_embedding
from crossllm.pipeline.baselines.registry import BASELINES
from crossllm.pipeline.evaluation.classification import compute
from crossllm.pipeline.evaluation.table import WIDTH, table
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def refuse(*_: object) -> None:
    pytest.fail("fitted again")


def test_all_of_them_stand_beside_the_model(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    done = train(dataclasses.replace(small, baselines=None))
    assert list(done.metrics["baselines"]) == list(BASELINES["classification"])
    for name in BASELINES["classification"]:
        found = rows(done.folder / f"predictions.{name}.tsv")
        assert len(found) == 160
        assert all(0 <= float(row["score"]) <= 1 for row in found), name
    text = table(done.metrics)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert (small.cache_dir / "similarity").is_dir(), "the comparison of the sequences is kept beside the dataset"


def test_a_finished_run_takes_in_what_is_missing_and_fits_nothing_again(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(dataclasses.replace(small, baselines="id_only"))
    assert list(first.metrics["baselines"]) == ["id_only"]
    goes_on = dataclasses.replace(small, resume=True)
    monkeypatch.setattr("crossllm.pipeline.systems.model_folds.fit_fold", refuse)
    monkeypatch.setitem(BASELINES["classification"], "id_only", refuse)
    shown = train(dataclasses.replace(goes_on, baselines=None))
    assert shown.metrics == first.metrics, "none asked for: the result as it is"
    assert train(dataclasses.replace(goes_on, baselines="none")).metrics == first.metrics
    more = train(dataclasses.replace(goes_on, baselines="one_number,trees")).metrics
    assert list(more["baselines"]) == ["id_only", "one_number", "trees"]
    assert more["baselines"]["id_only"] == first.metrics["baselines"]["id_only"]
    assert more["model"] == first.metrics["model"]
    assert train(dataclasses.replace(goes_on, baselines="trees", by=None)).metrics == more


def test_an_interrupted_run_keeps_the_folds_of_a_long_baseline(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(small, baselines="one_number,random_embedding")
    whole = train(dataclasses.replace(options, out=small.cache_dir / "runs" / "whole"))
    fit, fitted = BASELINES["classification"]["random_embedding"], []

    def stops(material: object, parts: object, number: int) -> object:
        if number == 1:
            raise KeyboardInterrupt
        return fit(material, parts, number)  # type: ignore[arg-type]

    def counts(material: object, parts: object, number: int) -> object:
        fitted.append(number)
        return fit(material, parts, number)  # type: ignore[arg-type]

    monkeypatch.setitem(BASELINES["classification"], "random_embedding", stops)
    with pytest.raises(KeyboardInterrupt):
        train(options)
    monkeypatch.setitem(BASELINES["classification"], "random_embedding", counts)
    again = train(dataclasses.replace(options, resume=True))
    assert fitted == [1]
    assert again.metrics == whole.metrics
    for name in ("one_number", "random_embedding"):
        file = f"predictions.{name}.tsv"
        assert (again.folder / file).read_bytes() == (whole.folder / file).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"digest": "', '"digest": "0', "other settings or other test pairs"),
        ('"baselines"', '"others"', "baselines"),
        ("[", "[0.5, ", "not one score for each"),
        ("[0", "[1e999, 0", "not one score for each|outside"),
        ('"threshold": ', '"threshold": null, "was": ', "NoneType"),
    ],
)
def test_what_is_kept_of_another_run_is_refused(trained: TrainOptions, old: str, new: str, said: str) -> None:
    run = trained.cache_dir / "runs" / "demo"
    where = run / "checkpoints" / "baselines-0.json"
    text = where.read_text()
    assert old in text
    where.write_text(text.replace(old, new, 1))
    (run / "metrics.json").unlink()
    with pytest.raises(CacheCorrupt, match=said):
        train(dataclasses.replace(trained, resume=True))


def test_random_embedding_knows_sequences_that_it_has_seen(small: TrainOptions, rng: np.random.Generator) -> None:
    """The label is the A sequence's: told of seen sequences, not of others."""
    made = Planted(rng, 30)
    label = rng.permutation(np.arange(30) % 2)[made.a]
    material = made.material(label)
    model = ModelConfig(d_model=16, d_state=4, noise=0.0, dropout=0.0)
    material.config = dataclasses.replace(QUICK, epochs=25, patience=25, lr=1e-2, model=model)
    seen = cut_parts(material.dataset, random_folds(material.dataset, 3, 0), 0, 0.15, 0)
    rest = np.flatnonzero(made.a >= 10)
    unseen = Parts(rest[::2], rest[1::2], np.flatnonzero(made.a < 10))
    auroc = []
    for parts in (seen, unseen):
        found = random_embedding(material, parts, 0)
        held = label[parts.test]
        auroc.append(compute(held, found.score, found.score >= 0.5, np.ones((1, len(held))))["auroc"][0])
    assert auroc[0] >= 0.95, auroc
    assert auroc[1] <= 0.85, auroc


def test_an_unknown_baseline_is_one_line_and_leaves_no_run(program: Program, small: TrainOptions) -> None:
    done = program("train", "--cache", small.cache_dir, "--baselines", "id_only,treees")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert "'treees': no such baseline; did you mean 'trees'?" in line
    assert not (small.cache_dir / "runs").exists()
    with pytest.raises(InputError, match="additive is of affinities"):
        train(dataclasses.replace(small, baselines="additive"))
