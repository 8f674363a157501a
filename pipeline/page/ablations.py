"""An ablation on the page: words, bars with intervals, a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crossllm.cache.errors import plain_line
from crossllm.pipeline.evaluation.table import NAMES, PAPER
from crossllm.pipeline.experiments.compare_table import p_value
from crossllm.pipeline.experiments.grid import in_words
from crossllm.pipeline.page.charts import Axis, Figure, Row, rows_chart
from crossllm.pipeline.page.numbers import count, number
from crossllm.pipeline.page.sources import AblationResult
from crossllm.pipeline.page.tables import Table


def ablation_words(source: AblationResult) -> Iterator[str]:
    """What the grid was, and which rows differ from the first."""
    rows, metric = source.body["rows"], source.body["metric"]
    name = NAMES.get(metric, metric)
    if any(_optimistic(row) for row in rows):
        yield f"{PAPER}."
    failed = sum(row["problem"] is not None for row in rows)
    told = f"; {count(failed, 'row')} failed" if failed else ""
    yield f"{count(len(rows), 'row')}, each tested against the first: {in_words(rows[0]['settings'])}{told}."
    for word, sign in (("worse", -1), ("better", 1)):
        sure = [_label(row) for row in rows[1:] if (found := _difference(row, metric)) and _beyond(found, sign)]
        if sure:
            yield f"{word.capitalize()} in {name}, the interval of the difference without 0: {'; '.join(sure)}."
    unsure = [row for row in rows[1:] if (found := _difference(row, metric)) and not _sure(found)]
    if unsure:
        yield f"No difference is shown in {count(len(unsure), 'row')}: the interval of the difference holds 0."
    if len(rows) > 2:
        yield "With many rows, some differences look sure by chance alone."


def ablation_figures(source: AblationResult, name: str) -> Iterator[Figure]:
    """The metric of each row as a bar, and its difference to the first row."""
    rows, metric = source.body["rows"], source.body["metric"]
    shown = NAMES.get(metric, metric)
    bars = [_bar(row, metric, number_) for number_, row in enumerate(rows)]
    values = [v for row in bars for v in (row.value, *(row.interval or ()), *row.points) if v is not None]
    if not values:
        return
    axis = Axis(shown, min(0.0, *values), max(0.0, *values) * 1.02 or 1.0)
    text = "; ".join(f"{row.label}: {row.text}" for row in bars)
    svg = rows_chart(f"{name}-bars", f"{shown} of each row", text, axis, bars, bars=True, zero=False)
    dots = "; a dot is a seed" if any(row.points for row in bars) else ""
    yield Figure(svg, f"{shown} of each row. Line: ± deviation over folds{dots}.")
    differences = [_difference_row(row, metric) for row in rows[1:] if _difference(row, metric)]
    ends = [v for row in differences for v in (row.value, *(row.interval or ())) if v is not None]
    if ends:
        room = 0.08 * (max(0.0, *ends) - min(0.0, *ends)) or 0.1
        axis = Axis(f"difference in {shown}", min(0.0, *ends) - room, max(0.0, *ends) + room)
        text = "; ".join(f"{row.label}: {row.text}" for row in differences)
        svg = rows_chart(
            f"{name}-differences", f"Difference in {shown} to the first row", text, axis, differences, bars=False,
            zero=True,
        )  # fmt: skip
        yield Figure(svg, f"Difference in {shown} to the first row, with its 95 % interval.")


def ablation_table(source: AblationResult) -> Table:
    """A line for each row."""
    metric = source.body["metric"]
    heads = ("row", NAMES.get(metric, metric), "± folds", "± seeds", "differs", "95 % interval", "p")
    rows = []
    for n, row in enumerate(source.body["rows"]):
        label = "first row" if n == 0 else _label(row)
        if row["metrics"] is None:
            rows.append((f"{label}\nfailed: {plain_line(str(row['problem']))}", *["–"] * 6))
            continue
        own, found = row["metrics"]["model"][metric], _difference(row, metric) or {}
        interval = found.get("ci95")
        rows.append((
            label, number(own["mean"]), number(own["std_over_folds"]), number(own["std_over_seeds"]),
            number(found.get("difference"), signed=True),
            _interval(interval), p_value(found.get("p")),
        ))  # fmt: skip
    return Table("Rows of the ablation; p is for one row", heads, tuple(rows), strong=(0,))


def _bar(row: dict[str, Any], metric: str, place: int) -> Row:
    label = "first row" if place == 0 else _label(row)
    if row["metrics"] is None:
        return Row(label, None, text="failed")
    own = row["metrics"]["model"][metric]
    mean, spread = own["mean"], own["std_over_folds"]
    points = tuple(value for value in own["per_seed"] if value is not None)
    around = None if mean is None or spread is None else (mean - spread, mean + spread)
    text = f"{number(mean)} ± {number(spread)}"
    return Row(label, mean, around, points if len(points) > 1 else (), 0 if place == 0 else 7, text)


def _difference_row(row: dict[str, Any], metric: str) -> Row:
    found = _difference(row, metric) or {}
    interval = found.get("ci95")
    text = f"{number(found.get('difference'), signed=True)} {_interval(interval)}"
    around = None if interval is None else (float(interval[0]), float(interval[1]))
    return Row(_label(row), found.get("difference"), around, series=1 if _sure(found) else 7, text=text)


def _difference(row: dict[str, Any], metric: str) -> dict[str, Any] | None:
    """Of a row to the first; None of the first itself, and where there is none."""
    compared = row["comparison"]
    found = None if compared is None else compared["metrics"][metric]
    return None if found is None or found["difference"] is None else found


def _interval(found: list[float] | None) -> str:
    return "–" if found is None else f"[{number(found[0])}, {number(found[1])}]"


def _sure(found: dict[str, Any]) -> bool:
    return _beyond(found, 1) or _beyond(found, -1)


def _beyond(found: dict[str, Any], sign: int) -> bool:
    """Whether the interval of a difference lies wholly above (1) or below (−1) 0."""
    interval = found.get("ci95")
    return interval is not None and min(sign * interval[0], sign * interval[1]) > 0


def _label(row: dict[str, Any]) -> str:
    return plain_line(in_words(row["changed"] or row["settings"])) + ", optimistic" * _optimistic(row)


def _optimistic(row: dict[str, Any]) -> bool:
    return row["metrics"] is not None and bool(row["metrics"].get("optimistic"))
