"""Calibrated probabilities, intervals around affinities, and the paper's protocol, which is called optimistic."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import Program
from made_runs import QUICK, rows
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from crossllm.cache import InputError
from crossllm.pipeline import load_run
from crossllm.pipeline.data.dataset import default_run
from crossllm.pipeline.data.importing import ImportOptions, Side, import_dataset
from crossllm.pipeline.evaluation.calibration import brier, calibration_of, fit_calibration, reliability
from crossllm.pipeline.evaluation.classification import calibration_error
from crossllm.pipeline.evaluation.intervals import covered, half_width, half_width_as_json, half_width_of
from crossllm.pipeline.evaluation.metrics import METRICS, Scored, compute
from crossllm.pipeline.reporting.certainty import OPTIMISTIC
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.train import train
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.fold import FoldResult, fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs

each_size = pytest.mark.parametrize("pairs", [40, 300, 2000])
"""Platt's, Platt's, isotonic."""


def crowded(rng: np.random.Generator, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and scores that crowd around the middle, as the focal loss leaves them: 0.73 means 95 %."""
    logit = rng.normal(0, 2, pairs)
    label = (rng.random(pairs) < 1 / (1 + np.exp(-logit))).astype(int)
    return label, (1 / (1 + np.exp(-logit / 3))).astype(np.float32)


def ece(label: np.ndarray, probability: np.ndarray) -> float:
    return float(calibration_error(label, probability, np.ones((1, len(label))))[0])


class Logit(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose decision function is its one feature."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Logit:
        self.classes_, self.n_features_in_ = np.array([0, 1]), 1
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x[:, 0]

    def predict(self, x: np.ndarray) -> np.ndarray:
        return (x[:, 0] > 0).astype(int)


def test_platt_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    label, score = crowded(rng, 300)
    logit = np.log(score.astype(float) / (1 - score.astype(float)))[:, None]
    theirs = CalibratedClassifierCV(FrozenEstimator(Logit().fit(logit, label)), method="sigmoid").fit(logit, label)
    found = fit_calibration(label, score)
    assert found.kind == "platt"
    np.testing.assert_allclose(found.probability(score), theirs.predict_proba(logit)[:, 1], atol=1e-5)


def test_isotonic_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    label, score = crowded(rng, 2000)
    found = fit_calibration(label, score)
    assert found.kind == "isotonic"
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score.astype(float), label)
    at = np.linspace(0, 1, 333)
    np.testing.assert_allclose(found.probability(at), theirs.predict(at), atol=1e-12)


def test_isotonic_is_taken_where_there_is_enough_of_both_classes(rng: np.random.Generator) -> None:
    score = rng.random(1000)
    for pairs, positives, kind in ((999, 400, "platt"), (1000, 99, "platt"), (1000, 100, "isotonic")):
        assert fit_calibration(np.arange(pairs) < positives, score[:pairs]).kind == kind


@each_size
def test_a_calibration_rises_and_comes_back_from_json(pairs: int, rng: np.random.Generator) -> None:
    label, score = crowded(rng, pairs)
    for given in (score, 1 - score):  # the second ranks the wrong way round
        found = fit_calibration(label, given)
        probability = found.probability(np.linspace(0, 1, 1001))
        assert (np.diff(probability) >= 0).all()
        assert ((probability >= 0) & (probability <= 1)).all()
        again = calibration_of(json.loads(json.dumps(found._asdict())))
        assert again == found
        assert again.probability(score).tobytes() == found.probability(score).tobytes()


def test_classes_that_a_threshold_separates_and_a_single_class_give_probabilities() -> None:
    score = np.linspace(0, 1, 20).astype(np.float32)
    for label in (np.arange(20) >= 10, np.ones(20), np.zeros(20)):
        probability = fit_calibration(label.astype(int), score).probability(score)
        assert ((probability > 0) & (probability < 1)).all()
        assert abs(probability.mean() - label.mean()) < 0.1


@pytest.mark.parametrize(
    "held",
    [
        {"kind": "platt", "x": [-1.0], "y": [0.0]},
        {"kind": "platt", "x": [1.0, 2.0], "y": [0.0, 1.0]},
        {"kind": "isotonic", "x": [0.1, 0.2], "y": [0.5, 0.4]},
        {"kind": "isotonic", "x": [0.1, 0.2], "y": [0.5]},
        {"kind": "isotonic", "x": [], "y": []},
        {"kind": "beta", "x": [1.0], "y": [0.0]},
        {"kind": "platt", "x": "1", "y": "0"},
        None,
    ],
)
def test_what_is_no_calibration_is_refused(held: object) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        calibration_of(held)


@each_size
def test_calibration_lowers_the_errors_of_crowded_scores(pairs: int, rng: np.random.Generator) -> None:
    made = fit_calibration(*crowded(rng, pairs))
    label, score = crowded(rng, 20_000)
    probability = made.probability(score)
    assert ece(label, probability) < ece(label, score) * (0.5 if pairs > 40 else 1)
    assert brier(label, probability) < brier(label, score)
    assert brier(label, probability) == pytest.approx(sk.brier_score_loss(label, probability))


def test_a_reliability_diagram_is_of_the_bins_that_hold_pairs() -> None:
    label, probability = np.array([0, 1, 1, 1]), np.array([0.11, 0.19, 0.95, 1.0])
    mean, share, count = reliability(label, probability, 10)
    np.testing.assert_allclose(mean, [0.15, 0.975])
    np.testing.assert_allclose(share, [0.5, 1.0])
    assert count.tolist() == [2, 2]


def test_an_interval_holds_the_share_asked_for(rng: np.random.Generator) -> None:
    """Over many validation parts the mean coverage is between share and share + 1/(n + 1), whatever the residuals."""
    for share, pairs in ((0.9, 19), (0.9, 100), (0.5, 30)):
        found = []
        for _ in range(2000):
            residuals = rng.standard_t(3, pairs)
            half = half_width(residuals, np.zeros(pairs), share)
            found.append(covered(rng.standard_t(3, 200), np.zeros(200), half))
        assert share - 0.005 < np.mean(found) < share + 1 / (pairs + 1) + 0.005


def test_too_few_pairs_for_a_share_give_no_bound() -> None:
    label = np.arange(8.0)
    assert half_width(label, label + 1, 0.9) == np.inf
    assert half_width(np.arange(9.0), np.arange(9.0) + np.arange(9), 0.9) == 8, "the largest of nine"
    for half in (np.inf, 2.5, 0.0):
        assert half_width_of(json.loads(json.dumps(half_width_as_json(half)))) == half
    for held in (None, "x", -1.0, True, [1]):
        with pytest.raises(ValueError, match="half width"):
            half_width_of(held)


def test_a_run_says_how_its_probabilities_held(trained: TrainOptions) -> None:
    folder = default_run(trained.cache_dir)
    metrics = json.loads((folder / "metrics.json").read_text())
    found = rows(folder / "predictions.tsv")
    assert (metrics["protocol"], metrics["optimistic"]) == ("honest", False)
    assert metrics["calibration"]["kind"] == {"platt": 2}
    for n in range(2):
        own = [row for row in found if row["fold"] == str(n)]
        label, score, probability = (np.array([float(r[c]) for r in own]) for c in ("label", "score", "probability"))
        order = np.argsort(score, kind="stable")
        assert (np.diff(probability[order]) >= 0).all(), "no ranking changes"
        for when, value in (("before", score.astype(np.float32)), ("after", probability)):
            assert metrics["calibration"]["brier"][when]["per_fold"][n] == pytest.approx(brier(label, value))
            error = metrics["calibration"]["calibration_error"][when]["per_fold"][n]
            assert error == pytest.approx(ece(label, value))
        body = json.loads((folder / "checkpoints" / f"fold-{n}.json").read_text())
        np.testing.assert_array_equal(
            calibration_of(body["calibration"]).probability(score.astype(np.float32)), probability
        )
    assert metrics["calibration"]["calibration_error"]["before"]["per_fold"] == pytest.approx(
        metrics["model"]["calibration_error"]["per_fold"]
    )
    assert {"calibration.png", "calibration.svg"} <= {path.name for path in folder.iterdir()}
    run = load_run(folder)
    scores = np.linspace(0, 1, 10, dtype=np.float32) * np.ones((2, 1), np.float32)
    made = [fold.calibration for fold in run.folds]
    np.testing.assert_array_equal(
        run.probability(scores), [m.probability(s) for m, s in zip(made, scores, strict=True) if m]
    )
    with pytest.raises(InputError, match="predicts classes, which have no interval; use probability"):
        run.intervals(scores)
    old = run._replace(folds=tuple(fold._replace(calibration=None) for fold in run.folds))
    with pytest.raises(InputError, match="by a version that kept no calibration"):
        old.probability(scores)


def honest_and_paper(small: TrainOptions) -> tuple[Scored, Scored, list[FoldResult]]:
    """The same fold by both protocols, at threshold ½."""
    inputs = open_inputs(small)
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    parts = cut_parts(inputs.dataset, inputs.folds, 0, QUICK.validation, 0)
    results = []
    for protocol in ("honest", "paper"):
        config = dataclasses.replace(small.config, protocol=protocol, epochs=8, patience=1, lr=0.1)
        results.append(fit_fold(batches, parts, config, 5, torch.device("cpu"), lambda _epoch: None))
    label = inputs.dataset.labels[parts.test]
    honest, paper = (Scored(label, result.score, result.score >= 0.5) for result in results)
    return honest, paper, results


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_papers_number_is_never_below_the_honest_one_of_the_same_fold(small: TrainOptions) -> None:
    honest, paper, (one, other) = honest_and_paper(small)
    first = METRICS["classification"][0]
    ones = np.ones((1, len(honest.label)))
    found, best = (compute("classification", scored, ones)[first][0] for scored in (honest, paper))
    assert best >= found
    assert len(other.history) == 8 > len(one.history), "patience does not stop it"
    assert other.history[: len(one.history)] == one.history, "what is trained is the same"
    assert other.threshold == 0.5


@pytest.mark.slow
def test_a_number_by_the_papers_protocol_is_called_optimistic_everywhere(program: Program, small: TrainOptions) -> None:
    flags = ["--folds", "2", "--epochs", "2", "--d-model", "8", "--cache", small.cache_dir, "--protocol", "paper"]
    done = program("train", *flags)
    assert done.returncode == 0, done.stderr
    folder = default_run(small.cache_dir)
    title = done.stdout[: done.stdout.index("─")]
    assert "OPTIMISTIC (--protocol paper)" in title
    assert "model optimistic" in done.stdout
    assert "its number is optimistic" in done.stderr
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["optimistic"]) == ("paper", True)
    assert {row["protocol"] for row in rows(folder / "predictions.tsv")} == {OPTIMISTIC}
    assert 'protocol = "paper"' in (folder / "config.toml").read_text()
    for name in ("loss_curves", "roc_pr", "calibration"):
        assert "optimistic" in (folder / f"{name}.svg").read_text(), name
    shown = program("train", "--cache", small.cache_dir, "--resume")
    assert shown.stdout == done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_papers_protocol_is_for_random_pairs_or_one_fixed_split(small: TrainOptions) -> None:
    lines = (small.cache_dir / "pairs.tsv").read_text().splitlines()
    for column, names in (("five", list("01234")), ("fixed", ["train", "train", "train", "test"])):
        lines = [f"{lines[0]}\t{column}", *(f"{line}\t{names[n % len(names)]}" for n, line in enumerate(lines[1:]))]
    table = small.cache_dir.parent / "given.tsv"
    table.write_text("\n".join(lines) + "\n")
    sides = (Side(m, small.cache_dir / f"{m}.fasta") for m in ("rna", "protein"))
    given = small.cache_dir.parent / "given"
    import_dataset(ImportOptions(*sides, table, given))
    shutil.copytree(small.cache_dir / "embeddings", given / "embeddings")
    small = dataclasses.replace(small, cache_dir=given)
    paper = dataclasses.replace(QUICK, protocol="paper", split="given", epochs=1)
    with pytest.raises(InputError, match="--protocol paper: --split given has several folds here"):
        train(dataclasses.replace(small, config=dataclasses.replace(paper, fold_column="five")))
    assert not default_run(small.cache_dir).exists()
    done = train(dataclasses.replace(small, config=dataclasses.replace(paper, fold_column="fixed")))
    assert done.metrics["optimistic"]
