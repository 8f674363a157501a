"""Backends of the scan and the convolution beside their references: lanes, Numba, Triton, mamba_ssm."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from llvmlite.binding import get_host_cpu_features
from made_scans import gradients, make, torch_threads
from tolerances import assert_close
from torch import Tensor
from triton_child import CALLS

from crossllm.model.scan.chunks import cut
from crossllm.model.scan.conv import causal_conv, causal_conv_reference
from crossllm.model.scan.selective_scan import selective_scan


def convolved(leaves: list[Tensor], offsets: Tensor, reverse: bool, backend: str, dy: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in leaves]
    y = causal_conv(*leaves, offsets, reverse, backend)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("split", ["PLAIN", "TABLE", "auto"])
def test_exp2_is_within_one_ulp_and_never_leaves_float32(rng: np.random.Generator, split: str) -> None:
    from crossllm.model.scan import simd
    from crossllm.model.scan.simd import SMALLEST, WIDTH, load, make_exp2, store

    if split == "TABLE" and not get_host_cpu_features().get("avx512f"):
        pytest.skip("a processor without AVX-512")
    exp2 = make_exp2(getattr(simd, split, None))

    @numba.njit
    def powers(x, y):  # type: ignore[no-untyped-def]
        for i in range(0, len(x), WIDTH):
            store(y, i, exp2(load(x, i)))

    x = np.concatenate([-rng.exponential(20, 1 << 16), -rng.uniform(0, 1, 1 << 16), -rng.uniform(1e-9, 1e-3, 1 << 12)])
    x = np.concatenate([x, [0, -0.0, -0.5, -1, -125.5, -126, -126.5, -1e30, -np.inf, 1, 10, 127, np.nan, 0, 0, 0]])
    x = x.astype(np.float32)
    y = np.empty_like(x)
    powers(x, y)
    exact = np.exp2(np.maximum(x.astype(np.float64), SMALLEST))
    finite = ~np.isnan(x)
    ulps = np.abs(y - exact)[finite] / np.spacing(exact[finite].astype(np.float32))
    assert ulps.max() <= 1.0
    assert np.isnan(y[~finite]).all()
    assert y[x == 0].tolist() == [1.0] * int((x == 0).sum())


def test_the_formula_of_mamba_ssm(rng: np.random.Generator) -> None:
    """selective_scan_ref of mamba_ssm as a formula: deltaA, deltaB_u, one loop over time, on a padded batch."""
    batch, length, channels, states = 3, 9, 5, 4
    (u, delta, A, B, C, D), offsets = make(rng, [length] * batch, channels, states)
    expected = padded_scan(*(x.view(batch, length, -1).transpose(1, 2) for x in (u, delta)), A,
                           *(x.view(batch, length, -1).transpose(1, 2) for x in (B, C)), D)  # fmt: skip
    expected = expected.transpose(1, 2).reshape(-1, channels)
    assert_close(selective_scan(u, delta, A, B, C, D, offsets, False, "reference"), expected, "reference")
    single = [x.float() for x in (u, delta, A, B, C, D)]
    assert_close(selective_scan(*single, offsets, False, "numba"), expected, "numba")


def padded_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """(S, C, L): x_l = exp(Δ_l A) x_{l−1} + Δ_l B_l u_l, y_l = ⟨x_l, C_l⟩ + D u_l."""
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    driven = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state, outputs = torch.zeros_like(driven[:, :, 0]), []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + driven[:, :, step]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, step]))
    return torch.stack(outputs, 2) + u * D[:, None]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_mamba_ssm_backend_pads_and_packs(
    rng: np.random.Generator, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel needs CUDA; here its formula stands in for it, so that what is tested is ours: the padding."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = padded_scan  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    from crossllm.model.scan.mamba_ssm_scan import scan

    inputs, offsets = make(rng, [4, 1, 7, 2], 3, 2)
    single = [x.float().requires_grad_() for x in inputs]
    dy = torch.from_numpy(rng.normal(size=inputs[0].shape))
    y, grads = gradients(inputs, offsets, reverse, "reference", dy)
    found = scan(*single, offsets, reverse)
    assert_close(found, y, "y")
    for i, (got, reference) in enumerate(zip(torch.autograd.grad(found, single, dy.float()), grads, strict=True)):
        assert_close(got, reference, f"gradient {i}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("lengths", "channels", "width"),
    [([1], 1, 4), ([1, 2, 3, 4, 5], 16, 4), ([63, 1, 64, 65, 200], 37, 4), ([5, 1, 70], 48, 1), ([3000], 3, 3)],
)
def test_the_convolution_equals_one_conv1d_a_sequence(
    rng: np.random.Generator, lengths: list[int], channels: int, width: int, reverse: bool
) -> None:
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    shapes = [(int(offsets[-1]), channels), (channels, width), (channels,)]
    leaves = [torch.from_numpy(rng.normal(size=shape)) for shape in shapes]
    dy = torch.from_numpy(rng.normal(size=shapes[0]))
    slow = [x.clone().requires_grad_() for x in leaves]
    y = causal_conv_reference(*slow, offsets, reverse)
    expected = [y, *torch.autograd.grad(y, slow, dy)]
    single = [x.float() for x in leaves]
    for backend in ("numba", "reference"):
        for name, found, reference in zip(
            ("y", "x", "weight", "bias"),
            convolved(single, offsets, reverse, backend, dy.float()),
            expected,
            strict=True,
        ):
            assert_close(found, reference, f"{backend} {name}")


def test_the_convolution_keeps_its_bits_for_any_threads_and_packing(rng: np.random.Generator) -> None:
    offsets = torch.tensor([0, 100, 107, 300])
    single = [torch.from_numpy(rng.normal(size=s)).float() for s in [(300, 20), (20, 4), (20,)]]
    dy = torch.from_numpy(rng.normal(size=(300, 20))).float()
    one = convolved(single, offsets, False, "numba", dy)
    with torch_threads(2):
        two = convolved(single, offsets, False, "numba", dy)
        assert numba.get_num_threads() == 2
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for start, stop in pairwise(offsets.tolist()):
        alone = causal_conv(single[0][start:stop], *single[1:], torch.tensor([0, stop - start]), False, "numba")
        assert torch.equal(alone, one[0][start:stop])


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_hold_every_token_once_in_the_order_of_the_scan(rng: np.random.Generator, reverse: bool) -> None:
    lengths = rng.integers(1, 20, 12)
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    chunks = cut(offsets, 4, reverse, torch.device("cpu"))
    for s, (start, stop) in enumerate(pairwise(offsets.tolist())):
        own = range(int(chunks.ends[s]), int(chunks.ends[s + 1]))
        tokens = [int(chunks.first[k]) + chunks.sign * i for k in own for i in range(int(chunks.steps[k]))]
        assert tokens == list(range(stop - 1, start - 1, -1) if reverse else range(start, stop))
        assert all(int(chunks.steps[k]) == 4 for k in own[:-1])
    assert len(chunks.first) == int(chunks.ends[-1])


@pytest.mark.slow
def test_triton_equals_the_float64_reference(rng: np.random.Generator, tmp_path: Path) -> None:
    """Run by Triton's interpreter, so on the CPU: forward and all gradients, both directions, seams of chunks."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (the extra `dev` has it on Linux)")
    given: dict[str, np.ndarray] = {}
    expected: dict[str, Tensor] = {}

    def add(kind: str, leaves: list[Tensor], offsets: Tensor, reverse: bool, dtype: str, small: bool = True) -> None:
        case = str(len({name.split(".")[0] for name in given}))
        leaves = [x.to(getattr(torch, dtype)).double().requires_grad_() for x in leaves]  # what the child will see
        made = CALLS[kind](leaves, offsets, reverse, "reference")
        slopes = [torch.from_numpy(rng.normal(size=y.shape)).to(getattr(torch, dtype)).double() for y in made]
        grads = torch.autograd.grad(made, leaves, slopes)
        given.update({f"{case}.leaf{i}": x.detach().numpy() for i, x in enumerate(leaves)})
        given.update({f"{case}.slope{i}": x.numpy() for i, x in enumerate(slopes)})
        given.update({f"{case}.kind": np.array(kind), f"{case}.dtype": np.array(dtype)})
        given.update({f"{case}.offsets": offsets.numpy(), f"{case}.reverse": np.array(reverse)})
        given[f"{case}.small"] = np.array(small)
        expected.update({f"{case}.y{i}": y.detach() for i, y in enumerate(made)})
        expected.update({f"{case}.{i}": g for i, g in enumerate(grads)})

    for reverse in (False, True):
        for lengths, channels, states, dtype in (
            ([1, 4, 5, 3, 8], 3, 2, "float32"), ([13], 2, 3, "float32"), ([6, 2], 3, 2, "bfloat16"),
        ):  # fmt: skip
            inputs, offsets = make(rng, lengths, channels, states)
            add("scan", inputs, offsets, reverse, dtype)
            if dtype == "float32":  # states are float32 whatever the inputs
                initial, gate = rng.normal(size=(len(lengths), states, channels)), rng.normal(size=inputs[0].shape)
                add("states", [*inputs, torch.from_numpy(initial)], offsets, reverse, dtype)
                add("reach", [torch.from_numpy(gate), *inputs], offsets, reverse, dtype)
        for dtype in ("float32", "bfloat16"):
            offsets = torch.tensor([0, 1, 3, 8, 9])
            leaves = [torch.from_numpy(rng.normal(size=s)) for s in [(9, 3), (3, 4), (3,)]]
            add("conv", leaves, offsets, reverse, dtype)
    # Chunks and blocks as a GPU has them: full ones, ends, and channels of a second block.
    inputs, offsets = make(rng, [129, 64, 1], 33, 1)
    add("scan", inputs, offsets, bool(rng.integers(2)), "float32", small=False)
    leaves = [torch.from_numpy(rng.normal(size=s)) for s in [(194, 65), (65, 4), (65,)]]
    add("conv", leaves, offsets, bool(rng.integers(2)), "float32", small=False)
    np.savez(tmp_path / "in.npz", **given)  # type: ignore[arg-type]
    root = Path(__file__).resolve().parent.parent
    command = [
        sys.executable,
        str(root / "tests" / "triton_child.py"),
        str(tmp_path / "in.npz"),
        str(tmp_path / "out.npz"),
    ]
    run = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    made = np.load(tmp_path / "out.npz")
    assert set(made.files) == set(expected)
    for name in made.files:
        dtype = getattr(torch, str(given[f"{name.split('.')[0]}.dtype"]))
        found = torch.from_numpy(made[name]).to(dtype)
        assert_close(found, expected[name], f"case {name}")


@pytest.mark.slow
def test_triton_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed (the extra `dev` has it on Linux)")
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(root / "tests" / "triton_compile.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 6 * 2 + 3 * 2  # six kernels for two types; three of them have two forms
