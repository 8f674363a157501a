"""`train`: a cache folder → folds → one evaluated run.  No encoder is ever loaded here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossllm.cache.console.messages import note
from crossllm.cache.errors import Conflict, InputError
from crossllm.model.device import choose_compute
from crossllm.model.scan.backends import choose_backend, default_backend
from crossllm.model.tokens import tokens_name
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.baselines.registry import BASELINES, chosen
from crossllm.pipeline.baselines.run import fit_baselines, kept_baselines, run_baselines
from crossllm.pipeline.data.dataset import Dataset, default_run
from crossllm.pipeline.evaluation.metrics import Scored
from crossllm.pipeline.evaluation.table import OUR_MODEL
from crossllm.pipeline.reporting.leaks import find_leaks
from crossllm.pipeline.reporting.results import write_results
from crossllm.pipeline.similarity.similarity import Similarity
from crossllm.pipeline.splits.choosing import similarities_of
from crossllm.pipeline.splits.folds import Folds
from crossllm.pipeline.splits.parts import Parts, cut_parts
from crossllm.pipeline.splits.split_file import split_text
from crossllm.pipeline.systems.registry import check_system
from crossllm.pipeline.systems.run import run_system
from crossllm.pipeline.training.batches import PairBatches
from crossllm.pipeline.training.config import TrainConfig, held_config, resolve
from crossllm.pipeline.training.final import fit_final
from crossllm.pipeline.training.fold import FoldResult
from crossllm.pipeline.training.inputs import Inputs, TrainOptions, open_inputs
from crossllm.pipeline.training.provenance import record_provenance
from crossllm.pipeline.training.run_folder import RunFolder

VERSION = 9
"""Raised whenever this code changes a number of a run: folds of two versions never meet in one result."""


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]
    """As in `metrics.json`."""


class FoldsToFit(NamedTuple):
    """What other processes may fit before this one puts the run together."""

    folder: Path
    """Of the run, which this process has; each fold is kept in it by `fit_one_fold`."""
    options: TrainOptions
    missing: list[int]
    """Numbers of the folds that lack their result, or that of a baseline."""
    digests: list[str]
    """Of all folds (`RunFolder.fold_digest`)."""
    baselines: list[str]


FitAhead = Callable[[FoldsToFit], None]


def train(options: TrainOptions, ahead: FitAhead | None = None) -> Run:
    """Fit and score every fold by the system asked for, the baselines beside it; everything is kept in the run folder.

    Args:
        options: what is asked for.
        ahead: has missing folds fitted elsewhere; those that it leaves out are fitted here.

    Raises:
        InputError: no dataset, no embeddings for a pair, a split that cannot be cut, a system that takes no such
            dataset, or a scan backend that cannot run here.
        Conflict: the run folder holds another run.
    """
    options = dataclasses.replace(options, config=_resolved_config(options))
    scan = _backend(options.config.scan, torch.device(options.device))
    if options.final and options.config.protocol == "paper":
        raise InputError("--final: takes what it needs from the folds' held-out pairs, and --protocol paper has none")
    inputs = open_inputs(options)
    dataset, config = inputs.dataset, options.config
    check_system(config.system, dataset)
    if options.ranks.count > 1 and config.system != OUR_MODEL:
        raise InputError(f"--system {config.system}: is fitted by one process; start train without torchrun")
    if options.final and config.system != OUR_MODEL:
        raise InputError(f"--final: {config.system} keeps no weights that could predict; {OUR_MODEL} alone does")
    names = chosen("all" if options.baselines is None else options.baselines, dataset.task)
    _check_protocol(config, inputs.folds)
    count = len(inputs.folds.names)
    parts = [cut_parts(dataset, inputs.folds, n, config.validation, config.seed) for n in range(count)]
    where = options.out or default_run(options.cache_dir)
    with RunFolder(where, _resolved(options, inputs), resume=options.resume) as folder:
        return _run(options, inputs, parts, folder, scan, names, ahead)


def fit_one_fold(options: TrainOptions, number: int, digest: str, baselines: list[str]) -> None:
    """Fit one fold of a run whose folder another process has, and its baselines, and keep both there.

    Args:
        options: with the run's own configuration and its folder as `out`.
        number: of the fold.
        digest: of the fold, as the other process has it.
        baselines: their names.

    Raises:
        Conflict: what is read here is not what that process reads.
    """
    assert options.out is not None
    inputs, config = open_inputs(options), options.config
    count = len(inputs.folds.names)
    parts = [cut_parts(inputs.dataset, inputs.folds, n, config.validation, config.seed) for n in range(count)]
    folder = RunFolder(options.out, _resolved(options, inputs), resume=True, shared=True)
    digests = [_digest(folder, inputs.dataset, part) for part in parts]
    if digests[number] != digest:
        raise Conflict(f"{options.cache_dir}: the dataset or its embeddings changed while the folds were fitted")
    similarities = similarities_of(inputs.whole, config.split_options(), options.cache_dir, quiet=True)
    material = _material(options, inputs, similarities)
    scan = _backend(config.scan, torch.device(options.device))
    run_system(folder, options, inputs, material, parts, digests, scan, only=number)
    fit_baselines(folder, material, parts, digests, baselines, only=number)


def _run(
    options: TrainOptions,
    inputs: Inputs,
    parts: list[Parts],
    folder: RunFolder,
    scan: str,
    names: list[str],
    ahead: FitAhead | None,
) -> Run:
    """Fit what is not finished yet, score it, and leave it in the folder."""
    dataset = inputs.dataset
    if (done := folder.finished()) is not None:
        held = done["baselines"]
        enough = options.baselines is None or held.keys() >= set(names)
        settled = folder.has_final() or not options.final
        if enough and settled and options.by in (None, done.get("by", {}).get("column")):
            note(f"{folder.path}: finished before; showing its result")
            return Run(folder.path, done)
        wanted = held if options.baselines is None else {*held, *names}  # a baseline that is there stays
        names = [name for name in BASELINES[dataset.task] if name in wanted]
    options.ranks.tell({"begin": _resolved(options, inputs)})
    record_provenance(folder.path)
    folder.write("splits.tsv", split_text(dataset, inputs.folds))
    split = options.config.split_options()
    similarities = similarities_of(inputs.whole, split, options.cache_dir, quiet=options.quiet)
    leaks = find_leaks(dataset, inputs.folds.names, parts, similarities)
    folder.write("leaks.json", json.dumps(leaks, indent=1, allow_nan=False))  # before the long part: it may end that
    material = _material(options, inputs, similarities)
    digests = [_digest(folder, dataset, part) for part in parts]
    if ahead is not None and (missing := _missing(folder, dataset, parts, digests, names)):
        ahead(FoldsToFit(folder.path, options, missing, digests, names))
    results = run_system(folder, options, inputs, material, parts, digests, scan)
    if options.final:
        batches = PairBatches.of_dataset(dataset, inputs.readers, inputs.window)
        fit_final(folder, batches, parts, results, options.config, torch.device(options.device), options.ranks)
    scored = {"model": [_scored(dataset, part, result) for part, result in zip(parts, results, strict=True)]}
    scored |= run_baselines(folder, material, parts, digests, names)
    ran = dataclasses.replace(options.config, scan=scan)
    metrics = write_results(folder, inputs, ran, options.by, parts, results, scored, leaks, quiet=options.quiet)
    return Run(folder.path, metrics)


def _material(options: TrainOptions, inputs: Inputs, similarities: tuple[Similarity, Similarity]) -> Material:
    return Material(
        inputs.dataset, options.cache_dir, inputs.readers, inputs.window, options.config, torch.device(options.device),
        similarities, options.quiet,
    )  # fmt: skip


def _missing(
    folder: RunFolder, dataset: Dataset, parts: list[Parts], digests: list[str], baselines: list[str]
) -> list[int]:
    """Numbers of the folds of which something is to be fitted yet."""
    return [
        number
        for number, (part, digest) in enumerate(zip(parts, digests, strict=True))
        if not folder.has_fold(number)
        or not kept_baselines(folder, number, digest, part, dataset.task).keys() >= {*baselines}
    ]


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
    run = {"version": VERSION, "device": options.device, "threads": options.threads or torch.get_num_threads()}
    if (processes := options.ranks.count) > 1:
        run["processes"] = processes
    return {"dataset": data, "recipe": recipes, "run": run, **config.to_tables()}


def _digest(folder: RunFolder, dataset: Dataset, part: Parts) -> str:
    return folder.fold_digest((dataset.a_ids[n], dataset.b_ids[n]) for n in part.test.tolist())


def _scored(dataset: Dataset, parts: Parts, result: FoldResult) -> Scored:
    label = dataset.labels[parts.test]
    if result.threshold is None:
        return Scored(label, result.score, result.score)
    return Scored(label.astype(int), result.score, (result.score >= result.threshold).astype(int))
