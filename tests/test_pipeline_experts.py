"""The two experts of a model: each is taken at its own best epoch, and mixed by what the validation part says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from made_runs import QUICK

from crossllm.model.ensemble import Ensemble
from crossllm.model.interaction import expert_of
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.decision import SHARES
from crossllm.pipeline.training.fold import FoldResult, fit_fold
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.predicting import predict, predict_experts
from crossllm.pipeline.training.steps import Settled

pytestmark = pytest.mark.slow
CONFIG = dataclasses.replace(QUICK, epochs=4, patience=4, lr=1e-2)
CPU = torch.device("cpu")


class Fold:
    """One fold of a set, to be fitted by any configuration."""

    def __init__(self, options: TrainOptions) -> None:
        self.inputs = open_inputs(options)
        self.batches = PairBatches.of_dataset(self.inputs.dataset, self.inputs.readers, self.inputs.window)
        self.parts: Parts = cut_parts(self.inputs.dataset, self.inputs.folds, 0, CONFIG.validation, 0)

    def fit(self, config: TrainConfig, settled: Settled | None = None) -> FoldResult:
        return fit_fold(self.batches, self.parts, config, 3, CPU, lambda _epoch: None, None, settled)

    def model(self, result: FoldResult) -> Ensemble:
        model = Ensemble(1, *self.batches.dims, CONFIG.model)
        model.load_state_dict(result.state)
        return model


@pytest.fixture
def fold(small: TrainOptions) -> Fold:
    return Fold(small)


def test_each_expert_has_the_weights_of_its_own_best_epoch(fold: Fold) -> None:
    whole = fold.fit(CONFIG)
    assert len(whole.best_epochs) == 2
    assert whole.best_epoch == max(whole.best_epochs)
    for expert, epoch in enumerate(whole.best_epochs):
        until = fold.fit(dataclasses.replace(CONFIG, epochs=epoch))
        assert until.best_epochs[expert] == epoch, "what follows does not change what was"
        own = [name for name in whole.state if expert_of(name) == expert and not name.endswith("summary_share")]
        assert own
        assert all(torch.equal(whole.state[name], until.state[name]) for name in own)


def test_the_mixture_is_the_one_of_the_least_validation_loss(fold: Fold) -> None:
    result = fold.fit(CONFIG)
    model = fold.model(result)
    validation = fold.parts.validation
    outputs = predict_experts(model, fold.batches, validation, CONFIG, CPU)
    label = torch.from_numpy(fold.batches.labels[validation]).float()
    losses = [float(result.target.loss(outputs[0].lerp(outputs[1], share), label, CONFIG)) for share in SHARES]
    assert result.summary_share == SHARES[int(np.argmin(losses))]
    assert len(set(losses)) > 1
    scored = result.target.score(predict(model, fold.batches, fold.parts.test, CONFIG, CPU))
    assert scored.tobytes() == result.score.tobytes(), "the weights that are kept have the share"


def test_what_is_settled_is_not_chosen(fold: Fold) -> None:
    result = fold.fit(CONFIG, Settled([1, 3], 0.37))
    assert (result.best_epochs, result.summary_share) == ([1, 3], 0.37)
    for epochs, expert in ((1, 0), (3, 1)):
        until = fold.fit(dataclasses.replace(CONFIG, epochs=epochs), Settled([epochs, epochs], 0.5))
        own = [name for name in result.state if expert_of(name) == expert and not name.endswith("summary_share")]
        assert all(torch.equal(result.state[name], until.state[name]) for name in own)
