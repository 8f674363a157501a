"""`crossllm compare`: runs against a reference on the test pairs that both predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossllm.cache.errors import InputError
from crossllm.pipeline.evaluation.comparison import (
    Difference,
    Folds,
    PairTest,
    Unit,
    mcnemar,
    paired_bootstrap,
    wilcoxon,
)
from crossllm.pipeline.evaluation.metrics import Partners, Scored
from crossllm.pipeline.experiments.tested_run import Pair, Prediction, SeedRun, TestedRun, read_run


class Comparison(NamedTuple):
    """A run against the reference."""

    reference: TestedRun
    run: TestedRun
    seeds: list[tuple[int, int]]
    """Seeds that were compared with each other: of the reference, of the run."""
    pairs: int
    """Distinct pairs tested in both."""
    metrics: dict[str, Difference]
    test: PairTest
    remarks: list[str]
    """What must be known to read the numbers, in words."""

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "reference": str(self.reference.folder),
            "run": str(self.run.folder),
            "task": self.run.task,
            "seeds": [list(both) for both in self.seeds],
            "pairs": self.pairs,
            "metrics": {
                name: {"reference": found.first, "run": found.second, **_rest(found)}
                for name, found in self.metrics.items()
            },
            "test": {
                "name": self.test.name,
                "pairs": self.test.pairs,
                "reference_better": self.test.first_better,
                "run_better": self.test.second_better,
                "p": self.test.p,
            },
            "remarks": self.remarks,
        }


def _rest(found: Difference) -> dict[str, Any]:
    interval = None if found.ci95 is None else list(found.ci95)
    return {"difference": found.difference, "ci95": interval, "p": found.p}


class _Shared(NamedTuple):
    """The pairs that two runs of one seed each both tested, with the same label."""

    pairs: list[Pair]
    only_first: int
    only_second: int
    other_label: int
    other_fold: int


def compare(folders: Sequence[Path]) -> list[Comparison]:
    """Every run against the first.

    Raises:
        InputError: another task, no pair tested in both, or a folder without a finished run.
        CacheCorrupt: a run's files are not what it left behind.
    """
    reference, *others = map(read_run, folders)
    return [compare_two(reference, other) for other in others]


def compare_two(reference: TestedRun, run: TestedRun) -> Comparison:
    """One run against another, seed by seed where they have seeds in common.

    Raises:
        InputError: another task, or no pair tested in both.
    """
    if reference.task != run.task:
        raise InputError(
            f"{run.folder}: its task is {run.task}, that of {reference.folder} is {reference.task}; nothing compares"
        )
    matched, seeds = _matched(reference, run)
    shared = [_shared(first, second) for first, second in matched]
    if empty := next((both for both, found in zip(matched, shared, strict=True) if not found.pairs), None):
        raise InputError(
            f"{empty[1].folder}: no pair of its predictions.tsv is tested in {empty[0].folder} too, with the same "
            "label; compare runs on the same dataset and split"
        )
    numbers = _numbers(shared, reference.one_numbering and run.one_numbering)
    units = [
        Unit(*(_folds(side.tested, found.pairs, numbers) for side in both))
        for both, found in zip(matched, shared, strict=True)
    ]
    pairs = list(dict.fromkeys(pair for found in shared for pair in found.pairs))
    return Comparison(
        reference,
        run,
        [(first.seed, second.seed) for first, second in matched],
        len(pairs),
        paired_bootstrap(run.task, units),
        _pair_test(run.task == "classification", matched, shared, pairs),
        [*seeds, *_differences(reference, run, matched, shared)],
    )


def _matched(reference: TestedRun, run: TestedRun) -> tuple[list[tuple[SeedRun, SeedRun]], list[str]]:
    """The seeds that are compared with each other, and a remark where not every seed has its own."""
    common = [seed for seed in reference.seeds if seed in run.seeds]
    left = len(reference.seeds) + len(run.seeds) - 2 * len(common)
    if common:
        told = [f"left out because one of the two lacks the seed: {left}"] if left else []
        return [(reference.seeds[seed], run.seeds[seed]) for seed in common], told
    matched = list(zip(reference.seeds.values(), run.seeds.values(), strict=False))
    named = ", ".join(f"{first.seed} with {second.seed}" for first, second in matched)
    return matched, [f"no seed in common; compared in their order: {named}"]


def _shared(first: SeedRun, second: SeedRun) -> _Shared:
    both = [pair for pair in first.tested if pair in second.tested]
    same = [pair for pair in both if first.tested[pair].label == second.tested[pair].label]
    return _Shared(
        same,
        len(first.tested) - len(both),
        len(second.tested) - len(both),
        len(both) - len(same),
        sum(first.tested[pair].fold != second.tested[pair].fold for pair in same),
    )


def _numbers(shared: Sequence[_Shared], one_numbering: bool) -> tuple[dict[str, int], dict[str, int], bool]:
    """Id → number of each side, over all seeds, and whether both sides have one numbering."""
    a: dict[str, int] = {}
    b = a if one_numbering else dict[str, int]()
    for found in shared:
        for x, y in found.pairs:
            a.setdefault(x, len(a))
            b.setdefault(y, len(b))
    return a, b, one_numbering


def _folds(
    tested: dict[Pair, Prediction], pairs: Sequence[Pair], numbers: tuple[dict[str, int], dict[str, int], bool]
) -> Folds:
    """The run's own folds, of these pairs alone."""
    a, b, one_numbering = numbers
    of_fold: dict[str, list[Pair]] = {}
    for pair in pairs:
        of_fold.setdefault(tested[pair].fold, []).append(pair)
    scored, partners = [], []
    for own in of_fold.values():
        rows = [tested[pair] for pair in own]
        scored.append(Scored(*(np.array([getattr(row, name) for row in rows]) for name in Scored._fields)))
        partners.append(Partners(np.array([a[x] for x, _ in own]), np.array([b[y] for _, y in own]), one_numbering))
    return Folds(scored, partners)


def _pair_test(
    classes: bool, matched: Sequence[tuple[SeedRun, SeedRun]], shared: Sequence[_Shared], pairs: Sequence[Pair]
) -> PairTest:
    """McNemar's test, or Wilcoxon's on absolute errors; a pair counts once, whatever the number of seeds."""
    place = {pair: number for number, pair in enumerate(pairs)}
    found, counts = np.zeros((2, len(pairs))), np.zeros(len(pairs))
    for both, own in zip(matched, shared, strict=True):
        where = [place[pair] for pair in own.pairs]
        counts[where] += 1
        for side, run in enumerate(both):
            rows = [run.tested[pair] for pair in own.pairs]
            found[side, where] += [
                row.predicted == row.label if classes else abs(row.predicted - row.label) for row in rows
            ]
    return mcnemar(*found) if classes else wilcoxon(*(found / counts))


def _differences(
    reference: TestedRun,
    run: TestedRun,
    matched: Sequence[tuple[SeedRun, SeedRun]],
    shared: Sequence[_Shared],
) -> Iterator[str]:
    """What the two do not have in common, in words."""
    if reference.folder.resolve() == run.folder.resolve():
        yield "the run is the reference itself"
    if reference.system != run.system:
        yield f"the reference is {reference.system}, the run {run.system}"
    if any(first.dataset != second.dataset for first, second in matched):
        yield f"the datasets differ ({reference.dataset}, {run.dataset}): compared are the pairs tested in both"
    elif any(first.split != second.split for first, second in matched):
        yield "the splits differ: a pair that both tested was predicted by models that saw other training pairs"
    only_first, only_second = sum(s.only_first for s in shared), sum(s.only_second for s in shared)
    if only_first or only_second:
        yield (
            f"tested in the reference alone and left out: {only_first} pairs, in the run alone: {only_second}; so the "
            "numbers are not those of the runs' own tables"
        )
    if other := sum(s.other_label for s in shared):
        yield f"pairs with another label in the other run, left out: {other}"
    if moved := sum(s.other_fold for s in shared):
        yield f"pairs in a fold of another name in the other run: {moved} of {sum(len(s.pairs) for s in shared)}"
    if not (reference.ids_are_sequences and run.ids_are_sequences):
        yield "several ids have one sequence; the bootstrap draws ids, so the intervals are too narrow"
    for found, name in ((reference, "the reference"), (run, "the run")):
        if found.optimistic:
            yield f"{name}'s numbers are optimistic (--protocol paper)"
