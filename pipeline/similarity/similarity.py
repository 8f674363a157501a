"""`similarity_of`: the clusters and identities of a dataset's sequences, computed once and kept beside it.

    similarity/<modality>-<32 hex>.npz      first, second, identity of the similar pairs; or group of each molecule

The hex digits are the start of a SHA-256 over the sequences' keys and all that decides the outcome.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import one_line
from crossllm.cache.files import fsio
from crossllm.pipeline.data.dataset import Dataset
from crossllm.pipeline.data.sequences import read_sequences
from crossllm.pipeline.similarity.alignment import SCORING, align_all
from crossllm.pipeline.similarity.hits import Hits
from crossllm.pipeline.similarity.mmseqs import RNA_KMER, SENSITIVITY, search_all
from crossllm.pipeline.similarity.molecules import groups, tanimoto_all
from crossllm.pipeline.similarity.rules import COVERAGE, E_VALUE, EXACT_SEQUENCES, FLOOR, SHORT, Rule

if TYPE_CHECKING:
    from scipy import sparse

FORMAT = 1
_COLUMNS = ("first", "second", "identity")


class Similarity(NamedTuple):
    """Of the S distinct sequences of a side."""

    keys: list[bytes]
    """In ascending order."""
    component: np.ndarray
    """(S,) cluster of each."""
    identity: sparse.csr_matrix
    """(S, S) float32, symmetric, 1 on the diagonal: identity of the pairs that pass coverage and E-value and reach the
    floor (`rules.FLOOR`); of molecules, Tanimoto of ECFP4."""
    rule: Rule
    method: str
    """How it was computed, in words."""

    def numbers(self, keys: Iterable[bytes]) -> np.ndarray:
        """(P,) place of each key in `keys`."""
        place = {key: n for n, key in enumerate(self.keys)}
        return np.array([place[key] for key in keys], np.int64)


def similarity_of(dataset: Dataset, side: str, cache_dir: Path, rule: Rule, *, quiet: bool = False) -> Similarity:
    """The similarity of the sequences that stand on a side; where both sides are of one modality, of both together.

    Args:
        dataset: the pairs; the sequences of all of them are compared.
        side: a or b.
        cache_dir: the dataset's folder, in which the outcome is kept.
        rule: of the side's modality.
        quiet: no progress bar.

    Raises:
        InputError: MMseqs2 is needed and cannot run.
        CacheCorrupt: the dataset's file of sequences is not as it was imported.
    """
    keys = dataset.a_keys if side == "a" else dataset.b_keys
    distinct = sorted({*dataset.a_keys, *dataset.b_keys} if dataset.one_modality else set(keys))
    floor = min(FLOOR[rule.modality], rule.identity)
    kept = _Kept(cache_dir, rule.modality, distinct)
    if rule.modality == "molecule":
        hits = kept.hits(f"ecfp {floor}", lambda sequences: tanimoto_all(sequences, floor, quiet=quiet))
        if rule.molecules == "ecfp":
            return Similarity(distinct, hits.components(rule.identity), hits.matrix(), rule, "ECFP4")
        component = kept.array(f"group {rule.molecules}", lambda sequences: groups(sequences, rule.molecules))
        return Similarity(distinct, component, hits.matrix(), rule, "RDKit")
    terms = f"{COVERAGE} {E_VALUE} {floor}"
    if len(distinct) <= EXACT_SEQUENCES:
        how = f"exact {SCORING[rule.modality]} {terms}"
        hits = kept.hits(how, lambda sequences: align_all(sequences, rule.modality, floor, quiet=quiet))
        return Similarity(distinct, hits.components(rule.identity), hits.matrix(), rule, "exact alignment")
    how = f"mmseqs {SENSITIVITY} {RNA_KMER} exact {SHORT} {SCORING[rule.modality]} {terms}"
    hits = kept.hits(how, lambda sequences: _searched(sequences, rule.modality, floor, quiet))
    return Similarity(distinct, hits.components(rule.identity), hits.matrix(), rule, "MMseqs2, which misses some")


def _searched(sequences: list[str], modality: str, floor: float, quiet: bool) -> Hits:
    """What MMseqs2 finds, and of the short ones, which hold too few of its k-mers, what exact alignment finds."""
    found = search_all(sequences, modality, floor, quiet=quiet)
    short = sorted((n for n, s in enumerate(sequences) if len(s) <= SHORT), key=lambda n: len(sequences[n]))
    short = sorted(short[:EXACT_SEQUENCES])
    exact = align_all([sequences[n] for n in short], modality, floor, quiet=quiet)
    both = {(i, j): identity for i, j, identity in zip(*(c.tolist() for c in found[1:]), strict=True)}
    for i, j, identity in zip(*(c.tolist() for c in exact[1:]), strict=True):
        both[short[i], short[j]] = identity
    return Hits.of(len(sequences), [(i, j, identity) for (i, j), identity in both.items()])


class _Kept:
    """What was computed of these sequences before, by what it was computed from."""

    def __init__(self, cache_dir: Path, modality: str, keys: Sequence[bytes]) -> None:
        self._cache_dir, self._modality, self._keys = cache_dir, modality, keys

    def hits(self, how: str, make: Callable[[list[str]], Hits]) -> Hits:
        """Similar pairs."""
        found = self._kept(how, _COLUMNS, lambda sequences: dict(zip(_COLUMNS, make(sequences)[1:], strict=True)))
        return Hits(len(self._keys), *(found[name] for name in _COLUMNS))

    def array(self, how: str, make: Callable[[list[str]], np.ndarray]) -> np.ndarray:
        """A number for each sequence."""
        return self._kept(how, ("values",), lambda sequences: {"values": make(sequences)})["values"]

    def _kept(
        self, how: str, names: Sequence[str], make: Callable[[list[str]], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        digest = hashlib.sha256(f"{FORMAT} {how}\n".encode() + b"".join(self._keys)).hexdigest()
        path = self._cache_dir / "similarity" / f"{self._modality}-{digest[:32]}.npz"
        if (found := _load(path, names)) is not None:
            return found
        sequences = read_sequences(self._cache_dir, self._modality)
        found = make([sequences[key] for key in self._keys])
        data = io.BytesIO()
        np.savez(data, **found)  # type: ignore[arg-type]
        try:
            fsio.make_dirs(path.parent)
            fsio.replace(path, data.getvalue())
        except OSError as error:
            note(f"note: {path.parent}: {one_line(error, 100)}; the comparison of sequences is not kept")
        return found


def _load(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of these names, as kept; None where nothing is, or cannot be read: it is computed again then."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in names}  # the zip's CRC-32 is checked here
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        note(f"note: {path}: {one_line(error, 100)}; computed again")
        return None
