"""The text that `crossllm compare` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from crossllm.cache.errors import plain_line
from crossllm.pipeline.evaluation.comparison import Difference
from crossllm.pipeline.evaluation.metrics import REPLICATES
from crossllm.pipeline.evaluation.seeds_table import number
from crossllm.pipeline.evaluation.table import NAMES, SHOWN, WIDTH
from crossllm.pipeline.experiments.compare import Comparison
from crossllm.pipeline.reporting.forest import LONGEST_LABEL, Estimate, Panel, forest_bytes


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Every comparison with its remarks, at most `WIDTH` wide but for the names of folders."""
    lines = [f"reference: {comparisons[0].reference.folder}"]
    for found in comparisons:
        lines += ["", *_one(found)]
    lines += ["", *_wrapped(
        f"difference: run − reference. 95 % interval and p: the sequences of both sides drawn again {REPLICATES:,} "
        "times, for both runs together; another training is not in them. The last test takes pairs that share a "
        "sequence for independent, so believe the interval first."
    )]  # fmt: skip
    return "\n".join(map(plain_line, lines))


def comparison_plot(comparisons: Sequence[Comparison], kind: str) -> bytes:
    """Forest plot of the differences in the two metrics that are read first."""
    task = comparisons[0].run.task
    shown = SHOWN[task][0], SHOWN[task][3 if task == "classification" else 1]
    reference = "the reference" + " (optimistic)" * comparisons[0].reference.optimistic
    panels = [
        Panel(
            f"{NAMES.get(metric, metric)}: difference to {reference}\nbar: 95 % interval",
            [estimate(found.metrics[metric]) for found in comparisons],
            zero=True,
        )
        for metric in shown
    ]
    return forest_bytes([_label(found) for found in comparisons], panels, kind, "compare")


def _label(found: Comparison) -> str:
    """The end of the folder's name, where runs differ, with the word if the run is optimistic."""
    mark, folder = "optimistic: " * found.run.optimistic, str(found.run.folder)
    room = LONGEST_LABEL - len(mark)
    return mark + (folder if len(folder) <= room else f"…{folder[1 - room :]}")


def estimate(found: Difference) -> Estimate:
    """A difference as a plot shows it."""
    return Estimate(found.difference, found.ci95)


def interval(found: Difference) -> str:
    """`[-0.081, 0.022]`."""
    return "–" if found.ci95 is None else f"[{', '.join(number(value) for value in found.ci95)}]"


def p_value(p: float | None) -> str:
    """Three decimals, or `<0.001`."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _one(found: Comparison) -> list[str]:
    seeds = f", {len(found.seeds)} seeds" if len(found.seeds) > 1 else ""
    head = f"{'':19}{'reference':>10}{'run':>9}{'difference':>12}{'95 % interval':>20}{'p':>9}"
    lines = [
        f"run: {found.run.folder}",
        f"{found.pairs} test pairs in both{seeds}",
        head,
        "─" * WIDTH,
    ]
    for name, metric in found.metrics.items():
        numbers = f"{number(metric.first):>10}{number(metric.second):>9}{number(metric.difference, signed=True):>12}"
        label = NAMES.get(name, name.replace("_", " "))
        lines.append(f"{label:19}{numbers}{interval(metric):>20}{p_value(metric.p):>9}")
    lines += _wrapped(_test_in_words(found))
    return [*lines, *(line for remark in found.remarks for line in _wrapped(remark))]


def _test_in_words(found: Comparison) -> str:
    test = found.test
    if found.run.task == "classification":
        counts = f"right in the reference alone {test.first_better}, in the run alone {test.second_better}"
        several = " (in more of the seeds)" if len(found.seeds) > 1 else ""
    else:
        counts = f"nearer in the reference {test.first_better}, in the run {test.second_better}"
        several = " (mean absolute error over the seeds)" if len(found.seeds) > 1 else ""
    return f"{test.name}: of {test.pairs} pairs, {counts}{several}: p {p_value(test.p)}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(plain_line(text), WIDTH)
