"""What a page is made of: finished runs, of one seed or of several, and ablations, read from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossllm.cache.errors import CacheCorrupt, InputError, one_line
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.evaluation.seeds_table import seeds_table
from crossllm.pipeline.evaluation.table import table
from crossllm.pipeline.page.predictions import Epoch, Tested, read_history, read_predictions
from crossllm.pipeline.training.provenance import read_provenance
from crossllm.pipeline.training.result_folder import held_tables
from crossllm.pipeline.training.seed_folders import held_seeds, seed_folder
from crossllm.pipeline.training.usage import Usage, read_usage

_MAX_JSON = 256 << 20


class SeedResult(NamedTuple):
    """The run of one seed."""

    folder: Path
    metrics: dict[str, Any]
    """As `metrics.json` has it."""
    config: dict[str, Any]
    """The tables of its `config.toml`."""
    tested: dict[str, Tested]
    """`model` and each baseline whose predictions are there."""
    history: dict[str, list[Epoch]]
    best_epochs: dict[str, int]
    """Fold → the epoch taken, where its checkpoint is still there."""
    provenance: dict[str, Any]
    """As `provenance.json` has it; empty in a run of a version that recorded none."""
    usage: Usage


class RunResult(NamedTuple):
    """A run, of one seed or of several."""

    folder: Path
    metrics: dict[str, Any]
    """Of one seed its own; of several their summary, and what the first seed has beside that."""
    seeds: tuple[SeedResult, ...]

    @property
    def first(self) -> SeedResult:
        """Its first seed."""
        return self.seeds[0]

    @property
    def several(self) -> bool:
        """Whether its numbers are means over seeds."""
        return "seeds" in self.metrics


class AblationResult(NamedTuple):
    """An ablation."""

    folder: Path
    body: dict[str, Any]
    """As `ablation.json` has it."""
    first: RunResult | None
    """The run of its first row; None where that failed."""


def read_sources(folders: Sequence[Path]) -> list[RunResult | AblationResult]:
    """Every folder, in the order they were named.

    Raises:
        InputError: none is named, one is named twice, or one holds no finished run and no ablation.
        CacheCorrupt: its files are not what a run leaves behind.
    """
    if not folders:
        raise InputError("no run is named; name the folder of one or more, runs/NAME in its cache")
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for n, folder in enumerate(folders) if places[n] in places[:n]), None):
        raise InputError(f"{twice}: is named twice; name each run once")
    return [_read_ablation(f) if (f / "ablation.toml").is_file() else _read_run(f) for f in folders]


def _read_run(folder: Path) -> RunResult:
    if not (folder / "config.toml").is_file():
        raise InputError(f"{folder}: holds no run; name the folder of one, runs/NAME in its cache, or of an ablation")
    seeds = held_seeds(folder)
    metrics = _metrics(folder, several=seeds is not None)
    if seeds is None:
        return RunResult(folder, metrics, (_read_seed(folder, metrics),))
    folders = [seed_folder(folder, seed) for seed in seeds]
    read = tuple(_read_seed(one, _metrics(one, several=False)) for one in folders)
    return RunResult(folder, {**read[0].metrics, **metrics}, read)


def _read_seed(folder: Path, metrics: dict[str, Any]) -> SeedResult:
    tested = {"model": read_predictions(folder / "predictions.tsv")}
    for name in metrics["baselines"]:
        if (where := folder / f"predictions.{name}.tsv").is_file():
            tested[name] = read_predictions(where)
    return SeedResult(
        folder, metrics, held_tables(folder / "config.toml"), tested, read_history(folder / "history.csv"),
        _best_epochs(folder, metrics["fold_names"]), read_provenance(folder), read_usage(folder),
    )  # fmt: skip


def _read_ablation(folder: Path) -> AblationResult:
    where = folder / "ablation.json"
    if not where.is_file():
        raise InputError(f"{folder}: this ablation is not finished; give its `crossllm ablate` again")
    body = _json(where)
    try:
        first = body["rows"][0]
        # Where it lies now: the folder may have been moved since, and its rows lie in it.
        inner = None if first["problem"] is not None else folder / "rows" / Path(first["folder"]).name
    except (KeyError, IndexError, TypeError) as error:
        raise CacheCorrupt(f"{where}: {one_line(error)}; give its `crossllm ablate` again") from None
    return AblationResult(folder, body, None if inner is None else _read_run(inner))


def _metrics(folder: Path, *, several: bool) -> dict[str, Any]:
    """`metrics.json`, held to what the table that `train` prints needs of it."""
    where = folder / "metrics.json"
    if not where.is_file():
        raise InputError(f"{folder}: this run is not finished; go on with `train --resume`")
    found = _json(where)
    try:
        (seeds_table if several else table)(found)
        if not all(isinstance(name, str) and "/" not in name for name in found["baselines"]):
            raise ValueError("a baseline's name is no name")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise CacheCorrupt(f"{where}: {one_line(error)}; train again") from None
    return found


def _best_epochs(folder: Path, names: Sequence[str]) -> dict[str, int]:
    found = {}
    for number, name in enumerate(names):
        where = folder / "checkpoints" / f"fold-{number}.json"
        if not where.is_file():
            continue
        body = _json(where)
        best = body.get("best_epochs", [body.get("best_epoch")])  # of a version whose models had one expert
        if isinstance(best, list) and best and all(type(epoch) is int for epoch in best):
            found[name] = max(best)
    return found


def _json(path: Path) -> dict[str, Any]:
    return parse_json(read_bytes(path, _MAX_JSON), path)
