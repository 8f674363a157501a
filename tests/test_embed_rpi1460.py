"""RPI1460's proteins through ESM-2 8M, weights drawn at random: cut off, resumed and shared, it is the same cache.

Rows of a resumed run come from other batches.  They are equal within the tolerance table; with one sequence a batch,
where nothing but the sequence itself decides what is computed, bit by bit.  Stored as float32: float16 would round
a last bit of the computation up to one of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from made_weights import design_tensors
from safetensors.torch import save_file
from tolerances import ROWS
from zygote import Child, Zygote

from crossllm.cache import CacheReader, choose_recipe
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.reading import read_records
from crossllm.cache.store.commit import live_commits
from crossllm.embed.encoders import esm2
from crossllm.embed.run.run import RunOptions, run

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
"""`make chaos`: all 635 proteins."""
SHORTEST = 60
SEGMENT = (1 << 20) if CHAOS else (128 << 10)
MANY, ONE = 16384 if CHAOS else 1024, 1
"""Tokens of a batch: of many sequences, and of a single one."""
DEADLINE = 600
"""Seconds."""
ATTEMPTS = 8
"""Of stopping a run before its end."""


@pytest.fixture
def proteins(real_data: Path, tmp_path: Path) -> Path:
    """The proteins of RPI1460 as published, or outside `make chaos` every record of the shortest of them."""
    source = real_data / "rpi1460" / "protein.fasta"
    if CHAOS:
        return source
    records = read_records(source, "protein").records
    shortest = {key for _, key in sorted({(r.length, r.key) for r in records})[:SHORTEST]}
    chosen = [r for r in records if r.key in shortest]
    path = tmp_path / "protein.fasta"
    path.write_text("".join(f">{r.id}\n{r.sequence}\n" for r in chosen))
    return path


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator) -> Path:
    """ESM-2 8M in its own shapes: 6 layers, 320 wide, 20 heads."""
    path = tmp_path / "esm2-8m.safetensors"
    save_file(design_tensors(esm2.published(*esm2.SIZES["esm2-8m"]), rng), path)
    return path


def started(programs: Zygote, proteins: Path, weights: Path, cache: Path, batch_tokens: int, output: Path) -> Child:
    """`embed run`; its summary goes to a file, what it says to another."""
    named = {"modality": "protein", "input": proteins, "cache": cache, "encoder": "esm2-8m", "weights": weights}
    named |= {"dtype": "float32", "batch-tokens": batch_tokens, "segment-bytes": SEGMENT}
    flags = [str(part) for name, value in named.items() for part in (f"--{name}", value)]
    with open(os.devnull, "rb") as nothing, output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
        return programs.start("embed", ["run", "--json", "--quiet", *flags], (nothing, out, err), seconds=DEADLINE)


def stopped(child: Child, number: signal.Signals, commits: Path, new: int, delay: float) -> int:
    """Send a signal so many seconds after a folder got so many new commit records; the exit code."""
    before, deadline = len(list(commits.glob("*.json"))), time.monotonic() + DEADLINE
    while child.poll() is None and len(list(commits.glob("*.json"))) < before + new:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    child.send_signal(number)
    return child.wait(DEADLINE)


def uninterrupted(proteins: Path, weights: Path, cache: Path, batch_tokens: int) -> CacheReader:
    """What one run from start to end makes."""
    options = RunOptions(
        "protein", proteins, cache, "esm2-8m", weights, dtype="float32", batch_tokens=batch_tokens,
        segment_bytes=SEGMENT, quiet=True,
    )  # fmt: skip
    begun = time.monotonic()
    done = run(options)
    seconds = time.monotonic() - begun
    print(f"uninterrupted: {done.embedded} proteins, {done.residues} residues, {seconds:.1f} s")
    assert done.embedded == done.distinct == (635 if CHAOS else SHORTEST)
    return CacheReader(cache, choose_recipe(cache, "protein"))


def assert_same(cache: Path, whole: CacheReader, batch_tokens: int) -> None:
    """The same keys, and for each the same rows."""
    found = CacheReader(cache, choose_recipe(cache, "protein"))
    assert set(found) == set(whole)
    worst = 0.0
    for key in whole:
        ours, theirs = found[key], whole[key]
        assert ours.shape == theirs.shape
        if batch_tokens == 1:
            assert ours.tobytes() == theirs.tobytes()
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    print(f"{len(whole)} keys, largest difference {worst:.1e}")
    assert worst <= ROWS["float32"]


def held(cache: Path) -> set[bytes]:
    """The keys that a cache holds, whole and clean as it stands."""
    if not (cache / "embeddings").exists():
        return set()
    assert not verify(cache, data=True).damage
    return set(CacheReader(cache, choose_recipe(cache, "protein")))


def test_killed_twice_stopped_once_and_resumed_is_the_same_cache(
    programs: Zygote, proteins: Path, weights: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    whole = uninterrupted(proteins, weights, tmp_path / "whole", MANY)
    cache = tmp_path / "cut"
    commits = whole.recipe.folder(cache) / "commits"
    kept: set[bytes] = set()
    for turn, number in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)):
        # SIGTERM after a commit: before that, Python may not have come to the program at all.
        least = int(number == signal.SIGTERM)
        new = int(rng.integers(least, len(whole.segments) // 5 + 1))
        delay, output = float(rng.uniform(0, 0.05)), tmp_path / f"{turn}.json"
        before = tmp_path / f"before-{turn}"
        if cache.exists():
            shutil.copytree(cache, before)
        for attempt in range(1, ATTEMPTS + 1):
            child = started(programs, proteins, weights, cache, MANY, output)
            code = stopped(child, number, commits, max(least, new // attempt), delay / attempt**2)
            now = held(cache)
            if now < set(whole):
                break
            # A run can end before the signal comes: once more from where this turn began, and sooner.
            shutil.rmtree(cache)
            if before.exists():
                shutil.copytree(before, cache)
        assert now < set(whole), f"the run was at its end before it could be stopped, {ATTEMPTS} times"
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number), said(output)
        assert kept <= now, "what was committed stays"
        print(f"{number.name} {delay:.2f} s after {new} new commits: {len(now)} of {len(whole)} are kept")
        kept = now
    output = tmp_path / "last.json"
    assert started(programs, proteins, weights, cache, MANY, output).wait(DEADLINE) == 0, said(output)
    summary = json.loads(output.read_text())
    assert (summary["already"], summary["embedded"]) == (len(kept), len(whole) - len(kept)), "nothing computed twice"
    assert held(cache) == set(whole)
    assert_same(cache, whole, MANY)


def test_two_processes_at_once_make_the_same_cache(
    programs: Zygote, proteins: Path, weights: Path, tmp_path: Path
) -> None:
    whole = uninterrupted(proteins, weights, tmp_path / "whole", ONE)
    cache, outputs = tmp_path / "shared", [tmp_path / "one.json", tmp_path / "two.json"]
    children = [started(programs, proteins, weights, cache, ONE, output) for output in outputs]
    for child, output in zip(children, outputs, strict=True):
        assert child.wait(DEADLINE) == 0, said(output)
    made = [json.loads(output.read_text())["embedded"] for output in outputs]
    print(f"{made[0]} and {made[1]} embedded by two processes, {len(whole)} distinct")
    assert held(cache) == set(whole)
    assert_same(cache, whole, ONE)
    compact(cache)
    assert held(cache) == set(whole)
    live = live_commits(read_commits(whole.recipe.folder(cache)).commits)
    assert sum(commit.records for commit in live) == len(whole), "every sequence once"
    assert_same(cache, whole, ONE)


def said(output: Path) -> str:
    """What a run said on standard error."""
    return output.with_suffix(".err").read_text()


def test_what_truncation_would_cost_rpi1460(real_data: Path) -> None:
    """Why `--long truncate` is off by default: 98 distinct RNAs, of which 65 are left apart at 1,022 nucleotides."""
    distinct = read_records(real_data / "rpi1460" / "rna.fasta", "rna").distinct()
    assert len(distinct) == 98
    assert len({record.sequence[:1022] for record in distinct.values()}) == 65
