"""Forest plots: a row for each run, an estimate with its interval for each number that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from crossllm.pipeline.reporting.figures import figure_bytes, new_figure, plain_label

LONGEST_LABEL = 60
"""Characters of a row's label."""


class Estimate(NamedTuple):
    """One number of one row."""

    value: float | None
    """None: nothing is drawn."""
    interval: tuple[float, float] | None = None
    points: tuple[float, ...] = ()
    """What the value is the mean of."""


class Panel(NamedTuple):
    """One number of all rows."""

    title: str
    estimates: Sequence[Estimate]
    zero: bool = False
    """Whether 0 stands for no difference, and has a line."""


def forest_bytes(labels: Sequence[str], panels: Sequence[Panel], kind: str, name: str) -> bytes:
    """The plot as a file of this kind (`figures.KINDS`); the first row is at the top.

    Args:
        labels: of the rows.
        panels: side by side, with an estimate for each label.
        kind: png, svg or pdf.
        name: of the plot; two plots of one result have the same bytes.
    """
    figure, axes = new_figure(len(panels), 1.6 + 0.35 * len(labels))
    for number, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw(axis, panel)
        axis.set_yticks(
            range(len(labels)), [plain_label(label, LONGEST_LABEL) for label in labels] if number == 0 else []
        )
        axis.set_ylim(len(labels) - 0.5, -0.5)
    return figure_bytes(figure, name, kind)


def _draw(axis: Any, panel: Panel) -> None:
    if panel.zero:
        axis.axvline(0, color="grey", linewidth=0.8)
    for row, found in enumerate(panel.estimates):
        if found.value is None:
            continue
        if found.interval is not None:
            axis.plot(found.interval, [row, row], color="C0", linewidth=2)
        axis.plot(found.points, [row] * len(found.points), ".", color="C1", markersize=5, zorder=2)
        axis.plot([found.value], [row], "s", color="C0", markersize=5, zorder=3)
    axis.set_title(panel.title, fontsize="small")
    axis.grid(axis="x", alpha=0.3)
