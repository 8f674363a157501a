"""The one table that `train` prints."""

from __future__ import annotations

from typing import Any

SHOWN = ("mcc", "accuracy", "f1", "auroc", "auprc")


def table(metrics: dict[str, Any]) -> str:
    """`metrics.json` as text: model and baselines, mean ± standard deviation over folds, 95 % interval of the MCC."""
    heading = f"{'':18}{'MCC ± std':>16}  {'95 % interval':>15}" + "".join(f"{name.upper():>10}" for name in SHOWN[1:])
    rows = [("model", metrics["model"]), *metrics["baselines"].items()]
    lines = [_title(metrics), heading, "─" * len(heading)]
    lines += [_row(name, found) for name, found in rows]
    if metrics["shared_between_folds"]:
        lines.append(
            f"{metrics['shared_between_folds']} pairs have their exact two sequences in another fold too: "
            "this split is optimistic"
        )
    if metrics["ids_are_sequences"]:
        lines.append("every id has a sequence of its own here, so id_only and id_only_sequence are the same")
    above = [name for name, found in metrics["baselines"].items() if _mean(found) >= _mean(metrics["model"])]
    if above:
        lines.append(
            f"{' and '.join(above)} reach the model's MCC or more: on this split, who stands in the table how "
            "often tells at least as much as the sequences"
        )
    return "\n".join(lines)


def _title(metrics: dict[str, Any]) -> str:
    encoders = " × ".join(metrics["encoders"][side] for side in "ab")
    how = "random folds of distinct sequence pairs" if metrics["split"] == "random" else "given folds"
    return (
        f"{metrics['dataset']}: {metrics['pairs']} pairs, {metrics['folds']} {how}, "
        f"tokens {metrics['tokens']}, {encoders}\n"
        "epoch and threshold chosen on validation pairs, each test fold scored once"
    )


def _row(name: str, found: dict[str, Any]) -> str:
    mcc = found["mcc"]
    low, high = mcc["ci95"]
    spread = f"{_number(mcc['mean'])} ± {_number(mcc['std'])}"
    interval = f"[{_number(low)}, {_number(high)}]"
    rest = "".join(f"{_number(found[key]['mean']):>10}" for key in SHOWN[1:])
    return f"{name:18}{spread:>16}  {interval:>15}{rest}"


def _mean(found: dict[str, Any]) -> float:
    return float(found["mcc"]["mean"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
