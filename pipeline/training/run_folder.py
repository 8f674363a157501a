"""A run's folder: what it holds and how it is continued.

    config.toml              every resolved choice, the digests of dataset and recipes
    splits.tsv               a_id, b_id, fold
    checkpoints/fold-N.json, fold-N.safetensors     written when fold N is done
    tensorboard/             events of each fold, written while it trains
    history.csv  predictions.tsv  predictions.<baseline>.tsv
    loss_curves.png  roc_pr.png or scatter.png
    metrics.json             last: a run that has it is finished

A continued run takes the finished folds from `checkpoints/`; each fold has its own seed, so its numbers do not depend
on where the run was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors.torch import save

from crossllm.cache.errors import CacheCorrupt, Conflict, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.data.pairs import MAX_LABEL
from crossllm.pipeline.evaluation import table as report
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import Epoch, FoldResult, Target

_MAX_JSON = 256 << 20


class RunFolder:
    """Opens or continues a run.

    Raises:
        Conflict: the folder holds a run and `resume` is off, or a run of another configuration.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self._config = config
        where = path / "config.toml"
        if where.exists():
            self._check_same(where, resume)
        elif path.is_dir() and any(not found.name.startswith(".tmp-") for found in path.iterdir()):
            raise Conflict(f"{path}: is not empty and holds no run; name another folder by --out")
        else:
            fsio.make_dirs(path)
            self.write("config.toml", tomli_w.dumps(config))
        fsio.make_dirs(path / "checkpoints")  # after config.toml: a run killed here can still be continued

    def _check_same(self, where: Path, resume: bool) -> None:
        if not resume:
            raise Conflict(f"{self.path}: already holds a run; continue it with --resume, or name another by --out")
        try:
            held = tomllib.loads(read_bytes(where, _MAX_JSON).decode())
        except (ValueError, RecursionError) as error:
            raise CacheCorrupt(f"{where}: {error}; remove the folder and train again") from None
        # A setting that is younger than the run had its default then.
        for table, known in TrainConfig().to_tables().items():
            if isinstance(held.get(table), dict):
                held[table] = known | held[table]
        if differences := list(_differences(held, self._config)):
            raise Conflict(f"{where}: this run differs in {'; '.join(differences)}; name another folder by --out")

    def write(self, name: str, text: str) -> None:
        """Put a text file into the folder, whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a file into the folder, whole or not at all."""
        fsio.replace(self.path / name, data)

    def write_table(
        self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = "\t"
    ) -> None:
        """Put a table into the folder: TSV, or CSV."""
        text = io.StringIO()
        table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
        self.write(name, text.getvalue())

    def finished(self) -> dict[str, Any] | None:
        """The metrics of a finished run."""
        where = self.path / "metrics.json"
        if not where.exists():
            return None
        found = parse_json(read_bytes(where, _MAX_JSON), where)
        try:
            report.table(found)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CacheCorrupt(f"{where}: {error!r}; remove it and run again with --resume") from None
        return found

    def save_fold(self, number: int, result: FoldResult) -> None:
        """Keep a finished fold: weights first, the JSON that says it is finished last."""
        weights = {name: tensor.contiguous() for name, tensor in result.state.items()}
        fsio.replace(self.path / "checkpoints" / f"fold-{number}.safetensors", save(weights))
        body = {
            "score": result.score.tolist(),
            "threshold": result.threshold,
            "target": result.target._asdict(),
            "best_epoch": result.best_epoch,
            "history": [list(epoch) for epoch in result.history],
        }
        self.write(f"checkpoints/fold-{number}.json", json.dumps(body, allow_nan=False))

    def load_fold(self, number: int, pairs: int, target: Target, epochs: int) -> FoldResult | None:
        """A fold finished before, without its weights; None where it is not.

        Args:
            number: of the fold.
            pairs: in its test part.
            target: what its training part gives, to which the checkpoint's is held.
            epochs: most epochs it can have run.

        Raises:
            CacheCorrupt: the checkpoint is not what a fold of this run leaves behind.
        """
        where = self.path / "checkpoints" / f"fold-{number}.json"
        if not where.exists():
            return None
        body = parse_json(read_bytes(where, _MAX_JSON), where)
        try:
            score = np.array(body["score"], np.float64)
            history = [_epoch(n, *values) for n, values in enumerate(body["history"], 1)]
            best, classes = body["best_epoch"], target.task == "classification"
            low, high = (0, 1) if classes else (-MAX_LABEL, MAX_LABEL)
            if not (score.shape == (pairs,) and ((score >= low) & (score <= high)).all()):
                raise ValueError(f"not one score for each of {pairs} test pairs")
            if not (1 <= len(history) <= epochs and type(best) is int and 1 <= best <= len(history)):
                raise ValueError(f"{len(history)} epochs of at most {epochs}, the best of them {best}")
            if body["target"] != target._asdict():
                raise ValueError(f"its target {body['target']} is not that of its training part, {target._asdict()}")
            threshold = float(body["threshold"]) if classes else None
            if classes:
                score = score.astype(np.float32)
            if not where.with_suffix(".safetensors").is_file():
                raise ValueError("its weights are missing")
            result = FoldResult(score, threshold, target, best, history, {})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CacheCorrupt(f"{where}: {error}; remove it and run again with --resume") from None
        return result


def _epoch(expected: int, number: Any, fit: Any, held: Any, quality: Any) -> Epoch:
    """A line of the history, its numbers finite and its place right."""
    values = [fit, held] if quality is None else [fit, held, quality]
    if number != expected or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"epoch {expected} of its history is no line of numbers")
    return Epoch(expected, float(fit), float(held), quality)


def _differences(held: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted(held.keys() | asked.keys()):
        mine, theirs = asked.get(name), held.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            yield from _differences(theirs, mine, f"{prefix}{name}.")
        elif mine != theirs:
            yield f"{prefix}{printable(name)} ({printable(str(mine))}, there {printable(str(theirs))})"
