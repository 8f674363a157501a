"""RELIABILITY P7, P9: many writers and readers of one cache on a local disk, with no lock."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cache_races import RECIPE, WRITERS, keys_of, never, rows_of
from conftest import Program
from fault_operations import OPERATIONS, broken_promises, contents, counting, embed_run, run_whole, write_input
from zygote import Zygote

from crossllm.cache import CacheReader, CacheWriter, list_recipes
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.store.segment import ROWS

CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
ROUNDS = 50 if CHAOS else 10
PAIRS = 100 if CHAOS else 12


def test_nothing_is_lost_when_eight_writers_race(zygote: Zygote, memory: Path) -> None:
    """Overlapping keys, from one barrier in each round; readers loop meanwhile and see only what was committed."""
    cache = memory / "cache"
    done = zygote.run("race", cache, arguments=(ROUNDS,))
    assert done.code == 0
    reader = CacheReader(cache, RECIPE)
    wanted = {key for writer in range(WRITERS) for round_ in range(ROUNDS) for key in keys_of(writer, round_)}
    assert set(reader) == wanted
    assert all(reader[key].tobytes() == rows_of(key).tobytes() for key in wanted)
    report = verify(cache, data=True)
    assert not report.damage
    assert len(report.leftovers) == WRITERS * ((ROUNDS + 1) // 2), "those that were left behind, and no others"
    assert not {never(writer, 0) for writer in range(WRITERS)} & set(reader)
    opened = [int(path.read_text()) for path in (memory / "opened").iterdir()]
    print(f"{WRITERS * ROUNDS} writer rounds, {report.segments} segments; readers opened it {opened} times")
    assert min(opened) > 2
    shutil.rmtree(cache)


def test_one_of_two_runs_started_together_is_killed(zygote: Zygote, memory: Path, rng: np.random.Generator) -> None:
    (memory / "alone").mkdir()
    run_whole(memory / "alone" / "cache")
    killed = 0
    expected = contents(memory / "alone" / "cache")
    for number in range(PAIRS):
        room = memory / str(number)
        room.mkdir()
        write_input(room / "cache")
        done = zygote.run("two runs", room / "cache", arguments=(int(rng.integers(1, 100)),))
        assert done.code == 0
        assert not broken_promises(room / "cache", expected, set(expected))
        with counting() as count:
            embed_run(room / "cache")
        assert count == [0], "the one that was not killed had done it all"
        compact(room / "cache", segment_bytes=1 << 20)
        collect_garbage(room / "cache")
        assert contents(room / "cache") == expected
        (recipe,) = list_recipes(room / "cache", "rna")
        stored = sum(segment.commit.records for segment in CacheReader(room / "cache", recipe).segments)
        assert stored == len(expected), "every sequence once"
        killed += (room / "killed").exists()
        shutil.rmtree(room)
    print(f"{PAIRS} pairs, {killed} killed half-way")
    assert killed > PAIRS // 3


@pytest.mark.parametrize("looked_for", ["recipe.json", "commits"])
def test_a_writer_that_is_just_starting_is_no_damage(
    memory: Path, monkeypatch: pytest.MonkeyPatch, looked_for: str
) -> None:
    """What somebody looked for comes just after, and all else, up to the first commit, before they look for that."""
    exists = Path.exists
    folder = RECIPE.folder(memory / "cache")
    if looked_for == "recipe.json":
        (folder / "commits").mkdir(parents=True)

    def late(path: Path) -> bool:
        found = exists(path)
        if path == folder / looked_for and not found:
            monkeypatch.setattr(Path, "exists", exists)
            with CacheWriter(memory / "cache", RECIPE) as writer:
                writer.add(never(0, 0), rows_of(never(0, 0)))
        return found

    monkeypatch.setattr(Path, "exists", late)
    assert list_recipes(memory / "cache", "rna") in ([], [RECIPE])
    assert not set(CacheReader(memory / "cache", RECIPE)) - {never(0, 0)}


@pytest.mark.parametrize("change", ["cut", "cut to nothing", "longer", "gone"])
def test_a_file_of_another_size_is_damage_before_it_is_mapped(memory: Path, program: Program, change: str) -> None:
    OPERATIONS["resume"].start(memory / "cache")
    (shard, *_) = memory.glob(f"cache/embeddings/*/*/segments/*/{ROWS}")
    data = shard.read_bytes()
    if change == "gone":
        shard.unlink()
    else:
        shard.write_bytes({"cut": data[:-1], "cut to nothing": b"", "longer": data + b"\0"}[change])
    done = program("crossllm", "cache", "verify", "--cache", memory / "cache")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {shard}: ")
    again = program("embed", "run", "--modality", "rna", "--input", memory / "in.fasta", "--cache", memory / "cache",
                    "--encoder", "profile")  # fmt: skip
    assert again.returncode == 3, again.stderr
    assert len(again.stderr.splitlines()) == 1
