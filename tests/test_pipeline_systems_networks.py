"""Networks of the literature: shapes of their recipes, learning, the same twice, and blind to test labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_systems import PARTS, Made
from torch import Tensor, nn
from torch.nn import functional as F

from crossllm.pipeline.systems import networks
from crossllm.pipeline.systems.autoencoders import greedy_encoders
from crossllm.pipeline.systems.biollmnet import BioLlmNet, biollmnet
from crossllm.pipeline.systems.dense_block import CHANNELS, FILTERS, KERNEL, DenseBlock, Head, Widen, convolved
from crossllm.pipeline.systems.fitted import untold
from crossllm.pipeline.systems.layers import KERAS_EPSILON, TwoClasses
from crossllm.pipeline.systems.lpi_csffr import LpiCsffr
from crossllm.pipeline.systems.networks import Inputs, Schedule, adam, seed_fold, shuffled, standardised
from crossllm.pipeline.systems.rnaincoder import RnaIncoder, rna_descriptors
from crossllm.pipeline.systems.rpiter import PROTEIN_KMERS, Codes, Combination, Module, Tower, kmers_of_largest


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
def test_affinities_are_learned_in_their_own_unit(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossllm.pipeline.systems.biollmnet.SCHEDULE", Schedule(adam, 10, 20))
    material = Made(rng).material("biollmnet")
    labels = 1e4 + 50 * material.dataset.labels
    material.dataset = material.dataset._replace(task="regression", labels=labels)
    found = biollmnet(material, PARTS, 0, untold)
    assert found.test.dtype == np.float64
    assert np.corrcoef(found.test, labels[PARTS.test])[0, 1] > 0.6
    assert abs(found.test.mean() - labels.mean()) < 20


def test_towers_have_the_shapes_and_weights_of_their_recipes() -> None:
    tower = Tower(399)
    # By hand: 399 → 394 → 197 → 193 → 96 → 93 places.
    convolutions = (6 * 45 + 45) + (5 * 45 * 64 + 64) + (4 * 64 * 45 + 45)
    assert parameters(tower) == convolutions + 2 * (45 + 64 + 45) + 93 * 45 * 64 + 64
    assert tower(torch.zeros(2, 399)).shape == (2, 64)
    codes = Codes([nn.Linear(a, b) for a, b in ((399, 256), (256, 128), (128, 64))])
    module = Module(Tower(399), Tower(340))
    joined = (128 * 128 + 128) + 2 * 128 + (128 * 64 + 64) + (64 * 2 + 2)
    assert parameters(module.joined) == joined
    assert codes(torch.zeros(2, 399)).shape == (2, 64)
    combined = Combination([module, module])
    assert parameters(combined.joined) == (4 * 16 + 16) + 2 * 16 + (16 * 8 + 8) + 2 * 8 + (8 * 2 + 2)
    assert combined(torch.rand(2, 399), torch.rand(2, 340)).shape == (2,)


def test_lpi_csffr_has_the_weights_of_its_recipe() -> None:
    network = LpiCsffr(torch.zeros(8760), 40)
    block = (78 * 6 * 24 + 24) + 2 * 24 + sum(3 * width * 18 + 18 + 36 for width in (24, 42, 60)) + 2 * 78
    assert parameters(network.first) == block
    # Without the convolution's bias, which the normalisation behind it takes out.
    assert parameters(network.widen_counts) == 78 + 2 * 78
    # 8,760 ÷ 6 and 40 places, ÷ 6 again, of 78 channels.
    head = 250 * 78 * 192 + 192 * 64 + (64 * 2 + 2)
    assert parameters(network) == 2 * (block + 3 * 78) + head
    blocks = [torch.rand(2, width) for width in (8420, 340, 22, 18)]
    assert network(*blocks).shape == (2,)


def test_rnaincoder_and_biollmnet_have_the_weights_of_their_recipes() -> None:
    encoders = [[nn.Linear(a, b) for a, b in ((width, 512), (512, 256), (256, 128))] for width in (188, 145)]
    network = RnaIncoder(*encoders)
    assert network.head[1].in_features == 42 * 78, "two codes of 128 in a line, ÷ 6"
    assert network(torch.rand(3, 188), torch.rand(3, 145)).shape == (3,)
    assert rna_descriptors(["ACGUACGU"]).shape == (1, 145)
    static, own = BioLlmNet((1024, 640), "static"), BioLlmNet((1024, 640), "input")
    sides = (1024 + 1) * 512 + (640 + 1) * 512
    assert parameters(static) == sides + 512 + (512 * 64 + 64) + 65
    assert parameters(own) - parameters(static) == 1024 * 512 + 512 - 512


def test_a_gate_lies_between_its_two_sides() -> None:
    network = BioLlmNet((4, 4), "static").eval()
    a, b = torch.rand(5, 512), torch.rand(5, 512)
    with torch.no_grad():
        network.gate.theta.copy_(torch.linspace(-9, 9, 512))
        share = torch.linspace(-9, 9, 512).sigmoid()
        torch.testing.assert_close(network.gate(a, b), share * a + (1 - share) * b)


def test_a_widened_line_is_a_convolution_of_width_one_with_batch_normalisation() -> None:
    torch.manual_seed(0)
    widen, conv = Widen(), nn.Conv1d(1, CHANNELS, 1)
    norm = nn.BatchNorm1d(CHANNELS, eps=KERAS_EPSILON)
    with torch.no_grad():
        for own in (widen.gain, widen.shift):
            own.uniform_(-1, 1)
        conv.weight.copy_(widen.weight.view(CHANNELS, 1, 1))
        norm.weight.copy_(widen.gain)
        norm.bias.copy_(widen.shift)
    x = torch.randn(7, 50) + 1
    torch.testing.assert_close(widen(x), F.relu(norm(conv(x[:, None]))), rtol=1e-4, atol=1e-5)


def test_the_fast_way_through_zeros_is_the_plain_one_forward_and_backward() -> None:
    torch.manual_seed(1)
    widen, conv, rest = Widen(), nn.Conv1d(CHANNELS, FILTERS, KERNEL), torch.randn(60)
    with torch.no_grad():
        widen.gain.uniform_(-1, 1)
        widen.shift.uniform_(-1, 1)
    x = rest.expand(5, -1).clone()
    other = torch.rand(5, 60) < 0.3
    other[:, [0, 1, 2, -3, -2, -1]] = True  # where an output would lie outside the line
    other[4] = False  # and a pair of zeros alone
    x[other] = torch.randn(int(other.sum()))
    towards, weights = torch.randn(5, FILTERS, 60), [*widen.parameters(), *conv.parameters()]
    found: list[list[Tensor]] = []
    for still in (None, rest):
        y = convolved(x, still, widen, conv)
        found.append([y, *torch.autograd.grad(y, weights, towards)])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_a_block_pools_by_six_and_adds_channels() -> None:
    block = DenseBlock()
    assert block(torch.rand(2, CHANNELS, 50)).shape == (2, 24 + 3 * 18, 8)
    assert Head(8)(torch.rand(2, CHANNELS, 8)).shape == (2,)


def test_two_classes_are_one_logit() -> None:
    torch.manual_seed(0)
    layer, x, label = TwoClasses(5), torch.randn(9, 5), torch.randint(0, 2, (9,))
    both = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(
        F.binary_cross_entropy_with_logits(layer(x), label.float()), F.cross_entropy(both, label)
    )


def test_features_are_standardised_on_training_pairs_alone() -> None:
    features = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]], np.float32)
    of_pair = np.array([0, 0, 0, 1, 2])
    found = standardised(features, of_pair, np.array([0, 1, 2, 3]))  # three times the first, once the second
    # Mean 1.5, deviation √0.75; the second column is constant there.
    np.testing.assert_allclose(found[:, 0], np.array([-0.5, 1.5, 98.5]) / 0.75**0.5, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [0.0, 0.0, 2.0], rtol=1e-6)


def test_every_pair_is_in_one_batch_and_none_is_alone() -> None:
    for count, batch in ((9, 4), (8, 4), (3, 4), (1, 4)):
        batches = shuffled(torch.arange(count), batch)
        assert sorted(torch.cat(batches).tolist()) == list(range(count))
        assert all(len(some) > 1 for some in batches) or count == 1


def test_counts_of_each_k_are_divided_by_their_largest() -> None:
    found = kmers_of_largest(["AGAC"], PROTEIN_KMERS)[0]
    np.testing.assert_allclose(found[:7], [1, 0, 0, 0, 0, 0, 1 / 3])  # {AGV} three times, {C} once
    assert found[7] == 1.0  # 00 twice
    assert found[7:56].sum() == pytest.approx(1.5)


def test_autoencoders_learn_and_draw_from_the_seed() -> None:
    rows = torch.rand(30, 8)
    pairs = torch.arange(30).repeat(3)

    def codes(epochs: int) -> list[Tensor]:
        seed_fold(0, 0)
        return [layer.weight for layer in greedy_encoders(rows, pairs, (6, 4), epochs, 16)]

    assert [tuple(weight.shape) for weight in codes(1)] == [(6, 8), (4, 6)]
    for first, second, longer in zip(codes(2), codes(2), codes(3), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert not torch.equal(first, longer)


def test_a_network_stops_when_validation_gets_no_better(rng: np.random.Generator) -> None:
    """And leaves the weights of the best epoch; a network that cannot learn stops after its patience."""
    material = Made(rng).material("rpiter")
    inputs = Inputs((torch.zeros(40, 1),), (torch.zeros(300, dtype=torch.long),))
    network = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
    schedule = Schedule(lambda parameters: torch.optim.SGD(parameters, lr=0.0), 50, 16, patience=3)
    told: list[int] = []
    trained = networks.train_network(network, inputs, material, PARTS, schedule, lambda epoch: told.append(epoch.epoch))
    assert trained.best_epoch == 1  # every AUROC is ½, every loss the same
    assert told == [1, 2, 3, 4]
    assert [epoch.validation_score for epoch in trained.history] == 4 * [0.5]
