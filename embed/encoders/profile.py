"""`profile` encoders: per-residue features without weights, every column named, bit-equal alone or batched.

The embedded default of the demo and the tests, and the honest control beside a language model.  A sequence's rows
are one table lookup and a few window sums; `columns(modality)` names them in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from crossllm.cache.records.modality import AMBIGUOUS, CERTAIN
from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders.scales import AMINO_SCALES, BLOSUM62, CONJOINT_TRIAD, NUCLEOTIDE_SCALES, STACKING

VERSION = 1
"""Raise when a column changes; it is part of the recipe."""
NEIGHBOURS = (-3, -2, -1, 1, 2, 3)
"""k-mer context: the class of the residue this far away, all zero beyond an end."""
WINDOW = 10
"""Residues to each side over which local composition is averaged."""


class ProfileEncoder:
    """Implements `crossllm.embed.encoder.Encoder` for rna and protein."""

    name = "profile"
    limit: int | None = None

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self._table = _letter_table(modality)
        self.dim = len(columns(modality))
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        """`(key, outputs)`, one output: rows (L, dim) float32."""
        for record in records:
            codes = np.frombuffer(record.sequence.encode("ascii"), np.uint8)
            yield record.key, (np.concatenate(self._parts(self._table[codes]), axis=1, dtype=np.float32),)

    def _parts(self, base: np.ndarray) -> list[np.ndarray]:
        """Blocks of columns in the order of `columns`; `base` is (L, letter columns) float32."""
        if self.modality == "rna":
            letters = base[:, :4]
            pairs = np.zeros((len(base), 16), np.float32)  # letter here × letter next, 0 at the last nucleotide
            pairs[:-1] = (letters[:-1, :, None] * letters[1:, None, :]).reshape(-1, 16)
            stacking = pairs @ STACKING.reshape(16, 1)
            before = np.concatenate([np.zeros_like(stacking[:1]), stacking[:-1]])
            context = [stacking, before, _shifted(letters), _window_mean(letters), _window_mean(pairs)]
        else:
            classes, scales = base[:, _CLASSES], base[:, _SCALES]
            context = [_shifted(classes), _window_mean(classes), _window_mean(scales)]
        own = base if self.modality == "rna" else base[:, : _CLASSES.start]
        return [own, *context, _position(len(base))]


def columns(modality: str) -> list[str]:
    """Names of the columns for rna or protein, in order: the documentation of a row."""
    letters = list(CERTAIN[modality])
    offsets = [f"{shift:+d}" for shift in NEIGHBOURS]
    window = f"window±{WINDOW}"
    ends = ["relative position", "log10 distance to the nearer end"]
    own = [*(f"is {x}" for x in letters), "is ambiguous"]
    if modality == "rna":
        pairs = [x + y for x in letters for y in letters]
        return [*own, *NUCLEOTIDE_SCALES, "stacking with next", "stacking with previous",
                *(f"{x} at {o}" for o in offsets for x in letters),
                *(f"{x} in {window}" for x in letters), *(f"{xy} in {window}" for xy in pairs), *ends]  # fmt: skip
    return [*own, *(f"BLOSUM62 against {x}" for x in letters), *AMINO_SCALES,
            *(f"class {c} at {o}" for o in offsets for c in CONJOINT_TRIAD),
            *(f"class {c} in {window}" for c in CONJOINT_TRIAD), *(f"{s} in {window}" for s in AMINO_SCALES),
            *ends]  # fmt: skip


def _letter_table(modality: str) -> np.ndarray:
    """(256, letter columns) float32: the columns that depend on the letter alone.

    An ambiguous letter has the mean of the letters it may stand for, and its flag set.
    """
    letters = CERTAIN[modality]
    if modality == "rna":
        certain = np.stack([_one_hot(letters, x) + [0.0] + [s[x] for s in NUCLEOTIDE_SCALES.values()] for x in letters])
    else:
        certain = np.stack([
            _one_hot(letters, x) + [0.0] + [v / 4 for v in BLOSUM62[x]] + [s[x] for s in AMINO_SCALES.values()]
            + [float(x in members) for members in CONJOINT_TRIAD.values()] for x in letters
        ])  # fmt: skip
    table = np.zeros((256, certain.shape[1]))
    for row, letter in zip(certain, letters, strict=True):
        table[ord(letter)] = row
    for letter, members in AMBIGUOUS[modality].items():
        table[ord(letter)] = certain[[letters.index(m) for m in members]].mean(axis=0)
        table[ord(letter), len(letters)] = 1.0
    return table.astype(np.float32)


def _one_hot(letters: str, letter: str) -> list[float]:
    return [float(letter == x) for x in letters]


_SCALES = slice(41, 41 + len(AMINO_SCALES))
"""Where the protein's letter table holds the scales: after 20 letters, 1 flag and 20 BLOSUM62 columns."""
_CLASSES = slice(_SCALES.stop, _SCALES.stop + len(CONJOINT_TRIAD))


def _shifted(x: np.ndarray) -> np.ndarray:
    """(L, len(NEIGHBOURS) · C): what stands this far away, zero beyond an end."""
    length, width = x.shape
    out = np.zeros((length, len(NEIGHBOURS), width), np.float32)
    for i, shift in enumerate(NEIGHBOURS):
        if shift > 0:
            out[:-shift, i] = x[shift:]
        else:
            out[-shift:, i] = x[:shift]
    return out.reshape(length, -1)


def _window_mean(x: np.ndarray) -> np.ndarray:
    """(L, C): mean over the residue and `WINDOW` neighbours to each side, fewer at the ends."""
    sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0, dtype=np.float64)])
    here = np.arange(len(x))
    low, high = np.maximum(here - WINDOW, 0), np.minimum(here + WINDOW + 1, len(x))
    means: np.ndarray = ((sums[high] - sums[low]) / (high - low)[:, None]).astype(np.float32)
    return means


def _position(length: int) -> np.ndarray:
    """(L, 2): where along the sequence, and how far from its nearer end."""
    here = np.arange(length)
    nearer = np.minimum(here, length - 1 - here)
    return np.stack([(here + 0.5) / length, np.log10(1 + nearer)], axis=1).astype(np.float32)
