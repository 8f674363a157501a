"""`Scorer`: the scores of `TrainedRun.score`, whatever the fusion, the tokens, the tiles and the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_runs import embedded_demo

from crossllm.cache import CacheReader, list_recipes
from crossllm.model.ensemble import Ensemble
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.target import Target
from crossllm.pipeline.use import scoring
from crossllm.pipeline.use.scoring import Scorer
from crossllm.pipeline.use.trained_run import Fold, TrainedRun


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheReader, CacheReader]:
    folder = embedded_demo(tmp_path_factory.mktemp("scoring") / "demo", entities=9, pairs=12)
    a, b = (CacheReader(folder, list_recipes(folder, modality)[0]) for modality in ("rna", "protein"))
    return a, b


def random_run(readers: tuple[CacheReader, CacheReader], model: ModelConfig, window: int) -> TrainedRun:
    torch.manual_seed(0)
    a, b = readers
    models = [Ensemble(MEMBERS, a.recipe.dim, b.recipe.dim, model).eval() for _ in range(2)]
    folds = tuple(Fold(str(n), made, Target("regression"), None, None, 1.0) for n, made in enumerate(models))
    recipes = a.recipe.digest, b.recipe.digest
    return TrainedRun(Path("run"), "regression", TrainConfig(ensemble=MEMBERS, model=model), recipes, window, folds)


MEMBERS = 2
MODELS = {
    "cross_mamba": ModelConfig(8, 4),
    "both orders": ModelConfig(8, 4, order="both"),
    "two layers": ModelConfig(8, 4, mixer_layers=2, encoder_layers=2),
    "no summaries": ModelConfig(8, 4, summary_width=0),
    "concat": ModelConfig(8, 4, fusion="concat"),
    "gated": ModelConfig(8, 4, fusion="gated"),
    "cross_attention": ModelConfig(8, 4, fusion="cross_attention"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("window", "kept"), [(1, 1 << 30), (4, 0), (1, 40_000)])
def test_scores_are_those_of_the_run(
    readers: tuple[CacheReader, CacheReader], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator,
    name: str, window: int, kept: int,
) -> None:  # fmt: skip
    run = random_run(readers, MODELS[name], window)
    keys = list(readers[0]), list(readers[1])
    a, b = rng.integers(0, len(keys[0]), 25), rng.integers(0, len(keys[1]), 25)
    expected = run.score(*readers, [(keys[0][x], keys[1][y]) for x, y in zip(a, b, strict=True)])
    monkeypatch.setattr(scoring, "TILE_VALUES", 120 * 8)
    monkeypatch.setattr(scoring, "FUSED_PAIRS", 5)
    monkeypatch.setattr(scoring, "GRID_SIDE", 2)
    scorer = Scorer(run, readers, keys, torch.device("cpu"), kept)
    np.testing.assert_allclose(scorer.scores(a, b), expected, atol=2e-5)
    assert np.array_equal(scorer.scores(a, b), scorer.scores(a, b)), "the same bits"
    whole = np.full((2, len(keys[0]), len(keys[1])), np.nan)
    for block in scorer.grid():
        whole[:, block.a[:, None], block.b[None, :]] = block.raw
    np.testing.assert_allclose(whole[:, a, b], expected, atol=2e-5)
    if kept == 1 << 30:
        assert scorer.encoded == [2 * MEMBERS * len(keys[0]), 2 * MEMBERS * len(keys[1])]
