"""The plan of a run as people read it: the lines of `embed run --dry-run`, and the line that a run begins with."""

from __future__ import annotations

from crossllm.cache.console.messages import note, size_in_words
from crossllm.cache.errors import plain_line
from crossllm.cache.records.modality import KINDS, UNITS
from crossllm.embed.encoder import EncoderInfo
from crossllm.embed.run.dry_run import DryRun, RecipePlan, free_bytes
from crossllm.embed.run.estimate import estimate, in_words, worth_timing
from crossllm.embed.run.plan import Plan, RunOptions


def in_lines(found: DryRun, modality: str) -> str:
    """The plan as people read it."""
    unit, kind = UNITS[modality], KINDS[modality]
    there = "what is there already is not known without the weights" if found.already is None else (
        f"{found.already:,} already there"
    )  # fmt: skip
    there += f", {found.elsewhere:,} to be copied" if found.elsewhere else ""
    lines = [
        f"records     {found.records:,}, {found.distinct:,} distinct {kind}, {found.residues:,} {unit}; {there}",
        f"to embed    {_pending(found, kind, unit)}",
        *_encoder_lines(found),
        f"disk        {_disk(found.bytes, found.free_bytes)}",
        f"time        {_time(found)}",
    ]
    if found.beyond_limit:
        fate = "they stop the run; name --long" if found.long == "error" else f"long = {found.long}"
        lines.insert(2, f"too long    {found.beyond_limit:,} beyond the encoder's {found.limit:,}: {fate}")
    if not found.weights_at_hand:
        lines.append(f"weights     not at hand: `embed pull {found.encoder}` or `--weights PATH` is needed to run")
    elif found.weights is not None:
        opened = "opened to measure the time" if found.weights_opened else "digested but not opened"
        lines.append(f"weights     {found.weights}, {opened}")
    return "\n".join(map(plain_line, lines))


def _encoder_lines(found: DryRun) -> list[str]:
    """The encoder, and of several layers a line each."""
    if len(found.recipes) == 1:
        return [f"encoder     {found.encoder}, {_named(found.recipes[0])} → {found.cache}"]
    lines = [f"encoder     {found.encoder}, {len(found.recipes)} layers in one pass → {found.cache}"]
    for one in found.recipes:
        there = "" if one.already is None else f", {one.already:,} already there"
        layer = "last layer" if one.layer is None else f"layer {one.layer}"
        lines.append(f"            {layer}: {_named(one)}{there}")
    return lines


def _named(one: RecipePlan) -> str:
    return one.recipe or "a recipe that its weights decide"


def warn(found: DryRun) -> None:
    """Say on standard error what would stop the run, and why its time is not known."""
    if found.seconds is None:
        note(f"note: the time is not estimated: {found.not_estimated}")
    if found.bytes > found.free_bytes:
        note(f"note: {found.cache}: {found.bytes} bytes are needed and {found.free_bytes} are free")


def _time(found: DryRun) -> str:
    if found.seconds is None:
        return f"not estimated: {found.not_estimated}"
    if not found.pending:
        return "nothing to embed"
    without = ", without what is too long" if found.long == "error" and found.beyond_limit else ""
    return _about(found.seconds, found.device) + without


def _pending(found: DryRun, kind: str, unit: str) -> str:
    if not found.pending:
        return "nothing"
    batches = "1 batch" if found.batches == 1 else f"about {found.batches:,} batches"
    return f"{found.pending:,} {kind}, {found.pending_residues:,} {unit}, the longest {found.longest:,}; {batches}"


def _about(seconds: float, device: str) -> str:
    return f"{in_words(seconds)} on {device}, if the machine does nothing else"


def _disk(needed: int, free: int) -> str:
    return f"about {size_in_words(needed)} to write, {size_in_words(free)} free"


def announce(options: RunOptions, info: EncoderInfo, plan: Plan, records: int) -> None:
    """Say on standard error what a run is about to do, before any weights are opened; nothing with `--quiet`.

    The time is measured where there is work for minutes; of less the bar soon tells what is left.
    """
    if options.quiet or not len(plan.places):
        return
    kind, unit = KINDS[options.modality], UNITS[options.modality]
    said = [
        f"note: {len(plan.places):,} of {len(plan.distinct):,} {kind} to embed",
        f"{plan.lengths.sum():,} {unit}",
        *([f"{len(plan.wanted)} layers in one pass"] if len(plan.wanted) > 1 else []),
        _disk(plan.bytes(options.segment_bytes, records), free_bytes(options)),
    ]
    if worth_timing(info, plan.recipe, plan.lengths, options.device):
        seconds, reason = estimate(options, info, plan.recipe, plan.pending)
        said.append(f"time not estimated: {reason}" if seconds is None else _about(seconds, options.device))
    note(", ".join(said))
