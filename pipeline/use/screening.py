"""`crossllm screen`: all sequences of two files with each other, and the best pairs of them.

Each sequence is encoded once by each of the run's models, and the pairs are fused block by block, so that N × M pairs
cost N + M encodings and memory depends on the blocks alone.  Shapes: N sequences of A, M of B.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from crossllm.cache.console.messages import note, size_in_words
from crossllm.cache.console.progress import duration, pair_progress
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.modality import OnBad
from crossllm.cache.records.options import ReadOptions
from crossllm.pipeline.data.importing import Side
from crossllm.pipeline.use import scoring
from crossllm.pipeline.use.answers import answers
from crossllm.pipeline.use.best import BestOfAll, BestOfEach
from crossllm.pipeline.use.output import Table, kind_of, refuse_existing
from crossllm.pipeline.use.partners import Partners, Reading, open_partners
from crossllm.pipeline.use.predictor import COLUMNS, Predictor, Where
from crossllm.pipeline.use.run_data import run_data
from crossllm.pipeline.use.scoring import KEPT_BYTES, Scorer, encoded_bytes, models_of
from crossllm.pipeline.use.trained_run import load_run
from crossllm.pipeline.use.unfinished import Unfinished

VERSION = 1
"""Raised whenever this code changes an answer."""
Per = Literal["a", "b", "all"]
SAMPLE = 96
"""Sequences of a side that are screened to tell how long all take."""
AT_ONCE = 1 << 16
"""Of the best pairs that are answered in full and written at once."""


@dataclass(frozen=True)
class ScreenOptions:
    """What `crossllm screen` was asked for."""

    run: Path
    out: Path
    a: Side | None = None
    """None: the sequences of the run's dataset."""
    b: Side | None = None
    top: int = 100
    per: Per = "all"
    """The best of each partner of A, or of B, or over all."""
    lowest: bool = False
    """The lowest affinities are the best."""
    model: Literal["folds", "final"] = "folds"
    """Of the folds, or the one of all pairs."""
    data: Path | None = None
    where: Where = Where()
    reading: ReadOptions = ReadOptions()
    on_bad: OnBad = "error"
    overwrite: bool = False
    resume: bool = False
    dry_run: bool = False
    quiet: bool = False


class Plan(NamedTuple):
    """What is to be done, before it is."""

    sequences: tuple[int, int]
    pairs: int
    models: int
    encodings: int
    """Of sequences by one model each."""
    missing: tuple[int, int]
    """Sequences that have no rows yet."""
    bytes_kept: int
    """Of encoded sequences held in memory."""
    bytes_encoded: int
    """Of all of them."""
    seconds: float | None
    """About, of encoding and fusing; None where no sequence has rows yet to measure with."""
    rows: int
    """Most rows of the output."""

    def in_lines(self) -> list[str]:
        """As people read it."""
        a, b = self.sequences
        again = "" if self.encodings == (a + b) * self.models else ", those that memory does not hold several times"
        kept = f"{size_in_words(self.bytes_kept)} of {size_in_words(self.bytes_encoded)} of encoded sequences in memory"
        about = "not known before there are rows" if self.seconds is None else f"about {duration(self.seconds)}"
        lacking = sum(self.missing)
        return [
            f"pairs      {self.pairs:,}: {a:,} × {b:,} distinct sequences; the best {self.rows:,} are written",
            f"embed      {lacking:,} sequences without rows" + ("" if lacking else ", so no encoder is loaded"),
            f"encodings  {self.encodings:,}, by {self.models} model{'s' * (self.models > 1)}{again}",
            f"memory     {kept}",
            f"time       {about}" + (", and what embedding takes" if lacking and self.seconds is not None else ""),
        ]


class Screened(NamedTuple):
    """What one `crossllm screen` did."""

    out: str
    pairs: int
    sequences: tuple[int, int]
    embedded: int
    encoders_loaded: int
    encodings: int
    """Of sequences by one model each."""
    models: int
    written: int
    seconds: float
    """Of encoding and fusing."""
    resumed: int = 0
    """Pairs that an earlier command had screened."""

    def in_words(self) -> str:
        """One line."""
        loaded = "no encoder loaded" if not self.encoders_loaded else f"{self.encoders_loaded} encoders loaded"
        pace = (self.pairs - self.resumed) / max(self.seconds, 1e-9)
        before = f", {self.resumed:,} of them before" if self.resumed else ""
        best = f"best {self.written:,} → {self.out}"
        return (
            f"{self.pairs:,} pairs of {self.sequences[0]:,} × {self.sequences[1]:,} sequences{before}, "
            f"{self.encodings:,} encodings by {self.models} models, {pace:,.0f} pairs a second; {self.embedded:,} "
            f"embedded, {loaded}; {best}"
        )


def screen(options: ScreenOptions) -> Screened | Plan | None:
    """Screen all pairs; with `dry_run` the plan alone; None where `resume` finds it finished.

    Raises:
        InputError: no finished run, files of another modality, bad records, sequences that cannot be embedded.
        Conflict: the output is there already, or parts of another.
        CacheCorrupt: a checkpoint or a cache is damaged.
    """
    kind_of(options.out)
    if not options.dry_run and refuse_existing(options.out, overwrite=options.overwrite, resume=options.resume):
        return None
    run = load_run(options.run, options.model)
    if options.lowest and run.task == "classification":
        raise InputError(f"--lowest: {run.folder} predicts classes; it is for affinities, leave it out")
    data = run_data(run, options.data)
    partners = open_partners(data, (options.a, options.b), Reading(options.on_bad, options.reading))
    ids = _all_ids(partners[0]), _all_ids(partners[1])
    predictor = Predictor(run, data, partners, options.where, quiet=options.quiet)
    plan = _plan(options, predictor)
    if options.dry_run:
        return plan
    if not options.quiet:
        for line in plan.in_lines():
            note(line)
    made = predictor.embed()
    if failed := [why for one in made for why in one.failures.values()]:
        raise InputError(f"{printable(why, 300)}; it could not be embedded, take it out of the file" for why in failed)
    settings = [options.per, options.top, options.lowest, VERSION, scoring.GRID_SIDE, scoring.TILE_VALUES, AT_ONCE]
    digest = predictor.digest(*map(str, settings))
    keeping = {"overwrite": options.overwrite, "resume": options.resume}
    with Table(options.out, ("a_id", "b_id", *COLUMNS), digest, numbers=predictor.numbers(), **keeping) as table:
        begun = time.monotonic()
        a, b, resumed = _best(options, predictor, Unfinished(table.folder))
        seconds = time.monotonic() - begun
        starts = range(0, len(a), AT_ONCE)
        for part, start in enumerate(starts):
            if not table.has(part):
                stop = start + AT_ONCE
                table.write(part, _answered(predictor, ids, a[start:stop], b[start:stop]))
        table.finish(len(starts))
    return Screened(
        str(options.out), plan.pairs, plan.sequences, sum(one.embedded for one in made),
        sum(one.asked > 0 for one in made), sum(predictor.scorer.encoded), models_of(run), len(a), round(seconds, 3),
        resumed,
    )  # fmt: skip


def _all_ids(partners: Partners) -> list[str]:
    """The first id of every distinct sequence of a side, all numbered; those of a file, else of the dataset."""
    ids: list[str] = []
    repeated = 0
    for id_ in partners.own_ids():
        number = partners.number(id_)
        if number == len(ids):
            ids.append(id_)
        else:
            repeated += 1
    if repeated:
        note(f"note: side {partners.side}: {repeated} ids have the sequence of another id, by which it is screened")
    return ids


def _plan(options: ScreenOptions, predictor: Predictor) -> Plan:
    """Counts, bytes, and the time that a small part of the pairs takes, scaled."""
    sides, models = predictor.partners, models_of(predictor.run)
    n, m = (len(side.keys) for side in sides)
    missing = predictor.missing()
    kept, encodings = _encodings((n, m), _bytes_encoded(predictor), models)
    written = {"all": min(options.top, n * m), "a": n * min(options.top, m), "b": m * min(options.top, n)}[options.per]
    scorer = _sample(options, predictor, missing)
    seconds = None
    if scorer is not None:
        encoding, fusing = _measured(scorer)
        seconds = encoding * encodings + fusing * n * m
    lacking = len(missing[0]), len(missing[1])
    return Plan((n, m), n * m, models, encodings, lacking, kept, sum(_bytes_encoded(predictor)), seconds, written)


def _bytes_encoded(predictor: Predictor) -> tuple[int, int]:
    """Of all sequences of either side, as every model encodes them."""
    run = predictor.run
    tokens = [
        sum(-(-recipe.rows_of(length) // run.window) for length in side.lengths().tolist())
        for side, recipe in zip(predictor.partners, predictor.data.recipes, strict=True)
    ]
    a, b = (encoded_bytes(run, own, len(side.keys)) for own, side in zip(tokens, predictor.partners, strict=True))
    return a, b


def _sample(options: ScreenOptions, predictor: Predictor, missing: tuple[np.ndarray, np.ndarray]) -> Scorer | None:
    """A scorer of some sequences of either side; None where a side has none with rows."""
    keys = []
    for side, own in zip(predictor.partners, missing, strict=True):
        held = np.setdiff1d(np.arange(len(side.keys)), own)
        if not len(held):
            return None
        chosen = held[np.linspace(0, len(held) - 1, min(SAMPLE, len(held))).astype(int)]
        keys.append([side.keys[n] for n in chosen.tolist()])
    return Scorer(predictor.run, predictor.joined(), (keys[0], keys[1]), torch.device(options.where.device))


def _measured(scorer: Scorer) -> tuple[float, float]:
    """Seconds an encoding, and a pair fused by all models; the first pass compiles and is left out."""
    for _ in scorer.grid():
        pass
    before = sum(scorer.encoded)
    scorer.forget()
    begun = time.perf_counter()
    scorer.encode_all()
    encoded = time.perf_counter()
    pairs = sum(block.raw[0].size for block in scorer.grid())
    fused = time.perf_counter()
    return (encoded - begun) / max(sum(scorer.encoded) - before, 1), (fused - encoded) / max(pairs, 1)


def _encodings(counts: tuple[int, int], sizes: tuple[int, int], models: int) -> tuple[int, int]:
    """Bytes kept, and encodings: one a sequence and model where the smaller side fits into memory."""
    if min(sizes) <= KEPT_BYTES:
        return sum(sizes) if sum(sizes) <= KEPT_BYTES else min(sizes), sum(counts) * models
    tiles = -(-sizes[0] // (4 * models * scoring.TILE_VALUES))  # neither: B is encoded again for each tile of A
    return 0, (counts[0] + tiles * counts[1]) * models


def _best(options: ScreenOptions, predictor: Predictor, unfinished: Unfinished) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers of the best pairs, and how many pairs an earlier command had screened."""
    n, m = (len(side.keys) for side in predictor.partners)
    each = {"a": (n, m), "b": (m, n)}.get(options.per)
    every = BestOfAll(min(options.top, n * m))
    own = None if each is None else BestOfEach(each[0], min(options.top, each[1]))
    kept = every if own is None else own
    first, resumed = 0, 0
    if (found := unfinished.load()) is not None:
        first, resumed, state = found
        kept.restore(state)
    screened = resumed
    with pair_progress(n * m, "screening", options.quiet) as done:
        done(resumed)
        for number, block in enumerate(predictor.scorer.grid(first), first + 1):
            shape = block.raw.shape[1:]
            score = answers(predictor.run, block.raw.reshape(len(block.raw), -1)).score.reshape(shape)
            value = -score if options.lowest else score
            if own is None:
                every.add(block.a, block.b, value)
            elif options.per == "a":
                own.add(block.a, block.b, value)
            else:
                own.add(block.b, block.a, value.T)
            done(value.size)
            screened += value.size
            unfinished.save_when_due(number, screened, kept.state())
    one, other = kept.pairs()
    return (other, one, resumed) if options.per == "b" else (one, other, resumed)


def _answered(
    predictor: Predictor, ids: tuple[list[str], list[str]], a: np.ndarray, b: np.ndarray
) -> list[tuple[str, ...]]:
    """Some of the best pairs, answered as `predict` answers them."""
    named = zip(a.tolist(), b.tolist(), predictor.rows(a, b), strict=True)
    return [(ids[0][x], ids[1][y], *row) for x, y, row in named]
