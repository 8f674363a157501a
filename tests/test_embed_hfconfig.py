"""A Hugging Face folder whose config.json describes another model than the encoder is refused, never embedded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Program
from made_weights import load, rows_of
from safetensors.torch import save_file
from tolerances import ROWS

from crossllm.cache import InputError, record_of
from crossllm.embed.encoders import esm2, rinalmo, rnabert, rnafm
from crossllm.embed.weights.hf_config import Config, refuse_other_config

ESM2: dict[str, Any] = {
    "model_type": "esm", "attention_probs_dropout_prob": 0.0, "classifier_dropout": None, "hidden_act": "gelu",
    "emb_layer_norm_before": False, "esmfold_config": None, "hidden_dropout_prob": 0.0, "hidden_size": 320,
    "initializer_range": 0.02, "intermediate_size": 1280, "is_folding_model": False, "layer_norm_eps": 1e-5,
    "mask_token_id": 32, "max_position_embeddings": 1026, "num_attention_heads": 20, "num_hidden_layers": 6,
    "pad_token_id": 1, "position_embedding_type": "rotary", "token_dropout": True, "use_cache": True,
    "vocab_list": None, "vocab_size": 33,
}  # fmt: skip
"""What facebook/esm2_t6_8M_UR50D states."""
RINALMO: dict[str, Any] = {
    "model_type": "rinalmo", "emb_layer_norm_before": True, "hidden_act": "gelu", "hidden_size": 1280,
    "intermediate_size": 5120, "is_decoder": False, "layer_norm_eps": 1e-5, "learnable_beta": True,
    "num_attention_heads": 20, "num_hidden_layers": 33, "position_embedding_type": "rotary", "token_dropout": True,
    "vocab_size": 28,
}  # fmt: skip
RNAFM: dict[str, Any] = {
    "model_type": "rnafm", "codon": False, "embed_norm": True, "hidden_act": "gelu", "hidden_size": 640,
    "intermediate_size": 5120, "layer_norm_eps": 1e-5, "max_position_embeddings": 1026, "num_attention_heads": 20,
    "num_hidden_layers": 12, "position_embedding_type": "absolute", "token_dropout": False, "vocab_size": 28,
}  # fmt: skip
RNABERT: dict[str, Any] = {
    "model_type": "rnabert", "hidden_act": "gelu", "hidden_size": 120, "intermediate_size": 40,
    "layer_norm_eps": 1e-12, "num_attention_heads": 12, "num_hidden_layers": 6, "position_embedding_type": "absolute",
    "vocab_size": 6,
}  # fmt: skip
PUBLISHED = {
    "esm2-8m": (ESM2, esm2.published(*esm2.SIZES["esm2-8m"]).forms[1].config),
    "rinalmo-giga": (RINALMO, rinalmo.published(*rinalmo.SIZES["rinalmo-giga"]).forms[1].config),
    "rnafm": (RNAFM, rnafm.published().forms[1].config),
    "rnabert": (RNABERT, rnabert.published().forms[0].config),
}
WRONG = [
    *(("esm2-8m", {key: value}, f"{key} {shown}, esm2-8m has {ours}") for key, value, shown, ours in (
        ("layer_norm_eps", 1e-12, "1e-12", "1e-05"),
        ("layer_norm_eps", None, "1e-12 (by leaving it out)", "1e-05"),
        ("position_embedding_type", "absolute", "absolute", "rotary"),
        ("position_embedding_type", None, "absolute (by leaving it out)", "rotary"),
        ("token_dropout", False, "false", "true"),
        ("token_dropout", None, "false (by leaving it out)", "true"),
        ("emb_layer_norm_before", True, "true", "false"),
        ("hidden_size", 480, "480", "320"),
        ("num_hidden_layers", 12, "12", "6"),
        ("num_attention_heads", 10, "10", "20"),
        ("num_attention_heads", None, "12 (by leaving it out)", "20"),
        ("intermediate_size", 640, "640", "1280"),
        ("vocab_size", 64, "64", "33"),
        ("hidden_act", "relu", "relu", "gelu"),
        ("is_decoder", True, "true", "false"),
        ("rope_theta", 500.5, "500.5", "10000"),
        ("layer_norm_eps", "x\n" * 99, "x\\n" * 19 + "x\\…", "1e-05"),
    )),
    ("rinalmo-giga", {"layer_norm_eps": 1e-12}, "layer_norm_eps 1e-12, rinalmo-giga has 1e-05"),
    ("rinalmo-giga", {"token_dropout": False}, "token_dropout false, rinalmo-giga has true"),
    ("rinalmo-giga", {"vocab_size": 26}, "vocab_size 26, rinalmo-giga has 28"),
    ("rnafm", {"layer_norm_eps": 1e-12}, "layer_norm_eps 1e-12, rnafm has 1e-05"),
    ("rnafm", {"emb_layer_norm_before": False}, "emb_layer_norm_before false, rnafm has true"),
    ("rnafm", {"embed_norm": False}, "embed_norm false, rnafm has true"),
    ("rnafm", {"codon": True}, "codon true, rnafm has false"),
    ("rnafm", {"position_embedding_type": "relative_key"}, "position_embedding_type relative_key, rnafm has absolute"),
    ("rnabert", {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05, rnabert has 1e-12"),
    ("rnabert", {"vocab_size": None}, "vocab_size 28 (by leaving it out), rnabert has 6"),
    ("rnabert", {"model_type": "bert"}, "model_type bert, rnabert is rnabert's"),
    ("rnabert", {"model_type": None}, "model_type nothing, rnabert is rnabert's"),
]  # fmt: skip


def config_of(name: str) -> tuple[dict[str, Any], Config]:
    said, config = PUBLISHED[name]
    assert config is not None
    return said, config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_taken(name: str, tmp_path: Path) -> None:
    said, config = config_of(name)
    refuse_other_config(tmp_path, name, config)
    (tmp_path / "config.json").write_text(json.dumps(said))
    refuse_other_config(tmp_path, name, config)


@pytest.mark.parametrize(("name", "changed", "says"), WRONG)
@pytest.mark.parametrize("absent", ["null", "absent"])
def test_a_key_that_changes_rows_is_refused(
    name: str, changed: dict[str, Any], says: str, absent: str, tmp_path: Path
) -> None:
    said, config = config_of(name)
    made = {key: v for key, v in (said | changed).items() if v is not None or absent == "null"}
    (tmp_path / "config.json").write_text(json.dumps(made))
    with pytest.raises(InputError) as error:
        refuse_other_config(tmp_path, name, config)
    assert str(error.value).startswith(f"--weights {tmp_path}: config.json says ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "crossllm cache import" in str(error.value)


@pytest.mark.parametrize(("text", "says"), [
    ("{", "make it again or delete it"),
    ('{"model_type": "esm", "model_type": "esm"}', "a key stands twice"),
    ('{"model_type": "esm", "layer_norm_eps": NaN}', "NaN is no JSON number"),
    ("[1]", "not a JSON object"),
    ('"' + "x" * (1 << 20) + '"', "more than 1048576 bytes"),
])  # fmt: skip
def test_a_config_that_cannot_be_read_is_refused_in_a_folder_alone(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    _, config = config_of("esm2-8m")
    with pytest.raises(InputError, match=says):
        refuse_other_config(tmp_path, "esm2-8m", config)
    refuse_other_config(tmp_path / "some.safetensors", "esm2-8m", config)


def test_a_config_beside_a_file_counts_where_it_is_of_the_model(tmp_path: Path) -> None:
    said, config = config_of("esm2-8m")
    file = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": "bert", "layer_norm_eps": 1e-12}))
    refuse_other_config(file, "esm2-8m", config)
    (tmp_path / "config.json").write_text(json.dumps(said | {"layer_norm_eps": 1e-12}))
    with pytest.raises(InputError, match=r"config\.json beside it says layer_norm_eps 1e-12, esm2-8m has 1e-05; its"):
        refuse_other_config(file, "esm2-8m", config)


@pytest.mark.parametrize(("name", "modality", "tensor"), [
    ("rinalmo-giga", "rna", "model.encoder.layer.0.attention.self.query.weight"),
    ("rnafm", "rna", "model.encoder.layer.0.attention.self.query.weight"),
    ("rnabert", "rna", "encoder.layer.0.attention.self.query.weight"),
])  # fmt: skip
def test_every_model_looks_at_its_config(name: str, modality: str, tensor: str, tmp_path: Path) -> None:
    said, _ = config_of(name)
    save_file({tensor: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="not the weights of this encoder"):
        load(modality, name, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(said | {"hidden_act": "relu"}))
    with pytest.raises(InputError, match=r"config\.json says hidden_act relu"):
        load(modality, name, tmp_path)


@pytest.fixture
def reference(tmp_path: Path, rng: np.random.Generator) -> torch.nn.Module:
    """transformers' model of 8 million parameters, with random weights, saved to `folder` as it saves it itself."""
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(int(rng.integers(1 << 30)))
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=320, num_hidden_layers=6, num_attention_heads=20,
        intermediate_size=1280, position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: torch.nn.Module = EsmModel(config, add_pooling_layer=False).eval()
        model.save_pretrained(tmp_path / "folder")  # type: ignore[operator]
    return model


def test_a_folder_gives_transformers_rows_or_is_refused(
    reference: torch.nn.Module, program: Program, tmp_path: Path
) -> None:
    folder, record = tmp_path / "folder", record_of("protein", "s", "MKTAYIAKQRLAGV")
    ids = torch.tensor([[0, *(4 + esm2.ALPHABET.letters.index(letter) for letter in record.sequence), 2]])
    with torch.no_grad():
        expected = reference(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:-1].numpy()
    (rows,) = rows_of(load("protein", "esm2-8m", folder), [record])
    assert np.abs(rows - expected).max() < ROWS["float32"] * np.abs(expected).max()
    said = json.loads((folder / "config.json").read_text())
    (tmp_path / "p.fasta").write_text(">s\nMKTAYIAKQR\n")
    run = ("embed", "run", "--modality", "protein", "-i", "p.fasta", "--encoder", "esm2-8m", "--weights")
    for changed in ({"layer_norm_eps": 1e-12}, {"position_embedding_type": "absolute"}, {"token_dropout": False}):
        (folder / "config.json").write_text(json.dumps(said | changed))
        for weights in ("folder", "folder/model.safetensors"):
            done = program(*run, weights, "--quiet")
            assert done.returncode == 2
            assert done.stderr.startswith(f"error: --weights {weights}: config.json ")
            assert len(done.stderr.splitlines()) == 1
            assert next(iter(changed)) in done.stderr
            assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_table_of_positions_is_left_unread_as_in_the_published_files(
    reference: torch.nn.Module, tmp_path: Path
) -> None:
    """facebook/esm2_* hold one beside rotary positions; with no config.json nothing says that it is meant."""
    record = record_of("protein", "s", "MKTAYIAKQR")
    tensors = {f"esm.{name}": tensor.contiguous() for name, tensor in reference.state_dict().items()}
    save_file(tensors, tmp_path / "without.safetensors")
    table = {"esm.embeddings.position_embeddings.weight": torch.ones(1026, 320)}
    save_file(tensors | table, tmp_path / "with.safetensors")
    without, held = (
        rows_of(load("protein", "esm2-8m", tmp_path / f"{name}.safetensors"), [record])[0]
        for name in ("without", "with")
    )
    assert without.tobytes() == held.tobytes()


@pytest.mark.parametrize("name", ["RNABERT.pth", "x.pt", "esm2.safetensors"])
def test_the_one_other_file_of_a_folder_is_named(name: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / name)
    (tmp_path / "README.md").touch()
    says = f"name the file that holds the tensors; it holds {name}"
    with pytest.raises(InputError) as error:
        load("rna", "rnabert", tmp_path)
    assert str(error.value).endswith(says)
    torch.save({}, tmp_path / "another.pt")
    with pytest.raises(InputError, match=r"name the file that holds the tensors$"):
        load("rna", "rnabert", tmp_path)
