"""Splits by the partners: a tested pair has a first, a second or two partners that no training pair has.

Terms (Park & Marcotte, Nat Methods 2012;9:1134): C2, one partner unseen (`cold-a`, `cold-b`); C3, both (`cold-both`,
and `cluster`, where no relative of them is seen either).
"""

from __future__ import annotations

import numpy as np

from crossllm.cache.errors import InputError
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.splits.folds import Cut, Folds
from crossllm.pipeline.splits.parts import held_out, strata


def cold_one(dataset: Dataset, side: str, count: int, seed: int) -> Folds:
    """Folds in which the sequences of one side are unseen; every pair is tested once.

    Where both sides are of one modality, a held-out sequence is unseen on either.
    """
    a, b = dataset.numbers()
    groups = a if side == "a" else b
    part = _parts(groups, strata(dataset), count, seed, f"--split cold-{side}", "sequences")
    of_group = dict(zip(groups.tolist(), part.tolist(), strict=True))
    other = np.array([of_group.get(n, -1) for n in (b if side == "a" else a).tolist()])
    nowhere = other if dataset.one_modality else np.full(len(part), -1)
    if side == "a":
        cut = Cut(part, nowhere, a, b, [(n, -1) for n in range(count)], dataset.one_modality)
    else:
        cut = Cut(nowhere, part, a, b, [(-1, n) for n in range(count)], dataset.one_modality)
    return _folds(dataset, cut, part, [str(n) for n in range(count)], f"--split cold-{side}")


def cold_both(
    dataset: Dataset,
    groups: tuple[np.ndarray, np.ndarray],
    count: int,
    seed: int,
    blocks: str,
    what: str,
    things: str,
) -> Folds:
    """Folds in which both partners are unseen, as sequences or as clusters.

    Each side's groups fall into `count` parts and the pairs into a grid of blocks.  A fold tests one block and trains
    on the pairs that have no partner of its two parts.

    Args:
        dataset: the pairs.
        groups: (P,) group of each pair's partners; where both sides are of one modality in one numbering.
        count: parts of a side.
        seed: of the parts.
        blocks: `diagonal`: block (i, i) alone, each group tested in one fold; or `all`, each pair tested once.
        what: the split as the user asked for it.
        things: what the groups are, in words.

    Raises:
        InputError: fewer groups than parts, or a diagonal block without pairs of both classes.
    """
    of_pair = strata(dataset)
    if dataset.one_modality:
        both = _parts(np.concatenate(groups), np.concatenate([of_pair, of_pair]), count, seed, what, things)
        a_part, b_part = both[: len(of_pair)], both[len(of_pair) :]
    else:
        a_part, b_part = (_parts(side, of_pair, count, seed, what, things) for side in groups)
        b_part = _facing(dataset, a_part, b_part, count)
    if blocks == "diagonal":
        names, tested = [str(n) for n in range(count)], [(n, n) for n in range(count)]
    else:
        tested = [(i, j) for i in range(count) for j in range(i if dataset.one_modality else 0, count)]
        names = [f"{i}x{j}" for i, j in tested]
    cut = Cut(a_part, b_part, *groups, tested, dataset.one_modality)
    of_fold = np.full(len(of_pair), -1)
    for fold in range(len(tested)):
        of_fold[cut.tested(fold)] = fold
    if blocks == "all":
        held = [fold for fold in range(len(tested)) if (of_fold == fold).any()]
        renumbered = {fold: n for n, fold in enumerate(held)}
        of_fold = np.array([renumbered[fold] for fold in of_fold.tolist()])
        cut = cut._replace(blocks=[tested[fold] for fold in held])
        return Folds([names[fold] for fold in held], of_fold, 0, cut=cut)
    return _folds(dataset, cut, of_fold, names, f"{what} --blocks diagonal")


def _folds(dataset: Dataset, cut: Cut, of_pair: np.ndarray, names: list[str], what: str) -> Folds:
    """The folds of a cut, none of them without a pair or a class."""
    if dataset.task == "classification" and dataset.labels.all():
        raise InputError(f"{what}: every pair is positive; `crossllm data negatives` draws negatives")
    blocks = ", another --seed or --blocks all" if "diagonal" in what else " or another --seed"
    advice = f"take fewer --folds{blocks}"
    for fold, name in enumerate(names):
        labels = dataset.labels[of_pair == fold]
        if len(labels) == 0:
            raise InputError(f"{what}: fold {name} tests no pair; {advice}")
        if dataset.task == "classification" and len(set(labels.tolist())) < 2:
            kind = "positive" if labels[0] == 1 else "negative"
            raise InputError(f"{what}: the {len(labels)} pairs that fold {name} tests are all {kind}; {advice}")
    return Folds(names, of_pair, 0, cut=cut)


def _parts(groups: np.ndarray, of_pair: np.ndarray, count: int, seed: int, what: str, things: str) -> np.ndarray:
    """(P,) part of each pair's group: whole groups, the classes spread alike as far as those allow."""
    held = len(np.unique(groups))
    if held < count:
        advice = "take fewer --folds" if held > 1 else "one cannot be cut, take another --split"
        if held == 1 and things == "clusters":
            advice += " or a higher identity of relatives (--identity-a, --identity-b)"
        raise InputError(f"{what} --folds {count}: a side has only {held} {things}; {advice}")
    part = np.empty(len(groups), np.int64)
    try:
        for number, test in enumerate(held_out(groups, of_pair, count, seed)):
            part[test] = number
    except ValueError:
        raise InputError(
            f"{what} --folds {count}: {len(groups)} pairs are too few for so many folds; take fewer --folds"
        ) from None
    return part


def _facing(dataset: Dataset, a_part: np.ndarray, b_part: np.ndarray, count: int) -> np.ndarray:
    """The parts of B renumbered so that the diagonal blocks hold many pairs of the rarer class each."""
    from scipy.optimize import linear_sum_assignment

    held = np.zeros((count, count))
    positive = np.zeros((count, count))
    np.add.at(held, (a_part, b_part), 1)
    if dataset.task == "classification":
        np.add.at(positive, (a_part, b_part), dataset.labels)
        held = np.minimum(positive, held - positive)
    rows, columns = linear_sum_assignment(np.sqrt(held), maximize=True)  # roots: rather all some than few many
    number = np.empty(count, np.int64)
    number[columns] = rows
    faced: np.ndarray = number[b_part]
    return faced
