"""Published weights give published values, for whoever has them: `pytest -m network tests/test_embed_published.py`.

They are taken from `$CROSSLLM_WEIGHTS` or the user's cache where `embed pull` has put them, and pulled otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import USERS_WEIGHTS
from made_weights import load, rows_of

from crossllm.cache import record_of
from crossllm.cache.errors import InputError
from crossllm.embed.encoders import esm2
from crossllm.embed.weights.published import local_weights
from crossllm.embed.weights.pull import ask, pull

SPECIALS = 1
"""Rows before a sequence's own in the reference: that of <cls>."""


@pytest.fixture
def golden(real_data: Path) -> dict[str, Any]:
    """The values that transformers' own tests expect of facebook/esm2_t6_8M_UR50D."""
    found: dict[str, Any] = json.loads((real_data / "golden_embeddings" / "esm2_t6_8M.json").read_text())
    return found


@pytest.fixture
def esm2_8m(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The published weights, at hand or pulled."""
    if USERS_WEIGHTS is None:
        monkeypatch.delenv("CROSSLLM_WEIGHTS")
    else:
        monkeypatch.setenv("CROSSLLM_WEIGHTS", USERS_WEIGHTS)
    if (path := local_weights("esm2-8m")) is not None:
        return path
    try:
        return pull(ask("esm2-8m", None, tmp_path, None), quiet=True).path
    except InputError as error:
        pytest.skip(f"no weights of esm2-8m at hand, and no network: {error}")


def sequence_of(golden: dict[str, Any]) -> str:
    """The residues that the reference's tokens are."""
    (tokens,) = golden["last_hidden_state"]["input_ids"]
    alphabet = esm2.ALPHABET
    assert (tokens[0], tokens[-1]) == (alphabet.start, alphabet.end)
    return "".join(alphabet.letters[token - alphabet.first] for token in tokens[1:-1])


def test_the_reference_is_a_sequence_of_our_alphabet(golden: dict[str, Any]) -> None:
    assert sequence_of(golden) == "GLDALQITV"


@pytest.mark.network
def test_esm2_8m_gives_the_values_of_transformers_tests(golden: dict[str, Any], esm2_8m: Path) -> None:
    expected = golden["last_hidden_state"]
    assert expected["slice"] == "[:, :3, :3]"
    (rows,) = rows_of(load("protein", "esm2-8m", esm2_8m), [record_of("protein", "x", sequence_of(golden))])
    assert rows.shape == (9, 320)
    values = np.array(expected["expected"][0])[SPECIALS:]
    np.testing.assert_allclose(rows[: len(values), :3], values, rtol=1e-4, atol=1e-4)
