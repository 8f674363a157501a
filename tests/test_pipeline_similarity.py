"""Which sequences are similar: exact alignment against plain programs, clusters, molecules, what is kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_baselines import imported
from made_splits import made_dataset

from crossllm.pipeline.data.dataset import load_dataset
from crossllm.pipeline.similarity import similarity as room
from crossllm.pipeline.similarity.alignment import SCORING, align_all
from crossllm.pipeline.similarity.hits import Hits
from crossllm.pipeline.similarity.molecules import groups, tanimoto_all
from crossllm.pipeline.similarity.rules import default_rule
from crossllm.pipeline.similarity.similarity import similarity_of

LETTERS = {"rna": "ACGU", "protein": "ACDEFGHIKLMNPQRSTVWY"}


def substituted(rng: np.random.Generator, modality: str, sequence: str, identity: float) -> str:
    """The sequence with so many places changed that this share is left."""
    letters = list(sequence)
    for place in rng.permutation(len(letters))[: round((1 - identity) * len(letters))]:
        letters[place] = str(rng.choice([x for x in LETTERS[modality] if x != letters[place]]))
    return "".join(letters)


def drawn(rng: np.random.Generator, modality: str, length: int) -> str:
    return "".join(rng.choice(list(LETTERS[modality]), length))


def plain_smith_waterman(a: str, b: str, modality: str) -> int:
    """Best local score by the recursion of Gotoh 1982, cell by cell."""
    import parasail

    scoring = SCORING[modality]
    place = {letter: n for n, letter in enumerate("ARNDCQEGHILKMFPSTWYVBZX*")}
    scores = parasail.blosum62.matrix
    low = -(10**9)
    best, above, gap_above = 0, [0] * (len(b) + 1), [low] * (len(b) + 1)
    for x in a:
        row, gap_left, corner = [0] * (len(b) + 1), low, 0
        for j, y in enumerate(b, 1):
            match = int(scores[place[x], place[y]]) if modality == "protein" else (2 if x == y else -3)
            gap_above[j] = max(above[j] - scoring.gap_open, gap_above[j] - scoring.gap_extend)
            gap_left = max(row[j - 1] - scoring.gap_open, gap_left - scoring.gap_extend)
            row[j] = max(0, corner + match, gap_above[j], gap_left)
            corner, best = above[j], max(best, row[j])
        above = row
    return best


@pytest.mark.parametrize("modality", LETTERS)
def test_the_alignment_is_the_best_one(modality: str, rng: np.random.Generator) -> None:
    """Its score is that of the recursion, and identity is that of an alignment within its bounds."""
    import parasail

    from crossllm.pipeline.similarity.alignment import _matrix, _whole

    scoring = SCORING[modality]
    for _ in range(5):
        a = drawn(rng, modality, 60)
        b = substituted(rng, modality, a[:20] + a[23:], 0.85)
        best = parasail.sw_striped_sat(a, b, scoring.gap_open, scoring.gap_extend, _matrix(scoring))
        found = _whole(a, b, (best.end_query + 1, best.end_ref + 1), scoring, _matrix(scoring), 0.3)
        assert found is not None
        assert found.score == best.score == plain_smith_waterman(a, b, modality)
        assert 0 <= found.first[0] < found.first[1] <= len(a)
        assert 0.5 < found.identity <= 1


@pytest.mark.parametrize("modality", LETTERS)
def test_relatives_are_found_and_strangers_are_not(modality: str, rng: np.random.Generator) -> None:
    parents = [drawn(rng, modality, 120) for _ in range(6)]
    sequences = parents + [substituted(rng, modality, parent, 0.9) for parent in parents]
    hits = align_all(sequences, modality, 0.3, quiet=True)
    assert {(i, j) for i, j in zip(hits.first.tolist(), hits.second.tolist(), strict=True)} == {
        (n, n + 6) for n in range(6)
    }
    np.testing.assert_allclose(hits.identity, 0.9, atol=0.03)
    assert len(set(hits.components(0.3).tolist())) == 6
    assert len(set(hits.components(0.95).tolist())) == 12


def test_both_lengths_must_be_covered(rng: np.random.Generator) -> None:
    """A domain of a longer protein is no relative of it; by the shorter one alone everything would chain."""
    long = drawn(rng, "protein", 300)
    assert len(align_all([long, long[:150]], "protein", 0.3, quiet=True).first) == 0
    assert len(align_all([long, long[:270]], "protein", 0.3, quiet=True).first) == 1


def test_a_short_rna_finds_its_twin_in_a_large_set(rng: np.random.Generator) -> None:
    short = drawn(rng, "rna", 18)
    twin = short[:17] + ("A" if short[17] != "A" else "C")
    others = [drawn(rng, "rna", 200) for _ in range(20)]
    hits = align_all([short, *others, twin], "rna", 0.8, quiet=True)
    assert (0, 21) in set(zip(hits.first.tolist(), hits.second.tolist(), strict=True))


def test_components_are_single_linkage() -> None:
    """A ~ B and B ~ C put A and C together, whether they resemble each other or not."""
    hits = Hits.of(5, [(0, 1, 0.9), (2, 1, 0.85), (3, 4, 0.4)])
    component = hits.components(0.8)
    assert component[0] == component[1] == component[2]
    assert len(set(component.tolist())) == 4 - 1
    matrix = hits.matrix().toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[1, 2] == np.float32(0.85)
    assert (np.diag(matrix) == 1).all()


def test_salts_and_stereo_twins_are_one_molecule() -> None:
    smiles = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "CC(N)C(=O)[O-].[Na+]", "CC(O)C(=O)O"]
    found = groups(smiles, "inchikey")
    assert found[0] == found[1] == found[2] != found[3]
    rings = groups(["c1ccccc1CC", "c1ccccc1CCC", "CCC", "CCCC"], "scaffold")
    assert rings[0] == rings[1]
    assert len(set(rings.tolist())) == 3
    hits = tanimoto_all(["c1ccccc1CC", "c1ccccc1CCC", "CCC"], 0.3, quiet=True)
    assert (hits.first.tolist(), hits.second.tolist()) == ([0], [1])


def test_what_was_compared_is_kept_and_a_damaged_file_is_not_trusted(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = made_dataset(tmp_path, rng)
    rule = default_rule("rna")
    first = similarity_of(dataset, "a", tmp_path, rule, quiet=True)

    def never(*_args: object, **_named: object) -> Hits:
        raise AssertionError("aligned again")

    with monkeypatch.context() as patch:
        patch.setattr(room, "align_all", never)
        again = similarity_of(dataset, "a", tmp_path, rule, quiet=True)
        assert again.keys == first.keys
        np.testing.assert_array_equal(again.component, first.component)
        np.testing.assert_array_equal(again.identity.toarray(), first.identity.toarray())
    (kept,) = (tmp_path / "similarity").iterdir()
    whole = kept.read_bytes()
    compression = whole.index(b"PK\1\2") + 10  # of the first array, in the zip's directory

    def lacks_an_array(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, first=np.zeros(0, np.int64))

    damages: list[Callable[[Path], object]] = [
        lambda path: path.write_bytes(whole[:-30]),
        lambda path: path.write_bytes(whole[:compression] + b"\x63" + whole[compression + 1 :]),
        lacks_an_array,
    ]
    for damage in damages:
        damage(kept)
        mended = similarity_of(dataset, "a", tmp_path, rule, quiet=True)
        assert "computed again" in capsys.readouterr().err
        np.testing.assert_array_equal(mended.component, first.component)


@pytest.mark.slow
def test_many_sequences_go_through_mmseqs(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit MMseqs2 finds the close relatives that exact alignment finds; the output says who looked."""
    dataset = made_dataset(tmp_path, rng, relatives=0.95)
    exact = {side: similarity_of(dataset, side, tmp_path, default_rule(m), quiet=True) for side, m in SIDES}
    monkeypatch.setattr(room, "EXACT_SEQUENCES", 3)
    monkeypatch.setattr(room, "SHORT", 0)
    for side, modality in SIDES:
        found = similarity_of(dataset, side, tmp_path, default_rule(modality), quiet=True)
        assert "MMseqs2" in found.method
        both = (exact[side].identity > 0).multiply(found.identity > 0).nnz
        assert both >= 0.9 * exact[side].identity.nnz


SIDES = (("a", "rna"), ("b", "protein"))


@pytest.mark.slow
def test_rpi1460_has_so_many_clusters(rpi1460_cache: Path) -> None:
    """As measured independently (../shared/BASELINES.md)."""
    assert clusters_of(rpi1460_cache, ("rna", "protein")) == [22, 197]


@pytest.mark.slow
def test_molecules_of_rsim_are_so_many_structures(real_data: Path, tmp_path: Path) -> None:
    folder = imported(real_data / "rsim", ("rna", "molecule"), tmp_path / "rsim")
    assert clusters_of(folder, ("rna", "molecule"))[1] == 704


def clusters_of(cache: Path, modalities: tuple[str, str]) -> list[int]:
    dataset, _ = load_dataset(cache)
    sides = zip("ab", modalities, strict=True)
    found = [similarity_of(dataset, side, cache, default_rule(modality), quiet=True) for side, modality in sides]
    return [int(similarity.component.max()) + 1 for similarity in found]
