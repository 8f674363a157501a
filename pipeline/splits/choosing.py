"""`choose_folds`: the split that was asked for, with what must be said about it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, printable
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.similarity.similarity import Similarity, similarity_of
from crossllm.pipeline.splits.cold import cold_both, cold_one
from crossllm.pipeline.splits.folds import Folds
from crossllm.pipeline.splits.given import given_folds, in_a_fold, transfer_folds, transferred
from crossllm.pipeline.splits.options import USERS, SplitOptions
from crossllm.pipeline.splits.random_pairs import random_folds
from crossllm.pipeline.splits.split_file import read_split


class Split(NamedTuple):
    """The pairs of a split, and their folds."""

    dataset: Dataset
    """Without the pairs that the split has in no fold and trains on never."""
    folds: Folds


def choose_folds(
    dataset: Dataset, options: SplitOptions, cache_dir: Path, split_file: Path | None = None, *, quiet: bool = False
) -> Split:
    """The folds of a dataset; what is left out, dropped or lopsided is said on standard error.

    Args:
        dataset: the pairs.
        options: what was asked for.
        cache_dir: the dataset's folder: similarities are kept there.
        split_file: of the kind `file`.
        quiet: no progress bar of an alignment.

    Raises:
        InputError: the split cannot be cut.
    """
    _say_unused(options)
    kind = options.kind
    if kind in ("cold-both", "cluster"):
        folds = _both(dataset, options, cache_dir, quiet)
    elif kind in ("cold-a", "cold-b"):
        folds = cold_one(dataset, kind[-1], options.folds, options.seed)
    elif kind == "given":
        dataset = _with_a_fold(dataset, options.fold_column)
        folds = given_folds(dataset, options.fold_column)
    elif kind == "transfer":
        dataset = _of_either(dataset, options)
        folds = transfer_folds(dataset, options.train_on, options.test_on)
    elif kind == "file":
        if split_file is None:
            raise InputError("--split file: --split-file is missing; name a file of `crossllm data split`")
        dataset, folds = read_split(split_file, dataset)
    else:
        folds = random_folds(dataset, options.folds, options.seed)
        if options.fold_column in dataset.extra:
            held = printable(options.fold_column)
            note(f"note: pairs.tsv has a column '{held}', not used; --split given takes its folds")
    _say_dropped(folds, kind)
    return Split(dataset, folds)


def _say_unused(options: SplitOptions) -> None:
    """Settings that were given and that the split has no use for."""
    for name, kinds in USERS.items():
        value = getattr(options, name)
        if options.kind not in kinds and value != SplitOptions._field_defaults[name]:
            flag = "--" + name.replace("_", "-")
            note(f"note: {flag} {printable(str(value))}: --split {options.kind} has no use for it")


def _both(dataset: Dataset, options: SplitOptions, cache_dir: Path, quiet: bool) -> Folds:
    if options.kind == "cold-both":
        groups, things = dataset.numbers(), "sequences"
    else:
        similarities = similarities_of(dataset, options, cache_dir, quiet=quiet)
        groups, things = clusters_of(dataset, similarities), "clusters"
        for side, similarity, clusters in zip("ab", similarities, groups, strict=True):
            if side == "a" or not dataset.one_modality:
                _say_clusters(side, similarity, clusters, options.folds)
    what = f"--split {options.kind}"
    return cold_both(dataset, groups, options.folds, options.seed, options.blocks, what, things)


def similarities_of(
    dataset: Dataset, options: SplitOptions, cache_dir: Path, *, quiet: bool = False
) -> tuple[Similarity, Similarity]:
    """Of the sequences of A and of B; the same of both where they are of one modality."""
    if dataset.one_modality:
        options.check_one_modality(dataset.modality_a)
    a = similarity_of(dataset, "a", cache_dir, options.rule("a", dataset.modality_a), quiet=quiet)
    if dataset.one_modality:
        return a, a
    return a, similarity_of(dataset, "b", cache_dir, options.rule("b", dataset.modality_b), quiet=quiet)


def clusters_of(dataset: Dataset, similarities: tuple[Similarity, Similarity]) -> tuple[np.ndarray, np.ndarray]:
    """(P,) cluster of each pair's partners."""
    a, b = similarities
    return a.component[a.numbers(dataset.a_keys)], b.component[b.numbers(dataset.b_keys)]


def _say_clusters(side: str, similarity: Similarity, clusters: np.ndarray, folds: int) -> None:
    """How many clusters of what size, and whether one holds more pairs than a fold should."""
    sizes = np.bincount(similarity.component)
    pairs = np.bincount(clusters) / len(clusters)
    modality = similarity.rule.modality
    text = (
        f"note: side {side}: {len(similarity.keys)} {modality} in {len(sizes)} clusters ({similarity.method}: "
        f"{similarity.rule.in_words()}); the largest has {sizes.max()}, {int((sizes == 1).sum())} stand alone"
    )
    if pairs.max() > 1 / folds:
        text += f"; one cluster has {pairs.max():.1%} of the pairs, more than a fold's {1 / folds:.0%}"
    note(text)


def _say_dropped(folds: Folds, kind: str) -> None:
    """How many pairs a cut of both sides leaves out of training, and out of every test."""
    if folds.cut is None:
        return
    total, dropped = len(folds.of_pair), [folds.dropped(n) for n in range(len(folds.names))]
    if untested := int((folds.of_pair < 0).sum()):
        advice = "" if kind == "file" else "; --blocks all tests them too"
        note(f"note: {untested} of {total} pairs lie off the diagonal and are in no test{advice}")
    if any(dropped):
        note(
            f"note: {np.mean(dropped):.0f} of {total} pairs a fold ({np.mean(dropped) / total:.0%}) are neither tested "
            "nor trained on: one of their partners is held out"
        )


def _with_a_fold(dataset: Dataset, column: str) -> Dataset:
    """The dataset without the pairs that a given split puts into no fold, counted."""
    keep = in_a_fold(dataset, column)
    if not keep:
        raise InputError(f"--fold-column {printable(column)}: no pair has a fold; name another column")
    if left := len(dataset.labels) - len(keep):
        note(f"note: {left} pairs have no fold in column '{printable(column)}' and are left out")
    return dataset.subset(keep)


def _of_either(dataset: Dataset, options: SplitOptions) -> Dataset:
    """The dataset without the pairs that a transfer has no use for, counted."""
    train, test = transferred(dataset, options.train_on, options.test_on)
    keep = np.flatnonzero(train | test).tolist()
    if left := len(dataset.labels) - len(keep):
        note(f"note: {left} pairs are of neither --train-on nor --test-on and are left out")
    return dataset.subset(keep)
