"""k-mers, fingerprints and single numbers against counts made by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from crossllm.cache import InputError
from crossllm.pipeline.features import letters as letters_module
from crossllm.pipeline.features.descriptors import describe, single_numbers
from crossllm.pipeline.features.fingerprints import BITS, morgan
from crossllm.pipeline.features.kmers import KMERS, RESIDUE_CLASSES, kmer_counts, kmers


def counted(sequence: str, classes: tuple[str, ...], k: int) -> list[int]:
    """The slow way."""
    of = {letter: number for number, letters in enumerate(classes) for letter in letters}
    words = Counter(sequence[i : i + k] for i in range(len(sequence) - k + 1))
    found = [0] * len(classes) ** k
    for word, times in words.items():
        if all(letter in of for letter in word):
            found[sum(of[letter] * len(classes) ** (k - 1 - i) for i, letter in enumerate(word))] += times
    return found


def test_rna_words_of_an_example_counted_by_hand() -> None:
    found = kmers(["AACGU"], "rna")[0] * 5
    assert found.shape == (4 + 16 + 64 + 256,)
    np.testing.assert_allclose(found[:4], [2, 1, 1, 1])  # A C G U
    assert np.flatnonzero(found[4:20] > 0.5).tolist() == [0, 1, 6, 11]  # AA AC CG GU
    assert np.flatnonzero(found[20:84] > 0.5).tolist() == [1, 6, 27]  # AAC ACG CGU
    assert np.flatnonzero(found[84:] > 0.5).tolist() == [6, 27]  # AACG ACGU


def test_protein_classes_of_an_example_counted_by_hand() -> None:
    found = kmers(["AGRC"], "protein")[0] * 4
    assert found.shape == (7 + 49 + 343 + 20 + 400,)
    np.testing.assert_allclose(found[:7], [2, 0, 0, 0, 1, 0, 1])  # {AGV} twice, {RK}, {C}
    assert np.flatnonzero(found[7:56] > 0.5).tolist() == [0, 4, 34]  # 00 04 46
    assert np.flatnonzero(found[56:399] > 0.5).tolist() == [4, 34]  # 004 046
    np.testing.assert_allclose(found[399:419], [1, 1, 0, 0, 0, 1] + 8 * [0] + [1] + 5 * [0])  # A C G R
    assert sorted("".join(RESIDUE_CLASSES)) == sorted("ACDEFGHIKLMNPQRSTVWY")


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_words_are_those_of_the_slow_way(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Also with unknown letters, sequences shorter than a word, and in blocks."""
    monkeypatch.setattr(letters_module, "AT_ONCE", at_once)
    for modality, letters in (("rna", "ACGUN"), ("protein", "ACDEFGHIKLMNPQRSTVWYX")):
        sequences = ["".join(rng.choice(list(letters), size)) for size in (1, 2, 3, 40, 7, 120)]
        for alphabet in KMERS[modality]:
            for k in alphabet.sizes:
                found = kmer_counts(sequences, alphabet.classes, k)
                assert found.tolist() == [counted(sequence, alphabet.classes, k) for sequence in sequences], (
                    modality,
                    k,
                )


def test_fingerprints_say_which_substructures_there_are() -> None:
    bits = morgan(["CCO", "CCCO", "c1ccccc1", "C"])
    assert bits.shape == (4, BITS)
    assert set(np.unique(bits).tolist()) == {0, 1}
    # By hand, environments of ethanol: three atoms, three with their neighbours (of C-C-O two more, once each) …
    assert bits[3].sum() == 1, "methane has one environment"
    assert bits[2].sum() == 3, "of benzene's six equal atoms there is one of each radius"
    shared = (bits[0] & bits[1]).sum()
    assert shared >= 4, "CH3, CH2, OH and C-OH stand in both alcohols"
    assert (bits[0] & bits[2]).sum() == 0
    with pytest.raises(InputError, match="RDKit cannot read it"):
        morgan(["C(("])


def test_one_number_of_a_sequence() -> None:
    found = single_numbers(["GGAU", "AUNC"], "rna")
    assert found["length"].tolist() == [4, 4]
    assert found["GC"].tolist() == [0.5, 0.25]
    assert single_numbers(["MKV"], "protein").keys() == {"length"}
    assert single_numbers(["CCO", "c1ccccc1Cl"], "molecule")["length"].tolist() == [3, 7]


def test_descriptors_are_as_wide_as_the_modality_says() -> None:
    widths = [describe([text], modality).shape for text, modality in
              (("ACGU", "rna"), ("MKV", "protein"), ("CCO", "molecule"))]  # fmt: skip
    assert widths == [(1, 340), (1, 819), (1, 2048)]
    assert describe(["CCO"], "molecule").dtype == np.float32
