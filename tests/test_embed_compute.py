"""`--compute`: by flag, by the cache, by the device; a recipe is never started in silence."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_embed_transformer import _fair_names, tiny

from crossllm.cache import Conflict, InputError, list_recipes
from crossllm.embed.encoders import esm2
from crossllm.embed.encoders.registry import ENCODERS
from crossllm.embed.engine import choosing, device
from crossllm.embed.run import recipes
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run
from crossllm.model import device as model_device

CPU = torch.device("cpu")


def fast(monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    """The device has bfloat16, and is faster or slower in it."""
    monkeypatch.setattr(choosing, "has_bfloat16", lambda _device: True)
    monkeypatch.setattr(device, "has_bfloat16", lambda _device: bfloat16)
    taken = {"float32": 1.0, "bfloat16": 0.5 if bfloat16 else 2.0}
    monkeypatch.setattr(choosing, "times", lambda _design, _device: taken)
    recipes._measured.cache_clear()


@pytest.mark.parametrize("bfloat16", [True, False])
def test_auto_is_what_the_device_is_made_for(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch, bfloat16)
    model, profile = ENCODERS["protein", "esm2-8m"], ENCODERS["protein", "profile"]
    assert model.compute("auto", (), "cpu") == ("bfloat16" if bfloat16 else "float32")
    assert profile.compute("auto", (), "cpu") == "float32", "it has no other"
    assert model.compute(None, (), "cpu") == "float32"
    with pytest.raises(InputError, match="--compute bfloat16: profile computes in float32; name that"):
        profile.compute("bfloat16", (), "cpu")
    with pytest.raises(InputError, match="--device nowhere"):
        model.compute("auto", (), "nowhere")


def test_a_recipe_held_is_followed_and_several_are_named() -> None:
    info = ENCODERS["protein", "esm2-8m"]
    one = dataclasses.replace(info.recipe("0" * 64), compute="float32")
    other = dataclasses.replace(one, compute="bfloat16")
    for asked in (None, "auto"):
        for held in (one, other):
            assert info.compute(asked, [held], "nowhere") == held.compute, "no device is looked at"
        with pytest.raises(Conflict) as caught:
            info.compute(asked, [one, other], "cpu")
        said = str(caught.value)
        assert f"{other.folder_name} (bfloat16) and {one.folder_name} (float32)" in said
        assert said.endswith("say which by --compute bfloat16 or float32")
    assert info.compute("float32", [one, other], "cpu") == "float32"


def test_the_same_command_elsewhere_follows_the_cache(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, esm2, "esm2-8m", (320, 1, 20))
    weights, fasta = tmp_path / "w.safetensors", tmp_path / "p.fasta"
    save_file(_fair_names(esm2.published(320, 1, 20), rng), weights)
    fasta.write_text(">a\nMKTAYI\n>b\nLAGV\n")
    asked = RunOptions("protein", fasta, tmp_path / "c", "esm2-8m", weights, compute="auto", quiet=True)

    def held() -> list[str]:
        return sorted(recipe.compute for recipe in list_recipes(tmp_path / "c", "protein"))

    fast(monkeypatch, True)
    assert run(asked).embedded == 2
    assert held() == ["bfloat16"], "the type, not `auto`, is what the recipe holds"
    fast(monkeypatch, False)
    assert run(asked).already == 2
    assert run(dataclasses.replace(asked, compute=None)).already == 2
    with pytest.raises(Conflict, match="compute: float32, not bfloat16; leave the flag out to follow it, or start"):
        run(dataclasses.replace(asked, compute="float32"))
    assert run(dataclasses.replace(asked, new_recipe=True)).embedded == 2
    assert held() == ["bfloat16", "float32"]
    with pytest.raises(Conflict, match=r"say which by --compute bfloat16 or float32$"):
        run(asked)
    assert run(dataclasses.replace(asked, compute="bfloat16")).already == 2
    assert held() == ["bfloat16", "float32"]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel's word is compared with torch's")
def test_what_the_processor_has_is_what_the_kernel_says() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert device.has_bfloat16(CPU) == bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


@pytest.mark.parametrize("has_bfloat16", [device.has_bfloat16, model_device.has_bfloat16], ids=["embed", "model"])
@pytest.mark.parametrize(
    ("capabilities", "platform", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "linux", True),
        ({"avx512_bf16": False, "amx_bf16": True}, "linux", True),
        ({"avx512_f": True, "avx512_bf16": False}, "linux", False),
        ({"neon": True, "bf16": True}, "linux", True),
        ({"neon": True, "bf16": True}, "darwin", False),
        ({}, "linux", False),
    ],
)
def test_processors(
    capabilities: dict[str, bool],
    platform: str,
    expected: bool,
    has_bfloat16: Callable[[torch.device], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert has_bfloat16(CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: expected)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert has_bfloat16(CPU) is expected, "torch 2.10 has no get_capabilities"
    assert has_bfloat16(torch.device("meta")) is False


@pytest.mark.parametrize("has_bfloat16", [device.has_bfloat16, model_device.has_bfloat16], ids=["embed", "model"])
@pytest.mark.parametrize("supported", [True, False])
def test_cuda_is_asked_for_hardware(
    supported: bool, has_bfloat16: Callable[[torch.device], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert has_bfloat16(torch.device("cuda", 1)) is supported


def test_auto_is_decided_by_the_products_of_the_model_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A processor with the flag alone was measured half as fast in bfloat16."""
    recipe = ENCODERS["protein", "esm2-8m"].recipe("0" * 64)
    for faster, chosen in ((False, "float32"), (True, "bfloat16")):
        fast(monkeypatch, faster)
        assert recipes._fastest(recipe, "cpu") == chosen
        assert recipes._fastest(recipe, "cpu") == chosen, "once a process"
        (line,) = capsys.readouterr().err.splitlines()
        ratio = "2 ×" if faster else "0.5 ×"
        assert line.startswith(
            f"note: --compute auto: {chosen} for esm2-8m: in bfloat16 a layer's products of 256 tokens"
        )
        assert line.endswith(f"{ratio} as fast")
    monkeypatch.setattr(choosing, "has_bfloat16", lambda _device: False)
    recipes._measured.cache_clear()
    assert recipes._fastest(recipe, "cpu") == "float32"
    assert "cpu has no bfloat16 of its own" in capsys.readouterr().err


def test_the_products_measured_are_those_of_a_layer() -> None:
    found = choosing.times(esm2.published(320, 1, 20).design, CPU)
    assert found.keys() == {"float32", "bfloat16"}
    assert all(0 < seconds < 10 for seconds in found.values())
