"""The scan with states before and after its sequences, and the mixer that shares work between pairs through them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from made_batches import packed
from made_scans import make, torch_threads
from tolerances import RELATIVE, assert_close
from torch import Tensor

from crossllm.model import BiMamba, InteractionModel, ModelConfig, factored_mixing
from crossllm.model.batch import Packed, join_pairs, segment_mean, segment_sum
from crossllm.model.factored_mixing import is_cheaper, mixed_mean
from crossllm.model.scan import reference as scan_reference
from crossllm.model.scan.autograd import Inputs
from crossllm.model.scan.selective_scan import scan_reach, scan_states, selective_scan

both_ways = pytest.mark.parametrize("reverse", [False, True])
STATES = ("u", "delta", "A", "B", "C", "D", "initial")
REACH = ("gate", "u", "delta", "A", "B", "C", "D")


def states_and_gradients(
    inputs: list[Tensor], offsets: Tensor, reverse: bool, backend: str, slopes: list[Tensor]
) -> list[Tensor]:
    """y, the states after the sequences, and the gradients of u, Δ, A, B, C, D and the states before."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = scan_states(*leaves[:6], offsets, reverse, backend, leaves[6])
    return [*(x.detach() for x in found), *torch.autograd.grad(found, leaves, slopes)]


def reach_and_gradients(
    inputs: list[Tensor], offsets: Tensor, reverse: bool, backend: str, slopes: list[Tensor]
) -> list[Tensor]:
    """P, W, and the gradients of gate, u, Δ, A, B, C and D."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = scan_reach(*leaves, offsets, reverse, backend)
    return [*(x.detach() for x in found), *torch.autograd.grad(found, leaves, slopes)]


def made_with_states(
    rng: np.random.Generator, lengths: list[int], channels: int, states: int
) -> tuple[list[Tensor], Tensor, list[Tensor], list[Tensor]]:
    """Inputs of a scan and their offsets; states before the sequences; a gate."""
    inputs, offsets = make(rng, lengths, channels, states)
    initial, gate = rng.normal(size=(len(lengths), states, channels)), rng.normal(size=tuple(inputs[0].shape))
    return inputs, offsets, [torch.from_numpy(initial)], [torch.from_numpy(gate)]


def random_like(rng: np.random.Generator, *tensors: Tensor) -> list[Tensor]:
    return [torch.from_numpy(rng.normal(size=tuple(x.shape))) for x in tensors]


@both_ways
@pytest.mark.parametrize(
    ("lengths", "channels", "states"),
    [([1], 1, 1), ([1, 2, 3], 5, 4), ([31, 32, 33, 64, 1], 130, 16), ([700, 1, 40], 16, 8)],
)
def test_numba_with_states_equals_the_float64_reference(
    rng: np.random.Generator, lengths: list[int], channels: int, states: int, reverse: bool
) -> None:
    inputs, offsets, initial, gate = made_with_states(rng, lengths, channels, states)
    for given, run, names in (
        ([*inputs, *initial], states_and_gradients, ("y", "final", *STATES)),
        ([*gate, *inputs], reach_and_gradients, ("P", "W", *REACH)),
    ):
        shapes = (inputs[0], *initial) if run is states_and_gradients else (initial[0][:, 0], *initial)
        slopes = random_like(rng, *shapes)
        reference = run(given, offsets, reverse, "reference", slopes)
        found = run([x.float() for x in given], offsets, reverse, "numba", [x.float() for x in slopes])
        for name, x, expected in zip(names, found, reference, strict=True):
            # Sums over 741 tokens of float32: measured 3e-6.
            assert_close(x, expected, f"{run.__name__}: {name}", looser=3)


@both_ways
def test_the_references_pass_gradcheck(rng: np.random.Generator, reverse: bool) -> None:
    inputs, offsets, initial, gate = made_with_states(rng, [1, 3, 2], 2, 3)
    leaves = [x.requires_grad_() for x in [*inputs, *initial, *gate]]
    assert torch.autograd.gradcheck(lambda *x: scan_states(*x[:6], offsets, reverse, "reference", x[6]), leaves[:7])
    assert torch.autograd.gradcheck(lambda *x: scan_reach(*x, offsets, reverse, "reference"), [leaves[7], *leaves[:6]])


@both_ways
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_sum_from_any_state_is_p_plus_w_times_the_state(
    rng: np.random.Generator, reverse: bool, backend: str
) -> None:
    inputs, offsets, initial, gate = made_with_states(rng, [4, 1, 90], 6, 5)
    pooled, reach = scan_reach(*(x.float() for x in [*gate, *inputs]), offsets, reverse, backend)
    y, _ = scan_reference.scan(Inputs(*inputs), offsets, reverse, *initial)
    found = pooled + (initial[0].float() * reach).sum(1)
    assert_close(found, segment_sum(Packed(gate[0] * y, offsets)), "sum", looser=2)  # measured 1e-6


@both_ways
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_sequence_scanned_in_two_goes_is_the_sequence(rng: np.random.Generator, reverse: bool, backend: str) -> None:
    inputs, offsets = make(rng, [50], 6, 5)
    u, delta, A, B, C, D = (x.float() for x in inputs)
    whole, end = scan_states(u, delta, A, B, C, D, offsets, reverse, backend)
    parts, state = {}, None
    for part in (slice(17), slice(17, None))[:: -1 if reverse else 1]:
        cut = torch.tensor([0, len(u[part])])
        parts[part.start], state = scan_states(
            u[part], delta[part], A, B[part], C[part], D, cut, reverse, backend, state
        )
    assert_close(torch.cat([parts[None], parts[17]]), whole, "y")
    assert state is not None
    assert_close(state, end, "state")
    assert torch.equal(whole, selective_scan(u, delta, A, B, C, D, offsets, reverse, backend))


def test_the_kernels_with_states_give_the_same_bits_for_any_threads(rng: np.random.Generator) -> None:
    inputs, offsets, initial, gate = made_with_states(rng, [300, 7, 40, 1], 200, 4)
    given = [x.float() for x in inputs]
    made = []
    for threads in (1, 2):
        with torch_threads(threads):
            states = [*given, *(x.float() for x in initial)]
            found = states_and_gradients(states, offsets, True, "numba", [given[0], initial[0].float()])
            gated = [*(x.float() for x in gate), *given]
            found += reach_and_gradients(gated, offsets, True, "numba", [states[6][:, 0], states[6]])
            made.append(found)
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))


def test_states_of_a_wrong_shape_and_mamba_ssm_are_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, offsets, initial, gate = made_with_states(rng, [2, 3], 4, 2)
    with pytest.raises(ValueError, match=r"initial is \(1, 2, 4\) .* expected \(2, 2, 4\)"):
        scan_states(*inputs, offsets, initial=initial[0][:1])
    with pytest.raises(ValueError, match=r"gate is \(4, 4\) .* expected \(5, 4\)"):
        scan_reach(gate[0][:4], *inputs, offsets)
    with pytest.raises(ValueError, match=r"states of a scan are float32 or float64.* got torch.bfloat16"):
        scan_states(*(x.bfloat16() for x in inputs), offsets)
    monkeypatch.setattr("crossllm.model.scan.selective_scan.choose_backend", lambda *_: "mamba_ssm")
    with pytest.raises(ValueError, match="mamba_ssm takes and gives no states; use triton, or auto"):
        scan_states(*inputs, offsets)


def mixed_by_the_joined_pairs(block: BiMamba, *pairs: object) -> Tensor:
    """The reference of `mixed_mean`: the block over the tokens of every pair's joined sequence."""
    x, offsets = join_pairs(*pairs)[:2]  # type: ignore[arg-type]
    return segment_mean(Packed(block(x, offsets), offsets))


def random_entities(rng: np.random.Generator, width: int) -> list[Packed]:
    """Two sets of entities, some shorter than the convolution's window."""
    lengths = [[1, 2, 3, 4, int(rng.integers(5, 90))], [int(rng.integers(5, 90)), 3, 1, 2]]
    return [packed(rng, list(rng.permutation(own)), width) for own in lengths]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("dtype", "backend"), [(torch.float64, "reference"), (torch.float32, "numba")])
def test_the_shared_mixer_equals_the_joined_pairs(
    rng: np.random.Generator, dtype: torch.dtype, backend: str, bidirectional: bool
) -> None:
    """Forward and every gradient, in float64 to rounding: it is the same function, not an approximation."""
    torch.manual_seed(1)
    block = BiMamba(10, 4, bidirectional, backend).to(dtype)
    first, second = (x._replace(tokens=x.tokens.to(dtype).requires_grad_()) for x in random_entities(rng, 10))
    index = [torch.from_numpy(rng.integers(0, len(x.offsets) - 1, 25)) for x in (first, second)]
    leaves = [first.tokens, second.tokens, *block.parameters()]
    names = ["y", "X", "Y", *(name for name, _ in block.named_parameters())]
    made = []
    for mixed in (mixed_mean, mixed_by_the_joined_pairs):
        y = mixed(block, first, second, *index)
        slope = torch.cos(torch.arange(y.numel(), dtype=dtype)).view_as(y)
        made.append([y, *torch.autograd.grad(y, leaves, slope)])
    for name, found, reference in zip(names, *made, strict=True):
        assert_close(found, reference, name, looser=10)  # sums of 25 pairs in float32: measured 6e-6


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("width", "states", "pairs"), [(16, 4, 1), (32, 16, 75), (144, 3, 33)])
def test_the_kernel_that_learns_nothing_equals_the_joined_pairs(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, width: int, states: int, pairs: int, bidirectional: bool
) -> None:
    torch.manual_seed(int(rng.integers(1 << 31)))
    block = BiMamba(width, states, bidirectional)
    first, second = (x._replace(tokens=x.tokens.float()) for x in random_entities(rng, width))
    index = [torch.from_numpy(rng.integers(0, len(x.offsets) - 1, pairs)) for x in (first, second)]
    exact = copy.deepcopy(block).double()
    for own in (exact.fwd, exact.bwd):
        if own is not None:
            own.backend = "reference"
    doubled = [x._replace(tokens=x.tokens.double()) for x in (first, second)]
    expected = mixed_by_the_joined_pairs(exact, *doubled, *index)
    with torch.no_grad():
        found = []
        for threads in (1, 2):
            with torch_threads(threads):
                found.append(mixed_mean(block, first, second, *index))
        monkeypatch.setattr(factored_mixing, "_meet_by_kernel", None)  # it is this that was called
        with pytest.raises(TypeError):
            mixed_mean(block, first, second, *index)
    assert torch.equal(*found)
    assert_close(found[0], expected, "mean", looser=3)  # a sum over all tokens in float32: measured 2e-6


def test_pairs_that_meet_in_parts_are_the_pairs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    block = BiMamba(16, 4)
    first, second = random_entities(rng, 16)
    index = [torch.from_numpy(rng.integers(0, len(x.offsets) - 1, 25)) for x in (first, second)]
    whole = mixed_mean(block, first, second, *index)
    monkeypatch.setitem(factored_mixing.AT_ONCE, "cpu", 7 * block.fwd.A_log.numel())
    assert_close(mixed_mean(block, first, second, *index), whole, "in parts of seven")


@pytest.mark.parametrize("order", ["ab", "both"])
def test_the_model_is_the_same_whichever_way_it_mixes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, ModelConfig(d_model=16, d_state=4, order=order)).eval()
    a, b = packed(rng, [40, 3, 9], 7), packed(rng, [6, 20], 5)
    index = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 1])
    encoded = model.encode_a(a), model.encode_b(b)
    found = []
    for shared in (True, False):
        monkeypatch.setattr("crossllm.model.fusion.is_cheaper", lambda *_, shared=shared: shared)
        found.append(model.fuse(*encoded, *index))
    assert_close(found[0], found[1], "logits", looser=5)  # a LayerNorm and an MLP after it: measured 3e-6


def test_sharing_is_chosen_where_it_has_less_to_compute(rng: np.random.Generator) -> None:
    block = BiMamba(16, 4)
    one = torch.zeros(6, dtype=torch.int64)
    long, single = packed(rng, [100], 16), packed(rng, [1], 16)
    assert is_cheaper(block, long, long, one, one)
    assert not is_cheaper(block, single, single, one, one)
    assert not is_cheaper(block, long, long, one[:1], one[:1])
    assert not is_cheaper(BiMamba(16, 200), long, long, one, one), "a pair's states are many"


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_autocast_rounds_products_but_neither_the_scan_nor_the_sums(rng: np.random.Generator, backend: str) -> None:
    inputs, offsets = make(rng, [30, 5], 6, 4)
    given = [x.float() for x in inputs]
    plain = selective_scan(*given, offsets, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(selective_scan(*given, offsets, backend=backend), plain, "scan")
    torch.manual_seed(1)
    block = BiMamba(16, 4, backend=backend)
    first, second = random_entities(rng, 16)
    index = [torch.from_numpy(rng.integers(0, len(x.offsets) - 1, 25)) for x in (first, second)]
    with torch.autocast("cpu", torch.bfloat16):
        shared, joined = (mixed(block, first, second, *index) for mixed in (mixed_mean, mixed_by_the_joined_pairs))
    exact = mixed_by_the_joined_pairs(block, first, second, *index)
    assert shared.dtype == torch.float32
    for name, found in (("shared", shared), ("joined", joined)):
        error = float((found - exact).detach().abs().max() / exact.detach().abs().max())
        assert error < RELATIVE[torch.bfloat16], f"{name}: {error:.1e}"
