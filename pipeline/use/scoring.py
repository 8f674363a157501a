"""Scores of any pairs of two sets of sequences: each sequence encoded once a fold's model, and fused pair by pair.

The sequences of a side are kept as the models encode them where they fit into `KEPT_BYTES`; the smaller side comes
first.  What does not fit is encoded again for each block of pairs that has it, and counted.  Blocks depend on the pairs
alone, so the same pairs asked for again get the same bits.

Shapes: S distinct sequences of a side, P pairs, K folds, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.model import interaction
from crossllm.model.batch import Packed
from crossllm.pipeline.training.batches import Entities, Rows
from crossllm.pipeline.training.predicting import autocast, bounds
from crossllm.pipeline.use.trained_run import Fold, TrainedRun

KEPT_BYTES = 512 << 20
"""Of encoded sequences kept in memory, both sides and all folds."""
TILE_VALUES = 1 << 21
"""Tokens × width of the model of one side's sequences that are encoded or fused at once."""
FUSED_PAIRS = 1 << 15
"""Most pairs of one call."""
GRID_SIDE = 256
"""Most sequences of a side that are fused with as many of the other at once, all with all."""


OfMembers = tuple[interaction.Encoded, ...]
"""Sequences as each member of one fold's ensemble encodes them."""


class Block(NamedTuple):
    """Pairs that are fused together."""

    pairs: np.ndarray
    """Their places among those asked for."""
    of: tuple[np.ndarray, np.ndarray]
    """Sequences of side A, and of B, that they have, rising."""
    tiles: tuple[np.ndarray, np.ndarray]
    """Those of the two tiles, which are encoded together where a side is not kept."""


class Grid(NamedTuple):
    """Scores of some sequences of A with some of B, all with all."""

    a: np.ndarray
    """(n_a,) rising."""
    b: np.ndarray
    """(n_b,) rising."""
    raw: np.ndarray
    """(K, n_a, n_b) as of `Scorer.scores`."""


class Encoded(NamedTuple):
    """Some sequences of a side as each fold's model encodes them."""

    numbers: np.ndarray
    """Rising."""
    folds: tuple[OfMembers, ...]

    def take(self, numbers: np.ndarray) -> tuple[OfMembers, ...]:
        """Those of these numbers, in their order."""
        if np.array_equal(numbers, self.numbers):
            return self.folds
        places = torch.from_numpy(np.searchsorted(self.numbers, numbers))
        return tuple(tuple(one.take(places) for one in members) for members in self.folds)


class _Tiles(NamedTuple):
    """Sequences in stretches that are encoded together."""

    numbers: list[np.ndarray]
    of_pair: np.ndarray
    """(P,) tile of each pair."""


class Scorer:
    """Scores pairs of numbered sequences by every fold's model of a run.

        scorer = Scorer(run, rows, (keys_a, keys_b), torch.device("cpu"))
        raw = scorer.scores(np.array([0, 0]), np.array([0, 1]))          # (K, 2)

    Args:
        run: whose models.
        rows: of each side, of the run's recipes.
        keys: (S,) of the distinct sequences of each side.
        device: where to compute.
        kept_bytes: of encoded sequences kept.
    """

    def __init__(
        self,
        run: TrainedRun,
        rows: tuple[Rows, Rows],
        keys: tuple[Sequence[bytes], Sequence[bytes]],
        device: torch.device,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._run, self._device = run, device
        self._folds = [fold._replace(model=fold.model.to(device).eval()) for fold in run.folds]
        self._sides = tuple(
            Entities(own, own_keys, run.window, memo_bytes=0) for own, own_keys in zip(rows, keys, strict=True)
        )
        self._tokens = tuple(side.side.tokens for side in self._sides)
        self._tile = max(1, TILE_VALUES // run.config.model.d_model)
        self.keeps = self._fitting(kept_bytes)
        """Whether side A, and side B, is kept encoded."""
        self._kept: list[Encoded | None] = [None, None]
        self.encoded = [0, 0]
        """Encodings of sequences of side A, and of B, by one model each: S · K where each was encoded once."""

    def scores(self, a: np.ndarray, b: np.ndarray, done: Callable[[int], object] = lambda _: None) -> np.ndarray:
        """(K, P) scores from 0 to 1, or affinities, of each fold's model; `done` is told how many pairs are."""
        found = np.empty((len(self._folds), len(a)))
        self._forget()
        for block in self._blocks(a, b):
            found[:, block.pairs] = self._of_block(block, a, b)
            done(len(block.pairs))
        return found

    def grid(self, first: int = 0) -> Iterator[Grid]:
        """Every sequence of A with every one of B, block by block; of each A those of B in rising order, and reversed.

        Each is encoded once by each model, unless neither side is kept.  `first` blocks are left out.
        """
        number = 0
        outer = 1 if self.keeps[0] and not self.keeps[1] else 0
        self._forget()
        for outer_tile in self.tiles(outer):
            for inner_tile in self.tiles(1 - outer):
                tiles = (inner_tile, outer_tile) if outer else (outer_tile, inner_tile)
                for part_a in np.split(tiles[0], range(GRID_SIDE, len(tiles[0]), GRID_SIDE)):
                    for part_b in np.split(tiles[1], range(GRID_SIDE, len(tiles[1]), GRID_SIDE)):
                        number += 1
                        if number > first:
                            yield Grid(part_a, part_b, self._of_grid(part_a, part_b, tiles))

    def _of_grid(self, part_a: np.ndarray, part_b: np.ndarray, tiles: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """(K, n_a, n_b)."""
        a, b = np.repeat(part_a, len(part_b)), np.tile(part_b, len(part_a))
        found = np.empty((len(self._folds), len(a)))
        for pairs in self._cut(np.arange(len(a)), a, b, GRID_SIDE**2):
            of = (part_a, part_b) if len(pairs) == len(a) else (np.unique(a[pairs]), np.unique(b[pairs]))
            found[:, pairs] = self._of_block(Block(pairs, of, tiles), a, b)
        return found.reshape(len(found), len(part_a), len(part_b))

    def encode_all(self) -> None:
        """Encode what is kept, now."""
        for side in (0, 1):
            if self.keeps[side] and self._kept[side] is None:
                self._kept[side] = self._encode_all(side)

    def forget(self) -> None:
        """Encode everything again when it is asked for."""
        self._kept = [None, None]

    def _forget(self) -> None:
        """An earlier call encoded sides that are not kept beside other sequences, and so not to the same bits."""
        for side in (0, 1):
            if not self.keeps[side]:
                self._kept[side] = None

    def tiles(self, side: int) -> list[np.ndarray]:
        """The sequences of a side, (S,), in stretches that are encoded together."""
        return _stretches(np.arange(len(self._tokens[side])), self._tokens[side], self._tile)

    @property
    def bytes_encoded(self) -> tuple[int, int]:
        """Of all sequences of side A, and of B, as every model encodes them."""
        a, b = (encoded_bytes(self._run, int(tokens.sum()), len(tokens)) for tokens in self._tokens)
        return a, b

    def _fitting(self, most: int) -> tuple[bool, bool]:
        """The smaller side first: with it kept, the other is encoded once as well where it is taken tile by tile."""
        sizes, left, found = self.bytes_encoded, most, [False, False]
        for side in sorted((0, 1), key=lambda n: sizes[n]):
            found[side] = sizes[side] <= left
            left -= sizes[side] if found[side] else 0
        return found[0], found[1]

    def _blocks(self, a: np.ndarray, b: np.ndarray) -> Iterator[Block]:
        """The pairs in the order of tiles of A, then of tiles of B, cut where there are too many of them."""
        tiles_a, tiles_b = (self._tiles_of(side, numbers) for side, numbers in ((0, a), (1, b)))
        of_a, of_b = tiles_a.of_pair, tiles_b.of_pair
        # The outer side's encodings serve all tiles of the other; where one side is not kept, it is the outer one.
        outer, inner = (of_b, of_a) if self.keeps[0] and not self.keeps[1] else (of_a, of_b)
        order = np.lexsort((b, a, inner, outer))
        edges = np.flatnonzero(np.diff(outer[order]) | np.diff(inner[order])) + 1
        for part in np.split(order, edges):
            for pairs in self._cut(part, a, b, FUSED_PAIRS):
                tiles = tiles_a.numbers[of_a[pairs[0]]], tiles_b.numbers[of_b[pairs[0]]]
                yield Block(pairs, (np.unique(a[pairs]), np.unique(b[pairs])), tiles)

    def _cut(self, pairs: np.ndarray, a: np.ndarray, b: np.ndarray, most: int) -> list[np.ndarray]:
        """Within `most` pairs, or, where a model mixes the tokens of each joined pair, within a tile of these."""
        if not len(pairs):
            return []
        if not bounds(self._run.config).joined:
            return np.array_split(pairs, range(most, len(pairs), most))
        sizes = self._tokens[0][a[pairs]] + self._tokens[1][b[pairs]]
        return _stretches(pairs, sizes, self._tile)

    def _tiles_of(self, side: int, numbers: np.ndarray) -> _Tiles:
        """Tiles of the sequences that are asked for."""
        distinct, place = np.unique(numbers, return_inverse=True)
        tiles = _stretches(distinct, self._tokens[side][distinct], self._tile)
        return _Tiles(tiles, np.repeat(np.arange(len(tiles)), [len(tile) for tile in tiles])[place])

    def _of_block(self, block: Block, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sides = self._encoded_of(0, block), self._encoded_of(1, block)
        index_a, index_b = (
            torch.from_numpy(np.searchsorted(own, numbers[block.pairs]))
            for own, numbers in zip(block.of, (a, b), strict=True)
        )
        found = []
        with torch.inference_mode(), autocast(self._run.config, self._device):
            for fold, own_a, own_b in zip(self._folds, *sides, strict=True):
                output: Tensor = fold.model.fuse(own_a, own_b, index_a, index_b)
                found.append(fold.target.score(output.float().cpu()))
        return np.stack(found)

    def _encoded_of(self, side: int, block: Block) -> tuple[OfMembers, ...]:
        """A block's sequences as each fold's model encodes them; encoded now where they are not kept."""
        held, tile = self._kept[side], block.tiles[side]
        if held is None or not (self.keeps[side] or np.array_equal(held.numbers, tile)):
            held = self._encode_all(side) if self.keeps[side] else Encoded(tile, self._encode(side, tile))
            self._kept[side] = held
        return held.take(block.of[side])

    def _encode_all(self, side: int) -> Encoded:
        """Every sequence of a side, tile by tile."""
        tiles = self.tiles(side)
        parts = [self._encode(side, tile) for tile in tiles]
        folds = (
            tuple(interaction.Encoded.joined(member) for member in zip(*of_fold, strict=True))
            for of_fold in zip(*parts, strict=True)
        )
        return Encoded(np.arange(len(self._tokens[side])), tuple(folds))

    def _encode(self, side: int, numbers: np.ndarray) -> tuple[OfMembers, ...]:
        rows, _ = self._sides[side].pack(numbers, self._run.config.model.summary_width > 0)
        rows = rows.to(self._device)
        with torch.inference_mode(), autocast(self._run.config, self._device):
            found = tuple(self._by(fold, side, rows) for fold in self._folds)
        self.encoded[side] += len(numbers) * models_of(self._run)
        return found

    @staticmethod
    def _by(fold: Fold, side: int, rows: Packed) -> OfMembers:
        return fold.model.encode_b(rows) if side else fold.model.encode_a(rows)


def encoded_bytes(run: TrainedRun, tokens: int, sequences: int) -> int:
    """Of so many sequences, with so many tokens together, as every model of a run encodes them."""
    own = run.config.model
    return 4 * models_of(run) * (tokens * own.d_model + sequences * own.summary_width)


def models_of(run: TrainedRun) -> int:
    """That encode a sequence: the members of every fold's ensemble."""
    return len(run.folds) * run.config.ensemble


def _stretches(things: np.ndarray, sizes: np.ndarray, most: int) -> list[np.ndarray]:
    """The things in their order, in stretches of at most `most` in sum; one that is larger is a stretch of its own."""
    cuts, total = [], 0
    for n, size in enumerate(sizes.tolist()):
        if total and total + size > most:
            cuts.append(n)
            total = 0
        total += size
    return np.array_split(things, cuts) if len(things) else []
