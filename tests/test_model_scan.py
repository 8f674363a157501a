from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np
import pytest
import torch
from made_scans import gradients, make, torch_threads
from tolerances import assert_close

from crossllm.model.scan.conv import causal_conv, causal_conv_reference
from crossllm.model.scan.selective_scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("lengths", "channels", "states"),
    [([1], 1, 1), ([1, 2, 3], 5, 4), ([31, 32, 33, 64, 65, 1], 64, 16), ([700, 1, 40], 130, 16), ([3000], 8, 16)],
)
def test_numba_equals_the_float64_reference(
    rng: np.random.Generator, lengths: list[int], channels: int, states: int, reverse: bool
) -> None:
    inputs, offsets = make(rng, lengths, channels, states)
    dy = torch.from_numpy(rng.normal(size=inputs[0].shape))
    y, grads = gradients(inputs, offsets, reverse, "reference", dy)
    fast_y, fast_grads = gradients([x.float() for x in inputs], offsets, reverse, "numba", dy.float())
    assert_close(fast_y, y, "y")
    for name, fast, reference in zip(NAMES, fast_grads, grads, strict=True):
        # A sums over all tokens; 3,000 of them in float32 measured at 3e-6.
        assert_close(fast, reference, f"gradient of {name}", looser=4)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("packing", range(4))
def test_random_packings_agree_in_all_gradients(rng: np.random.Generator, packing: int, reverse: bool) -> None:
    """Lengths from 1 to 3,000, each order of magnitude as likely as another, and both ends of the range."""
    drawn = np.exp(rng.uniform(0, np.log(3001), int(rng.integers(3, 12)))).astype(int).tolist()
    lengths = rng.permutation([1, 3000, *drawn] if packing == 0 else drawn).tolist()
    inputs, offsets = make(rng, lengths, int(rng.integers(1, 40)), int(rng.integers(1, 20)))
    dy = torch.from_numpy(rng.normal(size=inputs[0].shape))
    y, grads = gradients(inputs, offsets, reverse, "reference", dy)
    fast_y, fast_grads = gradients([x.float() for x in inputs], offsets, reverse, "numba", dy.float())
    assert_close(fast_y, y, f"y of {lengths}")
    for name, fast, reference in zip(NAMES, fast_grads, grads, strict=True):
        # A and D sum over all tokens; 6,000 of them in float32 measured at 1.5e-6.
        assert_close(fast, reference, f"gradient of {name} of {lengths}", looser=4)


def test_the_reference_passes_gradcheck(rng: np.random.Generator) -> None:
    inputs, offsets = make(rng, [3, 1, 4], 3, 2)
    for reverse in (False, True):
        leaves = [x.clone().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(lambda *x, r=reverse: selective_scan(*x, offsets, r, "reference"), leaves)


def test_numba_gives_the_same_bits_every_time_and_for_any_threads(rng: np.random.Generator) -> None:
    inputs, offsets = make(rng, [100, 7, 300, 20, 20], 150, 16)
    single = [x.float() for x in inputs]
    dy = torch.from_numpy(rng.normal(size=inputs[0].shape)).float()
    y, grads = gradients(single, offsets, False, "numba", dy)
    with torch_threads(2):
        again_y, again = gradients(single, offsets, False, "numba", dy)
        assert numba.get_num_threads() == 2
    assert torch.equal(y, again_y)
    assert all(torch.equal(x, z) for x, z in zip(grads, again, strict=True))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_packing_never_changes_a_sequence(rng: np.random.Generator, backend: str) -> None:
    """Each sequence alone gives the bits it gives packed: the state is reset at every offset."""
    lengths = [5, 40, 1, 33]
    inputs, offsets = make(rng, lengths, 6, 4)
    u, delta, A, B, C, D = (x.float() for x in inputs)
    for reverse in (False, True):
        packed = selective_scan(u, delta, A, B, C, D, offsets, reverse, backend)
        for start, stop in pairwise(offsets.tolist()):
            own = slice(start, stop)
            alone = selective_scan(
                u[own], delta[own], A, B[own], C[own], D, torch.tensor([0, stop - start]), reverse, backend
            )
            assert torch.equal(alone, packed[own])


def test_reverse_is_the_scan_of_the_reversed_sequence(rng: np.random.Generator) -> None:
    (u, delta, A, B, C, D), offsets = make(rng, [17], 4, 3)
    flipped = selective_scan(u.flip(0), delta.flip(0), A, B.flip(0), C.flip(0), D, offsets).flip(0)
    assert_close(selective_scan(u, delta, A, B, C, D, offsets, reverse=True), flipped, "reverse")


@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        ([0, 3, 3, 8], "empty"),
        ([0, 7], "packed tokens"),
        ([1, 8], "from 0"),
        ([0, 9], "packed tokens"),
        ([0], "at least two"),
    ],
)
def test_bad_offsets_are_refused(rng: np.random.Generator, offsets: list[int], match: str) -> None:
    inputs, _ = make(rng, [8], 2, 2)
    with pytest.raises(ValueError, match=match):
        selective_scan(*inputs, torch.tensor(offsets))


def test_bad_shapes_and_backends_are_refused(rng: np.random.Generator) -> None:
    (u, delta, A, B, C, D), offsets = make(rng, [8], 2, 2)
    with pytest.raises(ValueError, match="B is"):
        selective_scan(u, delta, A, B[:, :1], C, D, offsets)
    with pytest.raises(ValueError, match="one of: auto, reference, numba, triton, mamba_ssm"):
        selective_scan(u, delta, A, B, C, D, offsets, backend="cuda")
    with pytest.raises(ValueError, match="numba takes float32"):
        selective_scan(u, delta, A, B, C, D, offsets, backend="numba")


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_convolution_equals_one_conv1d_a_sequence(rng: np.random.Generator, reverse: bool) -> None:
    offsets = torch.tensor([0, 1, 3, 6, 20])
    leaves = [torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in [(20, 3), (3, 4), (3,)]]
    fast, slow = causal_conv(*leaves, offsets, reverse), causal_conv_reference(*leaves, offsets, reverse)
    assert_close(fast, slow, "convolution")
    dy = torch.from_numpy(rng.normal(size=fast.shape))
    pairs = zip(torch.autograd.grad(fast, leaves, dy), torch.autograd.grad(slow, leaves, dy), strict=True)
    for name, (found, reference) in zip(("x", "weight", "bias"), pairs, strict=True):
        assert_close(found, reference, f"gradient of {name}")
