"""A block as two kernels, forward and backward: the operations of `BiMamba`, and what a step does with threads."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numba
import numpy as np
import pytest
import torch
from made_scans import torch_threads
from tolerances import RELATIVE, assert_close
from torch import Tensor

from crossllm.model.batch import Batch, Packed
from crossllm.model.bimamba import BiMamba
from crossllm.model.fused import block as fused
from crossllm.model.scan.layout import layout_of
from crossllm.model.scan.numba_call import addresses, use_threads
from crossllm.model.threads import SMALL, few_threads, kernel_threads

LENGTHS = [[1], [1] * 30, [2] * 32, [1, 5, 40, 33, 100, 3], [300, 64, 65, 1, 257]]


def made(rng: np.random.Generator, width: int, states: int, bidirectional: bool) -> BiMamba:
    """A block whose norm does something."""
    torch.manual_seed(int(rng.integers(1 << 31)))
    block = BiMamba(width, states, bidirectional)
    with torch.no_grad():
        block.norm.weight.uniform_(0.5, 1.5)
        block.norm.bias.normal_()
    return block


def by_operations(block: BiMamba) -> BiMamba:
    """The same block, computed in float32 by torch's operations and the scan's reference."""
    other = copy.deepcopy(block)
    for own in (other.fwd, other.bwd):
        if own is not None:
            own.backend = "reference"
    assert not other.is_fused(torch.zeros(1, len(block.norm.weight)))
    return other


def passed(block: BiMamba, x: Tensor, offsets: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """The output, and gradients of x and of every parameter."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    y = block(x, offsets)
    y.backward(slope)
    assert x.grad is not None
    named = {name: own.grad.clone() for name, own in block.named_parameters() if own.grad is not None}
    return {"y": y.detach(), "x": x.grad} | named


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("width", "states"), [(32, 16), (16, 4), (80, 16), (144, 3)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_kernels_equal_the_operations_in_float64(
    rng: np.random.Generator, lengths: list[int], width: int, states: int, bidirectional: bool
) -> None:
    block, offsets = made(rng, width, states, bidirectional), torch.tensor(np.cumsum([0, *lengths]))
    x, slope = (torch.from_numpy(rng.normal(size=(int(offsets[-1]), width))) for _ in range(2))
    assert block.is_fused(x.float())
    found = passed(block, x.float(), offsets, slope.float())
    double = copy.deepcopy(block).double()
    assert not double.is_fused(x)
    expected = passed(double, x, offsets, slope)
    assert found.keys() == expected.keys()
    plain = passed(by_operations(block), x.float(), offsets, slope.float())
    for name, value in expected.items():
        # Where Σ B C of a token cancels, what is left is as inexact by torch's operations: up to 8e-5 was seen of both.
        lost = float((plain[name].double() - value).abs().max() / value.abs().max())
        assert_close(found[name], value, name, looser=5 * max(1, lost / RELATIVE[torch.float32]))


def test_without_gradients_the_output_is_the_same(rng: np.random.Generator) -> None:
    block, offsets = made(rng, 32, 16, True), torch.tensor([0, 40, 41, 120])
    x = torch.from_numpy(rng.normal(size=(120, 32))).float()
    with torch.inference_mode():
        quick = block(x, offsets)
    assert torch.equal(quick, block(x, offsets).detach())


def test_threads_change_no_bit_and_neighbours_change_no_sequence(rng: np.random.Generator) -> None:
    lengths = rng.integers(1, 90, 40).tolist()
    block, offsets = made(rng, 32, 16, True), torch.tensor(np.cumsum([0, *lengths]))
    x, slope = (torch.from_numpy(rng.normal(size=(int(offsets[-1]), 32))).float() for _ in range(2))
    with torch_threads(1):
        once = passed(block, x, offsets, slope)
    with torch_threads(2):
        again = passed(block, x, offsets, slope)
        assert numba.get_num_threads() == 2
    assert all(torch.equal(once[name], again[name]) for name in once)
    for start, stop in pairwise(offsets.tolist()[:6]):
        alone = block(x[start:stop], torch.tensor([0, stop - start])).detach()
        assert_close(alone, once["y"][start:stop], "a sequence alone")


def test_values_that_overflow_an_exponential_stay_finite_and_nan_stays_nan(rng: np.random.Generator) -> None:
    block, offsets = made(rng, 16, 4, True), torch.tensor([0, 5])
    with torch.no_grad():
        for own in (block.fwd, block.bwd):
            assert own is not None
            own.in_proj.weight.mul_(1e4)
    x = torch.from_numpy(rng.normal(size=(5, 16))).float()
    found = passed(block, x, offsets, torch.ones(5, 16))
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    expected = passed(copy.deepcopy(block).double(), x.double(), offsets, torch.ones(5, 16).double())
    assert_close(found["y"], expected["y"], "y", looser=5)
    x[2, 3] = math.nan
    assert bool(torch.isnan(passed(block, x, offsets, torch.ones(5, 16))["y"]).all())


def test_other_types_widths_and_backends_take_the_operations(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(6, 32))).float()
    assert made(rng, 32, 4, True).is_fused(x)
    assert not BiMamba(32, 4, backend="reference").is_fused(x)
    assert not BiMamba(20, 4).is_fused(x[:, :20])
    with torch.autocast("cpu", torch.bfloat16):
        assert not BiMamba(32, 4).is_fused(x)
    assert BiMamba(20, 4)(x[:, :20], torch.tensor([0, 6])).shape == (6, 20)


def test_rows_that_do_not_lie_one_after_the_other_are_copied_and_bad_offsets_refused(rng: np.random.Generator) -> None:
    block, offsets = made(rng, 16, 4, True), torch.tensor([0, 2, 6])
    wide = torch.from_numpy(rng.normal(size=(6, 32))).float()
    assert torch.equal(block(wide[:, ::2], offsets), block(wide[:, ::2].contiguous(), offsets))
    with pytest.raises(ValueError, match="packed tokens"):
        block(wide[:, ::2], torch.tensor([0, 7]))
    with pytest.raises(ValueError, match="contiguous float32"):
        addresses(wide[:, ::2])
    with pytest.raises(ValueError, match="contiguous float32"):
        addresses(wide.double())


def test_offsets_that_are_written_to_are_looked_at_again() -> None:
    offsets = torch.tensor([0, 2, 6])
    assert layout_of(offsets, 6) is layout_of(offsets, 6)
    offsets[1] = 5
    assert layout_of(offsets, 6).before.tolist() == [0, 1, 2, 3, 4, 0]
    offsets[1] = 6
    with pytest.raises(ValueError, match="empty"):
        layout_of(offsets, 6)


def test_the_weights_of_a_direction_are_its_parameters() -> None:
    block = BiMamba(16, 4)
    named = dict(block.fwd.named_parameters())
    assert {id(own) for own in block.fwd.weights} == {id(own) for own in named.values()}
    fields = fused.Weights(*block.fwd.weights)
    names = {"in_proj": "in_proj.weight", "conv_bias": "conv1d.bias", "dt_bias": "dt_proj.bias", "D": "D"}
    assert all(getattr(fields, field) is named[name] for field, name in names.items())


def batch_of(values: int) -> Batch:
    """One pair, with so many values in its rows."""
    rows = Packed(torch.zeros(1, values - 1), torch.tensor([0, 1]))
    other = Packed(torch.zeros(1, 1), torch.tensor([0, 1]))
    return Batch(rows, other, torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))


def test_a_small_step_leaves_torch_one_thread_and_the_kernels_theirs() -> None:
    with torch_threads(2):
        with few_threads(batch_of(SMALL)):
            assert (torch.get_num_threads(), kernel_threads()) == (1, 2)
            use_threads(5)
            assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 2)
            use_threads(1)
            assert numba.get_num_threads() == 1
        assert (torch.get_num_threads(), kernel_threads()) == (2, 2)
        with few_threads(batch_of(SMALL + 1)):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), few_threads(batch_of(9)):
            raise KeyError
        assert (torch.get_num_threads(), kernel_threads()) == (2, 2)
