"""Cache → batches: rows of each distinct entity once a batch, packed without pads.

Shapes: P pairs, L rows of a sequence, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.store.reader import Packed as StoredRows
from crossllm.cache.store.recipe import Recipe
from crossllm.model.batch import Batch, Packed
from crossllm.model.draws import BatchPart, Part
from crossllm.model.standardise import Moments
from crossllm.model.summary import summarise
from crossllm.model.tokens import window_mean
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.data.labels import Task
from crossllm.pipeline.training.prefetch import Place, WaitTime, prefetched
from crossllm.pipeline.training.sampler import Share, Side

CONSTANT = 1e-6
"""A column whose deviation is at most this, or this part of its mean, is constant but for the rounding of float32."""
MEMO_BYTES = 1 << 30
"""Averaged tokens kept in memory, a side; the rest is averaged again each time it is read."""


class Rows(Protocol):
    """Where the rows of a sequence come from: a `CacheReader`, or what stands in for one."""

    folder: Path
    """Named where reading fails."""
    recipe: Recipe

    def __getitem__(self, key: bytes) -> np.ndarray:
        """(L, D) rows of a key."""

    def length(self, key: bytes) -> int:
        """L."""

    def gather(self, keys: Sequence[bytes]) -> StoredRows:
        """Rows of many keys, one after the other, and where each begins."""

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """A hint that these keys are next."""


class Entities:
    """One side's distinct sequences and their tokens, read from a cache when they are needed."""

    def __init__(self, reader: Rows, keys: Sequence[bytes], window: int, memo_bytes: int = MEMO_BYTES) -> None:
        self._memo_most = memo_bytes
        numbers: dict[bytes, int] = {}
        of_pair = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
        self._reader, self._window = reader, window
        self._keys = list(numbers)
        lengths = np.array([reader.length(key) for key in self._keys], np.int64)
        self.side = Side(of_pair, -(-lengths // window))
        self._memo: dict[int, np.ndarray] = {}
        self._statistics: dict[int, Tensor] = {}
        self._memo_bytes = 0
        self._reading = self._keys[:1]
        self.rows_read = 0
        """Rows taken from the reader so far."""

    @property
    def place(self) -> Place:
        """What was asked of the store last."""
        first = f"record {self._reading[0].hex()}" if self._reading else "no record"
        others = f" and {len(self._reading) - 1} more" if len(self._reading) > 1 else ""
        return Place(str(self._reader.folder), first + others)

    def tokens(self, entity: int) -> np.ndarray:
        """(⌈L/window⌉, D): a view of the mapped store at residue level, averages in float32 otherwise."""
        if entity in self._memo:
            return self._memo[entity]
        tokens = window_mean(self._rows(entity), self._window)
        if self._window > 1 and self._memo_bytes + tokens.nbytes <= self._memo_most:
            self._memo[entity] = tokens
            self._memo_bytes += tokens.nbytes
        return tokens

    def moments(self, pairs: np.ndarray) -> Moments:
        """Of each column over the tokens of these pairs' distinct entities, each token counting once."""
        count, mean, squares = 0, np.zeros(()), np.zeros(())  # squares: of the deviations from the mean so far
        for entity in np.unique(self.side.of_pair[pairs]).tolist():
            tokens = self.tokens(entity).astype(np.float64)
            own, new = tokens.mean(0), count + len(tokens)
            # Chan, Golub & LeVeque, Am Stat 1983;37:242, equation 1.5b; E[x²] − E[x]² would leave rounding errors.
            squares = squares + ((tokens - own) ** 2).sum(0) + (own - mean) ** 2 * (count * len(tokens) / new)
            mean, count = mean + (own - mean) * (len(tokens) / new), new
        std = np.sqrt(squares / count)
        std[std <= CONSTANT * np.maximum(np.abs(mean), 1)] = 0
        return Moments(torch.from_numpy(mean).float(), torch.from_numpy(std).float())

    def statistics(self, entity: int) -> Tensor:
        """(4 D,) of its rows (`crossllm.model.summary`), whatever a token averages."""
        if entity in self._statistics:
            return self._statistics[entity]
        rows = torch.tensor(self._rows(entity))  # a copy: the store is read-only
        found = summarise(Packed(rows, torch.tensor([0, len(rows)])))[0]
        if self._memo_bytes + found.nbytes <= self._memo_most:
            self._statistics[entity] = found
            self._memo_bytes += found.nbytes
        return found

    def _rows(self, entity: int) -> np.ndarray:
        """(L, D) of the store, counted."""
        self._reading = [self._keys[entity]]
        rows = self._reader[self._keys[entity]]
        self.rows_read += len(rows)
        return rows

    def statistics_moments(self, pairs: np.ndarray) -> Moments:
        """Of each column of the statistics over these pairs' distinct entities."""
        entities = np.unique(self.side.of_pair[pairs]).tolist()
        values = torch.stack([self.statistics(entity) for entity in entities]).double()
        mean, std = values.mean(0), values.std(0, correction=0)
        std[std <= CONSTANT * mean.abs().clamp(min=1)] = 0
        return Moments(mean.float(), std.float())

    def prefetch(self, pairs: np.ndarray) -> None:
        """Tell the system that these pairs are next; averages are kept in memory and need none of it."""
        if self._window == 1:
            self._reader.prefetch(self._keys[entity] for entity in np.unique(self.side.of_pair[pairs]).tolist())

    def part_of(self, batch: np.ndarray, own: np.ndarray) -> tuple[Part, Part]:
        """Which of the tokens, and of the entities, of a batch of pairs these of its pairs have."""
        distinct = np.unique(self.side.of_pair[batch])
        places = np.searchsorted(distinct, np.unique(self.side.of_pair[own]))
        lengths = self.side.tokens[distinct]
        ends = np.cumsum(lengths)
        rows = np.concatenate([np.arange(ends[n] - lengths[n], ends[n]) for n in places.tolist()])
        return Part(torch.from_numpy(rows), int(ends[-1])), Part(torch.from_numpy(places), len(distinct))

    def pack(self, pairs: np.ndarray, statistics: bool) -> tuple[Packed, Tensor]:
        """The tokens of these pairs' distinct entities, and what else a model may read, and each pair's index."""
        distinct, index = np.unique(self.side.of_pair[pairs], return_inverse=True)
        held = torch.stack([self.statistics(entity) for entity in distinct.tolist()]) if statistics else None
        if self._window == 1:
            self._reading = [self._keys[entity] for entity in distinct.tolist()]
            rows, offsets = self._reader.gather(self._reading)
            self.rows_read += len(rows)
            return Packed(torch.from_numpy(rows), torch.from_numpy(offsets), held), torch.from_numpy(index)
        parts = [self.tokens(entity) for entity in distinct.tolist()]
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        packed = Packed(torch.from_numpy(np.concatenate(parts)), torch.from_numpy(offsets), held)
        return packed, torch.from_numpy(index)


class PairBatches:
    """Makes `Batch`es of pairs: of a dataset's, or of any keys."""

    def __init__(
        self,
        readers: tuple[Rows, Rows],
        a_keys: Sequence[bytes],
        b_keys: Sequence[bytes],
        window: int,
        task: Task,
        labels: np.ndarray,
    ) -> None:
        self._a = Entities(readers[0], a_keys, window)
        self._b = Entities(readers[1], b_keys, window)
        self._packing = self._a
        self.task = task
        self.labels = labels
        """(P,) float64."""
        self.sides = self._a.side, self._b.side
        self.waiting = WaitTime()
        self.dims = readers[0].recipe.dim, readers[1].recipe.dim
        """Width of the rows of A and of B."""

    @classmethod
    def of_dataset(cls, dataset: Dataset, readers: tuple[Rows, Rows], window: int) -> PairBatches:
        """Of a dataset's pairs."""
        return cls(readers, dataset.a_keys, dataset.b_keys, window, dataset.task, dataset.labels)

    @classmethod
    def of_keys(
        cls,
        readers: tuple[Rows, Rows],
        a_keys: Sequence[bytes],
        b_keys: Sequence[bytes],
        window: int,
        task: Task,
    ) -> PairBatches:
        """Of pairs that have no labels."""
        return cls(readers, a_keys, b_keys, window, task, np.zeros(len(a_keys)))

    @property
    def rows_read(self) -> int:
        """Rows of both sides taken from the cache so far."""
        return self._a.rows_read + self._b.rows_read

    def with_labels(self, labels: np.ndarray) -> PairBatches:
        """The same pairs, and the same tokens in memory, with other labels (P,)."""
        other = copy.copy(self)
        other.labels = labels
        return other

    def collate(self, pairs: np.ndarray, statistics: bool = True) -> Batch:
        """The batch of these pairs, in this order, with the rows' statistics for a model that has summaries."""
        self._packing = self._a
        a, a_index = self._a.pack(pairs, statistics)
        self._packing = self._b
        b, b_index = self._b.pack(pairs, statistics)
        return Batch(a, b, a_index, b_index, torch.from_numpy(self.labels[pairs].astype(np.float32)))

    def part_of(self, batch: np.ndarray, share: Share) -> BatchPart:
        """What a share has of its batch."""
        (tokens_a, entities_a), (tokens_b, entities_b) = (
            side.part_of(batch, share.pairs) for side in (self._a, self._b)
        )
        pairs = Part(torch.arange(share.first, share.first + len(share.pairs)), len(batch))
        return BatchPart((tokens_a, tokens_b), (entities_a, entities_b), pairs)

    def moments(self, pairs: np.ndarray) -> tuple[Moments, Moments]:
        """Mean and deviation of each column over the tokens of these pairs' distinct entities, of both sides."""
        return self._a.moments(pairs), self._b.moments(pairs)

    def statistics_moments(self, pairs: np.ndarray) -> tuple[Moments, Moments]:
        """The same of the entities' statistics (`crossllm.model.summary`)."""
        return self._a.statistics_moments(pairs), self._b.statistics_moments(pairs)

    def stream(self, parts: Sequence[np.ndarray], statistics: bool = True) -> Iterator[Batch]:
        """The batch of each part (`collate`), in order; the next one is read and packed while the last is used."""

        def make(number: int) -> Batch:
            if number + 1 < len(parts):
                self._a.prefetch(parts[number + 1])
                self._b.prefetch(parts[number + 1])
            return self.collate(parts[number], statistics)

        return prefetched(make, range(len(parts)), self.waiting, lambda: self._packing.place)
