"""The table that `train` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from crossllm.cache.errors import plain_line
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.evaluation.leak_lines import leak_lines

OUR_MODEL = "crossllm_mamba"
"""`system` of a run of our own model, which tables call `model`; every other system stands there by its name."""
SHOWN: dict[Task, tuple[str, ...]] = {
    "classification": ("mcc", "accuracy", "f1", "auroc", "auprc"),
    "regression": ("pearson", "spearman", "rmse", "mae", "concordance"),
}
"""Task → metrics shown, the one a result is read by first."""
NAMES = {"mcc": "MCC", "f1": "F1", "auroc": "AUROC", "auprc": "AUPRC", "pearson": "Pearson", "spearman": "Spearman",
         "rmse": "RMSE", "mae": "MAE", "concordance": "C-index"}  # fmt: skip
"""Metric → as people write it; those that are not here as they are."""
KNOWS = {
    "additive": "what each partner adds, whoever the other is",
    "id_only": "who stands in the table how often and how high, by id",
    "id_only_sequence": "who stands in the table how often and how high, by sequence",
    "one_number": "length or GC content of one partner",
    "relatives": "the labels of pairs of the same two clusters",
    "nearest": "the labels of pairs like this one",
    "one_partner_a": "the rows of partner A alone",
    "one_partner_b": "the rows of partner B alone",
    "trees": "k-mers or fingerprints, no embeddings",
    "random_embedding": "which sequences these are, and nothing of what is in them",
}
"""Baseline → all that it knows of a pair, in words."""
COMPARED: dict[Task, dict[str, int]] = {
    "classification": {"mcc": 1, "auroc": 1, "auprc": 1},
    "regression": {"pearson": 1, "spearman": 1, "rmse": -1},
}
"""Task → metrics in which model and baselines are compared in words, −1 where less is better.

Not MCC alone: a threshold that was chosen on few pairs makes a perfect order of pairs look poor.
"""
REST = (9, 8, 7, 8)
"""Columns of the metrics after the first; a metric that is below 0 leaves its interval's neighbours a blank."""
PAPER = "OPTIMISTIC (--protocol paper): the epoch is the best one on the scored pairs themselves"
WIDTH = 80
"""Columns of a terminal that nobody made wider."""


def table(metrics: dict[str, Any]) -> str:
    """`metrics.json` as text, at most `WIDTH` wide: model and baselines, mean ± standard deviation over folds."""
    shown = SHOWN[metrics["task"]]
    rows = [(model_name(metrics), metrics["model"]), *metrics["baselines"].items()]
    lines = [*_title(metrics), *head(shown)]
    lines += [row(name, found, shown) for name, found in rows]
    lines += [line for text in _remarks(metrics, shown) for line in textwrap.wrap(plain_line(text), WIDTH)]
    if "leaks" in metrics:
        what = "trained on (chosen on these pairs)" if metrics.get("optimistic") else "trained or chosen on"
        lines += ["", f"test pairs, and what their fold was {what}:"]
        lines += [part for text in leak_lines(metrics["leaks"]) for part in textwrap.wrap(text, WIDTH)]
    if "by" in metrics:
        lines += ["", *_groups(metrics["by"], shown)]
    return "\n".join(map(plain_line, lines))  # names come from files


def model_name(metrics: dict[str, Any]) -> str:
    """The system as a table names it: with the word that its number must never stand without."""
    name = str(metrics.get("system", OUR_MODEL))  # a run of a version that had one system alone does not say
    return ("model" if name == OUR_MODEL else name) + " optimistic" * bool(metrics.get("optimistic"))


def _remarks(metrics: dict[str, Any], shown: tuple[str, ...]) -> Iterator[str]:
    """What must be known to read the numbers."""
    for name, why in metrics.get("undefined", {}).items():
        undefined = ", ".join(_undefined(metrics, shown))
        yield f"fold {name}: {why}; it is left out of the mean of what is undefined there ({undefined})"
    if metrics["shared_between_folds"]:
        yield (
            f"{metrics['shared_between_folds']} pairs have their exact two sequences in another fold too: "
            "this split is optimistic"
        )
    if metrics["ids_are_sequences"] and {"id_only", "id_only_sequence"} <= metrics["baselines"].keys():
        yield "every id has a sequence of its own here, so id_only and id_only_sequence are the same"
    yield from certainty_lines(metrics)
    yield from _comparison(metrics)


def not_more(metrics: dict[str, Any]) -> str:
    """What follows where a baseline reaches a run's result."""
    return f"where a baseline reaches {compared_name(metrics)}, this split does not show that it learnt more than that"


def compared_name(metrics: dict[str, Any]) -> str:
    """What a run's result is called in a sentence: the model, or another system by its name."""
    name = str(metrics.get("system", OUR_MODEL))
    return "the model" if name == OUR_MODEL else name


def reaching(metrics: dict[str, Any]) -> dict[str, list[str]]:
    """Each baseline that reaches the model → in which metrics, as people write them."""
    compared, found = COMPARED[metrics["task"]], {}
    for name, baseline in metrics["baselines"].items():
        means = {metric: (baseline[metric]["mean"], metrics["model"][metric]["mean"]) for metric in compared}
        found[name] = [
            NAMES[metric]
            for metric, (own, model) in means.items()
            if own is not None and model is not None and own * compared[metric] >= model * compared[metric]
        ]
    return {name: reached for name, reached in found.items() if reached}


def no_baseline(metrics: dict[str, Any]) -> str | None:
    """That none reaches the model, where there are any and the model has all of the numbers."""
    compared = COMPARED[metrics["task"]]
    if not metrics["baselines"] or any(metrics["model"][metric]["mean"] is None for metric in compared):
        return None
    return f"no baseline reaches {compared_name(metrics)} in {listed([NAMES[metric] for metric in compared], 'or')}"


def _comparison(metrics: dict[str, Any]) -> Iterator[str]:
    """Each baseline that reaches the model: in which metrics, and what it knows."""
    found = reaching(metrics)
    for name, reached in found.items():
        yield f"{name} reaches {compared_name(metrics)} in {listed(reached, 'and')}; it knows {KNOWS[name]}"
    if found:
        yield not_more(metrics)
    elif (none := no_baseline(metrics)) is not None:
        yield none


def listed(words: list[str], last: str) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def certainty_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """What the output is mixed of, and how well probabilities and intervals held on the test folds.

    Nothing of a run of a version that had none.
    """
    if found := metrics.get("summary_share"):
        each = ", ".join(f"{share:.1f}" for share in found["per_fold"])
        yield f"share of the summaries in the output, the rest is the sequence model's; by validation pairs: {each}"
    if found := metrics.get("calibration"):
        error, brier = (
            " → ".join(_number(found[name][when]["mean"]) for when in ("before", "after"))
            for name in ("calibration_error", "brier")
        )
        kinds = " and ".join(found["kind"])
        yield f"calibrated on validation pairs ({kinds}), on the test folds: calibration error {error}, Brier {brier}"
    if found := metrics.get("interval"):
        coverage, width = (_number(found[name]["mean"]) for name in ("coverage", "width"))
        yield (
            f"intervals for {found['asked']:.0%} from validation residuals: {coverage} of the test labels lie within, "
            f"mean width {width}"
        )


def _undefined(metrics: dict[str, Any], shown: tuple[str, ...]) -> list[str]:
    """Metrics of the table that some fold leaves undefined."""
    return [NAMES.get(name, name) for name in shown if None in metrics["model"][name]["per_fold"]]


def _title(metrics: dict[str, Any]) -> list[str]:
    encoders = " × ".join(metrics["encoders"][side] for side in "ab")
    how = split_in_words(metrics)
    if metrics.get("system", OUR_MODEL) == OUR_MODEL:
        reads = f"tokens {metrics['tokens']}, {encoders}"
        chosen = "epoch and threshold" if metrics["task"] == "classification" else "epoch"
    else:
        reads = f"{metrics['system']} on " + ("sequences" if metrics["reads"] == "sequences" else encoders)
        chosen = "whatever is chosen is"
    covers = "95 % interval: of the mean, the sequences of both sides drawn again; another training is not in it"
    honest = f"{chosen} chosen on validation pairs, each test fold scored once"
    texts = (
        f"{metrics['dataset']}: {metrics['pairs']} pairs, {how}, {reads}",
        f"{PAPER if metrics.get('optimistic') else honest}; ± is the deviation over folds; {covers}",
    )
    return [line for text in texts for line in textwrap.wrap(plain_line(text), WIDTH)]


SPLITS = {
    "random": "{folds} random folds of distinct sequence pairs",
    "cold-a": "{folds} folds with unseen sequences of side A",
    "cold-b": "{folds} folds with unseen sequences of side B",
    "cold-both": "{folds} {blocks} with both sequences unseen",
    "cluster": "{folds} {blocks} with both sequences and their relatives unseen",
    "given": "{folds} given folds",
    "file": "{folds} folds of a split file",
    "transfer": "a transfer",
}
"""Split → in words."""


def split_in_words(metrics: dict[str, Any]) -> str:
    """How the pairs were split, and how many of them are tested."""
    if metrics["folds"] == 1 and metrics["split"] != "transfer":
        how = "a fixed split"
    else:
        blocks = "blocks of the grid" if metrics.get("blocks") == "all" else "folds"
        how = SPLITS[metrics["split"]].format(folds=metrics["folds"], blocks=blocks)
    tested = metrics.get("tested", metrics["pairs"])
    return how if tested == metrics["pairs"] else f"{how}, {tested} pairs tested"


def head(shown: tuple[str, ...]) -> list[str]:
    """Heading and rule."""
    rest = "".join(f"{NAMES.get(name, name):>{width}}" for name, width in zip(shown[1:], REST, strict=True))
    heading = f"{'':16}{NAMES[shown[0]] + ' ± std':>15}{'95 % interval':>17}{rest}"
    return [heading, "─" * WIDTH]


def _groups(by: dict[str, Any], shown: tuple[str, ...]) -> list[str]:
    """One line a group, over the test predictions of all folds together; of the baselines the best one."""
    first = shown[0]
    heading = f"{NAMES[first]} by {by['column']}"
    head = f"{heading:23.23}{'pairs':>7}{'model':>8}{'95 % interval':>17}  best baseline"
    lines = [head, "─" * WIDTH]
    for value, found in by["groups"].items():
        model = found["model"][first]
        low, high = model["ci95"]
        interval = f"[{_number(low)}, {_number(high)}]"
        means = {name: baseline[first]["mean"] for name, baseline in found["baselines"].items()}
        known = {name: mean for name, mean in means.items() if mean is not None}
        best = max(known, key=lambda name: known[name]) if known else None
        told = "–" if best is None else f"{_number(known[best])} {best}"
        lines.append(f"{value:23.23}{found['pairs']:7}{_number(model['mean']):>8}{interval:>17}  {told}"[:WIDTH])
    return lines


def row(name: str, found: dict[str, Any], shown: tuple[str, ...]) -> str:
    """One line: metric → mean, std, ci95."""
    first = found[shown[0]]
    low, high = first["ci95"]
    spread = f"{_number(first['mean'])} ± {_number(first['std'])}"
    interval = f"[{_number(low)}, {_number(high)}]"
    rest = "".join(f"{_number(found[key]['mean']):>{width}}" for key, width in zip(shown[1:], REST, strict=True))
    return f"{name:16}{spread:>15}{interval:>17}{rest}"


def _number(value: float | None) -> str:
    """Three decimals, or two digits where those would say nothing (affinities in molar): at most seven characters."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.1e}"
