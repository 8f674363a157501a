"""Baselines on the public sets, held to the numbers that were measured before this code was written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA
from made_baselines import baseline, imported, material_of, relabelled

from crossllm.pipeline.baselines import trees
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.baselines.one_number import of_column
from crossllm.pipeline.data.dataset import Dataset, load_dataset
from crossllm.pipeline.evaluation.metrics import Summary, summarise
from crossllm.pipeline.splits.choosing import choose_folds
from crossllm.pipeline.splits.given import given_folds
from crossllm.pipeline.splits.options import SplitOptions
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}"),
]


CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
PERMUTATIONS = 5 if CHAOS else 2
"""Of the labels: the MCC of one over all pairs has a deviation of 0.03."""


@pytest.fixture(scope="module")
def rpi1460(rpi1460_cache: Path) -> Material:
    return material_of(rpi1460_cache, load_dataset(rpi1460_cache)[0], aligned=True)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = imported(DATA / "plant_mlnc", ("rna", "rna"), tmp_path_factory.mktemp("real") / "plant")
    return material_of(folder, load_dataset(folder)[0])


def given(dataset: Dataset) -> list[Parts]:
    folds = given_folds(dataset, "fold")
    return [cut_parts(dataset, folds, n, 0.15, 0) for n in range(len(folds.names))]


def score(material: Material, name: str, parts: list[Parts]) -> dict[str, Summary]:
    return summarise("classification", baseline(material, name, parts), 0, replicates=1)


def test_relatives_of_rpi1460(rpi1460: Material) -> None:
    found = score(rpi1460, "relatives", given(rpi1460.dataset))
    assert found["mcc"].mean == pytest.approx(0.50, abs=0.03)
    assert found["auroc"].mean == pytest.approx(0.81, abs=0.02)


def test_trees_of_rpi1460(rpi1460: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CHAOS:
        monkeypatch.setattr(trees, "TREES", 60)
    found = score(rpi1460, "trees", given(rpi1460.dataset))
    assert found["auroc"].mean == pytest.approx(0.90, abs=0.01)
    assert found["mcc"].mean == pytest.approx(0.71, abs=0.03)


def cut(material: Material, split: str, blocks: str = "diagonal", **other: str) -> list[Parts]:
    options = SplitOptions(split, blocks=blocks)._replace(**other)  # type: ignore[arg-type]
    _, folds = choose_folds(material.dataset, options, material.cache_dir, quiet=True)
    return [cut_parts(material.dataset, folds, n, 0.15, 0) for n in range(len(folds.names))]


def test_with_both_sides_unseen_by_cluster_trees_have_nothing_left(
    rpi1460: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 25 blocks, so that every pair is tested: AUROC 0.49 where the given folds say 0.90.

    That number wants all trees (`make chaos`); of a quarter of them it is a few hundredths less, and as far from 0.90.
    """
    if not CHAOS:
        monkeypatch.setattr(trees, "TREES", 50)
    found = score(rpi1460, "trees", cut(rpi1460, "cluster", "all"))
    print(f"AUROC {found['auroc'].mean:.3f}, MCC {found['mcc'].mean:.3f}")
    assert found["auroc"].mean == pytest.approx(0.49, abs=0.03 if CHAOS else 0.06)


@pytest.mark.parametrize(
    ("split", "name"),
    [("given", name) for name in ("id_only", "id_only_sequence", "one_number", "relatives", "nearest", "trees")]
    + [(split, "trees") for split in ("random", "cold-a", "cold-b", "cold-both", "cluster")],
)
def test_permuted_labels_are_told_by_nothing_in_no_split(
    rpi1460: Material, monkeypatch: pytest.MonkeyPatch, split: str, name: str
) -> None:
    monkeypatch.setattr(trees, "TREES", 8)
    for made_once in ("descriptors", "numbers"):  # then the copies share them
        getattr(rpi1460, made_once)
    found = []
    for seed in range(PERMUTATIONS):
        labels = np.random.default_rng(seed).permutation(rpi1460.dataset.labels)
        material = relabelled(rpi1460, labels)
        found.append(score(material, name, cut(material, split))["mcc"].mean)
    assert abs(np.mean(found)) <= 0.1, found


def test_permuted_labels_are_not_carried_to_another_species(plant: Material) -> None:
    species = np.array(plant.dataset.extra["species"])
    for name in ("id_only", "id_only_sequence", "one_number"):
        found = []
        for seed in range(5):
            labels = np.random.default_rng(seed).permutation(plant.dataset.labels)
            material = relabelled(plant, labels)
            ath, mtr = np.flatnonzero(species == "ath"), np.flatnonzero(species == "mtr")
            found.append(score(material, name, [Parts(ath[::2], ath[1::2], mtr)])["mcc"].mean)
        assert abs(np.mean(found)) <= 0.1, (name, found)


def test_the_length_of_a_lncrna_tells_its_label(plant: Material) -> None:
    """Of Medicago alone: accuracy 0.91 by one number."""
    dataset = plant.dataset.subset([n for n, species in enumerate(plant.dataset.extra["species"]) if species == "mtr"])
    folds = random_folds(dataset, 5, 0)
    found = score(material_of(plant.cache_dir, dataset), "one_number", [cut_parts(dataset, folds, n, 0.15, 0)
                                                                        for n in range(5)])  # fmt: skip
    assert found["accuracy"].mean == pytest.approx(0.91, abs=0.01)


def test_one_number_carried_from_arabidopsis_to_medicago(plant: Material) -> None:
    """The length alone, its threshold from Arabidopsis, has accuracy 0.89 on Medicago (best published: 0.796).

    But Arabidopsis does not tell that the length is what to take: on its pairs the length has 0.58 and the miRNA's GC
    content 0.79.  `one_number`, which chooses by them, takes GC and has 0.68.
    """
    species = np.array(plant.dataset.extra["species"])
    labels = plant.dataset.labels
    ath, mtr = np.flatnonzero(species == "ath"), np.flatnonzero(species == "mtr")
    length = -plant.numbers["b length"]
    cuts = np.unique(length[ath])
    best = cuts[np.argmax([((length[ath] >= cut) == labels[ath]).mean() for cut in cuts])]
    assert ((length[ath] >= best) == labels[ath]).mean() == pytest.approx(0.577, abs=0.005)
    assert ((length[mtr] >= best) == labels[mtr]).mean() == pytest.approx(0.892, abs=0.005)
    ranks, threshold, mcc = of_column(plant.numbers["b length"], labels, ath)
    assert mcc == pytest.approx(0.214, abs=0.005)
    assert ((ranks[mtr] >= threshold) == labels[mtr]).mean() == pytest.approx(0.823, abs=0.005)
    parts = Parts(ath[::2], ath[1::2], mtr)
    assert score(plant, "one_number", [parts])["accuracy"].mean == pytest.approx(0.68, abs=0.01)
