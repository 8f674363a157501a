"""`train --seeds`: each seed an ordinary run, and a summary that is the mean of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Program
from made_runs import QUICK

from crossllm.cache import CacheCorrupt, Conflict, InputError
from crossllm.pipeline.evaluation.seeds_table import seeds_table
from crossllm.pipeline.evaluation.table import WIDTH
from crossllm.pipeline.experiments.seeds import summarise_seeds, train_seeds
from crossllm.pipeline.train import train
from crossllm.pipeline.training.inputs import TrainOptions
from crossllm.pipeline.training.seed_folders import held_seeds
from crossllm.pipeline.training.usage import read_usage
from crossllm.pipeline.use.trained_run import load_run

pytestmark = pytest.mark.usefixtures("undrawn")

NAMES = ("metrics.json", "predictions.tsv", "history.csv", "splits.tsv", "config.toml")


@pytest.fixture(scope="module")
def repeated(_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """A finished run of the seeds 3 and 4; only ever copied."""
    cache = shutil.copytree(_demo, tmp_path_factory.mktemp("seeds") / "demo")
    options = TrainOptions(cache, dataclasses.replace(QUICK, seed=3), out=cache / "runs" / "seeds", quiet=True)
    train_seeds(options, 2)
    return options


def out_of(options: TrainOptions) -> Path:
    assert options.out is not None
    return options.out


def test_every_seed_is_the_run_that_it_would_be_alone(repeated: TrainOptions, tmp_path: Path) -> None:
    for seed in (3, 4):
        alone = train(
            dataclasses.replace(repeated, config=dataclasses.replace(QUICK, seed=seed), out=tmp_path / str(seed))
        )
        for name in NAMES:
            assert (out_of(repeated) / f"seed-{seed}" / name).read_bytes() == (alone.folder / name).read_bytes(), name


def test_the_summary_is_the_mean_of_the_runs(repeated: TrainOptions) -> None:
    folder = out_of(repeated)
    found = json.loads((folder / "metrics.json").read_text())
    runs = [json.loads((folder / f"seed-{seed}" / "metrics.json").read_text()) for seed in (3, 4)]
    assert found["seeds"] == [3, 4]
    assert found["baselines"].keys() == runs[0]["baselines"].keys()
    for name, summary in (("model", found["model"]), *found["baselines"].items()):
        own = [run["model"] if name == "model" else run["baselines"][name] for run in runs]
        for metric, value in summary.items():
            means = [one[metric]["mean"] for one in own]
            assert value["per_seed"] == means
            assert value["mean"] == pytest.approx(np.mean(means))
            assert value["std_over_seeds"] == pytest.approx(np.std(means, ddof=1))
            assert value["std_over_folds"] == pytest.approx(np.mean([one[metric]["std"] for one in own]))
    assert {"seeds.png", "seeds.svg", "config.toml", ".lock"} < {path.name for path in folder.iterdir()}


def test_the_table_says_what_is_over_folds_and_what_over_seeds(repeated: TrainOptions) -> None:
    metrics = json.loads((out_of(repeated) / "metrics.json").read_text())
    text = seeds_table(metrics)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "2 seeds (3 to 4)" in text
    assert "± folds ± seeds" in text
    assert f"{metrics['model']['mcc']['std_over_seeds']:.3f}" in text


def test_a_number_of_several_seeds_is_called_optimistic(repeated: TrainOptions) -> None:
    metrics = json.loads((out_of(repeated) / "metrics.json").read_text())
    assert "optimistic" not in seeds_table(metrics).lower()
    text = seeds_table(metrics | {"optimistic": True})
    assert "model optimistic" in text
    assert "OPTIMISTIC (--protocol paper)" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_metric_undefined_in_a_seed_is_left_out_of_the_mean_and_named() -> None:
    def run(seed: int, mean: float | None) -> dict[str, Any]:
        one = {"mcc": {"mean": mean, "std": None, "ci95": [None, None], "per_fold": [mean]}}
        undefined = {} if mean is not None else {"0": "all 3 test pairs are positive"}
        return {"task": "classification", "seed": seed, "undefined": undefined, "model": one, "baselines": {}}

    found = summarise_seeds([run(0, 0.5), run(1, None), run(2, 0.7)], range(3))
    assert found["model"]["mcc"] == {
        "mean": pytest.approx(0.6),
        "std_over_seeds": pytest.approx(np.std([0.5, 0.7], ddof=1)),
        "std_over_folds": None,
        "per_seed": [0.5, None, 0.7],
    }
    assert found["undefined"] == {"seed-1/0": "all 3 test pairs are positive"}


def test_more_seeds_go_on_and_fewer_are_refused(
    repeated: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(out_of(repeated), tmp_path / "run")
    asked = dataclasses.replace(repeated, out=tmp_path / "run")
    with pytest.raises(Conflict, match="already holds a run; continue it with --resume"):
        train_seeds(asked, 2)
    resumed = dataclasses.replace(asked, resume=True)
    with pytest.raises(Conflict, match="holds 2 seeds, --seeds 1 are fewer"):
        train_seeds(resumed, 1)
    with pytest.raises(Conflict, match=r"train\.lr \(0\.5, there 0\.001\)"):
        train_seeds(dataclasses.replace(resumed, config=dataclasses.replace(asked.config, lr=0.5)), 2)
    with pytest.raises(Conflict, match="holds a run of one seed"):
        train_seeds(dataclasses.replace(resumed, out=tmp_path / "run" / "seed-3"), 2)
    with pytest.raises(InputError, match="none above 4294967295"):
        train_seeds(dataclasses.replace(resumed, config=dataclasses.replace(QUICK, seed=2**32 - 1)), 2)
    before = (tmp_path / "run" / "seed-4" / "metrics.json").stat().st_mtime_ns
    more = train_seeds(resumed, 3)
    assert more.metrics["seeds"] == [3, 4, 5]
    assert held_seeds(tmp_path / "run") == range(3, 6)
    assert (tmp_path / "run" / "seed-4" / "metrics.json").stat().st_mtime_ns == before


def test_the_program_takes_the_seeds_that_the_folder_holds(repeated: TrainOptions, program: Program) -> None:
    copy = shutil.copytree(repeated.cache_dir, repeated.cache_dir.parent / "copy")
    out = copy / "runs" / "seeds"
    (out / "metrics.json").unlink()
    (out / "seed-4" / "metrics.json").unlink()
    done = program("train", "--cache", copy, "--out", out, "--resume")  # with the baselines that seed 3 has
    assert done.returncode == 0, done.stderr
    assert "2 seeds (3 to 4)" in done.stdout
    for name in NAMES:
        assert (out / "seed-4" / name).read_bytes() == (out_of(repeated) / "seed-4" / name).read_bytes(), name
    assert (out / "metrics.json").read_bytes() == (out_of(repeated) / "metrics.json").read_bytes()
    fewer = program("train", "--cache", copy, "--out", out, "--resume", "--seeds", 1)
    assert (fewer.returncode, fewer.stderr.count("\n")) == (5, 1)


def test_a_loaded_run_has_every_fold_of_every_seed(repeated: TrainOptions) -> None:
    run = load_run(out_of(repeated))
    assert [fold.name for fold in run.folds] == ["seed-3/0", "seed-3/1", "seed-4/0", "seed-4/1"]
    assert run.folder == out_of(repeated)
    alone = load_run(out_of(repeated) / "seed-4")
    assert run.recipes == alone.recipes


def test_an_edited_table_of_seeds_is_damage(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[seeds]\nfirst = 0\ncount = 1e9\n")
    with pytest.raises(CacheCorrupt, match="is not `first` and `count`"):
        held_seeds(tmp_path)


def test_usage_counts_the_rows_and_is_kept_over_starts(small: TrainOptions) -> None:
    run = train(dataclasses.replace(small, out=small.cache_dir / "runs" / "u"))
    first = read_usage(run.folder)
    assert first.rows_read > 0
    assert first.waiting_share is not None
    for name in ("metrics.json", "checkpoints/fold-1.json"):
        (run.folder / name).unlink()
    train(dataclasses.replace(small, out=run.folder, resume=True))
    again = read_usage(run.folder)
    assert first.rows_read < again.rows_read < 2 * first.rows_read, "one of two folds was read again"
    (run.folder / "usage.json").write_text("{")
    assert read_usage(run.folder).rows_read == 0
