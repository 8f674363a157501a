"""`crossllm ablate`: train every row of a grid, each an ordinary run, and put them beside the first.

OUT/ablation.toml        what all rows share; another ablation is refused
OUT/rows/SETTINGS/       the run of a row, or its seeds' runs
OUT/logs/SETTINGS.txt    what its process wrote
OUT/ablation.tsv, .json, .png, .svg
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from crossllm.cache.cluster.address import ClusterName
from crossllm.cache.cluster.opening import require_dask
from crossllm.cache.cluster.sizing import check_device
from crossllm.cache.console.machine import cores
from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import duration
from crossllm.cache.errors import Conflict, InputError, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import list_folder
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.records.modality import OnBad
from crossllm.cache.remote.opening import name_of
from crossllm.cache.store.joined_reader import open_rows
from crossllm.cache.store.row_source import IO
from crossllm.pipeline.baselines.registry import chosen
from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.experiments.ablation_report import (
    Report,
    RowResult,
    first_number,
    has_result,
    row_result,
    write_report,
)
from crossllm.pipeline.experiments.cluster_tasks import run_on_cluster
from crossllm.pipeline.experiments.grid import Row, plan_rows
from crossllm.pipeline.experiments.row_processes import Ended, Task, run_tasks
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.result_folder import differences, held_tables, refuse_foreign, take

_MAX_SPLIT = 1 << 34


@dataclass(frozen=True)
class AblationOptions:
    """What `ablate` was asked for."""

    cache_dir: Path
    grids: Sequence[str]
    """`FIELD=V1,V2` each."""
    one_at_a_time: bool = False
    seeds: int = 1
    jobs: int = 1
    dask: ClusterName | None = None
    """Cluster whose workers train the rows; None: this machine, `jobs` at a time."""
    config_file: Path | None = None
    sets: Sequence[str] = ()
    recipe_a: str | None = None
    recipe_b: str | None = None
    out: Path | None = None
    """None: `ablations/<the fields>` in the cache."""
    baselines: str | None = None
    """As `train` takes them, for every row; None: the fast ones for the first row and none for the others, whose
    question is how they differ from it."""
    device: str = "cpu"
    on_bad: OnBad = "error"
    io: IO = "mmap"
    split_file: Path | None = None
    """The split of all rows."""
    quiet: bool = False
    """No line for each row that is finished."""


class Ablation(NamedTuple):
    """A finished ablation."""

    folder: Path
    report: Report
    failed: int
    """Rows that could not be trained."""


def ablate(options: AblationOptions) -> Ablation:
    """Train what is not finished yet, write the table, and go on after a row that fails.

    Raises:
        InputError: a bad grid, a dataset or recipe that is not there, or every row failed.
        Conflict: the folder holds another ablation, or somebody is at work in it.
    """
    if options.dask is not None:
        require_dask()
        check_device(options.dask, options.device)
    base, rows = plan_rows(
        options.grids, options.config_file, options.sets, one_at_a_time=options.one_at_a_time,
        split_file=options.split_file is not None,
    )  # fmt: skip
    if options.seeds > 1 and "seed" in rows[0].settings:
        raise InputError("--grid seed=…: --seeds repeats every row with other seeds; give one of the two")
    dataset, _ = load_dataset(options.cache_dir, options.on_bad)
    for modality, named in ((dataset.modality_a, options.recipe_a), (dataset.modality_b, options.recipe_b)):
        open_rows(options.cache_dir, modality, named)
    wanted = [] if options.baselines is None else chosen(options.baselines, dataset.task)
    folder = options.out or options.cache_dir / "ablations" / "-".join(rows[0].settings)
    with closing(_opened(folder, _shared(options, base, rows))):
        problems = _train_rows(options, folder, rows, wanted)
        results = [_result(folder, row, problems.get(row.name)) for row in rows]
        _say_others(folder, rows, wanted)
        if all(found.problem is not None for found in results):
            raise InputError(f"every row failed; the first ({rows[0].label}): {results[0].problem}")
        return Ablation(
            folder,
            write_report(folder, results, quiet=options.quiet),
            sum(found.problem is not None for found in results),
        )


def _say_others(folder: Path, rows: Sequence[Row], wanted: Sequence[str]) -> None:
    """Finished rows of values that were asked for before and are not now: they stay, and the table is without them."""
    own = {row.name for row in rows}
    if others := [p.name for p in list_folder(folder / "rows") if p.name not in own and has_result(p, wanted)]:
        names = ", ".join(map(printable, others[:4])) + (", …" if len(others) > 4 else "")
        note(
            f"note: {folder}: {len(others)} finished rows of other values are not in the table: {names}; name their "
            "values in --grid too, which trains nothing again"
        )


def _result(folder: Path, row: Row, problem: str | None) -> RowResult:
    if problem is not None:
        return RowResult(row, folder / "rows" / row.name, problem)
    return row_result(row, folder / "rows" / row.name)


def _train_rows(
    options: AblationOptions, folder: Path, rows: Sequence[Row], baselines: Sequence[str]
) -> dict[str, str]:
    """Train the rows that have no result yet, or not all of these baselines; name of a row → why it has none."""
    problems = {row.name: row.problem for row in rows if row.problem is not None}
    for row in rows:
        if row.problem is not None:
            note(f"note: row {row.label}: {row.problem}; left out")
    todo = [row for row in rows if row.problem is None and not has_result(folder / "rows" / row.name, baselines)]
    kept = len(rows) - len(problems) - len(todo)
    share = f", {max(1, cores() // options.jobs)} threads each" if options.jobs > 1 else ""
    where = f"{options.jobs} at a time{share}" if options.dask is None else f"--dask {options.dask.text}"
    note(f"note: {folder}: {len(rows)} rows, {kept} finished before, {where}")
    tasks = [_task(options, folder, number, row, "none" if row.changed else "fast") for number, row in enumerate(todo)]
    began, done = time.monotonic(), 0
    try:
        with closing(_ending(tasks, options)) as ended:
            for found in ended:
                row, done = todo[found.number], done + 1
                if found.problem is not None:
                    problems[row.name] = found.problem
                    told = f"failed: {found.problem}"
                else:
                    told = first_number(folder / "rows" / row.name)
                left = (time.monotonic() - began) / done * (len(todo) - done)
                time_left = f", about {duration(left)} left" if done < len(todo) else ""
                if found.problem is not None or not options.quiet:
                    note(f"row {kept + done} of {kept + len(todo)}: {row.label}: {told}, "
                         f"{duration(found.seconds)}{time_left}")  # fmt: skip
    except BaseException:
        note(f"note: {kept + done} of {kept + len(todo)} rows are finished or have failed, the others stand where they "
             "were; the same command goes on")  # fmt: skip
        raise
    return problems


def _ending(tasks: Sequence[Task], options: AblationOptions) -> Generator[Ended]:
    """The rows as they end, on this machine or on a cluster."""
    if options.dask is None or not tasks:
        return run_tasks(tasks, options.jobs)
    return run_on_cluster(tasks, options.dask, options.device)


def _task(options: AblationOptions, folder: Path, number: int, row: Row, baselines: str) -> Task:
    asked: dict[str, Any] = {  # absolute paths: a worker of a cluster is at work in another folder
        "cache": name_of(options.cache_dir),
        "out": os.fspath((folder / "rows" / row.name).absolute()),
        "config": None if options.config_file is None else os.fspath(options.config_file.absolute()),
        "sets": [*options.sets, *row.sets, *(["split=file"] if options.split_file else [])],
        "seeds": options.seeds,
        "options": {
            "recipe_a": options.recipe_a,
            "recipe_b": options.recipe_b,
            "baselines": options.baselines or baselines,
            "device": options.device,
            "on_bad": options.on_bad,
            "io": options.io,
            "split_file": None if options.split_file is None else os.fspath(options.split_file.absolute()),
        },
    }
    return Task(number, asked, (folder / "logs" / f"{row.name}.txt").absolute())


def _shared(options: AblationOptions, base: TrainConfig, rows: Sequence[Row]) -> dict[str, Any]:
    """What all rows of one folder share: every setting that is not in the grid."""
    grid = {field.rpartition(".")[2] for field in rows[0].settings}
    tables = {
        table: {name: value for name, value in fields.items() if name not in grid}
        for table, fields in base.to_tables().items()
    }
    recipe = {side: named for side, named in (("a", options.recipe_a), ("b", options.recipe_b)) if named is not None}
    shared = {"fields": sorted(grid), "seeds": options.seeds, "recipe": recipe}
    if options.split_file is not None:
        shared["split_file"] = hashlib.sha256(read_bytes(options.split_file, _MAX_SPLIT)).hexdigest()
    return {"ablation": shared, **tables}


def _opened(folder: Path, shared: dict[str, Any]) -> fsio.Lock:
    """The folder made or gone on with, and locked.

    Raises:
        Conflict: it holds something else, or somebody is at work in it.
    """
    path = folder / "ablation.toml"
    if path.exists():
        held = held_tables(path)
        # Fields of the grid have a value in each row, and none that all rows share.
        held |= {name: {k: v for k, v in held[name].items() if k in shared[name]} for name in ("train", "model")}
        if different := list(differences(held, shared)):
            raise Conflict(f"{path}: this ablation differs in {'; '.join(different)}; name another folder by --out")
    else:
        refuse_foreign(folder, "ablation")
    lock = take(folder, "ablation")
    for part in ("rows", "logs"):
        fsio.make_dirs(folder / part)
    if not path.exists():
        fsio.replace(path, tomli_w.dumps(shared).encode())
    return lock
