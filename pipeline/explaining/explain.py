"""Which residues, nucleotides and atoms of two partners speak for a pair: importance of each, and whether it holds.

    run = load_run("cache/demo/runs/demo")
    for found in explain(run, [("rna0000", "protein0003")]):
        found.a.attribution                                  # (L_a,) in logits, or in the unit of the affinities

What is explained is the mean, over the folds' models, of the logit (or affinity) of a pair.  Attributions are linear in
the function that they explain (Sundararajan et al. 2017, section 4.2), so theirs is the mean of the models' own; the
deviation between the models says how far they agree.

Shapes: L places (residues, nucleotides or atoms) of a partner, K models, V windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.record import Record, letters_of
from crossllm.model.standardise import Standardise
from crossllm.pipeline.explaining.attribution import (
    Explained,
    Gradients,
    Rows,
    Windows,
    deleted,
    integrated_gradients,
    occlusion,
    over_places,
    over_windows,
    windows_of,
)
from crossllm.pipeline.explaining.explanation import RANDOM_ORDERS, Deletion, ExplainOptions, Explanation, Track
from crossllm.pipeline.explaining.inputs import IdPair, Inputs, Sources
from crossllm.pipeline.use.trained_run import Fold, TrainedRun, load_run

TENTHS = 10
"""Steps of the deletion curve."""
MEAN_OF = 2000
"""Sequences of a side whose rows' mean is the baseline of a run that keeps no mean of its own."""


def explain(
    run: TrainedRun | str | Path,
    pairs: Path | Sequence[IdPair],
    options: ExplainOptions = ExplainOptions(),
    sources: Sources = Sources(),
) -> Iterator[Explanation]:
    """An explanation of each pair, in their order, made when it is asked for; one pair's does not depend on others.

    Args:
        run: a finished one, or its folder; of any fusion, classification or regression.
        pairs: ids of A and B, or a table of them; a pair that stands there twice is explained once.
        options: steps, windows, folds.
        sources: files of sequences that the run's dataset lacks, and where rows lie; missing ones are embedded.

    Raises:
        InputError: one vector a sequence, an unknown fold or id, or a sequence that cannot be embedded; before any
            pair.
    """
    inputs = Inputs(run if isinstance(run, TrainedRun) else load_run(run), pairs, sources)
    return explain_inputs(inputs, options)


def explain_inputs(inputs: Inputs, options: ExplainOptions, *, quiet: bool = True) -> Iterator[Explanation]:
    """The same of pairs that are read already; `quiet` is of embedding."""
    run = inputs.run
    folds = _chosen(run, options.folds)
    if min(options.steps, options.width) < 1:
        raise InputError(f"steps {options.steps}, width {options.width}: whole numbers from 1 are expected")
    inputs.embed(quiet=quiet)
    explained = _explained(inputs, folds, options.device)
    return (_explain_pair(inputs, folds, explained, pair, options) for pair in inputs.pairs)


def _chosen(run: TrainedRun, names: Sequence[str]) -> list[Fold]:
    """The folds of these names, all where none is given."""
    held = {fold.name: fold for fold in run.folds}
    if unknown := [name for name in names if name not in held]:
        raise InputError(
            f"{run.folder}: has no fold '{printable(unknown[0])}'; its folds: {printable(', '.join(held), 200)}"
        )
    return [held[name] for name in dict.fromkeys(names or held)]


def _explained(inputs: Inputs, folds: Sequence[Fold], device: str) -> list[Explained]:
    """The function and the baseline of each fold.

    The baseline is the mean row of the training part, which standardising maps to 0: a residue of which nothing is
    known.  A run without standardising keeps no such mean; that over the sequences of its training pairs stands for it.
    """
    means: Rows | None = None
    found = []
    for fold in folds:
        first = fold.model.interaction_models[0]  # all members have the moments of their training part
        own = [first.standardise_a, first.standardise_b]
        if all(isinstance(part, Standardise) for part in own):
            baseline = Rows(*(part.mean.cpu().numpy() for part in own if isinstance(part, Standardise)))
        else:
            means = means or Rows(inputs.mean_row(0, MEAN_OF), inputs.mean_row(1, MEAN_OF))
            baseline = means
        found.append(
            Explained(
                fold.model.eval().to(device),
                baseline,
                inputs.run.window,
                inputs.run.config.model.summary_width > 0,
                fold.target.std,
                fold.target.mean,
                max(1, inputs.run.config.batch_tokens // 2),
                torch.device(device),
            )
        )
    return found


def _explain_pair(
    inputs: Inputs, folds: Sequence[Fold], explained: Sequence[Explained], pair: IdPair, options: ExplainOptions
) -> Explanation:
    (record_a, rows_a), (record_b, rows_b) = (inputs.partner(side, id_) for side, id_ in enumerate(pair))
    rows, records = Rows(rows_a, rows_b), (record_a, record_b)
    width = max(options.width, inputs.run.window)
    windows = (windows_of(len(rows.a), width), windows_of(len(rows.b), width))
    gradients = [integrated_gradients(f, rows, options.steps) for f in explained]
    falls = Rows(*(np.mean(found, 0) for found in zip(*(occlusion(f, rows, windows) for f in explained), strict=True)))
    mean = Rows(*(np.mean(found, 0) for found in zip(*(g.places for g in gradients), strict=True)))
    value = float(np.mean([g.value for g in gradients]))
    without = np.mean([g.without for g in gradients], 0)
    orders = _orders(np.concatenate(mean), float((value - without).sum()), records, options.seed)
    a, b = (
        _track(modality, record, np.stack([g.places[side] for g in gradients]), falls[side], windows[side])
        for side, (modality, record) in enumerate(zip(inputs.data.modalities, records, strict=True))
    )
    return Explanation(
        a,
        b,
        value,
        (float(without[0]), float(without[1])),
        _votes(folds, gradients),
        len(folds),
        (_worst(gradients, 0), _worst(gradients, 1)),
        _agreement(mean, falls, windows),
        _deletion(explained, rows, orders),
    )


def _track(modality: str, record: Record, each: np.ndarray, falls: np.ndarray, windows: Windows) -> Track:
    """One partner, of its attributions by each model, (K, L), and its occlusion, (V,)."""
    length = each.shape[1]
    return Track(
        record.id,
        modality,
        record.sequence,
        letters_of(modality, record.sequence)[:length],
        each.mean(0),
        each.std(0, ddof=1) if len(each) > 1 else None,
        over_places(falls, windows, length),
    )


def _worst(gradients: Sequence[Gradients], side: int) -> float:
    """The largest convergence error of a side's attributions."""
    return max((g.errors[side] for g in gradients), key=abs)


def _votes(folds: Sequence[Fold], gradients: Sequence[Gradients]) -> int | None:
    """How many models' scores reach their thresholds."""
    if any(fold.threshold is None for fold in folds):
        return None
    scores = [float(torch.tensor(g.value, dtype=torch.float32).sigmoid()) for g in gradients]
    return sum(score >= (fold.threshold or 0.0) for fold, score in zip(folds, scores, strict=True))


def _agreement(mean: Rows, falls: Rows, windows: tuple[Windows, Windows]) -> float | None:
    """Spearman's correlation over the windows of both partners."""
    sums = np.concatenate([over_windows(*both) for both in zip(mean, windows, strict=True)])
    fallen = np.concatenate(falls)
    if not (np.ptp(sums) and np.ptp(fallen)):
        return None
    return float(spearmanr(sums, fallen).statistic)


def _orders(places: np.ndarray, difference: float, records: Sequence[Record], seed: int) -> list[np.ndarray]:
    """Places of both partners, the most important first; then random orders, the same whatever is explained beside it.

    Important is what moves the output the way in which the partners move it: `difference` is the sum of theirs.
    """
    chance = np.random.default_rng([seed, *(int.from_bytes(record.key[:8], "big") for record in records)])
    top = np.argsort(-np.copysign(1.0, difference) * places, kind="stable")
    return [top, *(chance.permutation(len(places)) for _ in range(RANDOM_ORDERS))]


def _deletion(explained: Sequence[Explained], rows: Rows, orders: Sequence[np.ndarray]) -> Deletion:
    total = len(orders[0])
    counts = [-(-total * tenth // TENTHS) for tenth in range(TENTHS + 1)]
    found: Any = np.mean([deleted(f, rows, orders, counts) for f in explained], 0)
    return Deletion(np.array(counts) / total, found[0], found[1:].mean(0), found[1:].std(0, ddof=1))
