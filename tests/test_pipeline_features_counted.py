"""Transitions, pseudo composition, GC and spectra against counts made by hand."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, pstdev

import numpy as np
import pytest

from crossllm.pipeline.features import letters as letters_module
from crossllm.pipeline.features.ctd import PROPERTIES, ctd, protein_ctd, rna_ctd
from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUES, Alphabet, kmer_shares
from crossllm.pipeline.features.nucleotides import POTENTIAL, eiip_spectrum, gc_shares
from crossllm.pipeline.features.pseudo import RESIDUE_PROPERTIES, STEP_PROPERTIES, pseudo_protein, pseudo_rna

STEPS = [a + b for a in NUCLEOTIDES for b in NUCLEOTIDES]


def test_composition_transition_and_distribution_of_an_example_counted_by_hand() -> None:
    found = rna_ctd(["AACGUA"])[0]
    assert found.shape == (4 + 6 + 20,)
    np.testing.assert_allclose(found[:4] * 6, [3, 1, 1, 1])  # A C G U
    np.testing.assert_allclose(found[4:10] * 5, [1, 0, 1, 1, 0, 1])  # AC AG AU CG CU GU; UA counts as AU
    # A stands at 1, 2 and 6: the first; ¾ of a letter, 1½, 2¼ rounded down; all three.
    np.testing.assert_allclose(found[10:15] * 6, [1, 1, 1, 2, 6], rtol=1e-6)
    np.testing.assert_allclose(found[15:] * 6, 5 * [3] + 5 * [4] + 5 * [5], rtol=1e-6)


def test_classes_that_are_absent_and_letters_of_no_class() -> None:
    found = ctd(["RGXG", "X", ""], ("RK", "G", "C"))
    np.testing.assert_allclose(found[0, :3] * 4, [1, 2, 0])
    np.testing.assert_allclose(found[0, 3:6] * 3, [1, 0, 0])  # GX and XG are no pair of two classes
    np.testing.assert_allclose(found[0, 6:] * 4, [1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 0, 0, 0, 0, 0])
    assert not found[1:].any()


def test_a_protein_has_188_numbers() -> None:
    found = protein_ctd(["MKVLA", "CC"])
    assert found.shape == (2, 20 + 8 * 21)
    assert found[1, 1] == 1.0  # all cysteine
    for name, classes in PROPERTIES.items():
        assert sorted("".join(classes)) == sorted(RESIDUES), name
    # Charge is the fifth: K alone is positive, nothing is negative; M|K and K|V are its only borders.
    charge = found[0, 20 + 4 * 21 : 20 + 5 * 21]
    np.testing.assert_allclose(charge[:6], [0.2, 0.8, 0, 0.5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(charge[6:] * 5, [2, 2, 2, 2, 2, 1, 1, 3, 4, 5, 0, 0, 0, 0, 0], rtol=1e-6)


def distance(properties: dict[str, tuple[float, ...]], first: int, second: int) -> float:
    """The slow way."""
    return fmean(((p[first] - p[second]) / pstdev(p)) ** 2 for p in properties.values())


def test_pseudo_composition_of_examples_counted_by_hand() -> None:
    alike, other = pseudo_protein(["AAAA", "ACA"])
    assert alike.tolist() == [1.0] + 21 * [0.0], "letters that are all the same differ by nothing"
    # θ₁: A and C differ, twice; θ₂: A and A do not.
    theta = 0.1 * distance(RESIDUE_PROPERTIES, RESIDUES.index("A"), RESIDUES.index("C"))
    expected = np.array([2 / 3, 1 / 3, *18 * [0.0], theta, 0.0]) / (1 + theta)
    np.testing.assert_allclose(other, expected, rtol=1e-5)
    rna = pseudo_rna(["ACGA"])[0]  # steps AC, CG, GA
    near = 0.1 * fmean(
        distance(STEP_PROPERTIES, STEPS.index(a), STEPS.index(b)) for a, b in (("AC", "CG"), ("CG", "GA"))
    )
    far = 0.1 * distance(STEP_PROPERTIES, STEPS.index("AC"), STEPS.index("GA"))
    shares = [1 / 3 if step in ("AC", "CG", "GA") else 0.0 for step in STEPS]
    np.testing.assert_allclose(rna, np.array([*shares, near, far]) / (1 + near + far), rtol=1e-5)


def test_pseudo_composition_leaves_out_what_it_does_not_know() -> None:
    assert {len(values) for values in RESIDUE_PROPERTIES.values()} == {20}
    assert {len(values) for values in STEP_PROPERTIES.values()} == {16}
    with_x = pseudo_protein(["AXC", "AC"])
    assert with_x[0, 20] == 0.0, "A and C stand two apart"
    assert with_x[0, 21] == pytest.approx(with_x[1, 20])
    for make in (pseudo_protein, pseudo_rna):
        assert not make(["X", ""]).any()
        assert np.isfinite(make(["A", "AC", "NNN"])).all()


def test_shares_of_words_divide_by_the_words_there_are() -> None:
    found = kmer_shares(["AACGU", "A"], Alphabet(NUCLEOTIDES, (1, 2)))
    np.testing.assert_allclose(found[0, :4] * 5, [2, 1, 1, 1])
    assert found[0, 4:].sum() == pytest.approx(1.0)
    assert found[0, 4] == pytest.approx(0.25)  # AA, one of four
    assert found[1].tolist() == [1.0] + 19 * [0.0]


def test_gc_by_place_in_the_codon_counted_by_hand() -> None:
    found = gc_shares(["GCAUGC", "A"])
    np.testing.assert_allclose(found[0], [4 / 6, 0.5, 1.0, 0.5, 0.25], rtol=1e-6)  # GC|A, U|GC
    assert not found[1].any()


def test_the_spectrum_of_a_period_of_three_is_one_peak() -> None:
    repeats = 10
    found = eiip_spectrum(["ACG" * repeats, "AAAAAA", "AC", "NNNN"])
    a, c, g, _ = POTENTIAL
    peak = repeats / 3 * (a * a + c * c + g * g - a * c - a * g - c * g)  # |a + cω + gω²|², ω³ = 1
    power = 3 * repeats - 1  # beside X₀; two of them, at ⅓ and ⅔, are not 0
    np.testing.assert_allclose(found[0, :3], [peak, 2 * peak / power, power / 2], rtol=1e-5)
    assert found[0, 3] == pytest.approx(peak, rel=1e-5)  # of 29 values the strongest two
    np.testing.assert_allclose(found[1:], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "alphabet"),
    [(rna_ctd, "ACGUN"), (pseudo_rna, "ACGUN"), (gc_shares, "ACGUN"), (eiip_spectrum, "ACGUN"),
     (protein_ctd, "ACDEFGHIKLMNPQRSTVWYX"), (pseudo_protein, "ACDEFGHIKLMNPQRSTVWYX")],
)  # fmt: skip
def test_a_sequence_is_described_alike_alone_and_among_others(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[list[str]], np.ndarray],
    alphabet: str,
) -> None:
    sequences = ["".join(rng.choice(list(alphabet), size)) for size in (1, 2, 3, 40, 7, 120)]
    together = make(sequences)
    monkeypatch.setattr(letters_module, "AT_ONCE", 30)
    np.testing.assert_array_equal(make(sequences), together)
    np.testing.assert_array_equal(np.concatenate([make([sequence]) for sequence in sequences]), together)
    assert np.isfinite(together).all()
