from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_baselines import baseline, material_of
from sklearn import metrics as sk
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer

from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.data.demo import write_demo
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.evaluation.classification import best_threshold
from crossllm.pipeline.evaluation.counts import _counts
from crossllm.pipeline.evaluation.metrics import Scored, compute, summarise
from crossllm.pipeline.splits.given import given_folds
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.splits.random_pairs import random_folds


def test_every_metric_equals_scikit_learn_weighted_and_not(rng: np.random.Generator) -> None:
    label = rng.integers(0, 2, 200)
    score = np.round(np.clip(rng.normal(0.4 + 0.2 * label, 0.3), 0, 1), 2)  # rounded: many equal scores
    fold = Scored(label, score, (score >= 0.5).astype(int))
    weights = np.stack([np.ones(200), rng.integers(0, 4, 200)]).astype(float)
    found = compute("classification", fold, weights)
    for row, weight in enumerate(weights):
        expected = {
            "mcc": sk.matthews_corrcoef(label, fold.predicted, sample_weight=weight),
            "accuracy": sk.accuracy_score(label, fold.predicted, sample_weight=weight),
            "f1": sk.f1_score(label, fold.predicted, sample_weight=weight),
            "precision": sk.precision_score(label, fold.predicted, sample_weight=weight),
            "recall": sk.recall_score(label, fold.predicted, sample_weight=weight),
            "auroc": sk.roc_auc_score(label, score, sample_weight=weight),
            "auprc": sk.average_precision_score(label, score, sample_weight=weight),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name


def test_calibration_error_of_a_known_case() -> None:
    score = np.array([0.05, 0.05, 0.95, 0.95])
    fold = Scored(np.array([0, 1, 1, 1]), score, (score > 0.5).astype(int))
    assert compute("classification", fold, np.ones((1, 4)))["calibration_error"][0] == pytest.approx((0.9 + 0.1) / 4)


def test_one_class_leaves_metrics_undefined() -> None:
    fold = Scored(np.ones(5, int), np.linspace(0, 1, 5), np.ones(5, int))
    found = compute("classification", fold, np.ones((1, 5)))
    assert {name for name, value in found.items() if np.isnan(value[0])} == {"mcc", "auroc"}
    fold = Scored(np.zeros(5, int), np.linspace(0, 1, 5), np.ones(5, int))
    found = compute("classification", fold, np.ones((1, 5)))
    assert {name for name, value in found.items() if np.isnan(value[0])} == {
        "mcc", "auroc", "auprc", "f1", "precision", "recall",
    }  # fmt: skip


@pytest.mark.slow
def test_the_threshold_maximises_mcc(rng: np.random.Generator) -> None:
    label = rng.integers(0, 2, 60)
    score = np.clip(rng.normal(0.2 + 0.1 * label, 0.05), 0, 1)
    threshold = best_threshold(label, score)
    best = max(sk.matthews_corrcoef(label, score >= t) for t in np.linspace(0, 1, 2001))
    assert sk.matthews_corrcoef(label, score >= threshold) == pytest.approx(best)


def test_the_interval_holds_the_mean_and_narrows_with_more_pairs(rng: np.random.Generator) -> None:
    def width(pairs: int) -> float:
        label = rng.integers(0, 2, pairs)
        score = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
        found = summarise("classification", [Scored(label, score, (score >= 0.5).astype(int))], seed=0)["mcc"]
        assert found.ci95[0] <= found.mean <= found.ci95[1]
        return found.ci95[1] - found.ci95[0]

    assert width(2000) < 0.5 * width(100)


@pytest.mark.slow
def test_the_demo_gives_nothing_away_to_one_side(tmp_path: Path) -> None:
    """|ID-only| ≤ 0.1 and a k-mer forest on either partner alone ≤ 0.15: the label needs both sequences."""
    write_demo(tmp_path / "demo")
    dataset, _ = load_dataset(tmp_path / "demo")
    folds = random_folds(dataset, 3, seed=0)
    parts = [cut_parts(dataset, folds, n, 0.15, 0) for n in range(3)]
    material = material_of(tmp_path / "demo", dataset)
    for name in ("id_only", "id_only_sequence", "one_number"):
        scored = baseline(material, name, parts)
        assert abs(summarise("classification", scored, 0)["mcc"].mean) <= 0.1
    labels = dataset.labels.astype(int)
    for modality, ids, k in (("rna", dataset.a_ids, 4), ("protein", dataset.b_ids, 2)):
        lines = (tmp_path / "demo" / f"{modality}.fasta").read_text().split()
        sequence = {i[1:]: s for i, s in zip(lines[::2], lines[1::2], strict=True)}
        kmers = CountVectorizer(analyzer="char", ngram_range=(k, k), lowercase=False)
        counts = kmers.fit_transform(sequence[i] for i in ids).toarray().astype(np.float32)
        found = []
        for part in parts:
            fitted = np.concatenate([part.train, part.validation])
            forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0, n_jobs=2).fit(
                counts[fitted], labels[fitted]
            )
            found.append(sk.matthews_corrcoef(labels[part.test], forest.predict(counts[part.test])))
        assert np.mean(found) <= 0.15, f"{modality} alone"


@pytest.mark.slow
def test_id_only_on_rpi1460_is_as_good_as_the_paper(real_data: Path, tmp_path: Path) -> None:
    """No sequence, no model, MCC above 0.8 on the given folds: why this baseline stands beside every result."""
    source = real_data / "rpi1460"
    sides = Side("rna", source / "rna.fasta"), Side("protein", source / "protein.fasta")
    import_dataset(ImportOptions(*sides, source / "pairs.tsv", tmp_path / "c"))
    dataset, _ = load_dataset(tmp_path / "c")
    folds = given_folds(dataset, "fold")
    parts = [cut_parts(dataset, folds, n, 0.15, 0) for n in range(5)]
    material = material_of(tmp_path / "c", dataset)
    by_id, by_sequence = (
        summarise("classification", baseline(material, name, parts), 0)["mcc"].mean
        for name in ("id_only", "id_only_sequence")
    )
    assert 0.79 <= by_id <= 0.84
    assert 0.3 <= by_sequence <= 0.45


def test_one_modality_counts_a_partner_on_both_sides_and_keeps_mirrored_pairs_together(tmp_path: Path) -> None:
    letters = "ACDEFGHIKL"
    (tmp_path / "p.fasta").write_text("".join(f">{x}\n{x * 4}\n" for x in letters))
    rows = [
        f"{x}\t{y}\t{int((i + j) % 3 == 0)}" for i, x in enumerate(letters) for j, y in enumerate(letters) if i != j
    ]
    (tmp_path / "t.tsv").write_text("a_id\tb_id\tlabel\n" + "\n".join(rows) + "\n")
    side = Side("protein", tmp_path / "p.fasta")
    import_dataset(ImportOptions(side, side, tmp_path / "t.tsv", tmp_path / "c"))
    dataset, _ = load_dataset(tmp_path / "c")
    folds = random_folds(dataset, 3, 0)
    fold = dict(zip(zip(dataset.a_ids, dataset.b_ids, strict=True), folds.of_pair.tolist(), strict=True))
    assert all(fold[a, b] == fold[b, a] for a, b in fold)
    one, other = np.array([0, 1, 0]), np.array([1, 0, 2])  # pairs x y, y x, x z
    found = np.expm1(_counts(one, [one, other], np.array([1, 1, 0]), np.array([0, 1, 2])))
    np.testing.assert_allclose(found, [[1, 1], [1, 0], [2, 0]], atol=1e-12)


def test_the_counts_of_id_only_leave_their_own_pair_out() -> None:
    side = np.array([0, 0, 0, 1, 2])
    label = np.array([1, 0, 1, 1, 1])
    fitted = np.array([0, 1, 3])  # pairs 2 and 4 are tested
    found = np.expm1(_counts(side, [side], label, fitted))
    expected = [[0, 1], [1, 0], [1, 1], [0, 0], [0, 0]]  # positives, negatives
    np.testing.assert_allclose(found, expected, atol=1e-12)
