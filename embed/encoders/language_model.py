"""A language model as an `Encoder`: letters → tokens → `crossllm.embed.engine.transformer` → one row a letter.

A model is a `Published`: its design, and the forms in which its weights are published.  Each of `esm2.py`,
`rinalmo.py`, `rnafm.py` and `rnabert.py` beside this file is such a description and nothing else.
Shapes: L letters of a sequence, T packed tokens, D width.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossllm.cache.errors import InputError
from crossllm.cache.records.modality import UNITS
from crossllm.cache.records.record import Record
from crossllm.embed.encoder import FIXED, PRODUCTS, Loading, NotEncoded, Outputs
from crossllm.embed.encoders.batches import Batches, Landing, Piece
from crossllm.embed.encoders.windows import Window, by_budget, windows
from crossllm.embed.engine.device import device_of, fetch, to_device
from crossllm.embed.engine.transformer import Design, Transformer, expected_shapes
from crossllm.embed.weights.checkpoint import read_verified, select_tensors
from crossllm.embed.weights.hf_config import Config, refuse_other_config

SORTED_BATCHES = 16
"""Batches whose sequences are sorted by length together: attention takes sequences of one length in one call."""
Tensors = dict[str, Tensor]


class Alphabet(NamedTuple):
    """Letters and the tokens around them."""

    letters: str
    """The token of `letters[i]` is `first + i`."""
    first: int
    size: int
    """All tokens, special ones too: rows of the table of tokens."""
    unknown: int
    unknown_name: str
    start: int | None = None
    """Token before a sequence; None where there is none."""
    end: int | None = None
    pad: int = 0

    def table(self) -> np.ndarray:
        """(128,) ASCII code → token."""
        tokens = np.full(128, self.unknown, np.int64)
        tokens[[ord(letter) for letter in self.letters]] = np.arange(self.first, self.first + len(self.letters))
        return tokens


class Form(NamedTuple):
    """One form in which weights are published."""

    mark: str
    """Pattern of a tensor's name that only this form has."""
    alphabet: Alphabet
    convert: Callable[[Tensors], Tensors]
    """Published tensors → the names of `crossllm.embed.engine.transformer.expected_shapes`."""
    unused: str
    """Pattern of names, after the conversion, that may be there."""
    config: Config | None = None
    """What a `config.json` beside the weights must say; None where this form has none."""


class Published(NamedTuple):
    """A model, and the forms of its weights.  `Design.letters` is the form's."""

    design: Design
    forms: tuple[Form, ...]


def renaming(*rules: tuple[str, str]) -> Callable[[Tensors], Tensors]:
    """A conversion that applies these regular expressions to each name, one after the other."""

    def convert(found: Tensors) -> Tensors:
        named = {}
        for name, tensor in found.items():
            for pattern, by in rules:
                name = re.sub(pattern, by, name)
            named[name] = tensor
        return named

    return convert


class LanguageModel:
    """Implements `crossllm.embed.encoder.Encoder`."""

    def __init__(self, loading: Loading, published: Published, padded_to: int | None = None) -> None:
        recipe = loading.recipe
        self.name, self.modality, self.dim = recipe.encoder, recipe.modality, recipe.dim
        self.limit: int | None = None
        self.notes: Counter[str] = Counter()
        self._policy, self._batch_tokens, self._padded_to = recipe.long, loading.batch_tokens, padded_to
        self._device = device_of(loading.device)
        fixed_shape = recipe.options.get(PRODUCTS) == FIXED
        if fixed_shape and self._device.type != "cpu":
            raise InputError(f"--device {loading.device}: {PRODUCTS}={FIXED} is for the CPU; use --device cpu")
        found = read_verified(loading)
        marked = (form for form in published.forms if any(re.match(form.mark, name) for name in found))
        form = next(marked, published.forms[0])
        design = published.design._replace(letters=form.alphabet.size)
        assert loading.weights is not None  # find_encoder asked for it
        if form.config is not None:
            refuse_other_config(loading.weights, self.name, form.config)
        tensors = select_tensors(loading.weights, form.convert(found), expected_shapes(design), form.unused)
        del found  # the model takes each tensor out of `tensors` as it loads it, and nothing else is to hold it
        self._alphabet, self._tokens = form.alphabet, form.alphabet.table()
        self._specials = (form.alphabet.start is not None) + (form.alphabet.end is not None)
        self._compute = recipe.compute
        self._stored = [getattr(torch, output.dtype) for output in loading.recipes]
        self._layers = [design.layers if output.layer is None else int(output.layer) for output in loading.recipes]
        compute = getattr(torch, recipe.compute)
        self._model = Transformer(tensors, design, compute, self._device, fixed_shape=fixed_shape)
        self._batches = Batches(self._launch, loading.batch_tokens, self._device)

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
        """`(key, outputs)`: rows (L, D) float32 of each layer, or from CUDA in the type stored where that holds them.

        A sequence that does not fit into memory, or one of its windows, is `NotEncoded`.
        """
        known = set(self._alphabet.letters)
        for group in by_budget(records, SORTED_BATCHES * self._batch_tokens):
            if unknown := sum(not set(record.sequence) <= known for record in group):
                self.notes[f"with letters that have no token, encoded as {self._alphabet.unknown_name}"] += unknown
            cut = [windows(record.length, self._policy) for record in group]
            waiting = [len(own) for own in cut]
            pieces = (self._piece(n, group[n], window) for n, own in enumerate(cut) for window in own)
            rows: dict[int, Outputs] = {}
            for (n, window, text, _), parts in self._batches.run(pieces):
                record = group[n]
                if parts is None:
                    rows.pop(n, None)
                    yield record.key, NotEncoded(self._does_not_fit(len(text)))
                    continue
                if n not in rows:
                    rows[n] = tuple(np.empty((cut[n][-1].keep_to, self.dim), part.dtype) for part in parts)
                rows[n] = tuple(_joined(own, window, part) for own, part in zip(rows[n], parts, strict=True))
                waiting[n] -= 1
                # At once, so that a stop loses no more than a batch, and the longest do not hold up the others.
                if not waiting[n]:
                    yield record.key, rows.pop(n)

    def _piece(self, n: int, record: Record, window: Window) -> Piece:
        text = record.sequence[window.start : window.stop]
        return Piece(n, window, text, self._padded_to or len(text) + self._specials)

    def _launch(self, pieces: Sequence[Piece]) -> Landing:
        """Start the pieces as one batch; what is returned gives the outputs of each, without special tokens' rows."""
        ids = [self._ids(piece.text) for piece in pieces]
        lengths = [len(i) for i in ids]
        packed = to_device(np.concatenate(ids), self._device)
        found = self._model.rows(packed, lengths, self._layers)
        arrived = [fetch(rows, stored) for rows, stored in zip(found, self._stored, strict=True)]
        starts = np.cumsum([self._alphabet.start is not None, *lengths])

        def land() -> list[Outputs]:
            layers = [rows() for rows in arrived]
            return [
                tuple(rows[s : s + len(piece.text)] for rows in layers)
                for s, piece in zip(starts, pieces, strict=False)
            ]

        return land

    def _does_not_fit(self, letters: int) -> str:
        ways = ["--long window"] * (self._policy == "whole") + ["--compute bfloat16"] * (self._compute != "bfloat16")
        what = f"{letters:,} {UNITS[self.modality]} at once do not fit on {self._device}"
        return f"out of memory: {what}; use {' or '.join([*ways, 'a device with more memory'])}"

    def _ids(self, sequence: str) -> np.ndarray:
        """Tokens of a sequence, those before and after it too."""
        alphabet = self._alphabet
        tokens = self._tokens[np.frombuffer(sequence.encode("ascii"), np.uint8)]
        before, after = ([] if t is None else [t] for t in (alphabet.start, alphabet.end))
        pads = [alphabet.pad] * (0 if self._padded_to is None else self._padded_to - len(sequence))
        return np.concatenate([np.array(before, np.int64), tokens, np.array([*after, *pads], np.int64)])


def _joined(own: np.ndarray, window: Window, part: np.ndarray) -> np.ndarray:
    """The rows of a sequence, (L, D), with those that one of its windows gives; in float32 where the two types differ.

    float16 from CUDA does not hold every value, so that two windows may come in two types.
    """
    own = own if own.dtype == part.dtype else own.astype(np.float32)
    own[window.keep_from : window.keep_to] = part[window.keep_from - window.start : window.keep_to - window.start]
    return own
