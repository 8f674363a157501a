from __future__ import annotations

import numpy as np
import pytest
import torch
from made_batches import packed
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional as F

from crossllm.model import BiMamba, Mamba, focal_loss
from crossllm.model.batch import gather, join_pairs, segment_mean
from crossllm.model.fusion import _Attention, _bucket
from crossllm.model.standardise import STANDARD_BOUND, Moments, Standardise
from crossllm.model.tokens import AUTO_FUSED_TOKENS, POOLED, auto_window, parse_tokens, tokens_name, window_mean


def test_join_pairs_puts_a_before_b(rng: np.random.Generator) -> None:
    a, b = packed(rng, [2, 3], 4), packed(rng, [1, 4], 4)
    joined = join_pairs(a, b, torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert joined.offsets.tolist() == [0, 4, 10]
    assert torch.equal(joined.tokens, torch.cat([a.tokens[2:5], b.tokens[:1], a.tokens[:2], b.tokens[1:]]))
    assert_close(segment_mean(joined)[0], joined.tokens[:4].mean(0), "mean")
    again = gather(a, torch.tensor([1, 1, 0]))
    assert again.offsets.tolist() == [0, 3, 6, 8]
    assert torch.equal(again.tokens, torch.cat([a.tokens[2:], a.tokens[2:], a.tokens[:2]]))


def test_reversing_the_input_and_swapping_the_directions_reverses_the_output(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    block = BiMamba(8, d_state=4)
    x, offsets = packed(rng, [3, 11], 8)[:2]
    swapped = BiMamba(8, d_state=4)
    swapped.load_state_dict({_swap(name): value for name, value in block.state_dict().items()})
    flip = torch.cat([torch.arange(2, -1, -1), torch.arange(13, 2, -1)])
    assert_close(swapped(x[flip], offsets)[flip], block(x, offsets), "reversed and swapped")


def _swap(name: str) -> str:
    """The parameter's name in a block whose two directions have changed places."""
    direction, dot, rest = name.partition(".")
    return {"fwd": "bwd", "bwd": "fwd"}.get(direction, direction) + dot + rest


def test_one_direction_equals_transformers_mamba_mixer(rng: np.random.Generator) -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(1)
    mine = Mamba(32, d_state=8)
    config = MambaConfig(hidden_size=32, state_size=8, conv_kernel=4, expand=2, time_step_rank=2, num_hidden_layers=1)
    theirs = MambaMixer(config, layer_idx=0).eval()
    theirs.load_state_dict(mine.state_dict())  # the same names, or this raises
    x, offsets = packed(rng, [50], 32)[:2]
    found, reference = mine(x, offsets), theirs(x[None])[0]
    assert_close(found, reference, "output", looser=5)  # both float32: measured 2e-6
    dy = torch.randn_like(found)
    gradients = dict(zip(*_named_gradients(mine, found, dy), strict=True))
    for name, expected in zip(*_named_gradients(theirs, reference, dy), strict=True):
        assert_close(gradients[name], expected, f"gradient of {name}", looser=10)  # measured 6e-6


def _named_gradients(module: torch.nn.Module, y: Tensor, dy: Tensor) -> tuple[list[str], list[Tensor]]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return list(names), list(torch.autograd.grad(y, parameters, dy))


def test_forward_only_never_looks_ahead(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    block = BiMamba(8, d_state=4, bidirectional=False)
    x, offsets = packed(rng, [12], 8)[:2]
    changed = x.clone()
    changed[8:] = torch.randn(4, 8)  # not a shift, which the norm would take out
    assert torch.equal(block(x, offsets)[:8], block(changed, offsets)[:8])
    both = BiMamba(8, d_state=4)
    assert not torch.equal(both(x, offsets)[:8], both(changed, offsets)[:8])


def test_focal_loss_is_its_formula(rng: np.random.Generator) -> None:
    logit = torch.from_numpy(rng.normal(size=50))
    label = torch.from_numpy(rng.integers(0, 2, 50)).double()
    p = torch.sigmoid(logit)
    p_true = torch.where(label == 1, p, 1 - p)
    alpha = torch.where(label == 1, 0.25, 0.75)
    expected = (-alpha * (1 - p_true) ** 2 * torch.log(p_true)).mean()
    assert_close(focal_loss(logit, label, gamma=2, alpha=0.25), expected, "focal loss")
    plain = F.binary_cross_entropy_with_logits(logit, label) / 2
    assert_close(focal_loss(logit, label, gamma=0, alpha=0.5), plain, "γ = 0")


def test_window_mean_is_the_mean_of_neighbours(rng: np.random.Generator) -> None:
    for length in (1, 3, 4, 5, 17):
        rows = rng.normal(size=(length, 6)).astype(np.float16)
        found = window_mean(rows, 4)
        expected = np.stack([rows[i : i + 4].astype(np.float64).mean(0) for i in range(0, length, 4)])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert window_mean(rows, 1) is rows


@pytest.mark.parametrize(("lengths", "k"), [((100, 100), 1), ((200, 56), 1), ((200, 57), 2), ((2825, 127), 16)])
def test_auto_takes_the_smallest_power_of_two(lengths: tuple[int, int], k: int) -> None:
    assert auto_window([lengths]) == k
    assert sum(-(-n // k) for n in lengths) <= AUTO_FUSED_TOKENS


@pytest.mark.parametrize(("text", "k"), [("residue", 1), ("window:8", 8), ("pooled", POOLED), ("auto", None)])
def test_tokens_are_parsed_and_named(text: str, k: int | None) -> None:
    assert parse_tokens(text) == k
    assert k is None or tokens_name(k) == text


def test_pooled_is_one_token_the_mean_of_all_rows(rng: np.random.Generator) -> None:
    for length in (1, 2, 300):
        rows = rng.normal(size=(length, 6)).astype(np.float16)
        found = window_mean(rows, POOLED)
        np.testing.assert_allclose(found, rows.astype(np.float64).mean(0, keepdims=True), rtol=1e-4, atol=1e-5)


def test_a_constant_column_stays_constant_however_many_rows_are_averaged() -> None:
    for length in (50, 3000):
        rows = np.full((length, 8), 37.3, np.float32)
        np.testing.assert_array_equal(window_mean(rows, POOLED), rows[:1])


def test_standardised_columns_have_mean_0_and_deviation_1_within_bounds(rng: np.random.Generator) -> None:
    rows = torch.from_numpy(rng.normal(3, 5, (500, 4)).astype(np.float32))
    rows[:, 3] = 7.0  # constant
    layer = Standardise(4)
    layer.fit(Moments(rows.mean(0), rows.std(0, correction=0)))
    found = layer(rows)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert float(layer(1e6 * torch.ones(1, 4)).max()) == STANDARD_BOUND
    other = Standardise(4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(rows), found), "a checkpoint holds the moments"


@pytest.mark.parametrize("text", ["window:0", "window:-1", "window:", "Residue", "window:1e3", "pool"])
def test_unknown_tokens_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="one of: residue, window:K"):
        parse_tokens(text)


def plain_attention(attention: _Attention, own: Tensor, other: Tensor) -> Tensor:
    """Tokens (L, M) of one partner as they see the other's, by the formula of section 3.2.2, head by head."""
    queries = attention.query(own)
    keys, values = attention.key_value(other).chunk(2, -1)
    heads = zip(*(x.chunk(attention._heads, -1) for x in (queries, keys, values)), strict=True)
    return attention.out(torch.cat([torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1) @ v for q, k, v in heads], -1))


def test_attention_by_buckets_equals_pair_by_pair(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    attention = _Attention(8)
    a, b = packed(rng, [17, 1, 20, 18, 20], 8), packed(rng, [33, 40, 2, 37], 8)
    a_index, b_index = torch.cartesian_prod(torch.arange(5), torch.arange(4))[torch.randperm(20)].T
    assert len({(_bucket(x), _bucket(y)) for x in (17, 1, 20, 18) for y in (33, 40, 2, 37)}) < 16  # some are padded
    found = attention(a, b, a_index, b_index)
    rows_a, rows_b = (torch.split(side.tokens, side.offsets.diff().tolist()) for side in (a, b))
    pairs = zip(a_index.tolist(), b_index.tolist(), strict=True)
    expected = torch.cat([plain_attention(attention, rows_a[i], rows_b[j]) for i, j in pairs])
    assert_close(found, expected, "output", looser=5)
    dy = torch.randn_like(found)
    names, gradients = _named_gradients(attention, found, dy)
    for name, one, other in zip(names, gradients, _named_gradients(attention, expected, dy)[1], strict=True):
        if name == "key_value.bias":  # of keys it is nought: softmax does not see it
            one, other = one[8:], other[8:]
        assert_close(one, other, f"gradient of {name}", looser=10)


def test_a_bucket_pads_by_less_than_a_quarter_and_never_shortens() -> None:
    assert all(length <= _bucket(length) < 1.25 * length + 1e-9 for length in range(1, 5000))
