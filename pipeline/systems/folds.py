"""The folds of a run, fitted by one system or another: what `train` loops over."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import numpy as np

from crossllm.cache.console.progress import Lines, bar_class, hidden
from crossllm.cache.errors import InputError
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.fitted import Fitted, System, Told
from crossllm.pipeline.systems.registry import SYSTEMS
from crossllm.pipeline.training.decision import decide
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.run_folder import RunFolder
from crossllm.pipeline.training.target import fit_target
from crossllm.pipeline.training.tracking import FoldEvents
from crossllm.pipeline.training.usage import Usage, encoder_modules

_STEPS = 100
"""Of the bar, a fold: a system tells its share of a fold's work."""


class SystemFolds:
    """Folds by a system of the registry that is not our model.

    Args:
        material: the dataset and what is known of it; its configuration names the system.
        count: folds of the run.
        folder: the run's.
    """

    most_epochs: int | None = None

    def __init__(self, material: Material, count: int, folder: RunFolder) -> None:
        name = material.config.system
        load = SYSTEMS[name].load
        assert load is not None
        self._name, self._system, self._material = name, load(), material
        self._count, self._folder = count, folder
        self._seconds = 0.0
        self._bar = bar_class()(total=count * _STEPS, unit="%", disable=hidden(material.quiet))
        self._lines = Lines(material.quiet)

    def fit(self, number: int, parts: Parts, digest: str) -> FoldResult:
        """Fit and score one fold; a system keeps nothing within a fold, so the digest is not used.

        Raises:
            InputError: scores that are no numbers.
        """
        began = time.monotonic()

        def told(text: str, share: float) -> None:
            self._bar.set_description(f"{self._name}, fold {number + 1}/{self._count}, {text}")
            self._bar.update(int((number + share) * _STEPS) - self._bar.n)
            line = f"{self._name}, fold {number + 1} of {self._count}: {text}"
            self._lines.tell(lambda: line, (number + share) / self._count, "about {} left")

        result = fit_system(self._system, self._material, parts, number, told)
        if result.history:
            with FoldEvents(self._folder.path, number, self._material.dataset.task) as events:
                for epoch in result.history:
                    events.add(epoch)
        self._seconds += time.monotonic() - began
        return result

    def passed(self, number: int) -> None:
        """Set the bar."""
        self._bar.update((number + 1) * _STEPS - self._bar.n)

    def usage(self) -> Usage:
        """Rows are those of the pooled vectors; none waits."""
        return Usage(self._material.rows_read, self._seconds, 0.0, encoder_modules())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._bar.close()


def fit_system(system: System, material: Material, parts: Parts, number: int, told: Told) -> FoldResult:
    """One fold: its scores, and what its validation part decides by them.

    Raises:
        InputError: scores that are no numbers.
    """
    dataset, config = material.dataset, material.config
    found = _checked(system(material, parts, number, told), parts, dataset.task == "classification", config.system)
    decided = decide(dataset.task, dataset.labels[parts.validation], found.validation, config)
    target = fit_target(dataset.task, dataset.labels, parts.train, config)
    return FoldResult(
        found.test, decided.threshold, target, [found.best_epoch], list(found.history), {}, decided.calibration,
        decided.half_width,
    )  # fmt: skip


def _checked(found: Fitted, parts: Parts, classes: bool, name: str) -> Fitted:
    """Scores of the type that a checkpoint gives back: float32 of classes, float64 of affinities."""
    kind = np.float32 if classes else np.float64
    for score, pairs in ((found.validation, parts.validation), (found.test, parts.test)):
        if score.shape != pairs.shape or (classes and ((score < 0) | (score > 1)).any()):
            raise AssertionError(f"{name}: not one score from 0 to 1 for each of {len(pairs)} pairs")
        if not np.isfinite(score).all():
            raise InputError(f"--system {name}: some of its scores are no numbers; look for a label far off the others")
    return found._replace(validation=found.validation.astype(kind), test=found.test.astype(kind))
