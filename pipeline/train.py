"""`train`: a cache folder → folds → one evaluated run.  No encoder is ever loaded here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import Lines, announced, bar_class, hidden
from crossllm.cache.errors import InputError
from crossllm.model.bimamba import BiMamba
from crossllm.model.device import choose_compute
from crossllm.model.scan.backends import choose_backend, default_backend
from crossllm.model.tokens import tokens_name
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.baselines.registry import BASELINES, chosen
from crossllm.pipeline.baselines.run import run_baselines
from crossllm.pipeline.data.dataset import Dataset, default_run
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.reporting.leaks import find_leaks
from crossllm.pipeline.reporting.results import parameter_counts, write_results
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.folds import Folds
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.splits.split_file import split_text
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig, held_config, resolve
from crossllm.pipeline.training.fold import FoldResult, fit_fold, fold_seed
from crossllm.pipeline.training.inputs import Inputs, TrainOptions, open_inputs
from crossllm.pipeline.training.progress import Epoch
from crossllm.pipeline.training.run_folder import RunFolder
from crossllm.pipeline.training.target import fit_target
from crossllm.pipeline.training.tracking import FoldEvents
from crossllm.pipeline.training.usage import measured, read_usage, write_usage

VERSION = 7
"""Raised whenever this code changes a number of a run: folds of two versions never meet in one result."""


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]
    """As in `metrics.json`."""


def train(options: TrainOptions) -> Run:
    """Fit and score every fold, the baselines beside the model; everything is kept in the run folder.

    Raises:
        InputError: no dataset, no embeddings for a pair, a split that cannot be cut, or a scan backend that cannot run
            here.
        Conflict: the run folder holds another run.
    """
    options = dataclasses.replace(options, config=_resolved_config(options))
    scan = _backend(options.config.scan, torch.device(options.device))
    inputs = open_inputs(options)
    dataset, config = inputs.dataset, options.config
    names = chosen("all" if options.baselines is None else options.baselines, dataset.task)
    _check_protocol(config, inputs.folds)
    count = len(inputs.folds.names)
    parts = [cut_parts(dataset, inputs.folds, n, config.validation, config.seed) for n in range(count)]
    where = options.out or default_run(options.cache_dir)
    with RunFolder(where, _resolved(options, inputs), resume=options.resume) as folder:
        return _run(options, inputs, parts, folder, scan, names)


def _run(
    options: TrainOptions, inputs: Inputs, parts: list[Parts], folder: RunFolder, scan: str, names: list[str]
) -> Run:
    """Fit what is not finished yet, score it, and leave it in the folder."""
    dataset = inputs.dataset
    if (done := folder.finished()) is not None:
        held = done["baselines"]
        enough = options.baselines is None or held.keys() >= set(names)
        if enough and options.by in (None, done.get("by", {}).get("column")):
            note(f"{folder.path}: finished before; showing its result")
            return Run(folder.path, done)
        wanted = held if options.baselines is None else {*held, *names}  # a baseline that is there stays
        names = [name for name in BASELINES[dataset.task] if name in wanted]
    folder.write("splits.tsv", split_text(dataset, inputs.folds))
    split = options.config.split_options()
    similarities = similarities_of(inputs.whole, split, options.cache_dir, quiet=options.quiet)
    leaks = find_leaks(dataset, inputs.folds.names, parts, similarities)
    folder.write("leaks.json", json.dumps(leaks, indent=1, allow_nan=False))  # before the long part: it may end that
    results = _fit_folds(options, inputs, parts, folder, scan)
    scored = {"model": [_scored(dataset, part, result) for part, result in zip(parts, results, strict=True)]}
    material = Material(
        dataset, options.cache_dir, inputs.readers, inputs.window, options.config, torch.device(options.device),
        similarities, options.quiet,
    )  # fmt: skip
    digests = [_digest(folder, dataset, part) for part in parts]
    scored |= run_baselines(folder, material, parts, digests, names)
    ran = dataclasses.replace(options.config, scan=scan)
    return Run(folder.path, write_results(folder, inputs, ran, options.by, parts, results, scored, leaks))


def _check_protocol(config: TrainConfig, folds: Folds) -> None:
    """Say what `--protocol paper` does.

    Raises:
        InputError: it is asked for on folds that no such number was published for.
    """
    if config.protocol == "honest":
        return
    if config.split != "random" and folds.parts is None:
        raise InputError(
            f"--protocol paper: --split {config.split} has several folds here; the literature's way is random pairs or "
            "one fixed split; use --split random, or --protocol honest"
        )
    note("note: --protocol paper: the epoch is chosen on the scored pairs themselves; its number is optimistic")


def _resolved_config(options: TrainOptions) -> TrainConfig:
    """The configuration with `compute` chosen, and both it and `scan` as the run has them that is gone on with.

    Another device, or another machine's device of that name, would choose otherwise halfway through a run.
    """
    config, device = options.config, torch.device(options.device)
    where = held_config(options.out or default_run(options.cache_dir)) if options.resume else None
    held = None if where is None else resolve(where)
    if held is not None and config.scan in ("auto", default_backend(device) if held.scan == "auto" else None):
        config = dataclasses.replace(config, scan=held.scan)
    if config.compute != "auto":
        return config
    if held is not None:
        chosen, why = held.compute, "as this run began"
    else:
        chosen, why = choose_compute(config.model.d_model, device)
    note(f"note: --compute auto: {chosen}, {why}")
    return dataclasses.replace(config, compute=chosen)


def _backend(scan: str, device: torch.device) -> str:
    """The scan backend that a setting stands for on a device.

    Raises:
        InputError: it is not installed, or cannot run on the device.
    """
    if scan == "auto":
        return default_backend(device)
    try:
        return choose_backend(torch.empty(0, device=device), scan)
    except ValueError as error:
        raise InputError(f"--scan: {error}") from None


def _resolved(options: TrainOptions, inputs: Inputs) -> dict[str, Any]:
    """What goes into `config.toml`: all that changes a number, `auto` of tokens and compute resolved."""
    config = dataclasses.replace(options.config, tokens=tokens_name(inputs.window))
    data = {
        "digest": inputs.dataset.digest,
        "pairs": len(inputs.dataset.labels),
        "split_digest": inputs.folds.digest(inputs.dataset),
    }
    recipes = {side: reader.recipe.digest for side, reader in zip("ab", inputs.readers, strict=True)}
    run = {"version": VERSION, "device": options.device, "threads": torch.get_num_threads()}
    return {"dataset": data, "recipe": recipes, "run": run, **config.to_tables()}


def _fit_folds(
    options: TrainOptions, inputs: Inputs, parts: list[Parts], folder: RunFolder, scan: str
) -> list[FoldResult]:
    config = options.config
    batches = PairBatches.of_dataset(inputs.dataset, inputs.readers, inputs.window)
    before = read_usage(folder.path)
    counts = parameter_counts(inputs, config)
    named = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    note(f"note: {config.model.fusion}, {sum(counts.values()):,} parameters ({named}), scan by {scan}")
    results = []
    bar = bar_class()(total=len(parts) * config.epochs, unit="epoch", disable=hidden(options.quiet))
    lines = Lines(options.quiet)
    _warm_up(config, scan, torch.device(options.device), options.quiet)
    for number, part in enumerate(parts):
        target = fit_target(batches.task, batches.labels, part.train, config)
        digest = _digest(folder, inputs.dataset, part)
        result = folder.load_fold(number, len(part.test), target, config.epochs, digest)
        if result is None:
            with FoldEvents(folder.path, number, batches.task) as events:

                def show(epoch: Epoch, number: int = number, events: FoldEvents = events) -> None:
                    bar.update()
                    bar.set_description(f"fold {number + 1}/{len(parts)} validation loss {epoch.validation_loss:.4f}")
                    events.add(epoch)
                    share = (number * config.epochs + epoch.epoch) / (len(parts) * config.epochs)
                    lines.tell(lambda: _told(epoch, number, len(parts), config), share, "at most {} left")

                result = fit_fold(
                    batches,
                    part,
                    config,
                    fold_seed(config.seed, number),
                    torch.device(options.device),
                    show,
                    folder.keeper(number, digest),
                )
            folder.save_fold(number, result, digest)
            write_usage(folder.path, before.plus(measured(batches)))
        bar.update((number + 1) * config.epochs - bar.n)  # early stopping leaves epochs out
        results.append(result)
    bar.close()
    if waited := batches.waiting.total:
        note(f"note: {batches.waiting.share:.1%} of {waited:.0f} s in training and scoring was waiting for data")
    return results


def _digest(folder: RunFolder, dataset: Dataset, part: Parts) -> str:
    return folder.fold_digest((dataset.a_ids[n], dataset.b_ids[n]) for n in part.test.tolist())


def _told(epoch: Epoch, fold: int, folds: int, config: TrainConfig) -> str:
    return (
        f"fold {fold + 1} of {folds}, epoch {epoch.epoch} of at most {config.epochs}: training loss "
        f"{epoch.train_loss:.4f}, validation loss {epoch.validation_loss:.4f}"
    )


def _warm_up(config: TrainConfig, scan: str, device: torch.device, quiet: bool) -> None:
    """A step of the scan on next to nothing: where its kernels are not compiled yet, that is said and not a silence."""
    if scan != "numba":
        return
    with announced("note: compiling the scan's kernels for this processor; they are kept for the next run", quiet):
        block = BiMamba(config.model.d_model, config.model.d_state, config.model.bidirectional, scan).to(device)
        with torch.random.fork_rng(devices=[]):
            tokens = torch.zeros(2, config.model.d_model, device=device, requires_grad=True)
            block(tokens, torch.tensor([0, 2])).sum().backward()


def _scored(dataset: Dataset, parts: Parts, result: FoldResult) -> Scored:
    label = dataset.labels[parts.test]
    if result.threshold is None:
        return Scored(label, result.score, result.score)
    return Scored(label.astype(int), result.score, (result.score >= result.threshold).astype(int))
