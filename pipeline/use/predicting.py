"""`crossllm predict`: a finished run's answers to a table of new pairs, streamed into a new table.

    summary = predict_table(PredictOptions(run, pairs, out, Side("rna", fasta), Side("protein", other)))

Two passes over the table: the first checks every row and numbers the sequences, of which those without rows are then
embedded; the second scores the pairs part by part.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from crossllm.cache.console.messages import note, say_notes, write_skipped
from crossllm.cache.console.progress import pair_progress
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.data.pairs import Columns
from crossllm.pipeline.use.output import Table, kind_of, refuse_existing
from crossllm.pipeline.use.pair_table import PairTable, Row
from crossllm.pipeline.use.partners import Reading, open_partners
from crossllm.pipeline.use.predictor import COLUMNS, Embedding, Predictor, Where
from crossllm.pipeline.use.run_data import run_data
from crossllm.pipeline.use.trained_run import load_run

CHUNK = 1 << 16
"""Pairs that are scored and written at once."""
VERSION = 1
"""Raised whenever this code changes an answer."""


@dataclass(frozen=True)
class PredictOptions:
    """What `crossllm predict` was asked for."""

    run: Path
    pairs: Path
    out: Path
    a: Side | None = None
    """File of the first partners; None: ids are those of the run's dataset."""
    b: Side | None = None
    columns: Columns = Columns(label=None)
    model: Literal["folds", "final"] = "folds"
    """Of the folds, or the one of all pairs."""
    data: Path | None = None
    """Folder of the run's dataset; None: the one that the run lies in."""
    where: Where = Where()
    reading: ReadOptions = ReadOptions()
    on_bad: OnBad = "error"
    overwrite: bool = False
    resume: bool = False
    chunk: int = CHUNK
    quiet: bool = False


class Summary(NamedTuple):
    """What one `crossllm predict` did."""

    out: str
    pairs: int
    skipped: int
    """Bad rows left out under `--on-bad skip`."""
    sequences: dict[str, int]
    """Side → distinct sequences."""
    embedded: dict[str, int]
    """Side → those of them that were embedded now."""
    encoders_loaded: int
    encodings: int
    """Sequences that went through a fold's model: each once a model, unless memory did not hold them."""
    domains: dict[str, int]
    """Of the pairs that were scored now."""
    resumed: int
    """Pairs that an earlier command had scored."""
    seconds: float

    def in_words(self) -> str:
        """One line."""
        total = sum(self.embedded.values())
        loaded = "no encoder loaded" if not self.encoders_loaded else f"{self.encoders_loaded} encoders loaded"
        sequences = " and ".join(f"{count:,} {side}" for side, count in self.sequences.items())
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(self.domains.items()))
        more = f"; {self.resumed:,} of them before" if self.resumed else ""
        domains = f"; domain: {kinds}" if kinds else ""
        return f"{self.pairs:,} pairs of {sequences}{more}; {total:,} embedded, {loaded}{domains} → {self.out}"


def predict_table(options: PredictOptions) -> Summary | None:
    """Answer a table of pairs; None where `--resume` finds it finished.

    Raises:
        InputError: no finished run, files of another modality, bad rows, sequences that cannot be embedded.
        Conflict: the file is there already, or parts of another.
        CacheCorrupt: a checkpoint or a cache is damaged.
        OSError: the disk is full; what is written stays for `--resume`.
    """
    begun = time.monotonic()
    kind_of(options.out)
    if refuse_existing(options.out, overwrite=options.overwrite, resume=options.resume):
        return None
    run = load_run(options.run, options.model)
    data = run_data(run, options.data)
    partners = open_partners(data, (options.a, options.b), Reading(options.on_bad, options.reading))
    table = PairTable(options.pairs, partners, options.columns, COLUMNS, options.on_bad)
    count = table.check()
    say_notes(options.pairs, table.notes, table.problems, "rows")
    write_skipped(options.out.parent, "predict", table.problems)
    predictor = Predictor(run, data, partners, options.where, quiet=options.quiet)
    made = predictor.embed()
    table.without = _without_rows(made, partners[0].modality, partners[1].modality, options)
    digest = predictor.digest(
        str(VERSION), str(options.chunk), repr(options.columns), repr(sorted(map(sorted, table.without))),
        _file_digest(options.pairs),
    )  # fmt: skip
    header = (*table.header, *COLUMNS)
    settings = {"overwrite": options.overwrite, "resume": options.resume}
    with Table(options.out, header, digest, numbers=predictor.numbers(), **settings) as out:
        written = _write(options, table, predictor, out, count)
    return Summary(
        str(options.out),
        written.pairs,
        table.bad,
        _by_side(data.modalities, [len(side.keys) for side in partners]),
        _by_side(data.modalities, [one.embedded for one in made]),
        sum(one.asked > 0 for one in made),
        written.encodings,
        dict(written.domains),
        written.resumed,
        round(time.monotonic() - begun, 3),
    )


class _Written(NamedTuple):
    pairs: int
    resumed: int
    domains: Counter[str]
    encodings: int


def _write(options: PredictOptions, table: PairTable, predictor: Predictor, out: Table, count: int) -> _Written:
    """Score the table part by part, those that are there already left out, and put it together."""
    pairs = resumed = parts = scored = 0
    domains: Counter[str] = Counter()
    with pair_progress(count, "predicting", options.quiet) as done:
        for part, rows in enumerate(_chunks(iter(table), options.chunk)):
            pairs, parts = pairs + len(rows), part + 1
            if out.has(part):
                resumed += len(rows)
                done(len(rows))
                continue
            a, b = np.array([row.a for row in rows]), np.array([row.b for row in rows])
            added = predictor.rows(a, b, done)
            domains.update(more[-1] for more in added)
            out.write(part, ((*row.cells, *more) for row, more in zip(rows, added, strict=True)))
            scored += len(rows)
    if not pairs:
        raise InputError(f"{table.path}: no pair is left, all lack rows; see the notes above")
    out.finish(parts)
    return _Written(pairs, resumed, domains, sum(predictor.scorer.encoded) if scored else 0)


def _chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _without_rows(
    made: tuple[Embedding, Embedding], modality_a: str, modality_b: str, options: PredictOptions
) -> tuple[frozenset[int], frozenset[int]]:
    """The sequences that could not be embedded; an error unless bad rows are skipped."""
    lines = [
        f"side {side}: {modality} {printable(why, 300)}; it could not be embedded"
        for side, modality, one in zip("ab", (modality_a, modality_b), made, strict=True)
        for why in one.failures.values()
    ]
    if lines and options.on_bad == "error":
        raise InputError([*lines, "leave their pairs out with --on-bad skip"])
    for line in lines:
        note(f"skipped: {line}")
    return frozenset(made[0].failures), frozenset(made[1].failures)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_side(modalities: tuple[str, str], values: list[Any]) -> dict[str, Any]:
    """By modality; by side too where both are of one."""
    names = modalities if modalities[0] != modalities[1] else (f"{modalities[0]} (a)", f"{modalities[1]} (b)")
    return dict(zip(names, values, strict=True))
