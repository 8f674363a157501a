"""The table that `train --seeds` prints."""

from __future__ import annotations

import textwrap
from typing import Any

from crossllm.cache.errors import plain_line
from crossllm.pipeline.evaluation.table import NAMES, PAPER, SHOWN, WIDTH, model_name


def seeds_table(metrics: dict[str, Any]) -> str:
    """`metrics.json` of several seeds as text, at most `WIDTH` wide."""
    shown = SHOWN[metrics["task"]]
    rest = "".join(f"{NAMES.get(name, name):>{10 if n < 1 else 8}}" for n, name in enumerate(shown[1:]))
    head = f"{'':17}{NAMES[shown[0]]:>7}{'± folds':>8}{'± seeds':>8}{rest}"
    rows = [(model_name(metrics), metrics["model"]), *metrics["baselines"].items()]
    lines = [*_title(metrics), head, "─" * WIDTH, *(_row(name, found, shown) for name, found in rows)]
    for where, why in metrics["undefined"].items():
        lines += textwrap.wrap(f"{where}: {why}; left out of what is undefined there", WIDTH)
    return "\n".join(map(plain_line, lines))  # names come from files


def _title(metrics: dict[str, Any]) -> list[str]:
    seeds, folds = metrics["seeds"], metrics.get("folds")
    how = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    texts = (
        f"{metrics.get('dataset', 'dataset')}: {metrics.get('pairs', '?')} pairs, split {metrics.get('split', '?')}, "
        f"{folds or 'its'} folds, {len(seeds)} seed{'s' * (len(seeds) > 1)} ({how})",
        *([PAPER] if metrics.get("optimistic") else []),
        "each number is the mean over seeds of the mean over folds; ± folds is the deviation from fold to fold within "
        "a seed (mean over seeds), ± seeds the deviation of the seeds' means: a seed draws initial weights, order and "
        "noise, and the folds too where they are not given",
    )
    return [line for text in texts for line in textwrap.wrap(plain_line(text), WIDTH)]


def _row(name: str, found: dict[str, Any], shown: tuple[str, ...]) -> str:
    first = found[shown[0]]
    spreads = "".join(f"{number(first[key]):>8}" for key in ("std_over_folds", "std_over_seeds"))
    rest = "".join(f"{number(found[key]['mean']):>{10 if n < 1 else 8}}" for n, key in enumerate(shown[1:]))
    return f"{name:17.17}{number(first['mean']):>7}{spreads}{rest}"


def number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals, or two digits where those would say nothing (affinities in molar); `–` for None."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:{sign}.1e}"
