"""What a process does that trains together with the first one, which has the run's folder: as it is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from crossllm.cache.errors import InputError
from crossllm.model.settings import ModelConfig
from crossllm.pipeline.ranks.ranks import Ranks
from crossllm.pipeline.splits.parts import cut_parts
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig
from crossllm.pipeline.training.final import all_pairs, of_final
from crossllm.pipeline.training.fold import fit_fold, fold_seed
from crossllm.pipeline.training.inputs import TrainOptions, open_inputs
from crossllm.pipeline.training.steps import Settled


def follow(options: TrainOptions, ranks: Ranks) -> None:
    """Fit what the first process fits, together with it, until it says that there is no more.

    Raises:
        InputError: this process reads something else than the first one.
        RankLost: another process has ended.
    """
    run: _Run | None = None
    while (told := ranks.tell(None)) is not None:
        if "begin" in told:
            run = _Run(options, told["begin"], ranks)
        elif run is not None:
            run.fit(told)


class _Run:
    """One run, as the first process resolved it."""

    def __init__(self, options: TrainOptions, tables: dict[str, Any], ranks: Ranks) -> None:
        self._config = TrainConfig(**tables["train"], model=ModelConfig(**tables["model"]))
        recipes = tables["recipe"]
        inputs = open_inputs(
            dataclasses.replace(options, config=self._config, recipe_a=recipes["a"], recipe_b=recipes["b"], quiet=True)
        )
        held = {"digest": inputs.dataset.digest, "split_digest": inputs.folds.digest(inputs.dataset)}
        if different := [name for name, own in held.items() if own != tables["dataset"][name]]:
            raise InputError(
                f"{options.cache_dir}: process {ranks.rank + 1} of {ranks.count} has another {different[0]} there than "
                "the first one; all machines have to see one cache folder"
            )
        self._inputs, self._ranks, self._device = inputs, ranks, torch.device(options.device)
        self._batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)

    def fit(self, told: dict[str, Any]) -> None:
        """One fold, or the model of all pairs."""
        config, inputs, settled = self._config, self._inputs, None
        if "final" in told:
            settled = Settled(*told["final"])
            number, parts, config = len(inputs.folds.names), all_pairs(self._batches), of_final(config, settled)
        else:
            number = told["fold"]
            parts = cut_parts(inputs.dataset, inputs.folds, number, config.validation, config.seed)
        seed = fold_seed(config.seed, number)
        fit_fold(self._batches, parts, config, seed, self._device, lambda _epoch: None, None, settled, self._ranks)
