"""AdamW by torch's function: the steps of `torch.optim.AdamW`, saved and gone on with, and no compiler loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from crossllm.model.bimamba import BiMamba
from crossllm.model.optimiser import AdamW
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.fold import rate_share

CONFIG = TrainConfig(lr=3e-3, weight_decay=0.1, warmup_steps=4, schedule="cosine", epochs=5)


def slopes(model: nn.Module, rng: np.random.Generator) -> None:
    """Gradients by chance, the same for the same generator; one parameter has none in some steps."""
    for n, parameter in enumerate(model.parameters()):
        drawn = torch.from_numpy(rng.normal(size=tuple(parameter.shape))).float()
        parameter.grad = None if n == 3 and rng.random() < 0.5 else drawn


def made() -> BiMamba:
    torch.manual_seed(5)
    return BiMamba(16, 4)


def optimiser_of(model: nn.Module, steps: int) -> AdamW:
    return AdamW(model, lambda step: CONFIG.lr * rate_share(step, steps, CONFIG), CONFIG.weight_decay)


def torchs(model: nn.Module) -> torch.optim.AdamW:
    """As torch has it: decay on matrices but for A_log."""
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith("A_log")]
    chosen = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": CONFIG.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=CONFIG.lr)


def test_its_steps_are_those_of_torchs_optimiser(rng: np.random.Generator) -> None:
    seed = int(rng.integers(1 << 31))
    ours, theirs = made(), made()
    own, other = optimiser_of(ours, 30), torchs(theirs)
    schedule = torch.optim.lr_scheduler.LambdaLR(other, lambda step: rate_share(step, 30, CONFIG))
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(30):
        slopes(ours, first)
        slopes(theirs, second)
        assert own.rate(own.done) == pytest.approx(other.param_groups[0]["lr"], rel=1e-12)
        own.step()
        other.step()
        schedule.step()
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), value, rtol=1e-5, atol=1e-6, msg=name)


def test_saved_and_gone_on_with_it_gives_the_same_bits(rng: np.random.Generator) -> None:
    whole, half = made(), made()
    own, begun = optimiser_of(whole, 12), optimiser_of(half, 12)
    seed = int(rng.integers(1 << 31))
    first, second = np.random.default_rng(seed), np.random.default_rng(seed)
    for step in range(12):
        if step == 5:
            state = {name: tensor.clone() for name, tensor in begun.state().items()}
            resumed = made()
            resumed.load_state_dict(half.state_dict())
            half, done = resumed, begun.done
            begun = optimiser_of(half, 12)
            begun.restore(state, done)
        slopes(whole, first)
        slopes(half, second)
        own.step()
        begun.step()
    assert all(torch.equal(x, y) for x, y in zip(whole.parameters(), half.parameters(), strict=True))
    assert own.state().keys() == begun.state().keys()
    own.zero_grad()
    assert all(parameter.grad is None for parameter in whole.parameters())


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = optimiser_of(model, 3)
    optimiser.step()
    assert optimiser.done == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_no_compiler_is_loaded() -> None:
    code = """
import sys
sys.path[:0] = __PATH__
import torch
from crossllm.model.bimamba import BiMamba
from crossllm.model.optimiser import AdamW
from crossllm.pipeline.training import fold
model = BiMamba(16, 4)
optimiser = AdamW(model, lambda step: 1e-3, 0.1)
model(torch.ones(3, 16), torch.tensor([0, 3])).sum().backward()
optimiser.step()
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
""".replace("__PATH__", repr(sys.path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
