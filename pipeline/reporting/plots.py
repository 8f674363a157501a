"""The plots of a run: loss curves of every fold, ROC, PR and calibration, or measured against predicted affinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.calibration import reliability
from crossllm.pipeline.evaluation.classification import CALIBRATION_BINS
from crossllm.pipeline.evaluation.metrics import Scored, pooled
from crossllm.pipeline.evaluation.table import NAMES, model_name
from crossllm.pipeline.reporting.figures import figure_bytes, new_figure, plain_label
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_losses(folder: RunFolder, names: Sequence[str], results: Sequence[FoldResult], *, optimistic: bool) -> None:
    """`loss_curves.png` and `.svg`: training and validation loss of every fold, the epoch taken marked."""
    figure, (axis,) = new_figure(1)
    from matplotlib.ticker import MaxNLocator

    for number, (name, result) in enumerate(zip(names, results, strict=True)):
        colour, history = f"C{number % 10}", result.history
        epochs = [epoch.epoch for epoch in history]
        axis.plot(epochs, [epoch.train_loss for epoch in history], "--.", color=colour, alpha=0.4, markersize=3)
        axis.plot(epochs, [epoch.validation_loss for epoch in history], color=colour, label=plain_label(f"fold {name}"))
        best = history[result.best_epoch - 1]
        axis.plot([best.epoch], [best.validation_loss], "o", color=colour)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    taken = "the epoch taken" + (", best on the test pairs: optimistic" if optimistic else "")
    title = f"validation, dot: {taken}\ndashed: training, with noise and dropout"
    axis.set(xlabel="epoch", ylabel="loss", title=title)
    if len(names) <= 10:
        axis.legend(fontsize="small")
    _save(folder, "loss_curves", figure)


def draw_result(
    folder: RunFolder,
    task: Task,
    scored: dict[str, list[Scored]],
    metrics: dict[str, Any],
    groups: tuple[str, np.ndarray] | None,
) -> None:
    """`roc_pr` or `scatter`, PNG and SVG: the test predictions, the baselines beside the model.

    Args:
        folder: the run's.
        task: classification or regression.
        scored: `model` and each baseline → predictions of each fold.
        metrics: as in `metrics.json`, whose numbers the legends show.
        groups: name of the `--by` column and its value for each pair, all folds together, for the colours of the
            scatter plot.
    """
    numbers = {"model": metrics["model"], **metrics["baselines"]}
    shown = {name: name for name in numbers} | {"model": model_name(metrics)}
    if task == "classification":
        figure = _roc_pr(scored, numbers, shown)
    else:
        figure = _scatter({name: pooled(folds) for name, folds in scored.items()}, numbers, shown, groups)
    _say_optimistic(figure, metrics)
    _save(folder, "roc_pr" if task == "classification" else "scatter", figure)


def draw_calibration(folder: RunFolder, model: Scored, probability: np.ndarray, metrics: dict[str, Any]) -> None:
    """`calibration.png` and `.svg`: share of positives against score and probability, in bins, all test folds together.

    Args:
        folder: the run's.
        model: the model's test predictions, all folds together.
        probability: (P,) the same, calibrated.
        metrics: as in `metrics.json`, whose numbers the legend shows.
    """
    figure, (axis,) = new_figure(1)
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    error = metrics["calibration"]["calibration_error"]
    for name, value, when in (("score", model.score, "before"), ("probability", probability, "after")):
        mean, share, count = reliability(model.label, value.astype(float), CALIBRATION_BINS)
        (line,) = axis.plot(mean, share, label=f"{name}, calibration error {error[when]['mean']:.3f}")
        axis.scatter(mean, share, s=10 + 150 * count / count.sum(), color=line.get_color())
    title = "test folds together, each pair once\npoint: a bin, its area the share of pairs"
    axis.set(xlabel="predicted", ylabel="share of positives", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.set_aspect("equal")
    axis.legend(fontsize="small")
    _say_optimistic(figure, metrics)
    _save(folder, "calibration", figure)


def _say_optimistic(figure: Figure, metrics: dict[str, Any]) -> None:
    """Above all of it, where the epoch was chosen on the pairs that it shows."""
    if metrics.get("optimistic"):
        figure.suptitle("optimistic: the epoch was chosen on these pairs (--protocol paper)", fontsize="medium")


def _roc_pr(scored: dict[str, list[Scored]], numbers: dict[str, Any], shown: dict[str, str]) -> Figure:
    """Each fold's curve at the same places, their mean, and for the model the band of one standard deviation.

    `shown` has the names as the legend has them.

    Scores of two folds' models are not joined to one curve: they are not on one scale, and the area under such a curve
    is another than the mean of the folds' areas, which the table shows.
    """
    figure, (roc, pr) = new_figure(2)
    at = np.linspace(0, 1, 201)
    for name, folds in scored.items():
        both = [fold for fold in folds if len(set(fold.label.tolist())) == 2]  # the others have no curve
        if not both:
            continue
        for axis, curve, metric in ((roc, roc_at, "auroc"), (pr, precision_at, "auprc")):
            curves = np.stack([curve(fold, at) for fold in both])
            width = 2 if name == "model" else 1
            (line,) = axis.plot(at, curves.mean(0), linewidth=width, label=_legend(shown[name], metric, numbers[name]))
            if name == "model" and len(both) > 1:
                spread = curves.std(0, ddof=1)
                low, high = np.clip(curves.mean(0) - spread, 0, 1), np.clip(curves.mean(0) + spread, 0, 1)
                axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    share = float(np.mean([fold.label.mean() for fold in scored["model"]]))
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    pr.axhline(share, color="grey", linewidth=0.5, label=f"share of positives {share:.3f}")
    title = (
        f"mean of the test folds\nband: deviation of {shown['model']}" if len(scored["model"]) > 1 else "the test part"
    )
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC, {title}")
    pr.set(xlabel="recall", ylabel="precision", title=f"precision–recall, {title}", ylim=(0, 1.02))
    for axis in (roc, pr):
        axis.title.set_fontsize("medium")
        axis.legend(fontsize="small")
    return figure


def roc_at(fold: Scored, at: np.ndarray) -> np.ndarray:
    """True positive rate of a fold at these false positive rates."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(fold.label, fold.score)
    found: np.ndarray = np.interp(at, false, true)
    return found


def precision_at(fold: Scored, at: np.ndarray) -> np.ndarray:
    """Precision of a fold at these recalls: that of the first threshold which reaches each (the step curve)."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(fold.label, fold.score)
    rising = recall[::-1]
    found: np.ndarray = precision[::-1][np.minimum(np.searchsorted(rising, at, side="left"), len(rising) - 1)]
    return found


def _legend(name: str, metric: str, numbers: dict[str, Any]) -> str:
    """`model, AUROC 0.880 ± 0.012`, the numbers of the table."""
    found = numbers[metric]
    mean, std = (None if found is None else found[part] for part in ("mean", "std"))
    text = "–" if mean is None else f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")
    return f"{name}, {NAMES[metric]} {text}"


def _scatter(
    scored: dict[str, Scored],
    numbers: dict[str, Any],
    shown: dict[str, str],
    groups: tuple[str, np.ndarray] | None,
) -> Figure:
    drawn = [name for name in ("model", "additive") if name in scored]
    figure, axes = new_figure(len(drawn))
    values = np.concatenate([np.concatenate([scored[name].label, scored[name].score]) for name in drawn])
    low, high = float(values.min()), float(values.max())
    for name, axis in zip(drawn, axes, strict=True):
        found = scored[name]
        for value in [None] if groups is None else sorted(set(groups[1].tolist())):
            chosen = np.ones(len(found.label), bool) if groups is None else groups[1] == value
            axis.scatter(
                found.label[chosen],
                found.score[chosen],
                s=6,
                alpha=0.6,
                label=None if value is None else plain_label(value),
            )
        axis.plot([low, high], [low, high], color="grey", linewidth=0.5)
        axis.set(xlabel="measured affinity", ylabel="predicted affinity")
        axis.set_title(f"{_legend(shown[name], 'pearson', numbers[name])}, each test pair once", fontsize="medium")
        axis.set_aspect("equal")
    if groups is not None:
        axes[0].legend(fontsize="small", markerscale=2, title=plain_label(groups[0]), title_fontsize="small")
    return figure


def _save(folder: RunFolder, name: str, figure: Figure) -> None:
    for kind in ("png", "svg"):
        folder.write_bytes(f"{name}.{kind}", figure_bytes(figure, name, kind))
