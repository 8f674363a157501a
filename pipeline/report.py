"""The table that `train` prints."""

from __future__ import annotations

from typing import Any

from pipeline.pairs import Task

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
    lines = [_title(metrics), *_head(shown)]
    lines += [_row(name, found, shown) for name, found in rows]
    if metrics["shared_between_folds"]:
        lines.append(
            f"{metrics['shared_between_folds']} pairs have their exact two sequences in another fold too: "
            "this split is optimistic"
        )
    if metrics["ids_are_sequences"]:
        lines.append("every id has a sequence of its own here, so id_only and id_only_sequence are the same")
    first = shown[0]
    above = [
        name for name, found in metrics["baselines"].items() if _mean(found, first) >= _mean(metrics["model"], first)
    ]
    if above:
        lines.append(
            f"{' and '.join(above)} reach the model's {_NAMES[first]} or more: on this split, who stands in the table "
            "tells at least as much as the sequences"
        )
    if "by" in metrics:
        lines += ["", *_groups(metrics["by"], shown)]
    return "\n".join(lines)


def _title(metrics: dict[str, Any]) -> str:
    encoders = " × ".join(metrics["encoders"][side] for side in "ab")
    how = "random folds of distinct sequence pairs" if metrics["split"] == "random" else "given folds"
    chosen = "epoch and threshold" if metrics["task"] == "classification" else "epoch"
    return (
        f"{metrics['dataset']}: {metrics['pairs']} pairs, {metrics['folds']} {how}, "
        f"tokens {metrics['tokens']}, {encoders}\n"
        f"{chosen} chosen on validation pairs, each test fold scored once"
    )


def _head(shown: tuple[str, ...]) -> list[str]:
    rest = "".join(f"{_NAMES.get(name, name):>12}" for name in shown[1:])
    heading = f"{'':18}{_NAMES[shown[0]] + ' ± std':>16}  {'95 % interval':>16}{rest}"
    return [heading, "─" * len(heading)]


def _groups(by: dict[str, Any], shown: tuple[str, ...]) -> list[str]:
    """One block a group, over the test predictions of all folds together."""
    heading = f"{_NAMES[shown[0]]} by {by['column']}, test folds together"
    names = ["model", *next(iter(by["groups"].values()))["baselines"]]
    lines = [f"{heading:36}{'pairs':>7}{'95 % interval':>18}" + "".join(f"{name:>18}" for name in names)]
    lines.append("─" * len(lines[0]))
    for value, found in by["groups"].items():
        columns = {"model": found["model"], **found["baselines"]}
        low, high = found["model"][shown[0]]["ci95"]
        interval = f"[{_number(low)}, {_number(high)}]"
        numbers = "".join(f"{_number(columns[name][shown[0]]['mean']):>18}" for name in names)
        lines.append(f"{value:36.36}{found['pairs']:7}{interval:>18}{numbers}")
    return lines


def _row(name: str, found: dict[str, Any], shown: tuple[str, ...]) -> str:
    first = found[shown[0]]
    low, high = first["ci95"]
    spread = f"{_number(first['mean'])} ± {_number(first['std'])}"
    interval = f"[{_number(low)}, {_number(high)}]"
    rest = "".join(f"{_number(found[key]['mean']):>12}" for key in shown[1:])
    return f"{name:18}{spread:>16}  {interval:>16}{rest}"


def _mean(found: dict[str, Any], name: str) -> float:
    value = found[name]["mean"]
    return float("-inf") if value is None else float(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
