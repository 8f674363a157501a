"""The laws of the interaction model, each for every fusion, and the fusions against their equations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_batches import make_batch, packed, single
from tolerances import assert_close
from torch import Tensor
from torch.nn import functional as F

from crossllm.model import InteractionModel, ModelConfig, Packed, focal_loss
from crossllm.model.fusion import Concat, CrossAttention, Gated
from crossllm.model.settings import FUSIONS, ORDERS

KINDS = [("cross_mamba", order) for order in ORDERS] + [(name, "ab") for name in FUSIONS if name != "cross_mamba"]
every_fusion = pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            ModelConfig(d_model=16, d_state=4, dropout=0.0, noise=0.0, fusion=name, order=order), id=f"{name}-{order}"
        )
        for name, order in KINDS
    ],
)


@every_fusion
def test_a_pairs_logit_does_not_depend_on_its_batch(rng: np.random.Generator, config: ModelConfig) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, config).eval()
    batch = make_batch(rng)
    together = model(batch)
    alone = torch.cat([model(single(batch, pair)) for pair in range(len(batch.label))])
    # A logit passes LayerNorms and two scans in float32: measured 4e-6 of the largest logit.
    assert_close(alone, together, "each pair alone", looser=5)
    order = torch.from_numpy(rng.permutation(len(batch.label)))
    shuffled = batch._replace(a_index=batch.a_index[order], b_index=batch.b_index[order])
    assert_close(model(shuffled), together[order], "another order", looser=5)


@every_fusion
def test_sharing_entities_gives_the_gradients_of_encoding_every_pair_alone(
    rng: np.random.Generator, config: ModelConfig
) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, config)
    batch = make_batch(rng)
    shared = torch.autograd.grad(model(batch).sum(), list(model.parameters()))
    alone = torch.autograd.grad(
        sum(model(single(batch, p)).sum() for p in range(len(batch.label))), list(model.parameters())
    )
    for (name, _), found, reference in zip(model.named_parameters(), shared, alone, strict=True):
        assert_close(found, reference, name, looser=10)  # sums of 12 pairs in float32: measured 5e-6


@pytest.mark.slow
def test_sixteen_pairs_are_learnt_by_heart(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, ModelConfig(d_model=16, d_state=4))
    batch = make_batch(rng, 16)
    labels = (batch.a_index + batch.b_index) % 2
    batch = batch._replace(label=labels.float())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = focal_loss(model(batch), batch.label)
        loss.backward()
        optimiser.step()
    assert (model.eval()(batch) > 0).long().tolist() == labels.tolist()


def test_noise_is_added_in_training_only(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, ModelConfig(d_model=16, d_state=4, noise=0.5, dropout=0.0))
    batch = make_batch(rng)
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


@every_fusion
def test_all_against_all_is_fusing_what_was_encoded_once(rng: np.random.Generator, config: ModelConfig) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, config).eval()
    batch = make_batch(rng)
    calls = [0, 0]
    for side, project in enumerate((model.project_a, model.project_b)):
        project.register_forward_hook(lambda *_, side=side: calls.__setitem__(side, calls[side] + 1))
    a, b = model.encode_a(batch.a), model.encode_b(batch.b)
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    together = torch.cat([model.fuse(a, b, *part.T) for part in grid.split(5)])
    assert calls == [1, 1]
    pairs = [batch._replace(a_index=i[None], b_index=j[None], label=torch.zeros(1)) for i, j in grid]
    alone = torch.cat([model(single(pair, 0)) for pair in pairs])
    assert_close(alone, together, "each pair alone", looser=5)  # float32, measured 4e-6 of the largest logit


def test_the_order_of_the_partners() -> None:
    """`ba` is `ab` with the sides' names swapped, and `both` pools the two."""
    rng = np.random.default_rng(3)
    a, b = packed(rng, [4, 9], 16), packed(rng, [6, 2], 16)
    index = torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])
    torch.manual_seed(1)
    found = {}
    state = InteractionModel(16, 16, ModelConfig(d_model=16, d_state=4)).state_dict()
    for order in ORDERS:
        model = InteractionModel(16, 16, ModelConfig(d_model=16, d_state=4, order=order))
        model.load_state_dict(state)
        found[order] = model.fusion(a, b, *index)
        if order == "ab":
            swapped = model.fusion(b, a, *index[::-1])
    assert_close(found["ba"], swapped, "ba")
    assert_close(found["both"], (found["ab"] + found["ba"]) / 2, "both")
    assert not torch.allclose(found["ab"], found["ba"])


def _sequences(x: Packed) -> list[Tensor]:
    return list(x.tokens.split(x.offsets.diff().tolist()))


def test_concat_gated_and_cross_attention_are_their_equations(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    a, b = packed(rng, [4, 9, 1], 16), packed(rng, [6, 2], 16)
    index = torch.tensor([2, 0, 1, 1]), torch.tensor([1, 1, 0, 1])
    concat, gated, attention = Concat(16), Gated(16), CrossAttention(16)
    found = [fusion(a, b, *index) for fusion in (concat, gated, attention)]
    for n, (i, j) in enumerate(zip(*(side.tolist() for side in index), strict=True)):
        x, y = _sequences(a)[i], _sequences(b)[j]
        mean_x, mean_y = concat.norm(x.mean(0)), concat.norm(y.mean(0))
        assert_close(found[0][n], concat.join(torch.cat([mean_x, mean_y])), "concat")
        gate = torch.sigmoid(gated.gate.weight @ torch.cat([mean_x, mean_y]) + gated.gate.bias)
        assert_close(found[1][n], gate * mean_x + (1 - gate) * mean_y, "gated")
        seen_x, seen_y = x + _attend(attention.a_to_b, x, y), y + _attend(attention.b_to_a, y, x)
        expected = attention.concat.join(torch.cat([concat.norm(seen_x.mean(0)), concat.norm(seen_y.mean(0))]))
        assert_close(found[2][n], expected, "cross_attention", looser=2)  # float32, measured 1e-6


def _attend(layer: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Through torch's own multi-head attention, of the same weights."""
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
        theirs.out_proj.load_state_dict(layer.out.state_dict())
    x, y = F.layer_norm(x, (16,)), F.layer_norm(y, (16,))
    return theirs(x[None], y[None], y[None], need_weights=False)[0][0]


@every_fusion
def test_parameter_counts_are_of_all_parts(config: ModelConfig) -> None:
    model = InteractionModel(7, 5, config)
    counts = model.parameter_counts()
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["project_a"] == 7 * 16 + 16
    assert counts["fusion"] > 0


@every_fusion
def test_bfloat16_products_leave_parameters_sums_and_scan_in_float32(
    rng: np.random.Generator, config: ModelConfig
) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, config)
    batch = make_batch(rng)
    full = model(batch)
    reference = torch.autograd.grad(full.sum(), list(model.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        encoded = [model.encode_a(batch.a), model.encode_b(batch.b)]
        assert encoded[0].tokens.dtype == torch.float32
        a, b = (Packed(side.tokens, side.offsets) for side in encoded)
        assert model.fusion(a, b, batch.a_index, batch.b_index).isfinite().all()
        half = model(batch).float()
    found = torch.autograd.grad(half.sum(), list(model.parameters()))
    assert_close(half.bfloat16(), full, "logits")
    for (name, parameter), own, expected in zip(model.named_parameters(), found, reference, strict=True):
        assert parameter.dtype == own.dtype == torch.float32
        assert F.cosine_similarity(own.flatten(), expected.flatten(), 0) > 0.99, name


def _ddp_gradients(rank: int, where: str, config: ModelConfig) -> None:
    """One of two processes: the gradients of its half of the pairs, averaged with the other's."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{where}/meet", rank=rank, world_size=2)
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(InteractionModel(7, 5, config))
    batch = make_batch(np.random.default_rng(4))
    own = batch._replace(a_index=batch.a_index[rank::2], b_index=batch.b_index[rank::2])
    model(own).mean().backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.module.named_parameters()}, f"{where}/gradients.pt")
    torch.distributed.barrier()  # gloo's threads abort the process whose peer has gone while they wait for it
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_one(tmp_path: Path) -> None:
    config = ModelConfig(d_model=16, d_state=4, dropout=0.0, noise=0.0)
    torch.multiprocessing.spawn(_ddp_gradients, (str(tmp_path), config), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    torch.manual_seed(1)
    model = InteractionModel(7, 5, config)
    model(make_batch(np.random.default_rng(4))).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert_close(found[name], parameter.grad, name, looser=10)  # sums of 12 pairs in float32: measured 3e-6
