"""The table that `train` prints."""

from __future__ import annotations

from typing import Any

from crossllm.cache.errors import plain_line
from crossllm.pipeline.data.pairs import Task

SHOWN: dict[Task, tuple[str, ...]] = {
    "classification": ("mcc", "accuracy", "f1", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "rmse", "mae", "concordance"),
}
"""Task → metrics shown, the one a result is read by first."""
_NAMES = {"mcc": "MCC", "f1": "F1", "auroc": "AUROC", "auprc": "AUPRC",
          "pearson": "Pearson", "spearman": "Spearman", "rmse": "RMSE", "mae": "MAE"}  # fmt: skip


def table(metrics: dict[str, Any]) -> str:
    """`metrics.json` as text: model and baselines, mean ± standard deviation over folds, 95 % interval of the first."""
    shown = SHOWN[metrics["task"]]
    rows = [("model", metrics["model"]), *metrics["baselines"].items()]
    lines = [*_title(metrics), *_head(shown)]
    lines += [_row(name, found, shown) for name, found in rows]
    if metrics["shared_between_folds"]:
        lines.append(
            f"{metrics['shared_between_folds']} pairs have their exact two sequences in another fold too: "
            "this split is optimistic"
        )
    if metrics["ids_are_sequences"]:
        lines.append("every id has a sequence of its own here, so id_only and id_only_sequence are the same")
    first = shown[0]
    model = metrics["model"][first]["mean"]
    means = {name: found[first]["mean"] for name, found in metrics["baselines"].items()}
    above = [name for name, mean in means.items() if None not in (mean, model) and mean >= model]
    if above:
        reach = "reaches" if len(above) == 1 else "reach"
        lines.append(
            f"{' and '.join(above)} {reach} the model's {_NAMES[first]} or more: on this split, who stands in "
            "the table tells at least as much as the sequences"
        )
    if "by" in metrics:
        lines += ["", *_groups(metrics["by"], shown)]
    return "\n".join(map(plain_line, lines))  # names come from files


def _title(metrics: dict[str, Any]) -> list[str]:
    encoders = " × ".join(metrics["encoders"][side] for side in "ab")
    how = "random folds of distinct sequence pairs" if metrics["split"] == "random" else "given folds"
    chosen = "epoch and threshold" if metrics["task"] == "classification" else "epoch"
    return [
        f"{metrics['dataset']}: {metrics['pairs']} pairs, {metrics['folds']} {how}, "
        f"tokens {metrics['tokens']}, {encoders}",
        f"{chosen} chosen on validation pairs, each test fold scored once; "
        "95 % interval of the mean over folds, pairs drawn again",
    ]


def _head(shown: tuple[str, ...]) -> list[str]:
    rest = "".join(f"{_NAMES.get(name, name):>12}" for name in shown[1:])
    heading = f"{'':18}{_NAMES[shown[0]] + ' ± std':>16}  {'95 % interval':>16}{rest}"
    return [heading, "─" * len(heading)]


def _groups(by: dict[str, Any], shown: tuple[str, ...]) -> list[str]:
    """One block a group, over the test predictions of all folds together."""
    first = shown[0]
    heading = f"{_NAMES[first]} by {by['column']}, test folds together"
    names = list(next((found["baselines"] for found in by["groups"].values()), {}))
    head = f"{heading:42.42}{'pairs':>7}{'model':>9}  {'95 % interval':<16}" + "".join(f"{n:>18}" for n in names)
    lines = [head, "─" * len(head)]
    for value, found in by["groups"].items():
        model = found["model"][first]
        low, high = model["ci95"]
        numbers = "".join(f"{_number(found['baselines'][name][first]['mean']):>18}" for name in names)
        interval = f"[{_number(low)}, {_number(high)}]"
        lines.append(f"{value:42.42}{found['pairs']:7}{_number(model['mean']):>9}  {interval:<16}{numbers}")
    return lines


def _row(name: str, found: dict[str, Any], shown: tuple[str, ...]) -> str:
    first = found[shown[0]]
    low, high = first["ci95"]
    spread = f"{_number(first['mean'])} ± {_number(first['std'])}"
    interval = f"[{_number(low)}, {_number(high)}]"
    rest = "".join(f"{_number(found[key]['mean']):>12}" for key in shown[1:])
    return f"{name:18}{spread:>16}  {interval:>16}{rest}"


def _number(value: float | None) -> str:
    """Three decimals, or three digits where those would say nothing (affinities in molar)."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"
