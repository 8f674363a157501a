"""What an entity's rows are on the whole, and several models as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_batches import make_batch, packed, single
from tolerances import assert_close

from crossllm.model import InteractionModel, ModelConfig
from crossllm.model.batch import gather
from crossllm.model.ensemble import Ensemble
from crossllm.model.interaction import EXPERTS, expert_of
from crossllm.model.standardise import Moments
from crossllm.model.summary import STATISTICS, summarise

CONFIG = ModelConfig(d_model=16, d_state=4, dropout=0.0, noise=0.0, summary_width=8)


def test_statistics_are_those_of_each_entitys_rows(rng: np.random.Generator) -> None:
    rows = packed(rng, [4, 1, 30], 5)
    found = summarise(rows)
    assert found.shape == (3, len(STATISTICS) * 5)
    for entity, own in enumerate(rows.tokens.split([4, 1, 30])):
        x = own.double().numpy()
        expected = np.concatenate([x.mean(0), x.std(0), x.max(0)])
        np.testing.assert_allclose(found[entity].numpy(), expected, rtol=1e-6, atol=2e-6)


def test_gradients_reach_the_rows_and_are_finite_for_one_row_and_for_rows_all_alike(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    model = InteractionModel(7, 5, CONFIG).eval()
    batch = make_batch(rng)
    alike = batch.b.tokens.clone()
    alike[:6] = alike[0]
    rows = alike.requires_grad_()
    model(batch._replace(b=batch.b._replace(tokens=rows))).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert (rows.grad != 0).any(1).all(), "every row moves some logit"


def test_rows_that_share_the_largest_value_share_its_gradient(rng: np.random.Generator) -> None:
    tokens = torch.from_numpy(rng.integers(0, 3, (60, 57)).astype(np.float32)).requires_grad_()
    offsets, weight = torch.tensor([0, 20, 35, 60]), torch.from_numpy(rng.normal(size=(3, 57)))
    ends = summarise(packed(rng, [20, 15, 25], 57)._replace(tokens=tokens, offsets=offsets))[:, 114:]
    (slope,) = torch.autograd.grad((ends * weight).sum(), tokens)
    for own, expected in zip(slope.split([20, 15, 25]), weight, strict=True):
        assert torch.allclose(own.sum(0).double(), expected, atol=1e-5)


def test_statistics_made_before_stand_for_those_of_the_rows(rng: np.random.Generator) -> None:
    """Tokens may be averages: the statistics are still of the rows, and go with their entity."""
    torch.manual_seed(1)
    model = InteractionModel(7, 5, CONFIG).eval()
    batch = make_batch(rng)
    held = batch._replace(
        a=batch.a._replace(statistics=summarise(batch.a)), b=batch.b._replace(statistics=summarise(batch.b))
    )
    assert torch.equal(model(held), model(batch))
    other = held._replace(a=held.a._replace(statistics=summarise(batch.a) + 1))
    assert not torch.allclose(model(other), model(batch))
    order = torch.tensor([2, 0, 2])
    moved = gather(held.a, order).statistics
    assert moved is not None
    assert torch.equal(moved, summarise(batch.a)[order])
    assert_close(torch.cat([model(single(held, pair)) for pair in range(12)]), model(held), "alone", looser=5)


def test_a_width_of_0_is_the_model_without(rng: np.random.Generator) -> None:
    model = InteractionModel(7, 5, ModelConfig(d_model=16, d_state=4, summary_width=0)).eval()
    assert not [name for name, _ in model.named_parameters() if "summary" in name]
    batch = make_batch(rng)
    assert model(batch).shape == (12,)
    assert model.encode_a(batch.a).summary.shape == (4, 0)


def test_a_summary_is_standardised_over_the_entities_it_was_fitted_on(rng: np.random.Generator) -> None:
    model = InteractionModel(7, 5, CONFIG).eval()
    assert model.summary_a is not None
    batch = make_batch(rng)
    statistics = summarise(batch.a)
    model.summary_a.fit(Moments(statistics.mean(0), statistics.std(0, correction=0)))
    scaled = model.summary_a.standardise(statistics)
    assert torch.allclose(scaled.mean(0), torch.zeros(21), atol=1e-5)
    assert torch.allclose(scaled.std(0, correction=0), torch.ones(21), atol=1e-3)


@pytest.mark.parametrize("fusion", ["cross_mamba", "concat"])
def test_an_ensemble_is_the_mean_of_its_members_together_and_encoded_once(
    rng: np.random.Generator, fusion: str
) -> None:
    torch.manual_seed(1)
    config = ModelConfig(d_model=16, d_state=4, fusion=fusion)
    model = Ensemble(3, 7, 5, config).eval()
    batch = make_batch(rng)
    each = model.outputs(batch)
    assert each.shape == (3, 2, 12)
    assert not torch.allclose(each[0], each[1])
    model.set_summary_share(0.3)
    expected = 0.7 * each[:, 0].mean(0) + 0.3 * each[:, 1].mean(0)
    assert_close(model(batch), expected, "mixed")
    fused = model.fuse(model.encode_a(batch.a), model.encode_b(batch.b), batch.a_index, batch.b_index)
    assert_close(fused, expected, "fused")
    counts, alone = model.parameter_counts(), InteractionModel(7, 5, config).parameter_counts()
    assert counts == {name: 3 * count for name, count in alone.items()}


def test_an_expert_of_a_member_has_the_gradient_that_it_has_alone(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    model = Ensemble(2, 7, 5, CONFIG)
    batch = make_batch(rng)
    model.outputs(batch).square().mean(2).sum().backward()  # type: ignore[no-untyped-call]
    learners = model.learners()
    assert len(learners) == 4
    assert sum(map(len, learners)) == len(list(model.parameters()))
    for number, learner in enumerate(learners):
        member, expert = model.interaction_models[number // 2], number % 2
        together = [parameter.grad for parameter in learner]
        alone = torch.autograd.grad(member.experts(batch)[expert].square().mean(), learner)
        for found, expected in zip(together, alone, strict=True):
            assert found is not None
            assert_close(found, expected, "gradient", looser=10)


def test_every_weight_is_of_one_expert() -> None:
    model = Ensemble(2, 7, 5, CONFIG)
    of = {name: EXPERTS[expert_of(name)] for name in model.state_dict()}
    assert {name.split(".")[2] for name, expert in of.items() if expert == "summary"} == {
        "summary_a", "summary_b", "summary_head", "summary_share",
    }  # fmt: skip
    assert set(of.values()) == set(EXPERTS)
    alone = InteractionModel(7, 5, ModelConfig(summary_width=0))
    assert {expert_of(name) for name in alone.state_dict()} == {0}
