"""Numbers as the page writes them, and how much they move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from crossllm.pipeline.evaluation import seeds_table

_ROUNDING = 1e-9
"""Of a mean: seeds that are further apart differ by more than the order in which their folds were added up."""


class Spread(NamedTuple):
    """A metric over folds, or over seeds."""

    mean: float | None
    interval: tuple[float, float] | None
    """95 % interval of the mean over folds; of several seeds mean ± deviation over seeds."""
    deviation: float | None
    """Over folds, or over seeds."""
    points: tuple[float, ...]
    """Of each seed; empty for one."""
    what: str
    """The interval in words."""


def spread_of(found: Mapping[str, Any]) -> Spread:
    """Of a metric as `metrics.json` has it, of one seed or of several."""
    mean = found["mean"]
    if "per_seed" in found:
        deviation = found["std_over_seeds"]
        if mean is not None and deviation is not None and deviation < _ROUNDING * abs(mean):
            deviation = 0.0
        points = tuple(value for value in found["per_seed"] if value is not None)
        around = None if mean is None or deviation is None else (mean - deviation, mean + deviation)
        return Spread(mean, around, deviation, points, "± deviation over seeds; a dot is a seed")
    low, high = found["ci95"]
    known = None if low is None or high is None else (low, high)
    return Spread(mean, known, found["std"], (), "95 % interval, the sequences of both sides drawn again")


def number(value: float | None, *, signed: bool = False) -> str:
    """As the tables print it, with a minus sign as wide as a plus."""
    return seeds_table.number(value, signed=signed).replace("-", "−")


def interval_text(spread: Spread) -> str:
    """`[0.70, 0.81]`, `± 0.02` of several seeds, or nothing."""
    if spread.points:
        return "" if spread.deviation is None else f"± {number(spread.deviation)}"
    return "" if spread.interval is None else f"[{number(spread.interval[0])}, {number(spread.interval[1])}]"


def ranked(means: Mapping[str, float | None]) -> list[str]:
    """Names, the highest mean first, those without one last."""
    return sorted(means, key=lambda name: (means[name] is None, -(means[name] or 0.0)))


def count(number_of: int, what: str) -> str:
    """`1 fold`, `2,920 pairs`."""
    return f"{number_of:,} {what}{'s' * (number_of != 1)}"


def share(value: float) -> str:
    """`12.3 %`."""
    return f"{100 * value:.1f} %"
