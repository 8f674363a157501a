"""Large files of weights are mapped: the same tensors, none of the memory, none of the trust; and folders of files."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Program
from made_weights import load, random_tensors, rows_of
from safetensors.torch import save_file
from test_embed_weights import BAD, HOSTILE, TENSORS
from torch import Tensor

from crossllm.cache import InputError, record_of
from crossllm.embed.encoder import Loading
from crossllm.embed.encoders import esm2, language_model, rinalmo, rnafm
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.engine.transformer import expected_shapes
from crossllm.embed.weights import checkpoint, digests
from crossllm.embed.weights.checkpoint import (
    check_unchanged,
    read_verified,
    read_weights,
    select_tensors,
    weights_digest,
)
from crossllm.embed.weights.model_size import ESM2_SIZES, Size, refuse_other_size, size_of

PROTEIN = record_of("protein", "x", "MKTVRQERLKX")
SAVES: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "safetensors": save_file,
    "zip": torch.save,
    "before 1.6": lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
}
linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of every size are mapped."""
    monkeypatch.setattr(checkpoint, "_MAPPED_FROM", 0)


def published_tensors(rng: np.random.Generator, layers: int = 2) -> dict[str, Tensor]:
    """An ESM-2 of width 32 under fair-esm's names."""
    names = {
        "tokens": "embed_tokens", "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "out": "self_attn.out_proj", "attention_norm": "self_attn_layer_norm", "up": "fc1", "down": "fc2",
        "inner_norm": "final_layer_norm", "final_norm": "emb_layer_norm_after",
    }  # fmt: skip
    found = random_tensors(expected_shapes(esm2.published(32, layers, 4).design), rng)
    return {".".join(names.get(part, part) for part in name.split(".")): t for name, t in found.items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> dict[str, Tensor]:
    """The tensors of an `esm2-8m` that is tiny here."""
    monkeypatch.setitem(esm2.SIZES, "esm2-8m", (32, 2, 4))
    return published_tensors(rng)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("mapped")
def test_a_hostile_file_runs_nothing_when_mapped(name: str, tmp_path: Path) -> None:
    HOSTILE[name](tmp_path / "w.pth", tmp_path / "canary")
    with pytest.raises(InputError, match="if you trust it, open it yourself"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("mapped")
def test_what_holds_no_weights_is_refused_when_mapped(name: str, tmp_path: Path) -> None:
    make, say = BAD[name]
    make(tmp_path / "weights")
    with pytest.raises(InputError, match=say):
        read_weights(tmp_path / "weights")


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@pytest.mark.usefixtures("mapped")
def test_a_mapped_file_cut_anywhere_is_refused(
    save: Callable[[dict[str, Tensor], Path], None], tmp_path: Path, rng: np.random.Generator
) -> None:
    save(TENSORS, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for size in rng.integers(0, len(whole), 20).tolist():
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_weights(tmp_path / "cut")


@pytest.mark.usefixtures("mapped")
def test_a_tensor_that_reaches_beyond_its_mapped_file_is_refused(tmp_path: Path) -> None:
    """torch cuts a storage off at the end of a mapped file; the tensor over it must not be made."""
    torch.save({"a": torch.ones(4096)}, tmp_path / "w.pt")
    data = bytearray((tmp_path / "w.pt").read_bytes())
    assert data.count(b"M\x00\x10") == 2, "4096, as the pickle writes the storage's length and the tensor's"
    (tmp_path / "w.pt").write_bytes(bytes(data).replace(b"M\x00\x10", b"M\xff\xff"))
    with pytest.raises(InputError, match="neither safetensors nor a PyTorch file"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_mapped_or_read_whole_the_rows_are_the_same(
    save: Callable[[dict[str, Tensor], Path], None], tiny: dict[str, Tensor], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    save(tiny, tmp_path / "w")
    whole = rows_of(load("protein", "esm2-8m", tmp_path / "w", dim=32), [PROTEIN])
    monkeypatch.setattr(checkpoint, "_MAPPED_FROM", 0)
    again = rows_of(load("protein", "esm2-8m", tmp_path / "w", dim=32), [PROTEIN])
    assert whole[0].tobytes() == again[0].tobytes()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin", "w"])
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@pytest.mark.usefixtures("mapped")
def test_a_file_is_what_it_holds_not_what_it_is_called(
    save: Callable[[dict[str, Tensor], Path], None], name: str, tmp_path: Path
) -> None:
    save(TENSORS, tmp_path / name)
    found, _ = read_weights(tmp_path / name)
    assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())


@linux
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["safetensors", "zip"])
@pytest.mark.usefixtures("mapped")
def test_nothing_stays_mapped_once_a_model_is_loaded(
    form: str, compute: str, tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    """So the file may be replaced or cut while the model runs: no row changes, and no SIGBUS."""
    path = tmp_path / "w"
    SAVES[form](tiny, path)
    found, _ = read_weights(path)
    assert str(path) in Path("/proc/self/maps").read_text(), "the control: it is mapped"
    del found
    encoder = load("protein", "esm2-8m", path, dim=32, compute=compute)
    assert str(path) not in Path("/proc/self/maps").read_text()
    before = rows_of(encoder, [PROTEIN])[0]
    path.write_bytes(b"")
    assert rows_of(encoder, [PROTEIN])[0].tobytes() == before.tobytes()


MEASURE = """
import sys
from pathlib import Path
import torch
from crossllm.embed.weights.checkpoint import read_weights

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

torch.zeros(1)
import safetensors.torch
before = own()
found, _ = read_weights(Path(sys.argv[1]))
print(own() - before)
"""


@pytest.mark.slow
@linux
def test_reading_a_large_file_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    tensors = {f"t{n}": torch.full((24 << 20,), float(n), dtype=torch.float16) for n in range(2)}
    grown = {}
    for form, save in SAVES.items():
        save(tensors, tmp_path / "w")
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "w")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[form] = float(done.stdout)
    print("MiB of its own to read 96 MiB:", grown)
    assert grown["safetensors"] < 24
    assert grown["zip"] < 24
    assert grown["before 1.6"] > 80, "the control: torch's old form cannot be mapped"


def test_a_digest_is_computed_once_while_the_file_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    path = tmp_path / "w"
    path.write_bytes(rng.bytes(5000))
    monkeypatch.setattr(digests, "_known", {})
    monkeypatch.setattr(digests, "_SETTLED", -1)
    first = weights_digest(path)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    with monkeypatch.context() as only_here:
        only_here.setattr(hashlib, "sha256", None)
        assert weights_digest(path) == first, "known, not computed"
    before = path.stat()
    path.write_bytes(rng.bytes(5000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest() != first, "another, of the same times"


def test_the_digest_of_a_file_changed_just_now_is_not_taken_for_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_known", known := {})
    (tmp_path / "w").write_bytes(b"just now")
    weights_digest(tmp_path / "w")
    assert known == {}


def test_hashing_a_long_file_shows_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    seen: list[tuple[object, ...]] = []

    @contextmanager
    def bar(*asked: object):  # type: ignore[no-untyped-def]
        seen.append(asked)
        yield lambda count: seen.append((count,))

    monkeypatch.setattr(digests, "byte_progress", bar)
    (tmp_path / "w").write_bytes(bytes(3 << 20))
    weights_digest(tmp_path / "w")
    assert seen == []
    monkeypatch.setattr(digests, "SHOWN_FROM", 3 << 20)
    weights_digest(tmp_path / "w", quiet=True)
    assert seen == [(3 << 20, "checking w", True), *[(1 << 20,)] * 3]


@pytest.mark.parametrize("form", SAVES)
@pytest.mark.usefixtures("mapped")
def test_weights_changed_while_a_model_is_made_of_them_are_refused(
    form: str, tiny: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w"
    SAVES[form](tiny, path)
    real = language_model.Transformer

    def changed_meanwhile(*arguments: object, **options: object) -> object:
        made = real(*arguments, **options)  # type: ignore[arg-type]
        SAVES[form]({name: t + 1 for name, t in tiny.items()}, tmp_path / "other")
        os.replace(tmp_path / "other", path)
        return made

    monkeypatch.setattr(language_model, "Transformer", changed_meanwhile)
    with pytest.raises(InputError, match="was changed while it was read; run the same command again"):
        load("protein", "esm2-8m", path, dim=32)


def test_weights_that_are_not_those_of_the_recipe_are_refused(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tiny, tmp_path / "w")
    recipe = ENCODERS["protein", "esm2-8m"].recipe("0" * 64)
    for check in (read_verified, check_unchanged):
        with pytest.raises(InputError, match="was changed while it was read"):
            check(Loading((recipe,), tmp_path / "w"))


PREFIXES = {
    "esm2": ("embed_tokens.weight", "layers.{}.fc1.bias"),
    "esm2 before the names were cut": (
        "encoder.sentence_encoder.embed_tokens.weight", "encoder.sentence_encoder.layers.{}.fc1.bias",
    ),
    "esm2 on Hugging Face": (
        "esm.embeddings.word_embeddings.weight", "esm.encoder.layer.{}.intermediate.dense.bias"
    ),
    "rinalmo": ("embedding.weight", "transformer.blocks.{}.transition.0.linear.bias"),
    "rinalmo of multimolecule": (
        "model.embeddings.word_embeddings.weight", "model.encoder.layer.{}.intermediate.linear.bias"
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", PREFIXES)
def test_another_size_of_the_family_is_named(form: str) -> None:
    family = form.split()[0]
    module = {"esm2": esm2, "rinalmo": rinalmo}[family]
    tokens, layer = PREFIXES[form]
    modality = {"esm2": "protein", "rinalmo": "rna"}[family]
    for given, (width, layers, _) in module.SIZES.items():
        found = {tokens: torch.empty(33, width, device="meta")}
        found |= {layer.format(n): torch.empty(4, device="meta") for n in range(layers)}
        assert size_of(found) == (width, layers)
        for asked in module.SIZES:
            loading = Loading((ENCODERS[modality, asked].recipe("0" * 64),), Path("w.pt"))
            if asked == given:
                refuse_other_size(loading, found)
                continue
            with pytest.raises(InputError) as refusal:
                refuse_other_size(loading, found)
            assert str(refusal.value) == (
                f"--weights w.pt: these look like {given}: width {width}, {layers} layers; name `--encoder {given}`, "
                f"or the weights of {asked}"
            )


def test_other_tensors_look_like_nothing() -> None:
    loading = Loading((ENCODERS["protein", "esm2-8m"].recipe("0" * 64),), Path("w.pt"))
    for found in ({}, TENSORS, {"embed_tokens.weight": torch.ones(33)}, {"layers.0.a": torch.ones(1)}):
        assert size_of(found) is None
        refuse_other_size(loading, found)
    rnafm_sized = {"embed_tokens.weight": torch.ones(25, 640)} | {f"layers.{n}.x": torch.ones(1) for n in range(12)}
    refuse_other_size(loading, rnafm_sized)  # of another family: the tensors' names say what is wrong
    assert (rnafm.published().design.width, rnafm.published().design.layers) == size_of(rnafm_sized)


def test_a_wrong_size_is_one_line_of_embed_run(
    tiny: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(ESM2_SIZES, "esm2-35m", Size(32, 3, 4))
    torch.save({"model": published_tensors(rng, 3)}, tmp_path / "esm2_t12_35M_UR50D.pt")
    with pytest.raises(InputError, match=r"these look like esm2-35m: width 32, 3 layers; name `--encoder esm2-35m`"):
        load("protein", "esm2-8m", tmp_path / "esm2_t12_35M_UR50D.pt", dim=32)


def test_a_missing_tensor_is_said_with_the_nearest_name(tmp_path: Path) -> None:
    found = {"layers.0.self_attn.query_proj.weight": torch.ones(2, 2), "far": torch.ones(1)}
    with pytest.raises(InputError) as refusal:
        select_tensors(tmp_path / "w", found, {"layers.0.self_attn.q_proj.weight": (2, 2), "zzz": (1,)}, "far")
    assert (
        "layers.0.self_attn.q_proj.weight is missing (the nearest here is layers.0.self_attn.query_proj.weight); "
        "zzz is missing; " in str(refusal.value)
    )


def hub(folder: Path, files: dict[str, Path]) -> Path:
    """A model in the form of the Hugging Face hub's cache: names in a snapshot that are links to blobs."""
    model = folder / "models--facebook--esm2_t6_8M_UR50D"
    snapshot = model / "snapshots" / "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for name, path in files.items():
        blob = model / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        os.replace(path, blob)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob.name))
    return snapshot


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin", "bin shards"])
def test_a_folder_of_the_hugging_face_hub_will_do(form: str, tiny: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tiny, tmp_path / "alone")
    (expected,) = rows_of(load("protein", "esm2-8m", tmp_path / "alone", dim=32), [PROTEIN])
    files = {"config.json": tmp_path / "config.json"}
    files["config.json"].write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    if form == "bin shards":
        names = list(tiny)
        shards = {"pytorch_model-00001-of-00002.bin": names[:7], "pytorch_model-00002-of-00002.bin": names[7:]}
        for shard, own in shards.items():
            files[shard] = tmp_path / shard
            torch.save({name: tiny[name] for name in own}, files[shard])
        files["pytorch_model.bin.index.json"] = tmp_path / "index"
        weight_map = {name: shard for shard, own in shards.items() for name in own}
        files["pytorch_model.bin.index.json"].write_text(json.dumps({"weight_map": weight_map}))
    else:
        files[form] = tmp_path / "file"
        (save_file if form == "model.safetensors" else torch.save)(tiny, files[form])
    snapshot = hub(tmp_path, files)
    (rows,) = rows_of(load("protein", "esm2-8m", snapshot, dim=32), [PROTEIN])
    assert rows.tobytes() == expected.tobytes()
    with pytest.raises(InputError, match=r"a model in the Hugging Face hub's cache; name a snapshot: .*c731040f"):
        weights_digest(snapshot.parent.parent)


def test_safetensors_come_before_pickles(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    save_file(tiny, tmp_path / "model.safetensors")
    assert weights_digest(tmp_path) == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


def test_a_pickle_in_a_folder_runs_nothing(tmp_path: Path) -> None:
    HOSTILE["reduce"](tmp_path / "pytorch_model.bin", tmp_path / "canary")
    with pytest.raises(InputError, match="neither safetensors nor a PyTorch file that opens with weights_only=True"):
        read_weights(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_pointer_of_git_lfs_is_told_from_the_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 31384292\n"
    )
    (tmp_path / "a.fasta").write_text(">x\nMKV\n")
    done = program(
        "embed",
        "run",
        "--modality",
        "protein",
        "-i",
        "a.fasta",
        "--encoder",
        "esm2-8m",
        "--weights",
        tmp_path,
        "--quiet",
    )
    assert done.returncode == 2
    assert "a pointer of Git LFS, not the file; `git lfs pull` fetches it" in done.stderr
    assert len(done.stderr.splitlines()) == 1
