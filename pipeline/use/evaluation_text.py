"""The text that `crossllm evaluate` prints."""

from __future__ import annotations

import textwrap
from typing import Any

from crossllm.cache.errors import plain_line
from crossllm.pipeline.evaluation.leak_lines import bins, classes
from crossllm.pipeline.evaluation.table import NAMES, SHOWN, WIDTH, head, row


def evaluation_text(metrics: dict[str, Any]) -> str:
    """`metrics.json` as text, at most `WIDTH` wide but for the names of folders."""
    shown = SHOWN[metrics["task"]]
    several = metrics["models"] > 1
    models = f"{metrics['models']} model{'s' * several}"
    first = f"{metrics['dataset']}: {metrics['pairs']} pairs by {models} of {metrics['run']}"
    what = "95 % interval: the sequences of both sides drawn again"
    if several:
        what += "; one model: the mean over the models one by one, ± their deviation"
    lines = [*textwrap.wrap(first, WIDTH), *textwrap.wrap(what, WIDTH), *head(shown)]
    lines.append(row("all models" if several else "model", metrics["model"], shown))
    if several:
        lines.append(row("one model", metrics["one_model"], shown))
    lines += textwrap.wrap(_certainty(metrics), WIDTH)
    lines += ["", "these pairs, and what the run was trained or chosen on:", *_leaks(metrics["leaks"])]
    return "\n".join(map(plain_line, [*lines, *_classes(metrics, shown[0])]))


def _certainty(metrics: dict[str, Any]) -> str:
    if found := metrics.get("calibration"):
        return (
            f"probabilities as calibrated in training: calibration error {found['calibration_error']:.3f}, "
            f"Brier {found['brier']:.3f}"
        )
    found = metrics["interval"]
    return f"intervals for {found['asked']:.0%}: {found['coverage']:.3f} of the labels lie within"


def _leaks(leaks: dict[str, Any]) -> list[str]:
    a, b = leaks["modalities"]
    names = [f"{a} A", f"{b} B"] if a == b else [a, b]
    texts = [
        f"by sequence: {classes(leaks['by_sequence'], names)}",
        f"by relatives (identity ≥ {leaks['rules'][0]:g} and ≥ {leaks['rules'][1]:g}): "
        f"{classes(leaks['by_relatives'], names)}",
        f"nearest {names[0]} {bins(leaks['nearest_a'])}",
        f"nearest {names[1]} {bins(leaks['nearest_b'])}",
        f"same pair trained {leaks['same_sequence_pair']:.1%}",
    ]
    if leaks["same_sequence_pair"]:
        texts.append("where a pair was trained on, its answer is no test of the run")
    return [line for text in texts for line in textwrap.wrap(text, WIDTH)]


def _classes(metrics: dict[str, Any], first: str) -> list[str]:
    """One line a class of pairs, where there are several."""
    found = metrics["classes"]
    if len(found) < 2:
        return []
    lines = ["", f"{NAMES[first]} by class of pair"]
    for kind, values in found.items():
        value = values.get(first)
        told = "–" if value is None else f"{value:.3f}"
        lines.append(f"{kind:10}{values['pairs']:7} pairs{told:>9}")
    return lines
