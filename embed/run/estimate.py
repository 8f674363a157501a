"""How long a run will take, measured here and now, which itself takes some seconds.

A language model is timed by one layer of its own shape with random weights, at two lengths of what is pending: a token
of a sequence of L tokens takes a + b L seconds a layer, b L being attention's share.  A recurrent one is timed by the
steps of as many sequences as run together on the average (`step_estimate`).  Their weights are never read.  All other
encoders are loaded, and timed on a few of the pending records.  The rest (reading, the disk) is left out, and so is
whatever else the machine does meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crossllm.cache.console.machine import prepare_machine
from crossllm.cache.errors import InputError, one_line
from crossllm.cache.records.record import Record, record_of
from crossllm.cache.records.record_list import RecordList
from crossllm.cache.store.recipe import Recipe
from crossllm.embed.encoder import EncoderInfo, Loading
from crossllm.embed.encoders.windows import windows
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.step_estimate import seconds_of_steps
from crossllm.embed.weights.model_size import UNIREP_SIZES
from crossllm.embed.weights.published import PUBLISHED

if TYPE_CHECKING:
    from torch import Tensor

    from crossllm.embed.engine.transformer import Design, Transformer

LONGEST_TIMED = 2048
"""Tokens of a sequence; of longer ones the time is extended along the straight line."""
ENOUGH = 0.4
"""Seconds after which a measurement is taken as it is."""
PATIENCE = 0.5
"""Seconds that one length, or the few records of other encoders, are timed for; about."""
FEW = 64
A_MINUTE = {"cpu": 2e13, "cuda": 6e15}
"""Floating-point operations of a fast device of this type in a minute, about; others count as the first."""


class Estimate(NamedTuple):
    """Seconds that encoding will take, or why nobody knows."""

    seconds: float | None
    reason: str = ""


def estimate(options: RunOptions, info: EncoderInfo, recipe: Recipe, pending: RecordList) -> Estimate:
    """The time that encoding the pending records takes on the device that is asked for.

    No estimate, but its reason, where the device or the weights are not there or measuring takes too much memory: a
    plan may be asked for on a machine that could not do the work.
    """
    if not pending:
        return Estimate(0.0)
    try:
        if info.source:
            prepare_machine()
        if info.layers:
            return Estimate(_of_layers(options, recipe, pieces(pending.lengths, recipe.long)))
        if timed_by_shape(info):
            return Estimate(seconds_of_steps(recipe, pending.lengths, options.device, options.batch_tokens))
        if info.source and options.weights is None:
            return Estimate(None, "its weights are not at hand")
        return Estimate(_of_records(options, info, recipe, pending))
    except InputError as error:  # the device or the weights; the run itself will say it
        return Estimate(None, one_line(error))
    except (RuntimeError, MemoryError) as error:
        from crossllm.embed.engine.device import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return Estimate(None, f"out of memory on {options.device} while it was measured")


def timed_by_shape(info: EncoderInfo) -> bool:
    """Whether an encoder is timed by a model of its shape, so that its weights are not opened."""
    return info.layers > 0 or info.name in UNIREP_SIZES


def worth_timing(info: EncoderInfo, recipe: Recipe, lengths: np.ndarray, device: str) -> bool:
    """Whether a language model has work for a minute or more, beside which an estimate costs little.

    By two operations a parameter and residue, attention left out; `lengths` are those of the pending records.
    """
    if not timed_by_shape(info):
        return False
    residues = sum(length * count for length, count in pieces(lengths, recipe.long).items())
    return 2 * PUBLISHED[info.name].parameters * residues > A_MINUTE.get(device.partition(":")[0], A_MINUTE["cpu"])


def pieces(lengths: np.ndarray, policy: str) -> Counter[int]:
    """Length of what is encoded at once → how often, for sequences of these lengths under a recipe's `long`."""
    found: Counter[int] = Counter()
    for length, count in zip(*(part.tolist() for part in np.unique(lengths, return_counts=True)), strict=True):
        for window in windows(length, policy):
            found[window.stop - window.start] += count
    return found


def design_of(recipe: Recipe) -> tuple[Design, int | None]:
    """The design of a language model, and the length that its recipe pads every sequence to."""
    from crossllm.embed.encoders import esm2, rinalmo, rnabert, rnafm

    if recipe.encoder in esm2.SIZES:
        return esm2.published(*esm2.SIZES[recipe.encoder]).design, None
    if recipe.encoder in rinalmo.SIZES:
        return rinalmo.published(*rinalmo.SIZES[recipe.encoder]).design, None
    if recipe.encoder == "rnafm":
        return rnafm.published().design, None
    padded = recipe.options.get("attention") == "padded-440"
    return rnabert.published().design, rnabert.LIMIT if padded else None


def _of_layers(options: RunOptions, recipe: Recipe, found: Mapping[int, int]) -> float:
    """Seconds of all layers for so many pieces of each length, from the times of one layer at two lengths."""
    from crossllm.embed.engine.device import device_of

    device_of(options.device)
    design, padded = design_of(recipe)
    if padded is not None:
        found = {padded: sum(found.values())}
    lengths = np.array(sorted(found))
    counts = np.array([found[length] for length in lengths.tolist()])
    one = _random_layer(design, recipe.compute, options.device)
    tokens = np.cumsum(lengths * counts)
    middle, most = (int(lengths[np.searchsorted(tokens, share * tokens[-1])]) for share in (0.25, 0.9))
    longest = min(LONGEST_TIMED, design.positions - design.first_position if design.positions else LONGEST_TIMED)
    short, long = min(middle, longest, LONGEST_TIMED // 4), min(most, longest)
    layers = design.layers if recipe.layer is None else int(recipe.layer)
    slope, first = 0.0, _token_seconds(one, design, short, options)
    if long > 1.5 * short:
        slope = max(0.0, (_token_seconds(one, design, long, options) - first) / (long - short))
    a_token = first + slope * (lengths - short)
    return float(layers * (np.maximum(a_token, first / 2) * lengths * counts).sum())


def _random_layer(design: Design, compute: str, device: str) -> Transformer:
    """One layer of a model's shape.  Its weights are one random vector over and over: nothing else is drawn."""
    import torch

    from crossllm.embed.engine.transformer import Transformer, expected_shapes

    one = design._replace(layers=1)
    vector = 0.02 * torch.randn(max(design.width, design.inner), generator=torch.Generator().manual_seed(0))
    tensors = {name: vector[: shape[-1]].expand(shape) for name, shape in expected_shapes(one).items()}
    return Transformer(tensors, one, getattr(torch, compute), torch.device(device))


def _token_seconds(one: Transformer, design: Design, length: int, options: RunOptions) -> float:
    """Seconds that one layer takes for a token of sequences of this length; the batch grows until that can be told."""
    import torch

    count = max(1, min(512, options.batch_tokens) // length)
    while True:
        ids = torch.zeros(count * length, dtype=torch.int64, device=options.device)
        took = min(_seconds(one, ids, [length] * count) for _ in range(2))  # the first one only warms up
        if took >= ENOUGH or 2 * count * length > options.batch_tokens:
            break
        count = min(count * (2 if took > ENOUGH / 8 else 4), options.batch_tokens // length)
    begun = time.perf_counter()
    while time.perf_counter() - begun < PATIENCE:  # the least disturbed by what else the machine does
        took = min(took, _seconds(one, ids, [length] * count))
    return took / (count * length)


def _seconds(one: Transformer, ids: Tensor, lengths: list[int]) -> float:
    begun = time.perf_counter()
    one.rows(ids, lengths)[0][-1, -1].item()  # which waits for the device
    return time.perf_counter() - begun


def _of_records(options: RunOptions, info: EncoderInfo, recipe: Recipe, pending: RecordList) -> float:
    """Seconds for all pending records, by the rows of a few from all over the file; the first only warms up."""
    encoder = info.load(Loading((recipe,), options.weights, options.device, options.batch_tokens))
    few = pending.take(np.unique(np.linspace(0, len(pending) - 1, FEW).astype(int)))
    for _ in encoder.encode([_start_of(few[0], recipe)]):
        pass
    begun, rows = time.perf_counter(), 0
    for record in (_start_of(record, recipe) for record in few):
        for _ in encoder.encode([record]):
            rows += record.length
        if time.perf_counter() - begun > PATIENCE:
            break
    return (time.perf_counter() - begun) / rows * int(pending.lengths.sum())


def _start_of(record: Record, recipe: Recipe) -> Record:
    """The record, or the start of a long sequence, whose time grows with its length; a SMILES cannot be cut."""
    if recipe.modality == "molecule" or record.length <= LONGEST_TIMED:
        return record
    return record_of(recipe.modality, record.id, record.sequence[:LONGEST_TIMED])


def in_words(seconds: float) -> str:
    """`under a second`, `about 40 s`, `about 3 h 10 min`, `about 5 d 2 h`: no more digits than can be known."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min"
    hours = round(minutes / 60)
    return f"about {minutes // 60} h {minutes % 60} min" if hours < 48 else f"about {hours // 24} d {hours % 24} h"
