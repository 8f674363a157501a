"""The bootstrap's compiled kernels against the plain formulas on the same draws, and how far it is, shown."""

from __future__ import annotations

import numpy as np
import pytest

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation import draws as draws_module
from crossllm.pipeline.evaluation.draws import Draws
from crossllm.pipeline.evaluation.metrics import METRICS, Partners, Scored, compute, compute_drawn, draw, summarise

TASKS: tuple[Task, ...] = ("classification", "regression")


def made_fold(rng: np.random.Generator, task: Task, pairs: int, digits: int, unit: float = 1.0) -> Scored:
    """Few digits make equal scores and labels."""
    if task == "regression":
        label = np.round(rng.normal(5, 1.5, pairs), digits)
        score = np.round(label + rng.normal(0, 1, pairs), digits).astype(np.float32)
        return Scored(unit * label, unit * score, unit * score)
    label = rng.integers(0, 2, pairs)
    score = np.round(np.clip(rng.normal(0.4 + 0.2 * label, 0.3), 0, 1), digits).astype(np.float32)
    return Scored(label, score, (score >= 0.5).astype(int))


def assert_equal(task: Task, fold: Scored, drawn: Draws) -> None:
    expected, found = compute(task, fold, drawn.weights()), compute_drawn(task, fold, drawn)
    assert list(found) == list(METRICS[task])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-12, equal_nan=True, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("digits", [0, 1, 8])
@pytest.mark.parametrize("one_numbering", [False, True])
def test_the_kernels_equal_the_plain_formulas(
    rng: np.random.Generator, task: Task, digits: int, one_numbering: bool
) -> None:
    folds = [made_fold(rng, task, pairs, digits) for pairs in (400, 37)]
    partners = [
        Partners(rng.integers(0, 30, len(f.label)), rng.integers(0, 50, len(f.label)), one_numbering) for f in folds
    ]
    for of in (partners, None):
        for fold, drawn in zip(folds, draw(rng, folds, of, 9), strict=True):
            assert_equal(task, fold, drawn)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_undefined_is_undefined_in_both(rng: np.random.Generator, task: Task) -> None:
    """A few pairs: replicates draw none of them, one alone, one class alone, or equal scores alone."""
    for _ in range(30):
        fold = made_fold(rng, task, int(rng.integers(1, 6)), 0)
        pairs = len(fold.label)
        (drawn,) = draw(rng, [fold], [Partners(np.arange(pairs), rng.integers(0, 3, pairs))], 8)
        assert_equal(task, fold, drawn)
    nothing = Draws(np.zeros((2, 4), np.int32), np.ones((2, 1), np.int32), np.arange(4), np.zeros(4, int))
    fold = made_fold(rng, task, 4, 1)
    assert_equal(task, fold, nothing)
    assert all(np.isnan(values).all() for values in compute_drawn(task, fold, nothing).values())


@pytest.mark.parametrize("unit", [1e-12, 1e6])
def test_affinities_in_any_unit_are_equal_too(rng: np.random.Generator, unit: float) -> None:
    fold = made_fold(rng, "regression", 300, 2, unit)
    constant = fold._replace(label=np.full(300, 3.1 * unit))
    for of in (fold, constant):
        (drawn,) = draw(rng, [of], None, 5)
        assert_equal("regression", of, drawn)


@pytest.mark.parametrize("task", TASKS)
def test_the_number_of_threads_changes_no_bit(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    fold = made_fold(rng, task, 200, 2)
    (drawn,) = draw(rng, [fold], None, 7)
    monkeypatch.setattr(draws_module, "cores", lambda: 1)
    alone = compute_drawn(task, fold, drawn)
    for threads in (2, 3, 20):
        monkeypatch.setattr(draws_module, "cores", lambda threads=threads: threads)
        found = compute_drawn(task, fold, drawn)
        for name in alone:
            np.testing.assert_array_equal(found[name], alone[name], err_msg=f"{name}, {threads} threads")


def test_every_replicate_is_told(rng: np.random.Generator) -> None:
    told: list[int] = []
    summarise("classification", [made_fold(rng, "classification", 50, 2)], 0, replicates=120, update=told.append)
    assert told == [50, 50, 20]
