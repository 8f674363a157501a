"""The charts of a run: model and baselines, ROC, precision–recall, calibration or scatter, loss curves.

The numbers are those of the plots that `train` leaves (`reporting/plots.py`); several seeds give a curve for each fold
of each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from crossllm.pipeline.evaluation.calibration import reliability
from crossllm.pipeline.evaluation.classification import CALIBRATION_BINS
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.evaluation.table import NAMES, SHOWN
from crossllm.pipeline.page.charts import SERIES, Axis, Chart, Figure, LegendEntry, Row, rows_chart
from crossllm.pipeline.page.numbers import Spread, interval_text, number, ranked, spread_of
from crossllm.pipeline.page.predictions import Tested
from crossllm.pipeline.page.sources import RunResult
from crossllm.pipeline.reporting.plots import precision_at, roc_at

_AT = np.linspace(0, 1, 101)
_NAMED = 3
"""Baselines that a chart of curves shows in a colour of their own: those that are best in what it shows."""
_MOST_POINTS = 2000
"""Of a scatter plot: more are a grey area, and megabytes."""
_MOST_FOLDS = 10
"""That a legend names."""


def standing(run: RunResult, name: str) -> Figure:
    """Model and baselines by the metric that a result is read by, each with its interval."""
    metric = SHOWN[run.metrics["task"]][0]
    shown = NAMES.get(metric, metric)
    of = {"model": run.metrics["model"], **run.metrics["baselines"]}
    spreads = {key: spread_of(found[metric]) for key, found in of.items()}
    rows = [
        _row(key, spreads[key], spreads["model"]) for key in ranked({key: one.mean for key, one in spreads.items()})
    ]
    values = [v for row in rows for v in (row.value, *(row.interval or ()), *row.points) if v is not None]
    axis = Axis(shown, min(0.0, *values), max(1.0, *values)) if values else Axis(shown, 0, 1)
    bar = spreads["model"].what
    text = f"{shown}, the best first: " + "; ".join(f"{row.label} {row.text}" for row in rows)
    svg = rows_chart(name, f"{shown} of the model and the baselines", text, axis, rows, bars=False, zero=True)
    return Figure(
        svg,
        f"{shown} of the model and every baseline, the best first; in a colour, what reaches the model. Line: {bar}.",
    )


def _row(name: str, spread: Spread, model: Spread) -> Row:
    reaches = None not in (spread.mean, model.mean) and (spread.mean or 0.0) >= (model.mean or 0.0)
    series = 0 if name == "model" else 1 if reaches else 7
    text = "–" if spread.mean is None else f"{number(spread.mean)} {interval_text(spread)}".strip()
    return Row(name, spread.mean, spread.interval, spread.points, series, text)


def curves(run: RunResult, name: str) -> Iterator[Figure]:
    """ROC and precision–recall: the mean of the test folds' curves, and the model's deviation."""
    folds = {key: _folds(run, key) for key in run.first.tested}
    share = float(np.mean([fold.label.mean() for fold in folds["model"]]))
    kinds: tuple[tuple[str, Callable[[Scored, np.ndarray], np.ndarray], str, Axis, Axis], ...] = (
        ("roc", roc_at, "auroc", Axis("false positive rate", 0, 1), Axis("true positive rate", 0, 1)),
        ("pr", precision_at, "auprc", Axis("recall", 0, 1), Axis("precision", 0, 1)),
    )
    for kind, curve, metric, x, y in kinds:
        whole = {"roc": "ROC curve", "pr": "Precision–recall curve"}[kind]
        means = {key: _mean(run, key, metric) for key in folds}
        best = [key for key in ranked(means) if key != "model"][:_NAMED]
        text = f"{whole} of the test folds: " + ", ".join(f"{key} {number(means[key])}" for key in ("model", *best))
        chart = Chart(f"{name}-{kind}", f"{whole}, {NAMES[metric]} {number(means['model'])}", text, x, y)
        if kind == "roc":
            chart.line([0, 1], [0, 1], "chance")
        else:
            chart.line([0, 1], [share, share], "chance")
        for key in [k for k in folds if k not in ("model", *best)] + best[::-1] + ["model"]:
            _draw_curve(chart, folds[key], curve, key == "model", _style(key, best))
        yield Figure(chart.svg(), _curve_caption(whole, folds["model"], run), _curve_legend(best, folds, means, metric,
                     "chance" if kind == "roc" else f"share of positives {number(share)}"))  # fmt: skip


def _draw_curve(
    chart: Chart, folds: Sequence[Scored], curve: Callable[[Scored, np.ndarray], np.ndarray], model: bool, style: str
) -> None:
    found = [curve(fold, _AT) for fold in folds if len(set(fold.label.tolist())) == 2]  # the others have no curve
    if not found:
        return
    mean = np.mean(found, axis=0)
    if model and len(found) > 1:
        spread = np.std(found, axis=0, ddof=1)
        chart.band(_AT, mean - spread, mean + spread, style)
    chart.line(_AT, mean, style)


def _style(key: str, best: Sequence[str]) -> str:
    if key == "model":
        return "s0 main"
    return f"s{best.index(key) + 1}" if key in best else "other"


def _curve_caption(whole: str, folds: Sequence[Scored], run: RunResult) -> str:
    several = f" of {len(run.seeds)} seeds" if run.several else ""
    mean = f", mean of {len(folds)} test folds{several}; band: the model's deviation" if len(folds) > 1 else ""
    return f"{whole}{mean}. In a colour: the model and the best baselines."


def _curve_legend(
    best: Sequence[str], folds: dict[str, list[Scored]], means: dict[str, float | None], metric: str, chance: str
) -> tuple[LegendEntry, ...]:
    named = [LegendEntry(_style(key, best), f"{key}, {NAMES[metric]} {number(means[key])}") for key in ("model", *best)]
    rest = len(folds) - len(named)
    others = [LegendEntry("other", f"{rest} other baseline{'s' * (rest > 1)}")] if rest else []
    return (*named, *others, LegendEntry("chance", chance))


def calibration(run: RunResult, name: str) -> Iterator[Figure]:
    """Share of positives against score and probability, all test pairs together; nothing where there are none."""
    tested = [seed.tested["model"] for seed in run.seeds]
    if not all("probability" in one.further for one in tested):
        return
    label = np.concatenate([one.label for one in tested])
    values = {
        "score": np.concatenate([one.score for one in tested]),
        "probability": np.concatenate([one.further["probability"] for one in tested]),
    }
    error = run.first.metrics.get("calibration", {}).get("calibration_error", {})
    legend, said = [], []
    x, y = Axis("predicted", 0, 1), Axis("share of positives", 0, 1)
    for n, key in enumerate(values):
        of = error.get(("before", "after")[n], {}).get("mean")
        legend.append(LegendEntry(("s1", "s0 main")[n], f"{key}, calibration error {number(of)}"))
        said.append(f"{key} {number(of)}")
    chart = Chart(f"{name}-calibration", "Calibration of the model", f"Calibration error: {', '.join(said)}", x, y)
    chart.line([0, 1], [0, 1], "chance")
    for style, value in zip(("s1", "s0 main"), values.values(), strict=True):
        mean, share, count = reliability(label, np.clip(value, 0, 1), CALIBRATION_BINS)
        chart.line(mean, share, style)
        chart.discs(mean, share, count / count.max(), style)
    which = f"; errors in the legend: seed {run.first.metrics['seed']}" if run.several else ""
    caption = f"Calibration on the test pairs: a disc is a bin, its area the share of pairs{which}."
    yield Figure(chart.svg(), caption, (*legend, LegendEntry("chance", "as it should be")))


def scatter(run: RunResult, name: str) -> Iterator[Figure]:
    """Measured against predicted affinity of the first seed, with its interval where there is one."""
    own = run.first.tested["model"]
    low, high = _limits([own])
    for key in ("model", *[best for best in _best_baseline(run) if best in run.first.tested]):
        yield _scatter(run, key, f"{name}-scatter-{key.replace('_', '-')}", (low, high))


def _scatter(run: RunResult, key: str, name: str, limits: tuple[float, float]) -> Figure:
    tested = run.first.tested[key]
    count = len(tested.label)
    every = max(1, -(-count // _MOST_POINTS))
    chosen = np.arange(0, count, every)
    label, score = tested.label[chosen], tested.score[chosen]
    metric = SHOWN["regression"][0]
    title = f"Measured and predicted affinity, {key}: {NAMES[metric]} {number(_mean(run, key, metric))}"
    x, y = Axis("measured affinity", *limits), Axis("predicted affinity", *limits)
    chart = Chart(name, title, f"{len(chosen)} of {count} test pairs; on the diagonal both are equal", x, y)
    legend: tuple[LegendEntry, ...] = (LegendEntry("chance", "equal"),)
    style = "s0" if key == "model" else "s1"
    if "low" in tested.further:
        least, most = (tested.further[side][chosen] for side in ("low", "high"))
        outside = (label < least) | (label > most)
        for where, class_ in ((~outside, style), (outside, "outside")):
            chart.whiskers(label[where], least[where], most[where], class_)
        chart.line(limits, limits, "chance")
        for where, class_ in ((~outside, style), (outside, "outside")):
            chart.dots(label[where], score[where], class_)
        share = f"{run.first.config['train']['interval']:.0%}"
        legend = (
            LegendEntry(f"{style} dot", f"test pair and its {share} interval, which holds the measured value"),
            LegendEntry("outside dot", f"does not: {int(outside.sum())} of {len(chosen)}"),
            *legend,
        )
    else:
        chart.line(limits, limits, "chance")
        chart.dots(label, score, style)
        legend = (LegendEntry(f"{style} dot", "test pair"), *legend)
    some = f" Every {every}th of {count:,} test pairs is drawn." if every > 1 else ""
    of = f" of seed {run.first.metrics['seed']}" if run.several else ""
    return Figure(chart.svg(), f"{title}{of}.{some}", legend)


def losses(run: RunResult, name: str) -> Iterator[Figure]:
    """Validation loss of every fold, the epoch taken marked, and the training loss; nothing without a history."""
    several = len(run.seeds) > 1
    lines = [(n, seed, fold) for n, seed in enumerate(run.seeds) for fold in seed.history]
    epochs = [epoch for _, seed, fold in lines for epoch in seed.history[fold]]
    if not epochs:
        return
    values = [loss for epoch in epochs for loss in (epoch.train_loss, epoch.validation_loss)]
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.5
    last = max(epoch.epoch for epoch in epochs)
    x, y = Axis("epoch", 1, max(2, last), whole=True), Axis("loss", low - room, high + room)
    text = f"{len(lines)} folds, at most {last} epochs; losses from {number(low)} to {number(high)}"
    chart = Chart(f"{name}-losses", "Loss curves of every fold", text, x, y)
    for number_, (n, seed, fold) in enumerate(lines):
        style, history = f"s{(n if several else number_) % SERIES}", seed.history[fold]
        at = [epoch.epoch for epoch in history]
        chart.line(at, [epoch.train_loss for epoch in history], f"{style} training")
        chart.line(at, [epoch.validation_loss for epoch in history], f"{style} validation")
        taken = [epoch for epoch in history if epoch.epoch == seed.best_epochs.get(fold)]
        chart.dots([e.epoch for e in taken], [e.validation_loss for e in taken], f"{style} taken")
    names = [f"seed {s.metrics['seed']}" for s in run.seeds] if several else [f"fold {fold}" for _, _, fold in lines]
    legend = [LegendEntry(f"s{n % SERIES} validation", one) for n, one in enumerate(names[:_MOST_FOLDS])]
    best = ", best on the test pairs: optimistic" if run.metrics.get("optimistic") else ""
    caption = f"Validation loss; dot: the epoch taken{best}. Faint: training loss, with noise and dropout."
    yield Figure(chart.svg(), caption, tuple(legend))


def _folds(run: RunResult, key: str) -> list[Scored]:
    return [fold for seed in run.seeds if key in seed.tested
            for fold in seed.tested[key].folds(seed.metrics["fold_names"])]  # fmt: skip


def _mean(run: RunResult, key: str, metric: str) -> float | None:
    found: dict[str, Any] = run.metrics["model"] if key == "model" else run.metrics["baselines"][key]
    value: float | None = found[metric]["mean"]
    return value


def _best_baseline(run: RunResult) -> list[str]:
    metric = SHOWN[run.metrics["task"]][0]
    known = {key: value for key in run.metrics["baselines"] if (value := _mean(run, key, metric)) is not None}
    return ranked(known)[:1]


def _limits(tested: Sequence[Tested]) -> tuple[float, float]:
    values = np.concatenate([np.concatenate([one.label, one.score]) for one in tested])
    low, high = float(values.min()), float(values.max())
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room
