"""The table that `crossllm ablate` prints, and its hit report."""

from __future__ import annotations

import textwrap
from collections import Counter

from crossllm.cache.console.progress import duration
from crossllm.cache.errors import plain_line
from crossllm.pipeline.evaluation.seeds_table import number
from crossllm.pipeline.evaluation.table import NAMES, PAPER, WIDTH
from crossllm.pipeline.experiments.ablation_report import Report, RowResult
from crossllm.pipeline.experiments.compare_table import interval, p_value
from crossllm.pipeline.experiments.grid import in_words

_LABEL = 25
"""Columns of a row's label; a longer one has a line of its own."""


def ablation_table(report: Report) -> str:
    """A line for each row, at most `WIDTH` wide; rows are named by what they change of the first."""
    first = report.results[0]
    name = NAMES.get(report.metric, report.metric)
    head = f"{'':{_LABEL}}{name:>7}{'± folds':>8}{'± seeds':>8}{'differs':>9}{'95 % interval':>17}{'p':>6}"
    lines = [*_wrapped(f"first row: {in_words(first.row.settings)}"), head, "─" * WIDTH]
    for found in report.results:
        mark = " (optimistic)" if found.optimistic else ""
        lines += _row(report, found, ("first row" if found is first else found.row.label) + mark)
    lines += _baselines(report)
    if any(found.optimistic for found in report.results):
        lines += _wrapped(PAPER)
    lines += _wrapped(
        "± folds: deviation from fold to fold within a seed; ± seeds: of the seeds' means. differs: row − first row, "
        "the interval and p by drawing the sequences of both sides again, for both rows together; p is for one row, "
        "with many rows some are small by chance"
    )
    counted = Counter(remark for compared in report.comparisons.values() for remark in compared.remarks)
    for remark, count in counted.items():
        lines += _wrapped(f"{remark} ({count} row{'s' * (count > 1)})")
    return "\n".join(map(plain_line, lines))


def _baselines(report: Report) -> list[str]:
    """Those of the first row, the best one first."""
    metrics = report.results[0].metrics
    found = {} if metrics is None else metrics["baselines"]
    means = {name: values[report.metric]["mean"] for name, values in found.items()}
    known = sorted((name for name in means if means[name] is not None), key=lambda name: -means[name])
    if not known:
        return []
    name = NAMES.get(report.metric, report.metric)
    told = ", ".join(f"{baseline} {number(means[baseline])}" for baseline in known)
    return _wrapped(f"baselines beside the first row, {name}: {told}")


def hit_report(report: Report) -> str:
    """What the runs took from the cache, measured in their processes."""
    usage = report.usage
    loaded = ", ".join(usage.encoders)
    encoders = f"{len(usage.encoders)} ({loaded})" if loaded else "0"
    share = "" if usage.waiting_share is None else f"; {usage.waiting_share:.1%} of {duration(usage.seconds)} in "
    waited = f"{share}training and scoring was waiting for data" if share else ""
    return "\n".join(_wrapped(f"rows read from the cache: {usage.rows_read:,}; encoders loaded: {encoders}{waited}"))


def _row(report: Report, found: RowResult, label: str) -> list[str]:
    if found.metrics is None:
        return _wrapped(f"{label}: failed: {found.problem}")
    metric = found.metrics["model"][report.metric]
    numbers = f"{number(metric['mean']):>7}{number(metric['std_over_folds']):>8}{number(metric['std_over_seeds']):>8}"
    if (compared := report.comparisons.get(found.row.name)) is not None:
        against = compared.metrics[report.metric]
        told = interval(against).replace(", ", " ")
        numbers += f"{number(against.difference, signed=True):>9}{told:>17}{p_value(against.p):>6}"
    if len(label) < _LABEL:
        return [f"{label:{_LABEL}}{numbers}"]
    return [*_wrapped(label), f"{'':{_LABEL}}{numbers}"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(plain_line(text), WIDTH)
