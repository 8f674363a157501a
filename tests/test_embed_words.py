"""`kmer` and `morgan`: rows of 0 and 1, whose mean or largest value is what the field's methods count."""

from __future__ import annotations

import numpy as np
import pytest

from crossllm.cache import record_of
from crossllm.cache.records.molecules import canonical_smiles
from crossllm.embed.encoder import Encoder
from crossllm.embed.encoders import kmer
from crossllm.embed.encoders.kmer import KmerEncoder
from crossllm.embed.encoders.morgan import BITS, RADIUS, MorganEncoder
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.pipeline.features.kmers import kmers

LETTERS = {"rna": "ACGUN", "protein": "ACDEFGHIKLMNPQRSTVWYX"}
MOLECULES = ("CC(=O)Oc1ccccc1C(=O)O", "C", "[Na+].[Cl-]", "N->[Cu]", "C12C3C4C1C5C4C3C25", "*CC")


def rows_of(encoder: Encoder, modality: str, sequence: str) -> np.ndarray:
    ((_, (rows,)),) = encoder.encode([record_of(modality, "x", sequence)])
    return np.asarray(rows)


@pytest.mark.parametrize("modality", ["rna", "protein"])
def test_the_mean_row_is_what_k_mer_methods_count(rng: np.random.Generator, modality: str) -> None:
    for length in (1, 2, 3, 5, 300):
        sequence = "".join(rng.choice(list(LETTERS[modality]), length))
        rows = rows_of(KmerEncoder(modality), modality, sequence)
        assert rows.shape == (length, ENCODERS[modality, "kmer"].dim)
        assert set(np.unique(rows)) <= {0.0, 1.0}
        np.testing.assert_allclose(rows.mean(0), kmers([sequence], modality)[0], atol=1e-6)


def test_a_word_stands_where_it_begins() -> None:
    names = kmer.columns("rna")
    assert len(set(names)) == len(names) == 340
    rows = rows_of(KmerEncoder("rna"), "rna", "ACNGU")
    found = [[name for name, value in zip(names, row, strict=True) if value] for row in rows]
    assert found == [["A", "AC"], ["C"], [], ["G", "GU"], ["U"]]
    protein = kmer.columns("protein")
    assert len(set(protein)) == len(protein) == 819
    rows = rows_of(KmerEncoder("protein"), "protein", "MKC")
    first = [name for name, value in zip(protein, rows[0], strict=True) if value]
    assert first == ["[YMTS]", "[YMTS][RK]", "[YMTS][RK][C]", "M", "MK"]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_the_largest_values_are_the_morgan_fingerprint(smiles: str) -> None:
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    text = canonical_smiles(smiles)
    rows = rows_of(MorganEncoder(), "molecule", text)
    assert rows.shape == (record_of("molecule", "x", text).length, BITS)
    made = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    molecule = Chem.MolFromSmiles(text)
    assert np.array_equal(rows.max(0), made.GetFingerprintAsNumPy(molecule))
    assert (rows.sum(1) >= 1).all(), "every atom is a substructure"


def test_rows_do_not_depend_on_what_is_encoded_beside_them() -> None:
    records = [record_of("molecule", str(n), canonical_smiles(smiles)) for n, smiles in enumerate(MOLECULES)]
    together = dict(MorganEncoder().encode(records))
    for record in records:
        ((_, (alone,)),) = MorganEncoder().encode([record])
        assert np.array_equal(together[record.key][0], alone)
    assert ENCODERS["molecule", "morgan"].dim == BITS
