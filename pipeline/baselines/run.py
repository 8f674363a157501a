"""Fits the baselines of a run, fold by fold, and keeps what each fold gave: an interrupted run fits none twice.

checkpoints/baselines-N.json     fold N: its digest, and of each baseline the scores and the threshold
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import announced
from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.baselines.material import Material, Scores, cut
from crossllm.pipeline.baselines.registry import BASELINES, NETWORKS
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.run_folder import RunFolder

_MAX_JSON = 256 << 20


def run_baselines(
    folder: RunFolder, material: Material, parts: Sequence[Parts], digests: Sequence[str], names: Sequence[str]
) -> dict[str, list[Scored]]:
    """Name → the test predictions of each fold; taken from the folder where they were kept.

    Args:
        folder: the run's.
        material: the dataset, and what is known of it.
        parts: of each fold.
        digests: of each fold, as its checkpoint has it (`RunFolder.fold_digest`).
        names: of the baselines.

    Raises:
        CacheCorrupt: what is kept does not belong to this run.
    """
    kept = fit_baselines(folder, material, parts, digests, names)
    return {name: [cut(material.dataset, part, kept[n][name]) for n, part in enumerate(parts)] for name in names}


def fit_baselines(
    folder: RunFolder,
    material: Material,
    parts: Sequence[Parts],
    digests: Sequence[str],
    names: Sequence[str],
    only: int | None = None,
) -> list[dict[str, Scores]]:
    """What each fold has, by name of the baseline, after those that are missing are fitted: of all folds, or of one."""
    task = material.dataset.task
    kept = [kept_baselines(folder, n, digest, parts[n], task) for n, digest in enumerate(digests)]
    for name in names:
        missing = [n for n in range(len(parts)) if name not in kept[n] and only in (None, n)]
        if missing and name in NETWORKS and not material.quiet:
            note(f"note: {name}: trains the model again on other rows, {len(missing)} folds; --baselines leaves it out")
        for n in missing:
            with announced(f"note: fitting the baseline {name}, fold {n + 1} of {len(parts)}", material.quiet):
                kept[n][name] = BASELINES[task][name](material, parts[n], n)
            _save(folder, n, digests[n], kept[n])
    return kept


def _save(folder: RunFolder, number: int, digest: str, found: dict[str, Scores]) -> None:
    body = {
        "digest": digest,
        "baselines": {name: {"score": s.score.tolist(), "threshold": s.threshold} for name, s in found.items()},
    }
    folder.write(f"checkpoints/baselines-{number}.json", json.dumps(body, allow_nan=False))


def kept_baselines(folder: RunFolder, number: int, digest: str, parts: Parts, task: Task) -> dict[str, Scores]:
    """What is kept of a fold; nothing where none is.

    Raises:
        CacheCorrupt: it is of another run, or damaged.
    """
    where = folder.path / "checkpoints" / f"baselines-{number}.json"
    if not where.exists():
        return {}
    body = parse_json(read_bytes(where, _MAX_JSON), where)
    try:
        if body["digest"] != digest:
            raise ValueError("it is of a run with other settings or other test pairs")
        found = {}
        for name, values in body["baselines"].items():
            score = np.array(values["score"], np.float64)
            threshold = float(values["threshold"]) if task == "classification" else None
            if score.shape != parts.test.shape or not np.isfinite([*score, threshold or 0]).all():
                raise ValueError(f"{name}: not one score for each of {len(parts.test)} test pairs")
            found[name] = Scores(score, threshold)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CacheCorrupt(f"{where}: {error}; remove it and run again with --resume") from None
    return found
