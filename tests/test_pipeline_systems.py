"""Every system of `train --system`: learns what was planted, is repeatable, resumes, and is blind to the test part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from made_systems import PARTS, SETTINGS, SHOWN, Made

from crossllm.cache import InputError
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.evaluation.classification import compute
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.fitted import Fitted, untold
from crossllm.pipeline.systems.folds import SystemFolds, fit_system
from crossllm.pipeline.systems.registry import SYSTEMS, check_system
from crossllm.pipeline.systems.run import fit_folds
from crossllm.pipeline.training import config
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.run_folder import RunFolder

OTHERS = [name for name in SYSTEMS if name != OUR_MODEL]


@pytest.fixture(params=OTHERS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of each, made quick."""
    for name, value in SETTINGS[request.param].items():
        monkeypatch.setattr(name, value)
    return str(request.param)


def fitted(material: Material, parts: Parts = PARTS) -> Fitted:
    load = SYSTEMS[material.config.system].load
    assert load is not None
    return load()(material, parts, 0, untold)


def auroc(label: np.ndarray, score: np.ndarray) -> float:
    return float(compute(label, score, score >= 0.5, np.ones((1, len(label))))["auroc"][0])


def test_what_a_run_may_name_is_what_there_is() -> None:
    assert tuple(SYSTEMS) == config.SYSTEMS
    assert set(SETTINGS) == set(OTHERS), "each needs its quick settings in made_systems.py"


def test_the_guide_lists_every_system_and_what_it_takes() -> None:
    page = (ROOT / "docs" / "guide" / "systems.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    told = {name: (reads.strip(), takes.strip(), tasks.strip()) for name, reads, takes, tasks in rows}
    assert list(told) == list(SYSTEMS)
    for name, info in SYSTEMS.items():
        takes = "any two" if info.modalities is None else " and ".join(sorted(info.modalities, reverse=True))
        assert told[name] == (info.reads, takes, ", ".join(info.tasks)), name
        assert info.about


@pytest.mark.slow
def test_it_learns_what_was_planted_gives_it_again_and_is_blind_to_the_test_part(
    system: str, rng: np.random.Generator
) -> None:
    """Other labels of test pairs change no bit of the scores; other sequences of them none of a validation score."""
    made = Made(rng)
    first = fitted(made.material(system))
    assert auroc(made.labels[PARTS.test], first.test) >= 0.8, "partners that no training pair has"
    assert auroc(made.labels[PARTS.validation], first.validation) >= 0.8
    made.labels[PARTS.test] = rng.permutation(made.labels[PARTS.test])
    relabelled = fitted(made.material(system))
    assert np.array_equal(first.validation, relabelled.validation)
    assert np.array_equal(first.test, relabelled.test)
    for modality in made.texts:
        made.texts[modality][SHOWN:] = [text[::-1] for text in made.texts[modality][SHOWN:]]
        made.rows[modality][SHOWN:] *= 5
    rewritten = fitted(made.material(system))
    assert np.array_equal(first.validation, rewritten.validation)
    assert not np.array_equal(first.test, rewritten.test), "it does read them"


@pytest.mark.slow
def test_a_run_killed_between_folds_goes_on_to_the_same(
    system: str, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(rng)
    parts = [PARTS, Parts(PARTS.validation, PARTS.train[:60], PARTS.test)]

    def run(name: str) -> list[FoldResult]:
        material = made.material(system)
        with RunFolder(tmp_path / name, material.config.to_tables(), resume=True) as folder:
            return fit_folds(SystemFolds(material, 2, folder), folder, material, parts, ["0", "1"])

    whole = run("whole")

    def stops(_system: object, _material: object, _parts: object, number: int, _told: object) -> FoldResult:
        if number:
            raise KeyboardInterrupt
        return whole[0]

    monkeypatch.setattr("crossllm.pipeline.systems.folds.fit_system", stops)
    with pytest.raises(KeyboardInterrupt):
        run("halved")
    monkeypatch.setattr("crossllm.pipeline.systems.folds.fit_system", fit_system)
    for first, second in zip(whole, run("halved"), strict=True):
        assert np.array_equal(first.score, second.score)
        assert first.score.dtype == second.score.dtype
        assert first[1:] == second[1:], "all but the score"
    assert len(list((tmp_path / "halved" / "checkpoints").iterdir())) == 2, "scores, and no weights"


@pytest.mark.slow
def test_either_partner_may_be_side_a(system: str, rng: np.random.Generator) -> None:
    made = Made(rng)
    found = fitted(made.material(system, swapped=True))
    assert auroc(made.labels[PARTS.test], found.test) >= 0.8


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modality_a": "molecule"}, "takes rna and protein, this dataset has protein and molecule"),
        ({"modality_b": "rna"}, "takes rna and protein, this dataset has rna and rna"),
        ({"task": "regression"}, "predicts classes, the labels of this dataset are affinities"),
    ],
)
def test_what_a_system_does_not_take_names_those_that_do(
    change: dict[str, Any], named: str, rng: np.random.Generator
) -> None:
    dataset = Made(rng).material("rpiseq_rf").dataset
    check_system("rpiseq_rf", dataset)
    other = dataset._replace(**change)
    with pytest.raises(InputError, match=rf"--system rpiseq_rf: {named}; these take it: .*kmer_trees"):
        check_system("rpiseq_rf", other)
    check_system("kmer_trees", other)
    check_system(OUR_MODEL, other)
