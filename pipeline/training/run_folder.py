"""A run's folder: what it holds and how it is continued.

    .lock                    held while a run is at work in the folder
    config.toml              every resolved choice, the digests of dataset and recipes
    splits.tsv               a_id, b_id, fold
    checkpoints/fold-N.json, fold-N.safetensors     written when fold N is done; weights of our model alone
    checkpoints/fold-final.json, .safetensors       with `--final`: the model of all pairs
    checkpoints/fold-N.partial-K.json, .safetensors     how far fold N has come (`keeping`), until it is done
    folds/fold-N/            with `--jobs`: what fold N's process said (said.txt) and took (usage.json)
    tensorboard/             events of each fold, written while it trains
    history.csv  predictions.tsv  predictions.<baseline>.tsv
    loss_curves.png  roc_pr.png or scatter.png
    metrics.json             last: a run that has it is finished

A continued run takes the finished folds from `checkpoints/`, and the one that was cut off from where it was; each fold
has its own seed, so its numbers do not depend on where the run was interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tomli_w
from safetensors.torch import save

from crossllm.cache.console.messages import note
from crossllm.cache.errors import CacheCorrupt, Conflict, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.data.labels import MAX_LABEL
from crossllm.pipeline.evaluation import table as report
from crossllm.pipeline.evaluation.calibration import calibration_of
from crossllm.pipeline.evaluation.intervals import half_width_as_json, half_width_of
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.keeping import Keeper
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.result_folder import differences, held_tables, refuse_foreign, take
from crossllm.pipeline.training.target import Target

_MAX_JSON = 256 << 20
FINAL = "final"
"""In place of a fold's number: the model of all pairs (`train --final`)."""


def fold_folder(run: Path, number: int) -> Path:
    """Of what the process of one fold leaves beside its checkpoint."""
    return run / "folds" / f"fold-{number}"


class RunFolder:
    """Opens or continues a run; the folder is this process's until `close`.

    With `shared` it is the folder of the process that started this one, which fits a fold of its run.

    Raises:
        Conflict: the folder holds a run and `resume` is off, or a run of another configuration, or another process is
            at work in it.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, resume: bool, shared: bool = False) -> None:
        self.path = path
        self._config = config
        self._lock: fsio.Lock | None = None
        if shared:
            return
        where = path / "config.toml"
        held = where.exists()
        if held:
            self._check_same(where, resume)
        else:
            refuse_foreign(path, "run")
        self._lock = take(path, "run")
        # Of two that start in the same instant one publishes its settings, and the other reads them.
        if not held and not fsio.publish(where, tomli_w.dumps(config).encode()):
            self._check_same(where, resume)
        fsio.make_dirs(path / "checkpoints")  # after config.toml: a run killed here can still be continued
        for left in (path / "checkpoints").glob(".tmp-*"):  # of a run that was killed; the folder is ours
            fsio.remove_file(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            self._lock.close()

    def _check_same(self, where: Path, resume: bool) -> None:
        if not resume:
            raise Conflict(f"{self.path}: already holds a run; continue it with --resume, or name another by --out")
        held = held_tables(where)
        self._say_threads(held)
        if different := list(differences(held, self._config)):
            raise Conflict(f"{where}: this run differs in {'; '.join(different)}; name another folder by --out")

    def _say_threads(self, held: dict[str, Any]) -> None:
        """Say that threads or processes differ, which changes a sum by rounding and is no reason to stop."""
        theirs, own = (tables.get("run", {}) for tables in (held, self._config))
        if not isinstance(theirs, dict) or "threads" not in own:
            return
        for name, set_by in (("threads", "OMP_NUM_THREADS"), ("processes", "torchrun")):
            was, is_ = theirs.pop(name, None if name == "threads" else 1), own.get(name, 1)
            if was is not None and was != is_:
                note(f"note: {self.path} was begun with {printable(str(was))} {name}, now there are {is_}: not the "
                     f"same loss trace bit by bit ({set_by} sets them)")  # fmt: skip
            if name in own:
                theirs[name] = is_

    def fold_digest(self, tested: Iterable[tuple[str, str]]) -> str:
        """SHA-256 of the run's settings and the pairs that a fold tests: whose checkpoint it is."""
        settings = {name: table for name, table in self._config.items() if name != "run"}
        lines = [json.dumps(settings, sort_keys=True), *("\t".join(pair) for pair in tested)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

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

    def has_fold(self, number: int) -> bool:
        """Whether a fold is finished."""
        return (self.path / "checkpoints" / f"fold-{number}.json").exists()

    def has_final(self) -> bool:
        """Whether the model of all pairs is finished."""
        return (self.path / "checkpoints" / f"fold-{FINAL}.json").exists()

    def keeper(self, number: int | str, digest: str) -> Keeper:
        """Keeps how far a fold has come, whose `fold_digest` is given."""
        return Keeper(self.path / "checkpoints", number, digest)

    def save_fold(self, number: int | str, result: FoldResult, digest: str) -> None:
        """Keep a finished fold, whose `fold_digest` is given: weights first, the JSON that says it is finished last."""
        if weights := {name: tensor.contiguous() for name, tensor in result.state.items()}:
            fsio.replace(self.path / "checkpoints" / f"fold-{number}.safetensors", save(weights))
        body = {
            "digest": digest,
            "score": result.score.tolist(),
            "threshold": result.threshold,
            "target": result.target._asdict(),
            "best_epochs": result.best_epochs,
            "summary_share": result.summary_share,
            "history": [list(epoch) for epoch in result.history],
            "calibration": result.calibration and result.calibration._asdict(),
            "half_width": half_width_as_json(result.half_width),
        }
        self.write(f"checkpoints/fold-{number}.json", json.dumps(body, allow_nan=False))
        self.keeper(number, digest).clear()

    def load_fold(self, number: int, pairs: int, target: Target, epochs: int | None, digest: str) -> FoldResult | None:
        """A fold finished before, without its weights; None where it is not.

        Args:
            number: of the fold.
            pairs: in its test part.
            target: what its training part gives, to which the checkpoint's is held.
            epochs: most epochs that our model can have run; None: of another system, which leaves no weights.
            digest: its `fold_digest`.

        Raises:
            CacheCorrupt: the checkpoint is not what a fold of this run leaves behind.
        """
        where = self.path / "checkpoints" / f"fold-{number}.json"
        if not where.exists():
            return None
        body = parse_json(read_bytes(where, _MAX_JSON), where)
        try:
            if body["digest"] != digest:
                raise ValueError("it is of a run with other settings or other test pairs")
            score = np.array(body["score"], np.float64)
            history = [_epoch(n, *values) for n, values in enumerate(body["history"], 1)]
            best, classes = body["best_epochs"], target.task == "classification"
            low, high = (0, 1) if classes else (-MAX_LABEL, MAX_LABEL)
            if not (score.shape == (pairs,) and ((score >= low) & (score <= high)).all()):
                raise ValueError(f"not one score for each of {pairs} test pairs")
            least, most = (0, len(history)) if epochs is None else (1, epochs)
            first = min(1, len(history))  # of no epochs none is the best
            known = isinstance(best, list) and best and all(type(one) is int for one in best)
            if not (known and least <= len(history) <= most and first <= min(best) <= max(best) <= len(history)):
                raise ValueError(f"{len(history)} epochs of at most {most}, the best of them {best}")
            if body["target"] != target._asdict():
                raise ValueError(f"its target {body['target']} is not that of its training part, {target._asdict()}")
            threshold = float(body["threshold"]) if classes else None
            if classes:
                score = score.astype(np.float32)
            if epochs is not None and not where.with_suffix(".safetensors").is_file():
                raise ValueError("its weights are missing")
            calibration = calibration_of(body["calibration"]) if classes else None
            half = None if classes else half_width_of(body["half_width"])
            share = share_of(body["summary_share"])
            result = FoldResult(score, threshold, target, best, history, {}, calibration, half, share)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CacheCorrupt(f"{where}: {error}; remove it and run again with --resume") from None
        self.keeper(number, digest).clear()  # of a run killed just after it had finished the fold
        return result


def share_of(value: Any) -> float | None:
    """A mixture's share as a checkpoint has it."""
    if value is None:
        return None
    if type(value) in (int, float) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"the summaries' share {value} is not from 0 to 1")


def _epoch(expected: int, number: Any, fit: Any, held: Any, quality: Any) -> Epoch:
    """A line of the history, its numbers finite and its place right."""
    values = [fit, held] if quality is None else [fit, held, quality]
    if number != expected or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"epoch {expected} of its history is no line of numbers")
    return Epoch(expected, float(fit), float(held), quality)
