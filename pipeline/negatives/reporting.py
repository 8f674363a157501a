"""What `crossllm data negatives` says of its draw."""

from __future__ import annotations

from shlex import quote

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import printable
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.negatives.candidates import Candidates
from crossllm.pipeline.negatives.counts import auroc_of_counts, deviation_of
from crossllm.pipeline.negatives.drawing import Drawn, Positives
from crossllm.pipeline.negatives.options import NegativeOptions

TELLING = 0.03
"""Distance of an AUROC of counts from 0.5 above which it is remarked upon."""


def report(
    dataset: Dataset, parts: list[str], positives: Positives, drawn: Drawn, candidates: Candidates,
    options: NegativeOptions,
) -> list[str]:  # fmt: skip
    """Lines of the result; what is missing is said on standard error.

    Args:
        dataset: the positives.
        parts: their names.
        positives, drawn: as numbers.
        candidates: what might be drawn.
        options: what was asked for.
    """
    wanted = options.per_positive * len(positives.part)
    if len(drawn.a_of) < wanted:
        missing = zip(parts, drawn.missing, strict=True)
        where = ", ".join(f"{printable(name)}: {count}" for name, count in missing if count)
        note(
            f"note: {wanted - len(drawn.a_of)} of {wanted} negatives are missing, no more pairs can be drawn; "
            f"by part: {where}"
        )
    how = "matched by degree" if options.match == "degree" else "uniformly random pairs"
    lines = [
        f"{len(positives.part)} positives and {len(drawn.a_of)} negatives in {len(parts)} parts, {how}, "
        f"seed {options.seed} → {options.out}",
        f"excluded pairs of sequences: {len(candidates.known)} known positives, {candidates.near()} near one "
        f"(both sides ≥ {options.near:.0%} identity)",
    ]
    label = np.repeat([1, 0], [len(positives.part), len(drawn.a_of)])
    part = np.concatenate([positives.part, positives.part[drawn.a_of]])
    ids, sequences = ((np.concatenate([a, a[drawn.a_of]]), np.concatenate([b, b[drawn.b_of]]))
                      for a, b in ((positives.a_ids, positives.b_ids), (positives.a, positives.b)))  # fmt: skip
    apart = deviation_of(ids, label, part, options.per_positive)
    if apart.off:
        off = f"{apart.off} of {apart.total} are off, by {apart.largest} at most, {apart.mean:.2f} on average"
    else:
        off = f"exact, {options.per_positive} × the positives"
    lines.append(f"degrees of each id in each part: {off}")
    if options.hard:
        lines.append(_hard(positives, drawn, candidates))
    areas = [auroc_of_counts(sides, label, part, options.per_positive, one_modality=dataset.one_modality)
             for sides in (ids, sequences)]  # fmt: skip
    lines.append(
        f"AUROC of the ratio of counts: {areas[0]:.3f} by id, {areas[1]:.3f} by sequence (0.5: it tells nothing)"
    )
    if options.match == "degree" and max(abs(area - 0.5) for area in areas) > TELLING:
        fewer = "fewer --per-positive" if options.per_positive > 1 else "fewer --folds"
        note(f"note: counts tell positives from negatives here, as the degrees could not be kept; take {fewer}")
    if options.match == "none":
        return lines
    named = "" if options.column() == "fold" else f" --fold-column {printable(quote(options.column()))}"
    train = f"train --cache {printable(quote(str(options.out)), 4096)} --split given{named}"
    return [*lines, f"degrees are matched within these parts, so keep them: {train}"]


def _hard(positives: Positives, drawn: Drawn, candidates: Candidates) -> str:
    """How many negatives have a relative of a positive partner."""
    level = candidates.level(positives.a[drawn.a_of], positives.b[drawn.b_of])
    count = int((level < 2).sum())
    others = "" if count == len(level) else ", no relative of a positive partner could be drawn for the others"
    return f"hard: {count} of {len(level)}{others}"
