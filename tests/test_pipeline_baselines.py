"""Each baseline on a made set with one shortcut in it, and on permuted labels; thresholds; which are asked for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_baselines import baseline, material_of
from scipy import sparse

from crossllm.cache import InputError, Recipe, key_of
from crossllm.pipeline.baselines import trees
from crossllm.pipeline.baselines.material import Material, Predictor, cut, refitted
from crossllm.pipeline.baselines.neighbours import nearest, relatives
from crossllm.pipeline.baselines.random_embedding import RandomRows
from crossllm.pipeline.baselines.registry import BASELINES, FAST, NETWORKS, chosen
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.evaluation.metrics import summarise
from crossllm.pipeline.evaluation.table import KNOWS
from crossllm.pipeline.similarity.rules import default_rule
from crossllm.pipeline.similarity.similarity import Similarity
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds

PAIRS = 900
WITHOUT_NETWORK = [name for name in BASELINES["classification"] if name not in NETWORKS]
NUCLEOTIDES, RESIDUES = "ACGU", "ACDEFGHIKLMNPQRSTVWY"


class Rows:
    """Stands in for a reader."""

    def __init__(self, rows: dict[bytes, np.ndarray], modality: str = "rna") -> None:
        self._rows, self.folder = rows, Path("made")
        self.recipe = Recipe(modality, "profile", 1, next(iter(rows.values())).shape[1], tokenizer="letters")

    def __getitem__(self, key: bytes) -> np.ndarray:
        return self._rows[key]

    def length(self, key: bytes) -> int:
        return len(self._rows[key])


class Planted:
    """Random pairs of random sequences, into which a test plants what one baseline should find."""

    def __init__(self, rng: np.random.Generator, sequences: int = PAIRS) -> None:
        self.rng = rng
        self.a = np.arange(PAIRS) % sequences
        """(P,) number of each pair's A sequence."""
        self.b = rng.permutation(self.a)
        self.a_text = ["".join(rng.choice(list(NUCLEOTIDES), 60)) for _ in range(sequences)]
        self.b_text = ["".join(rng.choice(list(RESIDUES), 50)) for _ in range(sequences)]
        self.rows = [rng.normal(size=(sequences, 3, 8)).astype(np.float32) for _ in "ab"]
        self.component = [np.arange(sequences) for _ in "ab"]
        self.identity = [np.eye(sequences) for _ in "ab"]
        self.ids = np.array([f"r{n}" for n in range(PAIRS)])

    def material(self, label: np.ndarray) -> Material:
        keys = [[key_of("rna", text) for text in self.a_text], [key_of("protein", text) for text in self.b_text]]
        dataset = Dataset(
            "made", "classification", "rna", "protein", self.ids.tolist(), [f"p{n}" for n in range(PAIRS)],
            [keys[0][n] for n in self.a], [keys[1][n] for n in self.b], label.astype(float), {}, "",
        )  # fmt: skip
        readers = [Rows(dict(zip(k, rows, strict=True))) for k, rows in zip(keys, self.rows, strict=True)]
        material = material_of(Path(), dataset, readers)
        of_key = dict(zip(itertools.chain(*keys), [*self.a_text, *self.b_text], strict=True))
        vars(material)["sequences"] = tuple([of_key[key] for key in side.keys] for side in material.sides)
        a, b = (
            Similarity(k, component, sparse.csr_matrix(identity.astype(np.float32)), default_rule(modality), "made")
            for k, component, identity, modality in zip(
                keys, self.component, self.identity, ("rna", "protein"), strict=True
            )
        )
        material.similarities = (a, b)
        return material


def clusters(rng: np.random.Generator, count: int, sequences: int = PAIRS) -> np.ndarray:
    return rng.integers(0, count, sequences)


def by_id(plant: Planted) -> np.ndarray:
    """Each sequence under two ids, one of them with positives alone."""
    plant.__init__(plant.rng, 45)  # type: ignore[misc]
    plant.ids = np.array([f"r{a}-{n % 2}" for n, a in enumerate(np.repeat(np.arange(45), 20))])
    plant.a = np.repeat(np.arange(45), 20)
    return np.arange(PAIRS) % 2


def by_sequence(plant: Planted) -> np.ndarray:
    """Every pair under an id of its own; the A sequence decides."""
    plant.__init__(plant.rng, 60)  # type: ignore[misc]
    return plant.rng.permutation(np.arange(60) % 2)[plant.a]


def by_length(plant: Planted) -> np.ndarray:
    """Short proteins bind."""
    lengths = plant.rng.integers(100, 200, PAIRS)
    plant.b_text = ["".join(plant.rng.choice(list(RESIDUES), size)) for size in lengths]
    return lengths[plant.b] < 150


def by_relatives(plant: Planted) -> np.ndarray:
    """The two clusters decide together, neither alone; nothing in the sequences shows the clusters."""
    plant.component = [clusters(plant.rng, 8), clusters(plant.rng, 8)]
    return (plant.component[0][plant.a] + plant.component[1][plant.b]) % 2


def by_neighbours(plant: Planted) -> np.ndarray:
    """As `by_relatives`, but the similar sequences are in no common cluster."""
    groups = [clusters(plant.rng, 8), clusters(plant.rng, 8)]
    plant.identity = [np.where(g[:, None] == g, 0.6, 0) + 0.4 * np.eye(PAIRS) for g in groups]
    return (groups[0][plant.a] + groups[1][plant.b]) % 2


def by_a_rows(plant: Planted) -> np.ndarray:
    return plant.rows[0].mean(1)[plant.a, 0] > 0


def by_b_rows(plant: Planted) -> np.ndarray:
    return plant.rows[1].mean(1)[plant.b, 0] > 0


def by_words(plant: Planted) -> np.ndarray:
    """Adenines of the RNA (for uracils: the same GC) and lysines of the protein, together."""
    shares = plant.rng.random((2, PAIRS))
    for n in range(PAIRS):
        a, b = (plant.rng.random(size) < shares[side, n] for side, size in enumerate((60, 50)))
        plant.a_text[n] = "".join(np.where(a, "A", "U")) + "G" * 20
        plant.b_text[n] = "".join(np.where(b, "K", "L"))
    return shares[0][plant.a] + shares[1][plant.b] > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "finder", "others"),
    [
        (by_id, "id_only", ()),
        (by_sequence, "id_only_sequence", ("one_partner_a", "trees")),  # who knows a sequence knows its label
        (by_length, "one_number", ("trees",)),  # of a long sequence, frequencies are finer
        (by_relatives, "relatives", ()),
        (by_neighbours, "nearest", ()),
        (by_a_rows, "one_partner_a", ()),
        (by_b_rows, "one_partner_b", ()),
        (by_words, "trees", ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_shortcut_is_found_by_its_baseline_alone(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, plant: Any, finder: str, others: tuple[str, ...]
) -> None:
    monkeypatch.setattr(trees, "TREES", 50)
    made = Planted(rng)
    material = made.material(plant(made))
    folds = random_folds(material.dataset, 3, 0)
    parts = [cut_parts(material.dataset, folds, n, 0.15, 0) for n in range(3)]
    found = {
        name: summarise("classification", baseline(material, name, parts), 0, replicates=1) for name in WITHOUT_NETWORK
    }
    auroc = {name: round(summary["auroc"].mean, 2) for name, summary in found.items()}
    assert auroc[finder] >= 0.85, auroc
    assert max(auroc[name] for name in WITHOUT_NETWORK if name not in (finder, *others)) <= 0.7, auroc
    assert found[finder]["mcc"].mean >= 0.5, "a good order of the pairs is cut where it is good"


def test_a_threshold_is_chosen_on_validation_pairs_and_never_at_one_half(rng: np.random.Generator) -> None:
    """A perfect order of the pairs on a scale of its own: cut at 0.5 everything would be negative."""
    made = Planted(rng)
    label = rng.integers(0, 2, PAIRS)
    material = made.material(label)
    asked = []

    def predict(material: Material, fitted: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        asked.append((set(fitted.tolist()), set(pairs.tolist())))
        score: np.ndarray = 0.1 + 0.05 * material.dataset.labels[pairs]
        return score

    part = cut_parts(material.dataset, random_folds(material.dataset, 3, 0), 0, 0.15, 0)
    found = cut(material.dataset, part, refitted(predict)(material, part, 0))
    assert (found.predicted == found.label).all()
    train, validation, test = (set(pairs.tolist()) for pairs in part)
    assert asked == [(train, validation), (train | validation, test)]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_NETWORK)
def test_no_test_label_reaches_a_baseline(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trees, "TREES", 20)
    made = Planted(rng, 60)
    label = rng.integers(0, 2, PAIRS)
    part = cut_parts(made.material(label).dataset, random_folds(made.material(label).dataset, 3, 0), 0, 0.15, 0)
    other = label.copy()
    other[part.test] = 1 - other[part.test]
    fit = BASELINES["classification"][name]
    one, two = (fit(made.material(labels), part, 0) for labels in (label, other))
    assert one.score.tobytes() == two.score.tobytes()
    assert one.threshold == two.threshold
    assert one.score.min() >= 0
    assert one.score.max() <= 1


@pytest.mark.parametrize("predict", [relatives, nearest])
def test_mirrored_pairs_of_one_modality_are_the_same_two(predict: Predictor) -> None:
    """(y, x) is asked for where (x, y) was fitted."""
    keys = [bytes([n]) for n in range(4)]
    dataset = Dataset("m", "classification", "rna", "rna", [*"xyyx"], [*"yxzz"], [keys[n] for n in (0, 1, 1, 0)],
                      [keys[n] for n in (1, 0, 2, 3)], np.array([1.0, 1, 0, 0]), {}, "")  # fmt: skip
    material = material_of(Path(), dataset)
    both = Similarity(keys, np.arange(4), sparse.eye(4, dtype=np.float32).tocsr(), default_rule("rna"), "made")
    material.similarities = (both, both)
    found = predict(material, np.array([0, 2, 3]), np.array([1]))
    assert found.tolist() == [1.0]


def test_nearest_is_the_mean_of_labels_weighted_by_both_identities(rng: np.random.Generator) -> None:
    """Against a plain loop."""
    made = Planted(rng, 30)
    for side in range(2):
        drawn = np.where(rng.random((30, 30)) < 0.3, rng.random((30, 30)), 0)
        made.identity[side] = np.maximum(np.maximum(drawn, drawn.T), np.eye(30))
    label = rng.integers(0, 2, PAIRS)
    material = made.material(label)
    fitted, asked = np.arange(0, 600), np.arange(600, 900)
    found = nearest(material, fitted, asked)
    for place, pair in enumerate(asked[:50]):
        weights = [
            made.identity[0][made.a[pair], made.a[n]] * made.identity[1][made.b[pair], made.b[n]] for n in fitted
        ]
        expected = np.average(label[fitted], weights=weights) if sum(weights) else label[fitted].mean()
        assert found[place] == pytest.approx(expected, abs=1e-5)


def test_random_rows_are_each_keys_own_and_of_unit_deviation() -> None:
    rows = {key_of("rna", "A" * n): np.zeros((n, 40), np.float16) for n in (1, 50, 300)}
    one, two = (RandomRows(Rows(rows), seed) for seed in (0, 1))
    keys = [*rows]
    packed = one.gather([keys[2], keys[0], keys[2]])
    assert packed.rows.shape == (601, 40)
    assert packed.offsets.tolist() == [0, 300, 301, 601]
    np.testing.assert_array_equal(packed.rows[:300], packed.rows[301:])
    np.testing.assert_array_equal(one[keys[2]], packed.rows[:300])
    assert one.length(keys[1]) == 50
    assert abs(np.corrcoef(one[keys[2]][:50].ravel(), one[keys[1]].ravel())[0, 1]) < 0.1
    assert not np.array_equal(one[keys[2]], two[keys[2]])
    assert one[keys[2]].std() == pytest.approx(1, abs=0.02)
    assert one[keys[2]].mean() == pytest.approx(0, abs=0.02)


def test_which_baselines_are_asked_for() -> None:
    assert chosen("none", "classification") == []
    assert chosen("all", "regression") == [*BASELINES["regression"]]
    assert chosen("fast", "regression") == [*FAST]
    assert chosen("fast", "classification") == ["id_only", "id_only_sequence", "one_number"]
    assert chosen(" trees ,id_only", "classification") == ["id_only", "trees"]
    for text, said in (
        ("tree", "'tree': no such baseline; did you mean 'trees'?"),
        ("", "known: id_only, "),
        ("id_only,,trees", "no such baseline"),
        ("fast,trees", "'fast': no such baseline"),
        ("additive", "additive is of affinities, this dataset's task is classification"),
    ):
        with pytest.raises(InputError) as caught:
            chosen(text, "classification")
        assert said in str(caught.value)
        assert len(caught.value.lines) == 1


def test_the_table_says_what_each_baseline_knows() -> None:
    assert KNOWS.keys() == BASELINES["classification"].keys() | BASELINES["regression"].keys()
