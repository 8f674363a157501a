"""What a run says, in sentences: what was predicted, how well, beside what; what speaks against it comes first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from crossllm.pipeline.evaluation.table import (
    KNOWS,
    NAMES,
    PAPER,
    SHOWN,
    certainty_lines,
    compared_name,
    listed,
    no_baseline,
    not_more,
    reaching,
    split_in_words,
)
from crossllm.pipeline.page.numbers import count, interval_text, number, ranked, share, spread_of
from crossllm.pipeline.page.sources import RunResult

_KIND = {"rna": "RNA", "protein": "protein", "molecule": "molecule"}


class Summary(NamedTuple):
    """A run in words."""

    warning: str | None
    """What must be read before the number: an optimistic protocol."""
    verdict: str
    """The number beside the best baseline."""
    behind: bool
    """Whether a baseline reaches the model in the number that a result is read by."""
    what: str
    """What was predicted."""
    remarks: tuple[str, ...]
    """What else must be known to read the numbers."""


def summarise(run: RunResult) -> Summary:
    """The summary of a run."""
    metrics = run.metrics
    warning = f"{PAPER}. The number below is not what new pairs can expect." if metrics.get("optimistic") else None
    verdict, behind = _verdict(run)
    return Summary(warning, verdict, behind, what_was_predicted(metrics), tuple(_sentence(t) for t in _remarks(run)))


def partners(metrics: dict[str, Any]) -> tuple[str, str]:
    """`RNA`, `protein`: the kinds of both sides."""
    a, b = metrics.get("leaks", {}).get("modalities", ("partner A", "partner B"))
    return _KIND.get(a, str(a)), _KIND.get(b, str(b))


def what_was_predicted(metrics: dict[str, Any]) -> str:
    """A sentence: data, task, split."""
    a, b = partners(metrics)
    asks = "whether the two partners of a pair interact" if metrics["task"] == "classification" else "how high the "
    asks += "" if metrics["task"] == "classification" else "affinity of a pair is"
    tested, pairs = metrics.get("tested", metrics["pairs"]), metrics["pairs"]
    how = split_in_words(metrics | {"tested": pairs})
    of = f"{tested:,} of the {pairs:,}" if tested != pairs else f"all {pairs:,}"
    return (
        f"The question is {asks} ({a} × {b}). Tested were {of} pairs of the dataset {metrics['dataset']}, each by a "
        f"model that was not trained on it ({how})."
    )


def _verdict(run: RunResult) -> tuple[str, bool]:
    metrics = run.metrics
    metric = SHOWN[metrics["task"]][0]
    name, model = NAMES.get(metric, metric), spread_of(metrics["model"][metric])
    if model.mean is None:
        return f"{name} of {compared_name(metrics)} is undefined on these test pairs; the table says why.", False
    told = f"{name} {number(model.mean)}" + _moves(run, interval_text(model))
    means = {key: found[metric]["mean"] for key, found in metrics["baselines"].items()}
    known = {key: mean for key, mean in means.items() if mean is not None}
    what = compared_name(metrics).replace("the model", "The model")
    if not known:
        return (
            f"{what} reaches {told}. No baseline was run beside it, so nothing tells how far less would go.",
            False,
        )
    best = ranked(known)[0]
    against = f"{best} ({KNOWS.get(best, 'a baseline')})"
    if known[best] >= model.mean:
        told = f"{against} has {name} {number(known[best])}, {compared_name(metrics)} {told}"
        return f"A baseline reaches {compared_name(metrics)}: {told}.", True
    near = ""
    if model.interval is not None and not run.several and known[best] >= model.interval[0]:
        near = " That baseline lies within the model's interval: this run alone does not tell the two apart."
    elsewhere = _reached(metrics)
    other = f" In other numbers a baseline does reach it: {elsewhere}." if elsewhere else ""
    return f"{what} reaches {told}; the best baseline is {against}, with {number(known[best])}.{near}{other}", False


def _moves(run: RunResult, text: str) -> str:
    """How much the number moves."""
    if not text:
        return ""
    if not run.several:
        return f" (95 % interval {text[1:-1].replace(', ', ' to ')})"
    metric = SHOWN[run.metrics["task"]][0]
    intervals = [spread_of(seed.metrics["model"][metric]).interval for seed in run.seeds]
    known = [interval for interval in intervals if interval is not None]
    widest = (
        f"; the seeds' own 95 % intervals lie between {number(min(low for low, _ in known))} and "
        f"{number(max(high for _, high in known))}" if known else ""
    )  # fmt: skip
    return f" ({text} over {len(run.seeds)} seeds{widest})"


def _remarks(run: RunResult) -> Iterator[str]:
    metrics = run.metrics
    if reached := _reached(metrics):
        yield f"baselines that reach {compared_name(metrics)}: {reached}; {not_more(metrics)}"
    elif (none := no_baseline(metrics)) is not None:
        yield none
    for where, why in metrics.get("undefined", {}).items():
        yield f"fold {where}: {why}; it is left out of the mean of what is undefined there"
    if metrics.get("shared_between_folds"):
        yield (
            f"{metrics['shared_between_folds']} pairs have their exact two sequences in another fold too: "
            "this split is optimistic"
        )
    first = f"seed {run.first.metrics['seed']}: " if run.several else ""
    yield from (first + line for line in certainty_lines(run.first.metrics))


def _reached(metrics: dict[str, Any]) -> str:
    """`trees (AUROC) and nearest (MCC, AUROC)`: the baselines that reach the model; empty where none does."""
    found = [f"{name} ({', '.join(where)})" for name, where in reaching(metrics).items()]
    return listed(found, "and") if found else ""


def limits(run: RunResult) -> Iterator[str]:
    """What the number does not say; for the model card."""
    metrics = run.metrics
    a, b = partners(metrics)
    if metrics.get("optimistic"):
        yield "The epoch was chosen on the scored pairs themselves, so every number here is optimistic."
    if seen := metrics.get("leaks", {}).get("by_sequence"):
        both = seen["C1"]
        if both > 0:
            yield (
                f"Of the test pairs {share(both)} have both partners in training pairs; the numbers say little of new "
                f"{a if a == b else f'{a} and {b}'} sequences."
            )
        elif seen["C3"] == 1:
            yield "No test pair has a partner that was trained on; nothing here is known from names alone."
    clusters = metrics.get("leaks", {}).get("by_cluster")
    if clusters and clusters["C3"] < 1:
        yield f"{share(1 - clusters['C3'])} of the test pairs have a relative of a partner in training."
    found = metrics.get("interval") or {}
    coverage = found.get("coverage", {}).get("mean")
    if coverage is not None and coverage < found["asked"] - 0.02:
        asked = f"{found['asked']:.0%}"
        yield f"Intervals were asked to hold {asked} of the labels and hold {share(coverage)} on the test pairs."
    if metrics["task"] == "classification":
        yield (
            "A score ranks pairs and is no probability; a calibrated probability holds for pairs like the validation "
            "pairs, with as large a share of positives."
        )
    yield (
        "The interval covers which sequences were looked at, not another training, another seed or other data; "
        "it is no promise for another laboratory's pairs."
    )


def intended_use(metrics: dict[str, Any]) -> str:
    """A sentence for the model card."""
    a, b = partners(metrics)
    asks = "candidate interactions" if metrics["task"] == "classification" else "affinities"
    return (
        f"Ranking {asks} of {a} and {b} pairs that are like those of {metrics['dataset']}, for research: what to "
        "measure next. Not as evidence in place of a measurement, and not for decisions about patients."
    )


def at_a_glance(run: RunResult) -> tuple[str, ...]:
    """Split, test pairs, number, interval, best baseline: a line of the table over several runs."""
    metric = SHOWN[run.metrics["task"]][0]
    own = spread_of(run.metrics["model"][metric])
    means = {key: found[metric]["mean"] for key, found in run.metrics["baselines"].items()}
    best = next((key for key in ranked(means) if means[key] is not None), None)
    split = run.metrics["split"] + (", optimistic" if run.metrics.get("optimistic") else "")
    seeds = f", {count(len(run.seeds), 'seed')}" if run.several else ""
    return (
        str(run.metrics["dataset"]),
        split + seeds,
        f"{run.metrics.get('tested', run.metrics['pairs']):,}",
        f"{NAMES.get(metric, metric)} {number(own.mean)}",
        interval_text(own),
        "–" if best is None else f"{number(means[best])} {best}",
    )


def _sentence(text: str) -> str:
    """With a full stop, and a capital where it begins with a word of ours and not with a name."""
    first = text.split(" ", 1)[0].rstrip(":")
    begun = text if first in KNOWS else text[:1].upper() + text[1:]
    return begun if begun.endswith(".") else f"{begun}."
