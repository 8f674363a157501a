"""A finished run, loaded with everything that its input must be: recipes, token window, scaling, thresholds.

    run = load_run("cache/demo/runs/demo")
    scores = run.score(reader_a, reader_b, [(key_a, key_b), …])      # (folds, P)

Rows of another recipe are refused: a model fed with other columns, or with residues where it was trained on averages
of windows, gives numbers all the same.

Shapes: P pairs; a run of K folds has K models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, one_line, printable
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.model.ensemble import Ensemble
from crossllm.model.tokens import parse_tokens
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.calibration import Calibration, calibration_of
from crossllm.pipeline.evaluation.intervals import half_width_of
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig, held_config, held_recipes, resolve
from crossllm.pipeline.training.inputs import RowReader
from crossllm.pipeline.training.predicting import predict
from crossllm.pipeline.training.run_folder import FINAL
from crossllm.pipeline.training.seed_folders import held_seeds, seed_folder
from crossllm.pipeline.training.target import Target

_MAX_JSON = 256 << 20


class Fold(NamedTuple):
    """The model of one fold."""

    name: str
    model: Ensemble
    target: Target
    threshold: float | None
    """Score from which on a pair is predicted 1; None in a regression."""
    calibration: Calibration | None
    """From score to probability; None in a regression, and in a run of a version that had none."""
    half_width: float | None
    """Of the interval around an affinity; None in a classification, and in a run of a version that had none."""


class TrainedRun(NamedTuple):
    """A finished run; `load_run` makes one."""

    folder: Path
    task: Task
    config: TrainConfig
    recipes: tuple[str, str]
    """Digest of the recipe of each side; of joined recipes their digests with + between them."""
    window: int
    """Rows that a token averages (`model.tokens.parse_tokens`)."""
    folds: tuple[Fold, ...]

    def score(
        self, a: RowReader, b: RowReader, pairs: Sequence[tuple[bytes, bytes]], device: str = "cpu"
    ) -> np.ndarray:
        """(K, P) scores from 0 to 1, or affinities in the unit of the table, of each fold's model.

        A score ranks pairs; it is no probability, which `probability` makes of it.  `predicted` compares it with the
        threshold of its fold.

        Args:
            a: the embeddings of the first partners, of the recipe that the run was trained on.
            b: those of the second partners.
            pairs: keys of each pair's two sequences (`crossllm.cache.key_of`).
            device: where to compute.

        Raises:
            Conflict: rows of another recipe.
            InputError: a key without rows.
        """
        for side, reader, digest in zip("ab", (a, b), self.recipes, strict=True):
            if reader.recipe.digest != digest:
                raise Conflict(
                    f"{self.folder}: was trained on the recipe {digest[:16]} of side {side}, these rows are of "
                    f"{reader.recipe.folder_name}; open what it was trained on with open_rows"
                )
            missing = reader.missing([pair["ab".index(side)] for pair in pairs])
            if missing:
                raise InputError(
                    f"{reader.folder}: {len(missing)} of the sequences have no rows there, first {missing[0].hex()}; "
                    "embed them into this cache"
                )
        batches = PairBatches.of_keys((a, b), [x for x, _ in pairs], [y for _, y in pairs], self.window, self.task)
        where, every = torch.device(device), np.arange(len(pairs))
        return np.stack(
            [
                fold.target.score(predict(fold.model.to(where), batches, every, self.config, where))
                for fold in self.folds
            ]
        )

    def predicted(self, scores: np.ndarray) -> np.ndarray:
        """(K, P) 0 or 1 for each of `score`'s by the threshold of its fold; affinities as they are."""
        if self.task == "regression":
            return scores
        thresholds = np.array([fold.threshold for fold in self.folds], float)
        found: np.ndarray = (scores >= thresholds[:, None]).astype(int)
        return found

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """(K, P) probabilities of label 1 for `score`'s, each by the calibration of its fold.

        It was fitted on that fold's validation pairs: it holds for pairs like those, with as large a share of
        positives.

        Raises:
            InputError: the run predicts affinities, or was trained before there were calibrations.
        """
        found = [fold.calibration for fold in self.folds]
        if any(calibration is None for calibration in found):
            raise InputError(f"{self.folder}: {self._without('calibration', 'affinities', 'intervals')}")
        return np.stack([made.probability(row) for made, row in zip(found, scores, strict=True) if made is not None])

    def intervals(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K, P) lower and upper ends of the interval around each of `score`'s affinities.

        The share of labels that it holds is the run's setting `interval`, 90 % by default, for pairs like the
        validation pairs (`crossllm.pipeline.evaluation.intervals`).

        Raises:
            InputError: the run predicts classes, or was trained before there were intervals.
        """
        found = [fold.half_width for fold in self.folds]
        if any(half is None for half in found):
            raise InputError(f"{self.folder}: {self._without('interval', 'classes', 'probability')}")
        half = np.array(found, float)[:, None]
        return scores - half, scores + half

    def _without(self, what: str, predicts: str, other: str) -> str:
        own = "affinities" if self.task == "regression" else "classes"
        if own == predicts:
            return f"predicts {predicts}, which have no {what}; use {other}"
        return f"was trained by a version that kept no {what}; train it again"


def load_run(folder: str | Path, model: Literal["folds", "final"] = "folds") -> TrainedRun:
    """A finished run's models and all that their input must be; of a run of several seeds, every fold of every seed.

    Args:
        folder: of the run.
        model: `folds`: those of the folds; `final`: the one of all pairs, by `train --final`.

    Raises:
        InputError: no finished run is there, or one of another system than our model.
        CacheCorrupt: a checkpoint is not what a run leaves behind.
    """
    folder = Path(folder)
    where = held_config(folder)
    if where is None:
        raise InputError(f"{folder}: holds no run; name the folder of one, runs/NAME in its cache")
    if not (folder / "metrics.json").exists():
        raise InputError(f"{folder}: this run is not finished; go on with `train --resume`")
    if (seeds := held_seeds(folder)) is not None:
        return _joined(folder, {seed: load_run(seed_folder(folder, seed), model) for seed in seeds})
    metrics = parse_json(read_bytes(folder / "metrics.json", _MAX_JSON), folder / "metrics.json")
    config, recipes = resolve(where), held_recipes(where)
    if config.system != OUR_MODEL:
        raise InputError(
            f"{folder}: is of the system {config.system}, which keeps scores and no weights; so far only runs of "
            f"{OUR_MODEL} can predict other pairs"
        )
    try:
        window = parse_tokens(config.tokens)
        task, names, sides = metrics["task"], metrics["fold_names"], (recipes["a"], recipes["b"])
        if window is None or task not in ("classification", "regression") or not isinstance(names, list):
            raise ValueError(f"tokens {config.tokens}, task {task}, folds {names}")
    except (KeyError, TypeError, ValueError) as error:
        raise CacheCorrupt(f"{folder}: {one_line(error)} in config.toml or metrics.json; train again") from None
    checkpoints = folder / "checkpoints"
    if model == "final":
        if not (checkpoints / f"fold-{FINAL}.json").exists():
            raise InputError(f"{folder}: has no model of all pairs; `train --resume --final` fits one")
        return TrainedRun(
            folder, task, config, sides, window, (_load_fold(FINAL, checkpoints / f"fold-{FINAL}.json", config),)
        )
    folds = tuple(_load_fold(str(name), checkpoints / f"fold-{n}.json", config) for n, name in enumerate(names))
    return TrainedRun(folder, task, config, sides, window, folds)


def _joined(folder: Path, runs: dict[int, TrainedRun]) -> TrainedRun:
    """The folds of several seeds as those of one run; `seed-S/NAME` is a fold's name."""
    first = next(iter(runs.values()))
    for run in runs.values():
        if (run.task, run.recipes, run.window) != (first.task, first.recipes, first.window):
            raise CacheCorrupt(f"{run.folder}: was trained on other input than {first.folder}; train again")
    folds = tuple(fold._replace(name=f"seed-{seed}/{fold.name}") for seed, run in runs.items() for fold in run.folds)
    return first._replace(folder=folder, folds=folds)


class _OneHead(Exception):
    """Weights of a model that had no experts yet."""


def _load_fold(name: str, where: Path, config: TrainConfig) -> Fold:
    """A fold's model, in evaluation mode, with its widths from its own weights."""
    path = where.with_suffix(".safetensors")
    try:
        body: dict[str, Any] = parse_json(read_bytes(where, _MAX_JSON), where)
        state = load_file(path)
        if not any(name.startswith("members.") for name in state):  # of a version without ensembles
            state = {f"members.0.{name}": tensor for name, tensor in state.items()}
        if config.model.summary_width and "members.0.summary_share" not in state:
            raise _OneHead
        dim_a, dim_b = (state[f"members.0.project_{side}.weight"].shape[1] for side in "ab")
        model = Ensemble(config.ensemble, dim_a, dim_b, config.model, config.scan)
        model.load_state_dict(state)
        made, half = body.get("calibration"), body.get("half_width")
        return Fold(
            name,
            model.eval(),
            Target(**body["target"]),
            body["threshold"],
            None if made is None else calibration_of(made),
            None if half is None else half_width_of(half),
        )
    except _OneHead:
        raise CacheCorrupt(
            f"{path}: of a version whose summaries went into one head with the sequence model; train it again"
        ) from None
    except OSError as error:
        raise CacheCorrupt(f"{error.filename or path}: {error.strerror or error}; a finished run has it") from None
    except Exception as error:  # safetensors raises a class of its own from Rust
        raise CacheCorrupt(f"{path}: {printable(one_line(error), 200)}; not the weights of this run") from None
