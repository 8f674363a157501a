"""A run that is ready for new pairs: rows of all their sequences at hand, their nearness known, the models loaded.

Shapes: P pairs, S distinct sequences of a side.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.record_list import RecordList, Records
from crossllm.cache.store.joined_reader import parts_of, recipes_of
from crossllm.cache.store.recipe import Recipe
from crossllm.cache.store.store_folder import store_folder
from crossllm.pipeline.use import answers, domain
from crossllm.pipeline.use.embedding import Asked, embed
from crossllm.pipeline.use.partners import Partners
from crossllm.pipeline.use.rows import RowsOfRun, open_chained
from crossllm.pipeline.use.run_data import RunData
from crossllm.pipeline.use.scoring import Scorer
from crossllm.pipeline.use.trained_run import TrainedRun

COLUMNS = (*answers.COLUMNS, *domain.COLUMNS)
"""What is added to a pair."""
NUMBERS = dict.fromkeys(("score", "score_low", "score_high", "uncertainty", "nearest_a", "nearest_b"), "float")


class Where(NamedTuple):
    """Where rows come from that the run's cache lacks."""

    cache_dir: Path | None = None
    """Cache that is read and written beside the run's; None: new rows go into the run's."""
    weights: tuple[Path | None, Path | None] = (None, None)
    """Of each side's encoder; None: the pulled ones."""
    device: str = "cpu"


class Embedding(NamedTuple):
    """What was embedded for one side, in distinct sequences."""

    asked: int
    """That had no rows; an encoder was loaded for them."""
    failures: dict[int, str]
    """Number of the sequence → its id, and why it has no rows."""

    @property
    def embedded(self) -> int:
        """That have rows now."""
        return self.asked - len(self.failures)


class Predictor:
    """Answers to pairs of numbered sequences.

        predictor = Predictor(run, data, partners, Where())
        predictor.embed()
        rows = predictor.rows(np.array([0]), np.array([3]))          # one tuple of COLUMNS a pair

    Args:
        run: a finished one.
        data: its own.
        partners: of both sides; every sequence that is asked for has its number.
        where: rows come from.
        quiet: no progress bar.
    """

    def __init__(
        self, run: TrainedRun, data: RunData, partners: tuple[Partners, Partners], where: Where, *, quiet: bool = False
    ) -> None:
        self.run, self.data, self.partners = run, data, partners
        self._where, self._quiet = where, quiet
        self._scorer: Scorer | None = None
        self._near: tuple[domain.Nearness, domain.Nearness] | None = None

    def missing(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the sequences of either side that no cache has rows of."""
        found = [
            np.flatnonzero(rows.absent(side.keys)) for rows, side in zip(self.joined(), self.partners, strict=True)
        ]
        return found[0], found[1]

    def embed(self) -> tuple[Embedding, Embedding]:
        """Embed what has no rows yet by the run's recipes; no encoder is loaded where nothing is missing.

        Raises:
            InputError: the rows were imported, weights that are not at hand or are others, a sequence beyond the
                encoder's limit, or a cache that cannot be written.
            Conflict: this version's encoder makes other rows.
        """
        done = []
        for place, side in enumerate(self.partners):
            missing = self.missing()[place].tolist()
            failures: dict[bytes, str] = {}
            parts, weights = recipes_of(self.data.recipes[place]), self._where.weights[place]
            for recipe, rows in zip(parts, parts_of(self.joined()[place]), strict=True):
                if own := np.flatnonzero(rows.absent(side.keys)).tolist():
                    named = weights if len(parts) == 1 or recipe.weights is not None else None
                    failures |= self._embed(recipe, side, own, named)
            failed = [n for n in missing if side.keys[n] in failures]
            of_failed = zip(failed, side.records(failed), strict=True)
            why = {n: f"{printable(record.id)}: {failures[record.key]}" for n, record in of_failed}
            done.append(Embedding(len(missing), why))
        return done[0], done[1]

    def _embed(self, recipe: Recipe, side: Partners, missing: list[int], weights: Path | None) -> dict[bytes, str]:
        target = self._where.cache_dir or self.data.cache_dir
        store = store_folder(target)
        there = next(folder for folder in (store, *store.absolute().parents) if folder.exists())
        if not os.access(there, os.W_OK):
            raise InputError(
                f"{store}: cannot be written, and {len(missing)} {side.modality} sequences have no rows there, first "
                f"{printable(side.records(missing[:1])[0].id)}; name a folder for new rows by --cache DIR"
            )
        records = Records(side.modality, RecordList.of(side.records(missing)), Counter(), [])
        flag = f"--weights-{side.side}"
        source = side.source or self.data.cache_dir
        asked = Asked(target, recipe, records, source, weights, flag)
        return embed(asked, device=self._where.device, quiet=self._quiet)

    @property
    def scorer(self) -> Scorer:
        """The models, made when they are first asked for: every sequence has its number and its rows by then."""
        if self._scorer is None:
            keys = self.partners[0].keys, self.partners[1].keys
            self._scorer = Scorer(self.run, self.joined(), keys, torch.device(self._where.device))
        return self._scorer

    @property
    def near(self) -> tuple[domain.Nearness, domain.Nearness]:
        """How near each side's sequences are to training, compared when it is first asked for."""
        if self._near is None:
            a, b = (
                domain.nearness(self.data, side.side, side.keys, side.sequences, quiet=self._quiet)
                for side in self.partners
            )
            self._near = a, b
        return self._near

    def rows(
        self, a: np.ndarray, b: np.ndarray, done: Callable[[int], object] = lambda _: None
    ) -> list[tuple[str, ...]]:
        """`COLUMNS` of each pair as text, in the order of the pairs; `done` is told how many are scored."""
        found = answers.answers(self.run, self.scorer.scores(a, b, done))
        return self.in_words(found, a, b)

    def in_words(self, found: answers.Answers, a: np.ndarray, b: np.ndarray) -> list[tuple[str, ...]]:
        """`COLUMNS` of pairs whose answers are known, as text."""
        near_a, near_b = self.near
        number = _affinity if self.run.task == "regression" else _probability
        calls = [number(value) if self.run.task == "regression" else str(value) for value in found.predicted.tolist()]
        columns = (
            *([number(value) for value in values.tolist()] for values in found[:4]),
            calls,
            *([f"{value:.4g}" for value in own.tolist()] for own in (near_a.identity[a], near_b.identity[b])),
            domain.domains(near_a, near_b, a, b).tolist(),
        )
        return list(zip(*columns, strict=True))

    def numbers(self) -> dict[str, str]:
        """Those of `COLUMNS` that are numbers, and of which kind."""
        return NUMBERS | {"predicted": "float" if self.run.task == "regression" else "int"}

    def digest(self, *more: str) -> str:
        """Of all that decides an answer: models, recipes, training sequences, the sequences asked for, and `more`."""
        found = hashlib.sha256()
        for fold in self.run.folds:
            found.update(repr(fold._replace(model=None)).encode())  # type: ignore[arg-type]
            for name, tensor in sorted(fold.model.state_dict().items()):
                found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        settings = [self._where.device, *self.run.recipes, str(self.run.window), repr(self.data.rules), *more]
        found.update("\0".join(settings).encode())
        for side, trained in zip(self.partners, self.data.trained, strict=True):
            for keys in (side.keys, sorted(trained)):
                found.update(len(keys).to_bytes(8, "big") + b"".join(keys))
        return found.hexdigest()

    def joined(self) -> tuple[RowsOfRun, RowsOfRun]:
        """Rows of either side, of all caches."""
        other = self._where.cache_dir
        folders = [self.data.cache_dir, *([] if other is None else [other])]
        a, b = (open_chained(folders, recipe) for recipe in self.data.recipes)
        return a, b


def _probability(value: float) -> str:
    """Six decimals; nothing for what is not defined."""
    return "" if np.isnan(value) else f"{value:.6f}"


def _affinity(value: float) -> str:
    """Nine digits, more than float32 has; nothing for what is not defined."""
    return "" if np.isnan(value) else f"{value:.9g}"
