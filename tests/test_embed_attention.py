"""Every way to attend, and every way to run what lies between, against the equations or the plain version."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_weights import random_tensors
from plain_transformer import plain_rows
from test_embed_transformer import DESIGNS, LENGTHS, far, ids_of, packed
from tolerances import ROWS, assert_close
from torch import Tensor

from crossllm.embed.engine import attention, elementwise
from crossllm.embed.engine import linear as products
from crossllm.embed.engine.attention import CPU, PADDED, Attention, Packing, by_offsets, first_that_agrees
from crossllm.embed.engine.transformer import Transformer, expected_shapes

HERE = torch.device("cpu")


def loop(q: Tensor, k: Tensor, v: Tensor, of_q: Tensor, of_k: Tensor, most_q: int, most_k: int) -> Tensor:
    """What a varlen kernel computes, sequence by sequence; it is told what such a kernel is told."""
    assert q.shape == k.shape == v.shape
    assert q.stride(-1) == 1
    for offsets, most in ((of_q, most_q), (of_k, most_k)):
        assert offsets.dtype == torch.int32
        assert offsets.is_contiguous()
        assert offsets[0] == 0
        assert offsets[-1] == len(q)
        assert most == int(offsets.diff().max())
    parts = [t.tensor_split(of_q[1:-1].tolist()) for t in (q, k, v)]
    mixed = [F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in own)) for own in zip(*parts, strict=True)]
    return torch.cat([m.transpose(0, 1) for m in mixed])


WAYS = {
    "runs": CPU,
    "padded": PADDED,
    "one padded block": PADDED._replace(padding=1e9),
    "varlen": Attention("varlen", by_offsets(loop), None),
}


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_attend_gives_the_equations(way: str, name: str, compute: str, rng: np.random.Generator) -> None:
    design = DESIGNS[name]
    tensors = random_tensors(expected_shapes(design), rng)
    found = Transformer(dict(tensors), design, getattr(torch, compute), HERE, WAYS[way])
    ids = ids_of(rng, (*LENGTHS, 41, 43, 42))
    for own, rows in zip(ids, packed(found, ids), strict=True):
        assert far(rows, plain_rows(own, tensors, design)) < ROWS[compute]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DESIGNS)
def test_without_onednn_the_products_are_the_plain_ones(
    name: str, compute: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = DESIGNS[name]
    tensors = random_tensors(expected_shapes(design), rng)
    ids = ids_of(rng)
    there = packed(Transformer(dict(tensors), design, getattr(torch, compute), HERE), ids)
    monkeypatch.setattr(products, "_agrees", lambda *_: False)
    plain = Transformer(dict(tensors), design, getattr(torch, compute), HERE)
    assert all(isinstance(p, products.Linear) for p in (plain._layers[0].qkv, plain._layers[-1].down))
    for own, rows, others in zip(ids, packed(plain, ids), there, strict=True):
        assert far(rows, plain_rows(own, tensors, design)) < ROWS[compute]
        assert far(others, rows) < ROWS[compute]


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_product_by_onednn_is_the_plain_one(compute: torch.dtype, rng: np.random.Generator) -> None:
    shape = (96, 40)
    weight, bias = (torch.tensor(rng.normal(size=size), dtype=compute) for size in (shape, shape[:1]))
    for linear in (products.Linear(weight, bias), products.Linear(weight, None)):
        fast = products.packed(linear)
        if isinstance(fast, products.Linear):
            pytest.skip("this torch or this processor has no such product")
        for rows in (1, 2, 33, 700):
            x = torch.tensor(rng.normal(size=(rows, 40)), dtype=compute)
            assert_close(fast(x), linear(x), f"{rows} rows")
            assert_close(fast.gelu(x), linear.gelu(x), f"GELU of {rows} rows")


def test_a_product_that_is_not_the_plain_one_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = products._laid_out
    products._agrees.cache_clear()
    linear = products.Linear(torch.ones(6, 4), torch.ones(6))
    for wrong_way in (
        lambda given: real(products.Linear(given.weight.flip(0), given.bias)),
        lambda given: real(products.Linear(given.weight, None)),
        lambda given: real(products.Linear(given.weight * torch.nan, given.bias)),
        lambda _given: torch.ops.mkldnn.there_is_no_such_function(),
    ):
        monkeypatch.setattr(products, "_laid_out", wrong_way)
        assert products.packed(linear) is linear
        products._agrees.cache_clear()


@pytest.mark.parametrize("padding", [0.0, 0.125, 1e9])
def test_blocks_cover_a_batch_with_little_padding(padding: float, rng: np.random.Generator) -> None:
    lengths = np.sort(rng.integers(30, 400, 200)).tolist()
    for order in (lengths, rng.permutation(lengths).tolist()):
        blocks = Packing.of(order, HERE, padding=padding).blocks
        assert [b.start for b in blocks] == [0, *(b.stop for b in blocks[:-1])]
        assert blocks[-1].stop == sum(order)
        assert sum(b.sequences for b in blocks) == len(order)
        assert all(b.sequences * b.length <= (1 + padding) * (b.stop - b.start) for b in blocks)
    sorted_blocks = Packing.of(lengths, HERE, padding=padding).blocks
    assert len(sorted_blocks) == {0.0: len(set(lengths)), 1e9: 1}.get(padding, len(sorted_blocks))
    if padding == attention.PADDING:
        assert len(sorted_blocks) < 20, "200 different lengths are few calls"


def test_places_and_offsets_are_those_of_the_sequences() -> None:
    packing = Packing.of((3, 1, 2), HERE, rotary=4)
    assert packing.places.tolist() == [0, 1, 2, 0, 0, 1]
    assert packing.offsets.tolist() == [0, 3, 4, 6]
    assert packing.rotation is not None
    assert torch.equal(packing.rotation[0][:3], packing.rotation[0][[0, 5, 2]])


def wrong(found: Callable[..., Tensor]) -> Attention:
    return Attention("wrong", by_offsets(found), None)


def test_a_kernel_is_taken_only_if_it_gives_the_numbers() -> None:
    def refuses(*_: object) -> Tensor:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    def mixes(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
        whole = F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1))
        return whole.transpose(0, 1)

    def pads(q: Tensor, *rest: Tensor) -> Tensor:
        return F.pad(loop(q, *rest), (0, 8))  # type: ignore[arg-type]

    def nothing(q: Tensor, *_: object) -> Tensor:
        return torch.full_like(q, torch.nan)

    kernels = [wrong(refuses), wrong(mixes), wrong(pads), wrong(nothing)]
    for compute in (torch.float32, torch.bfloat16):
        good = Attention("good", by_offsets(loop), None)
        assert first_that_agrees(iter([*kernels, good]), HERE, compute, 3, 16) is good
        assert first_that_agrees(iter(kernels), HERE, compute, 3, 16) is PADDED


@pytest.mark.slow
def test_the_varlen_kernel_of_this_torch_takes_what_it_is_given() -> None:
    """On `meta`, where it computes nothing but checks its arguments."""
    meta = torch.device("meta")
    kernels = list(attention.varlen_kernels())
    assert any(kernel.name.startswith("torch varlen_attn") for kernel in kernels)
    qkv = torch.empty(13, 3, 4, 16, dtype=torch.bfloat16, device=meta)
    packing = Packing.of((3, 1, 9), meta, padding=None)
    for kernel in kernels:
        if kernel.name.startswith("torch"):
            assert kernel.attend(qkv, packing).shape == (13, 4, 16)


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", DESIGNS)
def test_a_batch_never_waits_for_the_device(name: str, compute: str, rng: np.random.Generator) -> None:
    """On `meta` nothing has a value: an operation that asks for one fails, as one does that mixes devices."""
    design = DESIGNS[name]._replace(width=32)  # heads of 16, which the varlen kernels take
    meta = torch.device("meta")
    ways = [PADDED, *(kernel for kernel in attention.varlen_kernels() if kernel.name.startswith("torch"))]
    for way in ways if compute == "bfloat16" else ways[:1]:
        model = Transformer(random_tensors(expected_shapes(design), rng), design, getattr(torch, compute), meta, way)
        lengths = (*LENGTHS, 41, 43)
        (rows,) = model.rows(torch.zeros(sum(lengths), dtype=torch.int64, device=meta), lengths)
        assert (rows.shape, rows.dtype, rows.device) == ((sum(lengths), 32), torch.float32, meta)
    with pytest.raises(RuntimeError, match="meta"):  # or this would prove nothing
        _ = rows + torch.ones(1, 32)


def arguments(rng: np.random.Generator, compute: torch.dtype) -> list[tuple[str, Sequence[object]]]:
    """Calls as the models make them, of several lengths and gates."""

    def made(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(rng.normal(size=shape), dtype=kind)

    found: list[tuple[str, Sequence[object]]] = []
    for tokens in (5, 17, 33):
        norm = elementwise.Norm(made(24), made(24), 1e-5)
        angle = made(tokens, 4)
        found += [("rotate", (made(tokens, 3, 3, 8, kind=compute), angle.cos(), angle.sin()))]
        for added in (None, made(tokens, 24, kind=compute)):
            found += [("add_norm", (made(tokens, 24), added, norm, onward, compute)) for onward in (True, False)]
        for beta in (1.0, *rng.uniform(0.5, 2, 12).tolist()):
            found += [("gate", (made(tokens, 48, kind=compute), beta))]
    return found


def run(ways: elementwise.Elementwise, name: str, call: Sequence[object]) -> list[Tensor]:
    call = [c.clone() if isinstance(c, Tensor) else c for c in call]
    given = getattr(ways, name)(*call)
    return [given] if isinstance(given, Tensor) else [call[0]] if given is None else list(given)  # type: ignore[list-item]


def hold(ways: elementwise.Elementwise, rng: np.random.Generator, compute: torch.dtype) -> None:
    for name, call in arguments(rng, compute):
        expected = run(elementwise.Elementwise(), name, call)
        with torch.inference_mode():
            found = run(ways, name, call)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert_close(one, other, name)


@pytest.mark.slow
def test_traced_passes_are_the_plain_ones(rng: np.random.Generator) -> None:
    """As the compiler reads them, without its code generator; no length and no gate of its own is compiled for."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=6, fail_on_recompile_limit_hit=True):
        hold(elementwise.compiled(partial(torch.compile, backend="aot_eager")), rng, torch.bfloat16)


@pytest.mark.slow
def test_a_compiled_pass_is_the_plain_one(rng: np.random.Generator) -> None:
    """By the code generator for CPUs, the one pass that works in place; for CUDA it is the same compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    from torch._inductor import config

    torch._dynamo.reset()
    fast = elementwise.compiled(partial(torch.compile, fullgraph=True))
    calls = [call for name, call in arguments(rng, torch.bfloat16) if name == "rotate"]
    # What the processor has is known; compiling a trial for each of its instruction sets takes longer than the rest.
    with config.patch({"cpp.vec_isa_ok": True}):
        for call in calls:
            (found,), (expected,) = (run(ways, "rotate", call) for ways in (fast, elementwise.Elementwise()))
            assert_close(found, expected, "rotate")
            assert not torch.equal(found, call[0])  # type: ignore[arg-type]


def test_without_a_compiler_the_plain_passes_run_and_it_is_said_once(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def compiler(plain: Callable[..., object], dynamic: bool) -> Callable[..., object]:
        def fails(*_: object) -> object:
            tried.append(plain.__name__)
            raise RuntimeError("Cannot find a working triton installation.\nMore on this below")

        return fails

    hold(elementwise.compiled(compiler), rng, torch.float32)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "going on without it" in said
    assert tried == ["rotate"], "after one failure nothing is tried again"


def test_out_of_memory_in_a_compiled_pass_is_not_taken_for_a_missing_compiler() -> None:
    def compiler(_plain: Callable[..., object], dynamic: bool) -> Callable[..., object]:
        def fails(*_: object) -> object:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        return fails

    with pytest.raises(torch.OutOfMemoryError):
        elementwise.compiled(compiler).gate(torch.ones(2, 2), 1.0)


def test_a_loaded_model_holds_no_source(rng: np.random.Generator) -> None:
    """While one layer is converted those before it are gone already: the model never lies in memory twice."""
    design = DESIGNS["RiNALMo"]._replace(layers=4)
    made = random_tensors(expected_shapes(design), rng)
    alive = {name: weakref.ref(tensor) for name, tensor in made.items()}
    most = 0

    class Watched(dict[str, Tensor]):
        def pop(self, name: str) -> Tensor:  # type: ignore[override]
            nonlocal most
            lingering = [n for n, ref in alive.items() if ref() is not None and n not in self]
            most = max(most, len(lingering))
            return super().pop(name)

    watched = Watched(made)
    del made
    Transformer(watched, design, torch.bfloat16, HERE)
    assert not watched
    assert most <= 1
    assert all(ref() is None for ref in alive.values())
