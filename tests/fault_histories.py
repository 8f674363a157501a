"""Histories of a cache up to a power loss: what writers did, one after the other or one while another was slow.

A further history is a function and a line of `HISTORIES`, and one of `INTERRUPTED` if something comes between in it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fault_operations import (
    SEQUENCES,
    Contents,
    broken_promises,
    contents,
    embed_run,
    records,
    write_input,
)
from faultio import FaultyOs, Meanwhile, Op, Stop, Stopped, installed
from powerloss import Tree, materialise, states

from crossllm.cache import read_table
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.embed.run import run as run_module

EVERYTHING = "everything"
"""The end of a run: all that it was asked for is acknowledged, also what it found there."""


class History(NamedTuple):
    """A log of operations, and what the cache holds at the end of it."""

    root: Path
    log: list[Op]
    after: Contents


def whole_run(cache: Path, shim: FaultyOs, count: int = len(SEQUENCES)) -> None:
    """`embed run` to its end."""
    write_input(cache, count)
    embed_run(cache, ack_fd=0)
    shim.log.append(Op("ack", "", EVERYTHING, b"".join(record.key for record in records()[:count])))


def one_run(cache: Path, shim: FaultyOs, _n: int) -> None:
    whole_run(cache, shim)


def two_runs(cache: Path, shim: FaultyOs, _n: int) -> None:
    whole_run(cache, shim, 2)
    whole_run(cache, shim)


def without_hard_links(cache: Path, shim: FaultyOs, _n: int) -> None:
    shim.links = False
    two_runs(cache, shim, 0)


def killed_and_run_again(cache: Path, shim: FaultyOs, n: int) -> None:
    shim.fault = Stop(n)
    with suppress(Stopped):
        whole_run(cache, shim)
    shim.revive()
    whole_run(cache, shim)


def two_at_once(cache: Path, shim: FaultyOs, n: int) -> None:
    """One run is slow, and another does the same work meanwhile."""
    shim.fault = Meanwhile(n, lambda: whole_run(cache, shim))
    whole_run(cache, shim)


def compacted_and_collected(cache: Path, shim: FaultyOs, n: int) -> None:
    """A compaction is killed, another process collects and compacts, and somebody collects again."""
    whole_run(cache, shim)
    shim.fault = Stop(shim.count + 1 + n % COMPACTION)
    with suppress(Stopped):
        compact(cache, segment_bytes=LARGE)
    shim.revive()
    collect_garbage(cache)
    compact(cache, segment_bytes=LARGE)
    collect_garbage(cache)


def collected_while_compacting(cache: Path, shim: FaultyOs, n: int) -> None:
    """A slow compaction, and a collection that sees what it has linked and not yet synced."""
    whole_run(cache, shim)
    shim.fault = Meanwhile(shim.count + 1 + n % COMPACTION, lambda: collect_garbage(cache) and None)
    compact(cache, segment_bytes=LARGE)


HISTORIES: dict[str, Callable[[Path, FaultyOs, int], None]] = {
    "one run": one_run,
    "two runs": two_runs,
    "without hard links": without_hard_links,
    "killed, and run again": killed_and_run_again,
    "two at once": two_at_once,
    "compacted and collected": compacted_and_collected,
    "collected while compacting": collected_while_compacting,
}
"""What happens in a cache, and n: the operation at which something comes between."""
INTERRUPTED = ("killed, and run again", "two at once", "compacted and collected", "collected while compacting")
LARGE = 1 << 20
"""Bytes of a segment into which all others go."""
COMPACTION = 84
"""Operations of a compaction, about."""


def record(memory: Path, name: str, n: int) -> History:
    """The log of a history."""
    root = memory / f"{name} {n}"
    root.mkdir()
    cache = root / "data" / "cache"
    cache.parent.mkdir()
    shim = FaultyOs()
    shim.log += [Op("mkdir", str(cache.parent)), Op("fsync dir", str(root))]
    acknowledger = run_module.Acknowledger
    run_module.Acknowledger = lambda _fd: lambda keys: shim.ack(keys)  # type: ignore[assignment, misc]
    try:
        with installed(shim):
            HISTORIES[name](cache, shim, n)
    finally:
        run_module.Acknowledger = acknowledger  # type: ignore[misc]
    found = History(root, shim.log, contents(cache))
    assert len(found.after) == len(SEQUENCES)
    return found


def violations(
    history: History, log: Sequence[Op], count: int, room: Path, rng: np.random.Generator, *, one: bool = False
) -> Counter[str]:
    """Draw states of a log and check each; how many broke a promise, by what was wrong, and `states`, `distinct`.

    With `one`, no more are drawn once one broke a promise.
    """
    found: Counter[str] = Counter()
    promised_at = promises(history, log)
    known: dict[tuple[int, int, bool], str] = {}
    for done, tree in states(log, history.root, count, rng):
        promised, table = promised_at[done]
        key = (hash(tuple(sorted(tree.items()))), len(promised), table)
        if key not in known:
            known[key] = wrong(tree, history.after, promised, table, room)
        found["states"] += 1
        if known[key]:
            found[re.sub(r"[0-9a-f]{16,}|/dev/shm\S*/cache|/tmp\S*/cache|\d+", "…", known[key])] += 1
            if one:
                break
    found["distinct"] = len(known)
    return found


def promises(history: History, log: Sequence[Op]) -> list[tuple[set[str], bool]]:
    """After each number of operations: what was acknowledged, and whether a run had ended."""
    (recipe,) = {name.split()[0] for name in history.after}
    promised: set[str] = set()
    ended = False
    found = [(promised, ended)]
    for op in log:
        if op.kind == "ack":
            keys = [op.data[at : at + 32].hex() for at in range(0, len(op.data), 32)]
            promised = promised | {f"{recipe} {key}" for key in keys}
            ended = ended or op.to == EVERYTHING
        found.append((promised, ended))
    return found


def wrong(tree: Tree, after: Contents, promised: set[str], ended: bool, room: Path) -> str:
    """The first broken promise of a state; empty where there is none."""
    folder = room / "state"
    folder.mkdir()
    try:
        materialise(tree, folder)
        cache = folder / "data" / "cache"
        try:
            found = broken_promises(cache, after, promised)
            if ended and not read_table(cache, "rna"):
                found.append("no ids although a run has ended")
        except Exception as error:  # a reader that cannot open what was promised
            return f"{type(error).__name__}: {error}"
        return found[0] if found else ""
    finally:
        shutil.rmtree(folder)


def begun(memory: Path) -> list[Op]:
    """The operations of one run, in the order of their numbers."""
    found: list[Op] = []
    cache = memory / "begun" / "cache"
    cache.parent.mkdir()
    write_input(cache)
    with installed(FaultyOs()) as shim:
        shim.on_op = lambda _n, op: found.append(op)
        embed_run(cache)
    shutil.rmtree(cache.parent)
    return found


def just_after(memory: Path, kind: str) -> list[int]:
    """The numbers of the operations that follow one of a kind."""
    return [n + 1 for n, op in enumerate(begun(memory), start=1) if op.kind == kind]


def places(name: str, count: int, rng: np.random.Generator, memory: Path) -> list[int]:
    """At which operations a history is to be interrupted: half of them where a name has been made and not synced."""
    if name not in INTERRUPTED:
        return [0]
    named = [n for kind in ("mkdir", "link") for n in just_after(memory, kind)]
    anywhere = np.arange(1, len(begun(memory)))
    found = {*rng.choice(named, count // 2, replace=False), *rng.choice(anywhere, count - count // 2, replace=False)}
    return sorted(map(int, found))
