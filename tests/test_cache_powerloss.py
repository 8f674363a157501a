"""RELIABILITY P3: what was acknowledged survives a power loss at any operation, and each fsync is needed for that.

The histories are in `fault_histories`; a mutant, a protocol with something wrong in it, is a line of `MUTANTS`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fault_histories import COMPACTION, EVERYTHING, HISTORIES, just_after, places, record, violations
from fault_operations import broken_promises, contents, embed_run, write_input
from faultio import Op
from powerloss import materialise, states

from crossllm.cache.files import fsio
from crossllm.cache.maintenance import garbage_collection
from crossllm.embed.run import run as run_module

pytestmark = pytest.mark.slow

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
STATES = 20_000 if CHAOS else 2_000
"""Of the protocol as it is, over all histories."""
MUTANT_STATES = 1_000 if CHAOS else 200
"""Of each protocol with a step left out or changed; twice that where writers are interrupted at several places.
Outside `make chaos` the first that breaks a promise is enough."""


@pytest.mark.parametrize("name", HISTORIES)
def test_nothing_acknowledged_is_lost(memory: Path, rng: np.random.Generator, name: str) -> None:
    total: Counter[str] = Counter()
    interrupted = places(name, 30 if CHAOS else 10, rng, memory)
    for n in interrupted:
        history = record(memory, name, n)
        count = -(-STATES // len(HISTORIES) // len(interrupted))
        found = violations(history, history.log, count, memory, rng)
        assert found.keys() == {"states", "distinct"}, f"interrupted at {n}: {found}"
        total += found
    print(f"{name}: {total['states']} states, {total['distinct']} distinct, 0 violations")
    assert total["states"] >= STATES // len(HISTORIES)


def test_a_run_goes_on_from_what_a_power_loss_left(memory: Path, rng: np.random.Generator) -> None:
    history = record(memory, "two runs", 0)
    drawn = states(history.log, history.root, 4_000 if CHAOS else 600, rng)
    distinct = list({tuple(sorted(tree.items())): tree for _, tree in drawn}.values())
    for number in rng.choice(len(distinct), 300 if CHAOS else 50, replace=False):
        folder = memory / "state"
        folder.mkdir()
        materialise(distinct[number], folder)
        cache = folder / "data" / "cache"
        cache.parent.mkdir(exist_ok=True)
        write_input(cache)
        embed_run(cache)
        assert not broken_promises(cache, history.after, set(history.after))
        assert contents(cache) == history.after
        shutil.rmtree(folder)


def site(op: Op) -> str:
    """Where in the protocol an fsync stands: its path without the names that differ from run to run."""
    path = re.sub(r"\.tmp-[0-9a-f]{32}", "TEMPORARY", op.path)
    path = re.sub(r"(?<=/)[0-9a-f]{32}", "SEGMENT", path)
    path = re.sub(r"profile-[0-9a-f]{16}", "RECIPE", path)
    return path.partition("/data")[2].lstrip("/") or "."


FILES = ["rows/c/0/0", "rows/zarr.json", "zarr.json"]
FILES += [f"{a}/{n}" for a, c in (("offsets", "c/0"), ("digest", "c/0/0"), ("crc32c", "c/0")) for n in (c, "zarr.json")]
FOLDERS = ["", "/rows", "/rows/c", "/rows/c/0", "/offsets", "/offsets/c", "/digest", "/digest/c", "/digest/c/0"]
FOLDERS += ["/crc32c", "/crc32c/c"]
RECIPE = "cache/embeddings/rna/RECIPE"
SITES = [
    *(f"{RECIPE}/segments/SEGMENT/{name}" for name in FILES),
    *(f"{RECIPE}/segments/SEGMENT{name}" for name in FOLDERS),
    *(f"{RECIPE}/{name}" for name in ("segments", "commits/TEMPORARY", "commits", "TEMPORARY")),
    *(RECIPE, "cache/embeddings/rna", "cache/embeddings", "cache", ".", "cache/records/TEMPORARY", "cache/records"),
]
"""Every fsync of the protocol: leaving out any one of them must be found."""


def test_the_sites_are_all_of_them(memory: Path) -> None:
    history = record(memory, "one run", 0)
    assert {site(op) for op in history.log if op.kind.startswith("fsync")} - {""} == {*SITES}


@pytest.mark.parametrize("where", SITES)
def test_a_missing_fsync_is_found(memory: Path, rng: np.random.Generator, where: str) -> None:
    history = record(memory, "one run", 0)
    root = history.log[:2]
    kept = [op for op in history.log[2:] if not (op.kind.startswith("fsync") and site(op) == where)]
    assert len(kept) < len(history.log) - 2
    found = violations(history, root + kept, MUTANT_STATES, memory, rng, one=not CHAOS)
    drawn, _ = found.pop("states"), found.pop("distinct")
    caught = found.total()
    print(f"without the fsync of {where}: {caught} of {drawn} states broken: {found.most_common(2)}")
    assert caught


def ack_before_sync(log: list[Op]) -> list[Op]:
    """Acknowledged before `commits/` is synced."""
    found: list[Op] = []
    for op in log:
        if op.kind == "ack" and op.to != EVERYTHING:
            last = max(n for n, o in enumerate(found) if o.kind == "fsync dir" and o.path.endswith("/commits"))
            found.insert(last, op)
        else:
            found.append(op)
    return found


def in_place(path: Path, data: bytes | Iterable[bytes]) -> bool:
    """Written under its name at once."""
    if path.exists():
        return False
    with fsio.SyncedFile(path) as file:
        file.write(data if isinstance(data, bytes) else b"".join(data))
    fsio.sync_dir(path.parent)
    return True


def over(path: Path, data: bytes | Iterable[bytes]) -> bool:
    """Written over what is there."""
    descriptor = fsio.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    fsio.os.write(descriptor, data if isinstance(data, bytes) else b"".join(data))
    fsio.os.fsync(descriptor)
    fsio.os.close(descriptor)
    fsio.sync_dir(path.parent)
    return True


def only_what_is_missing(path: Path) -> None:
    """A folder that is there is taken to be on disk."""
    if not path.is_dir():
        only_what_is_missing(path.parent)
        fsio.os.mkdir(path)
        fsio.sync_dir(path.parent)


def unlink_what_was_seen(recipe_dir: Path, segments: Iterable[str]) -> None:
    """What replaces them may not be on disk yet."""
    for segment in segments:
        fsio.remove_file(recipe_dir / "commits" / f"{segment}.json")
    fsio.sync_dir(recipe_dir / "commits")


JUST_LINKED = (COMPACTION - 3, COMPACTION - 2)
"""The operations of a compaction between the link of its commit record and the fsync of `commits/`."""


class Mutant(NamedTuple):
    """A protocol with something wrong in it."""

    history: str
    edit: Callable[[list[Op]], list[Op]] = lambda log: log
    patch: tuple[object, str, object] | None = None
    after: str = ""
    """The kind of operation after which the history is interrupted."""
    at: Sequence[int] = ()
    """Where it is interrupted instead."""


MUTANTS: dict[str, Mutant] = {
    "acknowledged before commits/ is synced": Mutant("one run", ack_before_sync),
    "published in place": Mutant("one run", patch=(fsio, "publish", in_place)),
    "published over what is there": Mutant("two runs", patch=(fsio, "publish", over)),
    "a folder that is there is not synced": Mutant(
        "killed, and run again", patch=(fsio, "make_dirs", only_what_is_missing), after="mkdir"
    ),
    "what others wrote is not synced": Mutant(
        "killed, and run again", patch=(run_module, "sync_what_others_wrote", lambda *_: None), after="link"
    ),
    "gc does not sync what it saw": Mutant(
        "collected while compacting", patch=(garbage_collection, "unlink_commits", unlink_what_was_seen), at=JUST_LINKED
    ),
}


@contextmanager
def patched(owner: object, name: str, other: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_protocol_is_found(memory: Path, rng: np.random.Generator, name: str) -> None:
    mutant = MUTANTS[name]
    found: Counter[str] = Counter()
    with patched(*mutant.patch) if mutant.patch else nullcontext():
        # An interruption at a folder within a segment harms nobody: the first few are those above it.
        interrupted = list(mutant.at) or (just_after(memory, mutant.after)[:8] if mutant.after else [0])
        for n in interrupted:
            history = record(memory, mutant.history, n)
            count = (2 * MUTANT_STATES) // len(interrupted)
            found += violations(history, mutant.edit(history.log), count, memory, rng, one=not CHAOS)
            shutil.rmtree(history.root)
            if not CHAOS and len(found) > 2:  # beside `states` and `distinct`
                break
    drawn, _ = found.pop("states"), found.pop("distinct")
    print(f"{name}: {found.total()} of {drawn} states broken: {found.most_common(2)}")
    assert found.total()
