"""The plots of a run: loss curves of every fold, and ROC/PR curves or measured against predicted affinity."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from crossllm.cache.errors import printable
from crossllm.pipeline.data.pairs import Task
from crossllm.pipeline.evaluation.metrics import Scored, compute
from crossllm.pipeline.training.fold import Epoch
from crossllm.pipeline.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def draw_losses(folder: RunFolder, names: Sequence[str], histories: Sequence[Sequence[Epoch]]) -> None:
    """`loss_curves.png`: training and validation loss of every fold, the chosen epoch marked."""
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = _figure(1)
    for number, (name, history) in enumerate(zip(names, histories, strict=True)):
        colour = f"C{number % 10}"
        epochs = [epoch.epoch for epoch in history]
        axis.plot(epochs, [epoch.train_loss for epoch in history], "--.", color=colour, alpha=0.4, markersize=3)
        axis.plot(epochs, [epoch.validation_loss for epoch in history], color=colour, label=_plain(f"fold {name}"))
        best = min(history, key=lambda epoch: epoch.validation_loss)
        axis.plot([best.epoch], [best.validation_loss], "o", color=colour)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "validation, dot: the epoch taken\ndashed: training, with noise and dropout"
    axis.set(xlabel="epoch", ylabel="loss", title=title)
    if len(names) <= 10:
        axis.legend(fontsize="small")
    _save(folder, "loss_curves.png", figure)


def draw_result(folder: RunFolder, task: Task, scored: dict[str, Scored], groups: np.ndarray | None) -> None:
    """`roc_pr.png` or `scatter.png`: the test predictions of all folds, the baselines beside the model.

    Args:
        folder: the run's.
        task: classification or regression.
        scored: `model` and each baseline → predictions, P pairs.
        groups: (P,) value of the `--by` column, for the colours of the scatter plot.
    """
    if task == "classification":
        _save(folder, "roc_pr.png", _roc_pr(scored))
    else:
        _save(folder, "scatter.png", _scatter(scored, groups))


def _roc_pr(scored: dict[str, Scored]) -> Figure:
    figure, (roc, pr) = _figure(2)
    for name, found in scored.items():
        at = compute("classification", found, np.ones((1, len(found.label))))
        width = 2 if name == "model" else 1
        false, true, _ = roc_curve(found.label, found.score)
        roc.plot(false, true, linewidth=width, label=f"{name}, area {at['auroc'][0]:.3f}")
        precision, recall, _ = precision_recall_curve(found.label, found.score)
        pr.plot(recall, precision, linewidth=width, label=f"{name}, area {at['auprc'][0]:.3f}")
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, test folds together")
    pr.set(xlabel="recall", ylabel="precision", title="precision–recall", ylim=(0, 1.02))
    for axis in (roc, pr):
        axis.legend(fontsize="small")
    return figure


def _scatter(scored: dict[str, Scored], groups: np.ndarray | None) -> Figure:
    shown = [name for name in ("model", "additive") if name in scored]
    figure, axes = _figure(len(shown))
    values = np.concatenate([np.concatenate([scored[name].label, scored[name].score]) for name in shown])
    low, high = float(values.min()), float(values.max())
    for name, axis in zip(shown, axes, strict=True):
        found = scored[name]
        for value in [None] if groups is None else sorted(set(groups.tolist())):
            chosen = np.ones(len(found.label), bool) if value is None else groups == value
            axis.scatter(
                found.label[chosen], found.score[chosen], s=6, alpha=0.6, label=None if value is None else _plain(value)
            )
        axis.plot([low, high], [low, high], color="grey", linewidth=0.5)
        pearson = compute("regression", found, np.ones((1, len(found.label))))["pearson"][0]
        axis.set(xlabel="measured affinity", ylabel="predicted affinity")
        axis.set_title(f"{name}, test folds together, Pearson {pearson:.3f}", fontsize="medium")
        axis.set_aspect("equal")
    if groups is not None:
        axes[0].legend(fontsize="small", markerscale=2)
    return figure


def _plain(name: str) -> str:
    """A name from a table as a label: dollars make no formula, and no '_' first, which would leave it out."""
    plain = printable(name, 30).replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _figure(columns: int) -> tuple[Figure, Any]:
    """A figure of its own, without pyplot's global state and whatever the display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * columns, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _save(folder: RunFolder, name: str, figure: Figure) -> None:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks shows boxes
        figure.savefig(data, format="png", dpi=DPI)
    folder.write_bytes(name, data.getvalue())
