"""`make_negatives`: positives of one dataset and negatives drawn from them, as a new dataset that names its parent."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import relpath
from typing import NamedTuple

import numpy as np

from crossllm.cache.console.messages import note, say_notes
from crossllm.cache.console.progress import announced
from crossllm.cache.errors import Conflict, InputError, printable
from crossllm.cache.records.id_table import read_table
from crossllm.cache.records.record import Record
from crossllm.cache.store.store_folder import store_folder
from crossllm.pipeline.data.dataset import Dataset, dataset_name, load_dataset, write_dataset
from crossllm.pipeline.data.pairs import Pair
from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.negatives.candidates import Candidates, candidates_of
from crossllm.pipeline.negatives.drawing import Drawn, Positives, draw
from crossllm.pipeline.negatives.options import NegativeOptions
from crossllm.pipeline.negatives.reporting import report
from crossllm.pipeline.similarity.similarity import Similarity
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.given import folds_of_values, in_a_fold
from crossllm.pipeline.splits.options import SplitOptions

LEAST_SHARE = 0.5
"""Of the negatives asked for; fewer are no set of this ratio, and are refused."""


class _Known(NamedTuple):
    """The positives that negatives are drawn for, and all that is known."""

    dataset: Dataset
    """P positives, each in a part."""
    parts: list[str]
    """Names."""
    part: np.ndarray
    """(P,) number of each."""
    everything: Dataset
    """Every positive of the parent, in a part or not: none of these is ever drawn."""


def make_negatives(options: NegativeOptions, *, quiet: bool = False) -> list[str]:
    """Draw negatives and write the new dataset; lines that say what was drawn, and what counts alone tell of it.

    Raises:
        InputError: the parent has no positives or holds affinities, a value cannot be, or far too few may be drawn.
        Conflict: the folder holds another dataset.
    """
    parent, found = load_dataset(options.cache_dir)
    options.check(parent)
    if options.out.exists() and options.cache_dir.samefile(options.out):
        raise InputError(f"--out {options.out}: is the dataset itself, which stays as it is; name another folder")
    say_notes(options.cache_dir / "pairs.tsv", found.notes, found.skipped, "rows")
    known = _known(parent, options)
    similarities = similarities_of(parent, SplitOptions(), options.cache_dir, quiet=quiet)
    positives = _positives(known, similarities)
    clusters = _clusters(parent, options, quiet)
    candidates = _candidates(known, similarities, clusters, options.near)
    with announced(f"note: drawing {options.per_positive * len(known.part):,} negatives", quiet):
        drawn = draw(positives, candidates, options.per_positive, options.match, options.seed)
    if len(drawn.a_of) < LEAST_SHARE * options.per_positive * len(known.part):
        raise InputError(
            _too_few(drawn, positives, candidates, _candidates(known, similarities, clusters, 1.0), options)
        )
    pairs = _pairs(known, drawn)
    _write(parent, known, pairs, options)
    return report(known.dataset, known.parts, positives, drawn, candidates, options)


def _known(parent: Dataset, options: NegativeOptions) -> _Known:
    """The positives, each in a part; what is left out is said."""
    positive = np.flatnonzero(parent.labels == 1).tolist()
    if not positive:
        raise InputError(
            f"{options.cache_dir}: none of its {len(parent.labels)} pairs is positive; nothing to draw from"
        )
    if old := len(parent.labels) - len(positive):
        note(f"note: {old} negatives of {printable(parent.name)} are left out")
    everything = dataset = parent.subset(positive)
    column = options.fold_column
    if column is None:
        cells = _random_parts(dataset, options)
    else:
        inside = in_a_fold(dataset, column)
        if left := len(positive) - len(inside):
            note(f"note: {left} positives have no fold in column '{printable(column)}' and are left out")
        if not inside:
            raise InputError(f"--fold-column {printable(column)}: no positive has a fold; name another column")
        dataset = dataset.subset(inside)
        cells = folds_of_values(dataset, dataset.extra[column], f"--fold-column {printable(column)}").pair_names()
    if others := [name for name in parent.extra if name != column]:
        named = f"column{'s' * (len(others) != 1)} {', '.join(map(printable, others))}"
        note(f"note: {named} of pairs.tsv: not in the new table, no negative has a value there")
    parts = sorted(set(cells), key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    return _Known(dataset, parts, np.array([parts.index(cell) for cell in cells]), everything)


def _random_parts(dataset: Dataset, options: NegativeOptions) -> list[str]:
    """The part of each positive: distinct sequence pairs shuffled into `folds` parts."""
    from sklearn.model_selection import KFold

    groups = dataset.sequence_pairs()
    distinct = int(groups.max()) + 1
    if not 2 <= options.folds <= distinct:
        raise InputError(
            f"--folds {options.folds}: 2 or more parts, and no more than there are distinct sequence pairs among the "
            f"positives ({distinct}), are expected"
        )
    part = np.empty(distinct, np.int64)
    cutter = KFold(options.folds, shuffle=True, random_state=options.seed)
    for number, (_, inside) in enumerate(cutter.split(part)):
        part[inside] = number
    return [str(number) for number in part[groups].tolist()]


def _positives(known: _Known, similarities: tuple[Similarity, Similarity]) -> Positives:
    """As numbers."""
    a_ids, b_ids = known.dataset.numbers(by_sequence=False)
    a, b = similarities[0].numbers(known.dataset.a_keys), similarities[1].numbers(known.dataset.b_keys)
    return Positives(a_ids, b_ids, a, b, known.part)


def _candidates(
    known: _Known,
    similarities: tuple[Similarity, Similarity],
    clusters: tuple[np.ndarray, np.ndarray] | None,
    near: float,
) -> Candidates:
    """What may be drawn, every positive of the parent being known."""
    a, b = similarities[0].numbers(known.everything.a_keys), similarities[1].numbers(known.everything.b_keys)
    return candidates_of(a, b, similarities, near, one_modality=known.dataset.one_modality, clusters=clusters)


def _clusters(parent: Dataset, options: NegativeOptions, quiet: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """(S,) cluster of every sequence, where hard negatives are asked for.

    Of molecules by ECFP4: forms of one parent are one substance and no relatives.
    """
    if not options.hard:
        return None
    a, b = similarities_of(parent, SplitOptions(molecules="ecfp"), options.cache_dir, quiet=quiet)
    return a.component, b.component


def _too_few(
    drawn: Drawn,
    positives: Positives,
    candidates: Candidates,
    farther: Candidates,
    options: NegativeOptions,
) -> str:
    """What could be drawn, and what would do: tried, not guessed; `farther` are the candidates of --near 1."""
    wanted = options.per_positive * len(positives.part)
    text = f"only {len(drawn.a_of)} of {wanted} negatives can be drawn (--per-positive {options.per_positive}, --near "
    text += f"{options.near:g}): the others are known positives, near to one, or repeat; "
    for ratio in sorted({20, 10, 5, 2, 1}, reverse=True):
        if ratio < options.per_positive:
            fewer = draw(positives, candidates, ratio, options.match, options.seed)
            if len(fewer.a_of) >= LEAST_SHARE * ratio * len(positives.part):
                return text + f"--per-positive {ratio} would do"
    again = draw(positives, farther, options.per_positive, options.match, options.seed)
    if len(again.a_of) >= LEAST_SHARE * wanted:
        return text + "--near 1 would do"
    folds = "fewer --folds or " if options.fold_column is None and options.folds > 2 else ""
    return text + f"take {folds}more positives"


def _pairs(known: _Known, drawn: Drawn) -> list[Pair]:
    """Rows of the new table: the positives in their order, then the negatives by part."""
    dataset = known.dataset
    rows = [Pair(a, b, 1.0, 0, (known.parts[part],))
            for a, b, part in zip(dataset.a_ids, dataset.b_ids, known.part.tolist(), strict=True)]  # fmt: skip
    for a_of, b_of in zip(drawn.a_of.tolist(), drawn.b_of.tolist(), strict=True):
        rows.append(Pair(dataset.a_ids[a_of], dataset.b_ids[b_of], 0.0, 0, (known.parts[int(known.part[a_of])],)))
    return rows


def _write(parent: Dataset, known: _Known, pairs: Sequence[Pair], options: NegativeOptions) -> None:
    """The new dataset; its embeddings are those of the parent."""
    sides = parent.modality_a, parent.modality_b
    used: dict[str, set[str]] = {side: set() for side in sides}
    used[sides[0]] |= set(known.dataset.a_ids)
    used[sides[1]] |= set(known.dataset.b_ids)
    records = {}
    for modality, ids in used.items():
        sequences = read_sequences(options.cache_dir, modality)
        table = read_table(options.cache_dir, modality).items()
        records[modality] = [Record(e.key, id_, sequences[e.key], e.length) for id_, e in table if id_ in ids]
    source = {"parent": parent.name, "parent_sha256": parent.digest, "generator": "crossllm data negatives"}
    store = relpath(store_folder(options.cache_dir).resolve(), options.out.resolve())
    try:
        write_dataset(
            options.out, dataset_name(options.out), "classification", sides, records, pairs, (options.column(),),
            {**source, **options.settings()}, embeddings=store,
        )  # fmt: skip
    except Conflict:
        raise Conflict(
            f"{options.out}: holds another dataset, or files that are no part of this one; name another --out"
        ) from None
