"""A finished run is loaded with all that its input must be, and gives the scores that it gave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import QUICK, embedded_demo, rows

from crossllm.cache import (
    CacheCorrupt,
    CacheReader,
    CacheWriter,
    Conflict,
    InputError,
    Recipe,
    key_of,
    list_recipes,
    read_table,
)
from crossllm.pipeline import TrainedRun, load_run
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = embedded_demo(tmp_path_factory.mktemp("use") / "demo", entities=30, pairs=160)
    train(TrainOptions(folder, dataclasses.replace(QUICK, tokens="window:4"), quiet=True))
    return folder


def readers(folder: Path) -> list[CacheReader]:
    return [CacheReader(folder, list_recipes(folder, modality)[0]) for modality in ("rna", "protein")]


@pytest.mark.slow
def test_a_loaded_run_gives_the_scores_of_its_predictions(finished: Path) -> None:
    run = load_run(finished / "runs" / "demo")
    tables = [read_table(finished, modality) for modality in ("rna", "protein")]
    tested = rows(run.folder / "predictions.tsv")
    pairs = [(tables[0][row["a_id"]].key, tables[1][row["b_id"]].key) for row in tested]
    scores = run.score(*readers(finished), pairs)
    assert scores.shape == (len(run.folds), len(tested))
    calls = run.predicted(scores)
    for n, row in enumerate(tested):
        fold = [found.name for found in run.folds].index(row["fold"])
        assert scores[fold, n] == pytest.approx(float(row["score"]), abs=1e-6)
        assert calls[fold, n] == int(row["predicted"])


@pytest.mark.slow
def test_a_pair_alone_has_the_score_that_it_has_among_others(finished: Path) -> None:
    run = load_run(finished / "runs" / "demo")
    a, b = readers(finished)
    pairs = [(x, y) for x in list(a)[:5] for y in list(b)[:5]]
    together = run.score(a, b, pairs)
    alone = np.concatenate([run.score(a, b, [pair]) for pair in pairs], axis=1)
    np.testing.assert_allclose(alone, together, atol=1e-6)


@pytest.mark.slow
def test_rows_of_another_recipe_are_refused(finished: Path, tmp_path: Path) -> None:
    run = load_run(str(finished / "runs" / "demo"))
    a, b = readers(finished)
    with CacheWriter(tmp_path, dataclasses.replace(a.recipe, dtype="float32")) as writer:
        writer.add(key_of("rna", "ACGU"), np.zeros((4, a.recipe.dim), np.float32))
    other = CacheReader(tmp_path, list_recipes(tmp_path, "rna")[0])
    with pytest.raises(Conflict, match=r"was trained on the recipe .* of side a, these rows are of"):
        run.score(other, b, [(key_of("rna", "ACGU"), next(iter(b)))])
    with pytest.raises(Conflict, match="of side a"):
        run.score(b, a, [])
    with pytest.raises(InputError, match="1 of the sequences have no rows there"):
        run.score(a, b, [(key_of("rna", "A" * 99), next(iter(b)))])


@pytest.mark.slow
def test_what_is_no_finished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        load_run(tmp_path)
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished / "runs" / "demo", copy)
    (copy / "metrics.json").rename(tmp_path / "metrics.json")
    with pytest.raises(InputError, match="is not finished; go on with `train --resume`"):
        load_run(copy)
    (tmp_path / "metrics.json").rename(copy / "metrics.json")
    assert isinstance(load_run(copy), TrainedRun)
    weights = copy / "checkpoints" / "fold-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CacheCorrupt, match="not the weights of this run"):
        load_run(copy)
    weights.unlink()
    with pytest.raises(CacheCorrupt, match=r"a finished run has it|not the weights"):
        load_run(copy)
    (copy / "metrics.json").write_text(json.dumps({"task": "guess"}))
    with pytest.raises(CacheCorrupt, match=r"in config\.toml or metrics.json"):
        load_run(copy)


@pytest.mark.slow
def test_a_recipe_is_named_by_its_digest(finished: Path) -> None:
    run = load_run(finished / "runs" / "demo")
    assert run.recipes == tuple(reader.recipe.digest for reader in readers(finished))
    assert run.window == 4
    assert isinstance(Recipe, type)
