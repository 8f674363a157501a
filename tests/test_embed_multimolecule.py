"""RiNALMo, RNA-FM and RNABERT against multimolecule's models, randomly initialised on the spot.

multimolecule is AGPL and large: a reference for this test and for nothing else, installed by `make parity`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_weights import load, rows_of
from safetensors.torch import save_file
from tolerances import ROWS

from crossllm.cache import record_of
from crossllm.embed.encoders import language_model, published_forms, rinalmo, rnabert, rnafm

SEQUENCES = ("A", "GGAUCACGNRY", "ACGU" * 25)
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 28}


def made(name: str, rng: np.random.Generator, **config: Any) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import multimolecule
        except ImportError as error:
            pytest.skip(f"multimolecule is not installed ({error}); `make parity` installs it")
        torch.manual_seed(int(rng.integers(1 << 30)))
        model = getattr(multimolecule, f"{name}Model")(
            getattr(multimolecule, f"{name}Config")(**SMALL | config), add_pooling_layer=False
        )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
    return model.eval()  # type: ignore[no-any-return]


def compare(
    model: torch.nn.Module, encoder: str, weights: Path, compute: str, alphabet: language_model.Alphabet
) -> None:
    save_file({f"model.{n}": t.contiguous() for n, t in model.state_dict().items()}, weights)
    records = [record_of("rna", f"s{n}", s) for n, s in enumerate(SEQUENCES)]
    found = rows_of(load("rna", encoder, weights, dim=32, compute=compute), records)
    table = alphabet.table()
    for record, rows in zip(records, found, strict=True):
        ids = [int(table[ord(letter)]) for letter in record.sequence]
        before, after = ([] if t is None else [t] for t in (alphabet.start, alphabet.end))
        tokens = torch.tensor([[*before, *ids, *after]])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = model(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0].numpy()
        expected = expected[len(before) : len(before) + len(ids)]
        assert rows.shape == expected.shape
        assert np.abs(rows - expected).max() < ROWS[compute] * np.abs(expected).max()


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_rinalmo(compute: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("RiNALMo", rng, intermediate_size=128)
    monkeypatch.setitem(rinalmo.SIZES, "rinalmo-micro", (32, 3, 4))
    compare(model, "rinalmo-micro", tmp_path / "w.safetensors", compute, published_forms.MULTIMOLECULE)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_rnafm(compute: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("RnaFm", rng, intermediate_size=96)
    small = rnafm.published(32, 3, 4, 96)
    monkeypatch.setattr(rnafm, "published", lambda: small)
    compare(model, "rnafm", tmp_path / "w.safetensors", compute, published_forms.MULTIMOLECULE)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_rnabert(compute: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("RnaBert", rng, intermediate_size=40, vocab_size=6, max_position_embeddings=440)
    small = rnabert.published(32, 3, 4, 40)
    monkeypatch.setattr(rnabert, "published", lambda: small)
    compare(model, "rnabert", tmp_path / "w.safetensors", compute, rnabert.ALPHABET)
