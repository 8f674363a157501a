"""The packed transformer against its equations, and against the published implementations."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from made_weights import load, random_tensors, rows_of
from plain_transformer import plain_rows
from safetensors.torch import save_file
from tolerances import ROWS
from torch import Tensor

from crossllm.cache import InputError, Record, record_of
from crossllm.embed.encoders import esm2, rinalmo
from crossllm.embed.encoders.language_model import Published
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.engine import fused_cpu
from crossllm.embed.engine.elementwise import Norm, rotate
from crossllm.embed.engine.transformer import Design, Transformer, expected_shapes
from crossllm.embed.weights.checkpoint import read_weights, weights_digest

DESIGNS = {
    "ESM-2": Design(24, 3, 2, 40, 9, token_factor=0.88),
    "RiNALMo": Design(24, 3, 2, 20, 9, order="normed", gated=True, attention_bias=False, token_factor=0.88),
    "RNA-FM": Design(24, 3, 2, 40, 9, positions=64, first_position=2, embed_norm=True),
    "RNABERT": Design(24, 3, 2, 20, 9, positions=64, kinds=2, order="post", embed_norm=True, final_norm=False),
}
LENGTHS = (1, 7, 7, 40, 2, 7)


def model(tensors: dict[str, Tensor], design: Design, compute: str = "float32") -> Transformer:
    return Transformer(dict(tensors), design, getattr(torch, compute), torch.device("cpu"))


def ids_of(rng: np.random.Generator, lengths: Sequence[int] = LENGTHS, letters: int = 9) -> list[list[int]]:
    return [rng.integers(0, letters, n).tolist() for n in lengths]


def packed(found: Transformer, ids: list[list[int]], *layers: int) -> list[np.ndarray]:
    lengths = [len(i) for i in ids]
    (rows,) = found.rows(torch.tensor([t for i in ids for t in i]), lengths, layers)
    return np.split(rows.numpy(), np.cumsum(lengths)[:-1])


def far(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DESIGNS)
def test_packed_rows_are_the_equations(name: str, compute: str, rng: np.random.Generator) -> None:
    design = DESIGNS[name]
    tensors = random_tensors(expected_shapes(design), rng)
    ids = ids_of(rng)
    for layers in ((), (1,), (2,), (3,)):
        for own, rows in zip(ids, packed(model(tensors, design, compute), ids, *layers), strict=True):
            assert far(rows, plain_rows(own, tensors, design, *layers)) < ROWS[compute]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DESIGNS)
def test_several_layers_of_one_pass_are_each_layers_own_to_the_bit(
    name: str, compute: str, rng: np.random.Generator
) -> None:
    """In any order; what is given out of a layer is not written into by those after it."""
    found = model(random_tensors(expected_shapes(DESIGNS[name]), rng), DESIGNS[name], compute)
    ids = ids_of(rng)
    packed_ids = torch.tensor([t for i in ids for t in i])
    alone = {n: found.rows(packed_ids, LENGTHS, (n,))[0] for n in (1, 2, 3)}
    assert not torch.equal(alone[1], alone[2])
    for layers in ((1, 2, 3), (3, 1), (2, 1)):
        together = found.rows(packed_ids, LENGTHS, layers)
        assert [rows.dtype for rows in together] == [torch.float32] * len(layers)
        assert all(torch.equal(rows, alone[n]) for n, rows in zip(layers, together, strict=True))


@pytest.mark.parametrize("name", DESIGNS)
def test_a_sequences_rows_do_not_depend_on_its_company(name: str, rng: np.random.Generator) -> None:
    design = DESIGNS[name]
    found = model(random_tensors(expected_shapes(design), rng), design)
    ids = ids_of(rng)
    together = packed(found, ids)
    for n in rng.permutation(len(ids)).tolist():
        (alone,) = packed(found, [ids[n]])
        assert far(together[n], alone) < 1e-5


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_the_fused_rotation_is_the_plain_one(compute: torch.dtype, rng: np.random.Generator) -> None:
    qkv = torch.tensor(rng.normal(size=(50, 3, 4, 16)), dtype=compute)
    angle = torch.tensor(rng.uniform(0, 2000, (50, 8)), dtype=torch.float32)
    fused, plain = qkv.clone(), qkv.clone()
    fused_cpu.rotate(fused, angle.cos(), angle.sin())
    rotate(plain, angle.cos(), angle.sin())
    assert not torch.equal(plain, qkv)
    assert torch.equal(fused[:, 2], qkv[:, 2]), "v is not turned"
    step = 2**-7 if compute == torch.bfloat16 else 1e-5  # one unit in the last place: products may be contracted
    assert torch.allclose(fused.float(), plain.float(), rtol=step, atol=step)


@pytest.mark.parametrize("onward", [True, False])
@pytest.mark.parametrize("width", [8, 120, 1280])
def test_the_fused_sum_and_norm_is_the_plain_one(onward: bool, width: int, rng: np.random.Generator) -> None:
    x = torch.tensor(rng.normal(2, 3, (33, width)), dtype=torch.float32)
    added = torch.tensor(rng.normal(size=(33, width))).bfloat16()
    weight, bias = (torch.tensor(rng.normal(size=width), dtype=torch.float32) for _ in range(2))
    expected_sum = x + added
    expected = Norm(weight, bias, 1e-5)(expected_sum)
    out = fused_cpu.add_norm(x, added, weight, bias, 1e-5, onward)
    assert torch.allclose(x, expected if onward else expected_sum, rtol=1e-5, atol=1e-5)
    assert torch.allclose(out.float(), expected, rtol=2**-7, atol=1e-5)


def test_rounding_to_bfloat16_is_torchs(rng: np.random.Generator) -> None:
    """Ties to even, values at the edge of the range; the norm with weight one and bias zero passes values through."""
    zero, one = torch.zeros(1, 3, 1, 2), torch.ones(1, 1)
    edges = (1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, -1 - 2**-8, 3.0e38, 3.4028234e38, 1e-38, np.inf, -np.inf)
    for value in (*edges, *rng.normal(size=200).tolist()):
        qkv = (zero + 1.0).bfloat16()
        qkv[..., 1] = 0
        fused_cpu.rotate(qkv, one * value, one * 0)
        assert qkv[0, 0, 0, 0] == torch.tensor(value, dtype=torch.float32).bfloat16()
    for bits in (0x7FC00000, 0x7FFFFFFF, 0x7F800001, -1, -(1 << 22) + 5):  # -1: a page of 0xFF
        bias = torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32)
        out = fused_cpu.add_norm(torch.ones(1, 1), torch.ones(1, 1).bfloat16(), torch.ones(1), bias, 1e-5, False)
        assert out.isnan().all(), hex(bits)


def tiny(monkeypatch: pytest.MonkeyPatch, module: object, name: str, size: tuple[int, int, int]) -> None:
    """Make a published model small: the loader, the names and the letters stay as they are."""
    monkeypatch.setitem(module.SIZES, name, size)  # type: ignore[attr-defined]


PROTEINS = ("M", "MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWYXBUZO" * 3, "LAGV" * 30)


def records(texts: Sequence[str], modality: str) -> list[Record]:
    return [record_of(modality, f"s{n}", text) for n, text in enumerate(texts)]


def fair_esm(rng: np.random.Generator) -> tuple[torch.nn.Module, object]:
    import esm

    torch.manual_seed(int(rng.integers(1 << 30)))
    found = esm.ESM2(num_layers=3, embed_dim=32, attention_heads=4, alphabet="ESM-1b").eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
    return found, esm.data.Alphabet.from_architecture("ESM-1b")


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_esm2_is_fair_esms(
    compute: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, alphabet = fair_esm(rng)
    tiny(monkeypatch, esm2, "esm2-8m", (32, 3, 4))
    cfg = argparse.Namespace(encoder_layers=3, encoder_embed_dim=32, encoder_attention_heads=4)
    state = {f"encoder.sentence_encoder.{name}": t for name, t in reference.state_dict().items()}
    torch.save({"cfg": {"model": cfg}, "model": state}, tmp_path / "esm2.pt")
    made = records(PROTEINS, "protein")
    for layer in (None, "2"):
        encoder = load("protein", "esm2-8m", tmp_path / "esm2.pt", dim=32, compute=compute, layer=layer)
        for record, rows in zip(made, rows_of(encoder, made), strict=True):
            _, _, tokens = alphabet.get_batch_converter()([("", record.sequence)])  # type: ignore[attr-defined]
            number = 3 if layer is None else int(layer)
            with torch.no_grad():
                expected = reference(tokens, repr_layers=[number])["representations"][number][0, 1:-1].numpy()
            assert rows.shape == (record.length, 32)
            assert far(rows, expected) < ROWS[compute]


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_esm2_is_transformers_and_a_folder_will_do(
    compute: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(int(rng.integers(1 << 30)))
    config = EsmConfig(
        vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = EsmForMaskedLM(config).eval()
        for parameter in reference.parameters():
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)
        reference.save_pretrained(tmp_path / "folder")
    tiny(monkeypatch, esm2, "esm2-8m", (32, 3, 4))
    made = records(PROTEINS, "protein")
    encoder = load("protein", "esm2-8m", tmp_path / "folder", dim=32, compute=compute)
    for record, rows in zip(made, rows_of(encoder, made), strict=True):
        ids = torch.tensor([[0, *(4 + esm2.ALPHABET.letters.index(letter) for letter in record.sequence), 2]])
        with torch.no_grad():
            expected = reference.esm(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, 1:-1].numpy()
        assert far(rows, expected) < ROWS[compute]


def test_shards_of_a_folder_are_read_together(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, esm2, "esm2-8m", (32, 2, 4))
    tensors = _fair_names(esm2.published(32, 2, 4), rng)
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    (tmp_path / "folder").mkdir()
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / "folder" / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (tmp_path / "folder" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(tensors, tmp_path / "whole.safetensors")
    made = records(PROTEINS, "protein")
    whole, parts = (
        rows_of(load("protein", "esm2-8m", tmp_path / p, dim=32), made) for p in ("whole.safetensors", "folder")
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, parts, strict=True))
    before = weights_digest(tmp_path / "folder")
    save_file({name: tensors[name] + 1 for name in names[9:]}, tmp_path / "folder" / "model-00002-of-00002.safetensors")
    assert weights_digest(tmp_path / "folder") != before
    save_file({name: tensors[name] for name in names[8:]}, tmp_path / "folder" / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match="stands in another shard too"):
        read_weights(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../whole.safetensors"}}')
    with pytest.raises(InputError, match="files beside it"):
        weights_digest(tmp_path / "folder")
    (tmp_path / "folder" / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"a folder without model\.safetensors"):
        weights_digest(tmp_path / "folder")


def test_letters_of_esm2_are_fair_esms() -> None:
    import esm

    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    table = esm2.ALPHABET.table()
    assert all(table[ord(letter)] == alphabet.get_idx(letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    ends = (esm2.ALPHABET.start, esm2.ALPHABET.end, esm2.ALPHABET.size, esm2.ALPHABET.unknown)
    assert ends == (alphabet.cls_idx, alphabet.eos_idx, len(alphabet), alphabet.unk_idx)


def test_unknown_letters_are_counted(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch, esm2, "esm2-8m", (32, 1, 4))
    save_file(_fair_names(esm2.published(32, 1, 4), rng), tmp_path / "w.safetensors")
    encoder = load("protein", "esm2-8m", tmp_path / "w.safetensors", dim=32)
    rows_of(encoder, records(("MKJ", "MKX"), "protein"))
    assert dict(encoder.notes) == {"with letters that have no token, encoded as <unk>": 1}


def _fair_names(published: Published, rng: np.random.Generator) -> dict[str, Tensor]:
    """Random weights of a model in fair-esm's names."""
    back = {
        "tokens.": "embed_tokens.", ".query.": ".self_attn.q_proj.", ".key.": ".self_attn.k_proj.",
        ".value.": ".self_attn.v_proj.", ".out.": ".self_attn.out_proj.", ".up.": ".fc1.", ".down.": ".fc2.",
        ".attention_norm.": ".self_attn_layer_norm.", ".inner_norm.": ".final_layer_norm.",
        "final_norm.": "emb_layer_norm_after.",
    }  # fmt: skip
    found = {}
    for name, tensor in random_tensors(expected_shapes(published.design), rng).items():
        for own, theirs in back.items():
            name = theirs + name.removeprefix(own) if name.startswith(own) else name.replace(own, theirs)
        found[name] = tensor
    return found


def official_rinalmo_shapes(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Key by key, what the official state dict holds (github.com/lbcb-sci/RiNALMo at 1ad48ee)."""
    inner = int(2 / 3 * 4 * width)
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (22, width)}
    for n in range(layers):
        block = f"transformer.blocks.{n}"
        found |= {
            f"{block}.mh_attn.Wqkv.weight": (3 * width, width),
            f"{block}.mh_attn.out_proj.weight": (width, width),
            f"{block}.transition.0.beta": (1,),
            f"{block}.transition.0.linear.weight": (inner, width),
            f"{block}.transition.0.linear.bias": (inner,),
            f"{block}.transition.0.linear_gate.weight": (inner, width),
            f"{block}.transition.0.linear_gate.bias": (inner,),
            f"{block}.transition.2.weight": (width, inner),
            f"{block}.transition.2.bias": (width,),
        }
        found |= {f"{block}.{norm}_layer_norm.{p}": (width,) for norm in ("attn", "out") for p in ("weight", "bias")}
    found |= {f"transformer.final_layer_norm.{part}": (width,) for part in ("weight", "bias")}
    return found | {"lm_mask_head.linear1.weight": (width, width), "lm_mask_head.linear2.weight": (22, width)}


def test_rinalmo_takes_the_official_names(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, rinalmo, "rinalmo-micro", (24, 2, 2))
    official = random_tensors(official_rinalmo_shapes(24, 2), rng)
    torch.save(official, tmp_path / "rinalmo.pt")
    made = records(("A", "GGAUCACGN", "ACGU" * 9 + "X"), "rna")
    published = rinalmo.published(24, 2, 2)
    own = published.forms[0].convert(read_weights(tmp_path / "rinalmo.pt")[0])
    letters = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *"ACGUIRYKMSWBDHVN-"]
    encoder = load("rna", "rinalmo-micro", tmp_path / "rinalmo.pt", dim=24)
    for record, rows in zip(made, rows_of(encoder, made), strict=True):
        ids = [0, *(letters.index(x) if x in letters else 3 for x in record.sequence), 2]
        assert far(rows, plain_rows(ids, own, published.design)[1:-1]) < ROWS["float32"]


def test_both_forms_of_rinalmo_give_the_same_rows(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converted table of tokens is in another order and longer; q, k and v lie apart."""
    tiny(monkeypatch, rinalmo, "rinalmo-micro", (24, 2, 2))
    official = random_tensors(official_rinalmo_shapes(24, 2), rng)
    converted: dict[str, Tensor] = {}
    for name, tensor in official.items():
        name = name.replace("transformer.blocks", "model.encoder.layer").replace(
            "attn_layer_norm", "attention.layer_norm"
        )
        name = name.replace("mh_attn.out_proj", "attention.output.dense").replace("out_layer_norm", "layer_norm")
        name = name.replace("transition.0.beta", "intermediate.bias").replace("transition.0", "intermediate")
        name = name.replace("transition.2", "output.dense")
        name = name.replace("transformer.final_layer_norm", "model.encoder.layer_norm")
        if "Wqkv" in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            converted |= {name.replace("mh_attn.Wqkv", f"attention.self.{p}"): t.clone() for p, t in parts}
        elif name == "embedding.weight":
            table = torch.tensor(rng.normal(size=(28, 24)), dtype=torch.float32)
            special = ["<pad>", "<cls>", "<eos>", "<unk>", "<mask>", "<null>"]
            theirs = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *"ACGUIRYKMSWBDHVN"]
            for n, letter in enumerate([*special, *"ACGUNRYSWKMBDHVIX|.*-?"]):
                if letter in theirs:
                    table[n] = tensor[theirs.index(letter)]
            converted["model.embeddings.word_embeddings.weight"] = table
        elif not name.startswith("lm_mask_head"):
            converted[name] = tensor
    torch.save(official, tmp_path / "rinalmo.pt")
    save_file(converted, tmp_path / "model.safetensors")
    made = records(("A", "GGAUCACGNRYI".replace("I", "A"), "ACGU" * 9 + "X"), "rna")
    one, two = (
        rows_of(load("rna", "rinalmo-micro", tmp_path / f, dim=24), made) for f in ("rinalmo.pt", "model.safetensors")
    )
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", [n for m, n in ENCODERS if n.startswith(("esm2", "rinalmo", "rnafm"))])
def test_the_table_of_encoders_agrees_with_the_designs(name: str) -> None:
    from crossllm.embed.encoders import rnafm

    info = next(i for i in ENCODERS.values() if i.name == name)
    if name == "rnafm":
        design = rnafm.published().design
    else:
        module = esm2 if name.startswith("esm2") else rinalmo
        design = module.published(*module.SIZES[name]).design
    assert (info.dim, info.layers) == (design.width, design.layers)
    assert info.rotary == (design.positions is None)


def test_rows_come_as_they_are_made(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop between records loses a batch at most, and the longest sequence holds up none of the others."""
    tiny(monkeypatch, esm2, "esm2-8m", (32, 1, 4))
    save_file(_fair_names(esm2.published(32, 1, 4), rng), tmp_path / "w.safetensors")
    encoder = load("protein", "esm2-8m", tmp_path / "w.safetensors", batch_tokens=64, dim=32, long="window:100:50")
    made = records(["M" * 300, *("MK" * n for n in range(1, 30))], "protein")
    batches: list[int] = []
    real = Transformer.rows
    monkeypatch.setattr(
        Transformer, "rows", lambda self, ids, lengths, layers: batches.append(len(lengths)) or real(self, ids, lengths)
    )
    first = next(iter(encoder.encode(made)))
    assert len(batches) == 1
    assert first[0] != made[0].key
    found = dict(encoder.encode(made))
    assert {record.key: record.length for record in made} == {key: len(rows) for key, (rows,) in found.items()}
