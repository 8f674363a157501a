"""What an ablation leaves behind: `ablation.tsv`, `ablation.json`, the plot, and what its runs took from the cache."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossllm.cache.console.progress import announced
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.metrics import REPLICATES
from crossllm.pipeline.evaluation.seeds_table import number
from crossllm.pipeline.evaluation.table import NAMES, SHOWN
from crossllm.pipeline.experiments.compare import Comparison, compare_two
from crossllm.pipeline.experiments.compare_table import estimate
from crossllm.pipeline.experiments.grid import Row
from crossllm.pipeline.experiments.seeds import summarise_seeds
from crossllm.pipeline.experiments.tested_run import read_run
from crossllm.pipeline.reporting.forest import Estimate, Panel, forest_bytes
from crossllm.pipeline.training.seed_folders import held_seeds, seed_folder
from crossllm.pipeline.training.usage import Usage, read_usage

_MAX_JSON = 256 << 20


class RowResult(NamedTuple):
    """A row that was trained, or why it was not."""

    row: Row
    folder: Path
    problem: str | None
    metrics: dict[str, Any] | None = None
    """In the form of several seeds (`seeds.summarise_seeds`), also of one."""
    usage: Usage = Usage()

    @property
    def optimistic(self) -> bool:
        """Whether its epochs were chosen on the scored pairs themselves."""
        return self.metrics is not None and bool(self.metrics.get("optimistic"))


class Report(NamedTuple):
    """An ablation as it is printed."""

    task: Task
    results: Sequence[RowResult]
    comparisons: dict[str, Comparison]
    """Name of a row → it against the first row; without the first, and empty where the first failed."""
    usage: Usage
    """Of all rows together."""

    @property
    def metric(self) -> str:
        """The one that a result is read by."""
        return SHOWN[self.task][0]

    def as_json(self) -> dict[str, Any]:
        """As `ablation.json` holds it."""
        return {
            "task": self.task,
            "metric": self.metric,
            "rows": [self._row_json(found) for found in self.results],
            "usage": {**self.usage._asdict(), "waiting_share": self.usage.waiting_share},
        }

    def _row_json(self, found: RowResult) -> dict[str, Any]:
        compared = self.comparisons.get(found.row.name)
        return {
            "settings": found.row.settings,
            "changed": found.row.changed,
            "folder": str(found.folder),
            "problem": found.problem,
            "metrics": found.metrics,
            "comparison": None if compared is None else compared.as_json(),
            "usage": found.usage._asdict(),
        }


def row_result(row: Row, folder: Path) -> RowResult:
    """Read a finished row."""
    found, seeds = _metrics(folder), held_seeds(folder)
    folders = [folder] if seeds is None else [seed_folder(folder, seed) for seed in seeds]
    usage = Usage()
    for one in folders:
        usage = usage.plus(read_usage(one))
    metrics = found if "seeds" in found else summarise_seeds([found], [found["seed"]])
    return RowResult(row, folder, None, metrics, usage)


def has_result(folder: Path, baselines: Sequence[str]) -> bool:
    """Whether a row is finished, with all of these baselines."""
    if not (folder / "metrics.json").exists():
        return False
    return not baselines or _metrics(folder)["baselines"].keys() >= set(baselines)


def first_number(folder: Path) -> str:
    """`MCC 0.731` of a finished row, with the word if it is optimistic."""
    found = _metrics(folder)
    task: Task = found["task"]
    metric = SHOWN[task][0]
    mark = ", optimistic" if found.get("optimistic") else ""
    return f"{NAMES.get(metric, metric)} {number(found['model'][metric]['mean'])}{mark}"


def write_report(folder: Path, results: Sequence[RowResult], *, quiet: bool = False) -> Report:
    """Compare every row with the first, and write all files; `ablation.json` last."""
    done = [found for found in results if found.metrics is not None]
    task: Task = next(found.metrics["task"] for found in done if found.metrics is not None)
    comparisons = {}
    if results[0].problem is None:
        first = read_run(results[0].folder)
        with announced(
            f"note: comparing {len(done) - 1} rows with the first, {REPLICATES} replicates each", quiet=quiet
        ):
            comparisons = {
                found.row.name: compare_two(first, read_run(found.folder)) for found in done if found is not results[0]
            }
    usage = Usage()
    for found in done:
        usage = usage.plus(found.usage)
    report = Report(task, results, comparisons, usage)
    fsio.replace(folder / "ablation.tsv", _tsv(report).encode())
    for kind in ("png", "svg"):
        fsio.replace(folder / f"ablation.{kind}", _plot(report, done, kind))
    fsio.replace(folder / "ablation.json", json.dumps(report.as_json(), indent=1, allow_nan=False).encode())
    return report


def _metrics(folder: Path) -> dict[str, Any]:
    return parse_json(read_bytes(folder / "metrics.json", _MAX_JSON), folder / "metrics.json")


def _tsv(report: Report) -> str:
    """A line for each row: its settings, the metrics that are shown, and the first of them against the first row."""
    shown = SHOWN[report.task]
    columns = [f"{metric}{part}" for metric in shown for part in ("", "_std_over_folds", "_std_over_seeds")]
    against = ["difference", "ci95_low", "ci95_high", "p", "pair_test", "pair_test_p"]
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    fields = list(report.results[0].row.settings)
    table.writerow([*fields, *columns, *against, "optimistic", "parameters", "folder", "problem"])
    for found in report.results:
        values: list[Any] = [""] * len(columns)
        optimistic, parameters = "", ""
        if found.metrics is not None:
            model = found.metrics["model"]
            values = [model[m][part] for m in shown for part in ("mean", "std_over_folds", "std_over_seeds")]
            counts = found.metrics.get("parameters")  # our model alone has them
            optimistic, parameters = (
                ("no", "yes")[found.optimistic],
                "" if counts is None else str(sum(counts.values())),
            )
        table.writerow(
            [*found.row.settings.values(), *values, *_against(report, found), optimistic, parameters,
             found.folder.name, found.problem or ""]
        )  # fmt: skip
    return text.getvalue()


def _against(report: Report, found: RowResult) -> list[Any]:
    compared = report.comparisons.get(found.row.name)
    if compared is None:
        return [""] * 6
    first = compared.metrics[report.metric]
    low, high = first.ci95 or ("", "")
    return [first.difference, low, high, first.p, compared.test.name, compared.test.p]


def _plot(report: Report, done: Sequence[RowResult], kind: str) -> bytes:
    name = NAMES.get(report.metric, report.metric)
    means, differences = [], []
    for found in done:
        metric = None if found.metrics is None else found.metrics["model"][report.metric]
        means.append(_mean(metric))
        compared = report.comparisons.get(found.row.name)
        differences.append(Estimate(None) if compared is None else estimate(compared.metrics[report.metric]))
    several = any(len(found.points) > 1 for found in means)
    panels = [
        Panel(f"{name}\nbar: ± deviation over folds{', dots: seeds' if several else ''}", means),
        Panel(f"{name}: difference to the first row\nbar: 95 % interval", differences, zero=True),
    ]
    labels = ["optimistic: " * found.optimistic + found.row.label for found in done]
    return forest_bytes(labels, panels, kind, "ablation")


def _mean(found: dict[str, Any] | None) -> Estimate:
    if found is None or found["mean"] is None:
        return Estimate(None)
    mean, spread = found["mean"], found["std_over_folds"] or 0.0
    points = tuple(value for value in found["per_seed"] if value is not None)
    return Estimate(mean, (mean - spread, mean + spread), points if len(points) > 1 else ())
