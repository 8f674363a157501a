"""The parts of a page as the template takes them: tables and lists of plain text, and charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from crossllm.pipeline.evaluation.leak_lines import leak_lines
from crossllm.pipeline.evaluation.table import KNOWS, NAMES, SHOWN, split_in_words
from crossllm.pipeline.page.ablations import ablation_figures, ablation_table, ablation_words
from crossllm.pipeline.page.charts import Figure
from crossllm.pipeline.page.figures import calibration, curves, losses, scatter, standing
from crossllm.pipeline.page.numbers import count, interval_text, number, ranked, share, spread_of
from crossllm.pipeline.page.provenance import model_card, provenance
from crossllm.pipeline.page.sources import AblationResult, RunResult, SeedResult
from crossllm.pipeline.page.tables import Table
from crossllm.pipeline.page.words import Summary, at_a_glance, partners, summarise


class Fact(NamedTuple):
    """A number at the top of a section."""

    name: str
    value: str
    more: str


class RunSection(NamedTuple):
    """Everything that the page says of one run."""

    anchor: str
    title: str
    summary: Summary
    facts: tuple[Fact, ...]
    results: tuple[Table, ...]
    standing: Figure
    curves: tuple[Figure, ...]
    leaks: tuple[tuple[str, str], ...]
    """Name and text of each line; empty where the run has no leak report."""
    splits: Table
    split_words: str
    losses: tuple[Figure, ...]
    provenance: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    card: tuple[tuple[str, tuple[str, ...]], ...]


class AblationSection(NamedTuple):
    """Everything that the page says of an ablation, but for the run of its first row."""

    anchor: str
    title: str
    words: tuple[str, ...]
    figures: tuple[Figure, ...]
    table: Table


class Page(NamedTuple):
    """A whole page."""

    title: str
    glance: Table | None
    """Of several runs, a line for each."""
    ablations: tuple[AblationSection, ...]
    runs: tuple[RunSection, ...]
    version: str


def build_page(sources: Sequence[RunResult | AblationResult], title: str | None, version: str) -> Page:
    """The page of these runs and ablations, in their order; an ablation's first row stands among the runs."""
    runs: list[tuple[str, RunResult]] = []
    ablations: list[AblationSection] = []
    for source in sources:
        if isinstance(source, RunResult):
            runs.append((_name(source), source))
            continue
        ablations.append(_ablation_section(f"ablation-{len(ablations) + 1}", source))
        if source.first is not None:
            runs.append((f"{source.folder.resolve().name}, first row", source.first))
    sections = tuple(_run_section(f"run-{n}", name, run) for n, (name, run) in enumerate(runs, 1))
    glance = None
    if len(runs) > 1:
        rows = tuple((name, *at_a_glance(run)) for name, run in runs)
        links = tuple(f"#{section.anchor}" for section in sections)
        heads = ("run", "dataset", "split", "test pairs", "model", "interval", "best baseline")
        glance = Table("The runs at a glance", heads, rows, links=links, words=(1, 2))
    return Page(title or _title([run for _, run in runs], ablations), glance, tuple(ablations), sections, version)


def _title(runs: Sequence[RunResult], ablations: Sequence[AblationSection]) -> str:
    datasets = list(dict.fromkeys(str(run.metrics["dataset"]) for run in runs))
    kinds = {f"{a} × {b}" for a, b in (partners(run.metrics) for run in runs)}
    of = f": {kinds.pop()}" if len(kinds) == 1 else ""
    name = ", ".join(dataset for dataset in datasets) or ablations[0].title
    return name + of


def _name(run: RunResult) -> str:
    """The last parts of a run's path: `rpi488/cluster`, as `runs/NAME` says little where several lie in folders."""
    path = run.folder.resolve()
    above = path.parent.name
    return path.name if above in ("", "runs") else f"{above}/{path.name}"


def _run_section(anchor: str, title: str, run: RunResult) -> RunSection:
    metrics = run.metrics
    shown = curves(run, anchor) if metrics["task"] == "classification" else scatter(run, anchor)
    leaks = metrics.get("leaks")
    return RunSection(
        anchor,
        title,
        summarise(run),
        tuple(_facts(run)),
        tuple(_results(run)),
        standing(run, f"{anchor}-standing"),
        (*shown, *calibration(run, anchor)),
        () if leaks is None else tuple(_named(line) for line in leak_lines(leaks)),
        _splits(run),
        _split_words(run),
        tuple(losses(run, anchor)),
        tuple(provenance(run)),
        tuple(_settings(run.first)),
        tuple(model_card(run)),
    )


def _ablation_section(anchor: str, source: AblationResult) -> AblationSection:
    return AblationSection(
        anchor, source.folder.resolve().name, tuple(ablation_words(source)), tuple(ablation_figures(source, anchor)),
        ablation_table(source),
    )  # fmt: skip


def _facts(run: RunResult) -> Iterator[Fact]:
    metrics = run.metrics
    first, second = SHOWN[metrics["task"]][0], SHOWN[metrics["task"]][3 if metrics["task"] == "classification" else 2]
    for metric in (first, second):
        found = spread_of(metrics["model"][metric])
        optimistic = ", optimistic" if metrics.get("optimistic") else ""
        yield Fact(NAMES.get(metric, metric) + optimistic, number(found.mean), interval_text(found))
    means = {key: found[first]["mean"] for key, found in metrics["baselines"].items()}
    known = {key: mean for key, mean in means.items() if mean is not None}
    if known:
        best = max(known, key=lambda key: known[key])
        yield Fact(f"best baseline, {NAMES.get(first, first)}", number(known[best]), best)
    seeds = f", {count(len(run.seeds), 'seed')}" if run.several else ""
    yield Fact("test pairs", f"{metrics.get('tested', metrics['pairs']):,}", count(metrics["folds"], "fold") + seeds)


def _results(run: RunResult) -> Iterator[Table]:
    metrics = run.metrics
    shown = SHOWN[metrics["task"]]
    heads = ("", *(NAMES.get(metric, metric) for metric in shown), "what it knows")
    order = ranked({key: found[shown[0]]["mean"] for key, found in metrics["baselines"].items()})
    rows = []
    for key in ("model", *order):
        found = metrics["model"] if key == "model" else metrics["baselines"][key]
        spreads = [spread_of(found[metric]) for metric in shown]
        cells = tuple(f"{number(one.mean)}\n{interval_text(one)}" for one in spreads)
        knows = "both partners' embeddings" if key == "model" else KNOWS.get(key, "")
        rows.append((key, *cells, knows))
    how = "mean over seeds, ± deviation over seeds" if run.several else "mean over folds and its 95 % interval"
    strong = (0,)
    yield Table(f"Model and baselines: {how}", heads, tuple(rows), strong=strong, words=(len(heads) - 1,))
    if "by" in metrics and not run.several:
        yield _by_group(metrics)


def _by_group(metrics: dict[str, Any]) -> Table:
    """A line for each value of the column of `--by`."""
    metric, by = SHOWN[metrics["task"]][0], metrics["by"]
    rows = []
    for value, found in by["groups"].items():
        own = spread_of(found["model"][metric])
        known = {k: v[metric]["mean"] for k, v in found["baselines"].items() if v[metric]["mean"] is not None}
        best = max(known, key=lambda key: known[key]) if known else None
        told = "–" if best is None else f"{number(known[best])} {best}"
        rows.append((value, f"{found['pairs']:,}", number(own.mean), interval_text(own), told))
    name = NAMES.get(metric, metric)
    heads = (by["column"], "pairs", f"{name} of the model", "95 % interval", "best baseline")
    return Table(f"{name} by {by['column']}, all test folds together", heads, tuple(rows))


def _split_words(run: RunResult) -> str:
    metrics = run.metrics
    train = run.first.config["train"]
    dropped = sum(metrics.get("dropped") or [0])
    parts = [f"{split_in_words(metrics)}; validation pairs are {train['validation']:.0%} of what may be trained on"]
    if metrics["split"] in ("given", "file", "transfer") and metrics["folds"] == 1:
        parts = [f"{split_in_words(metrics)}"]
    if dropped:
        parts.append("dropped: pairs of which one partner is held out and one is not, so neither tested nor trained on")
    if run.several:
        parts.append(f"the table is that of seed {run.first.metrics['seed']}")
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + "."


def _splits(run: RunResult) -> Table:
    """A line for each fold of the first seed: sizes of its parts, and the number there."""
    seed = run.first
    metrics, tested = seed.metrics, seed.tested["model"]
    metric, classes = SHOWN[metrics["task"]][0], metrics["task"] == "classification"
    dropped = metrics.get("dropped") or [0] * len(metrics["fold_names"])
    rows = []
    for n, name in enumerate(metrics["fold_names"]):
        own = tested.fold == name
        tests = int(own.sum())
        labels = tested.label[own]
        middle = ("–" if not tests else share(float(labels.mean()))) if classes else number(_median(labels))
        rows.append((
            name, f"{tests:,}", middle, f"{metrics['pairs'] - tests - dropped[n]:,}", f"{dropped[n]:,}",
            number(metrics["model"][metric]["per_fold"][n]),
        ))  # fmt: skip
    label = "positive" if classes else "median affinity"
    heads = ("fold", "test pairs", label, "training and validation", "dropped", NAMES.get(metric, metric))
    return Table("Parts of each fold, in pairs", heads, tuple(rows))


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _settings(seed: SeedResult) -> Iterator[tuple[str, str]]:
    for table in ("train", "model"):
        for name, value in seed.config.get(table, {}).items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield name, text or "–"


def _named(line: str) -> tuple[str, str]:
    """`by sequence: …` in its two parts; `nearest rna 100%: …` has its name before the first number."""
    if line.startswith("nearest "):
        words = line.split(" ")
        cut = next((n for n, word in enumerate(words) if n > 1 and (word[0] in "≥0123456789" or word == "none")), 2)
        return " ".join(words[:cut]), " ".join(words[cut:])
    if line.startswith("same pair trained "):
        return "same pair trained", line.removeprefix("same pair trained ")
    name, _, text = line.partition(": ")
    return name, text
