"""RELIABILITY P12: whatever is put, crashed, damaged, repaired, compacted, collected and merged, the cache is a dict.

The model is `stored`: key → rows.  Between a damage and the next repair a record may be refused, never be wrong; a
repair may drop the records that were hit and no others.  `CROSSLLM_CHAOS=1` runs 200 examples of 50 steps.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, record_of
from crossllm.cache.files import fsio
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.maintenance.repair import repair
from crossllm.cache.records.id_table import publish_table
from crossllm.cache.store.commit import H5, Commit, live_commits
from crossllm.cache.store.segment import CHUNK, ROWS, Segment
from crossllm.cache.store.writer_marker import marker_path

pytestmark = pytest.mark.slow

STORES: dict[str, dict[str, Any]] = {"zarr": {}, "h5": {"store": "h5"}}
"""Store → what `CacheWriter` is given for it.  Compressed ones are left out: a byte there belongs to many records."""
CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
EXAMPLES, STEPS = (200, 50) if CHAOS else (25, 30)

RECIPE = Recipe("rna", "profile", 1, 4, tokenizer="letters")
RECORDS = [record_of("rna", f"id{n}", "ACGU"[n % 4] * (n + 1)) for n in range(14)]
ROWS_OF = {
    record.key: np.random.default_rng(n).normal(size=(record.length, 4)).astype(np.float16)
    for n, record in enumerate(RECORDS)
}
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Nothing here is about power loss, and an fsync costs as much there as a system call."""
KEYS = st.sampled_from(list(ROWS_OF))
SOME_KEYS = st.lists(KEYS, min_size=1, max_size=5)


class CacheMachine(RuleBasedStateMachine):
    """A cache, one writer that may crash, a second cache to merge from, and the dict that they should be."""

    store: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="model", dir=IN_MEMORY))
        self.names = pytest.MonkeyPatch()
        names = random.Random(0)  # so that an example runs the same way again
        self.names.setattr(fsio, "new_name", lambda: f"{names.getrandbits(128):032x}")
        self.cache, self.other = self.home / "cache", self.home / "other"
        self.folder = RECIPE.folder(self.cache)
        for cache in (self.cache, self.other):
            publish_table(cache, "rna", RECORDS)
            CacheWriter(cache, RECIPE)
        self.stored: set[bytes] = set()
        self.elsewhere: set[bytes] = set()
        """What `other` holds."""
        self.writer = CacheWriter(self.cache, RECIPE, **self.store)
        self.pending: set[bytes] = set()
        self.hits: set[tuple[str, bytes]] = set()
        """(segment, key) of the records hit since the last repair."""
        self.files_hit = False
        """Whether more than rows were hit: whole segments may be unreadable until the next repair."""

    def teardown(self) -> None:
        self.crash()
        self.mend()
        self.read()
        self.names.undo()
        shutil.rmtree(self.home)

    def live(self) -> list[Commit]:
        return live_commits(read_commits(self.folder).commits)

    # what writers do

    @rule(key=KEYS)
    def put(self, key: bytes) -> None:
        self.writer.add(key, ROWS_OF[key])
        self.pending.add(key)

    @rule()
    def commit(self) -> None:
        self.writer.commit()
        self.stored |= self.pending
        self.pending = set()

    @rule()
    def crash(self) -> None:
        """The writer's process dies: its folder stays as it is, and its marker names a dead process."""
        if self.pending:
            segment = self.writer._open
            assert segment is not None
            assert segment._body is not None
            segment._body.abandon()  # closes the descriptor, which a dead process would not hold
            path = marker_path(self.folder, segment.name)
            path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 1 << 30}))
        self.writer = CacheWriter(self.cache, RECIPE, **self.store)
        self.pending = set()

    @rule(keys=SOME_KEYS)
    def put_by_a_second_writer(self, keys: list[bytes]) -> None:
        """Whatever the first one holds or is writing: keys may stand several times, even in one segment."""
        with CacheWriter(self.cache, RECIPE, **self.store) as writer:
            for key in keys:
                writer.add(key, ROWS_OF[key])
        self.stored |= set(keys)

    # what befalls the files

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def hit_a_record(self, data: st.DataObject) -> None:
        live = [commit for commit in self.live() if not self.files_hit]
        if not live:
            return
        commit = data.draw(st.sampled_from(live))
        segment = Segment(self.folder, RECIPE, commit)
        index = data.draw(st.integers(0, commit.records - 1))
        at = data.draw(st.integers(8 * int(segment.offsets[index]), 8 * int(segment.offsets[index + 1]) - 1))
        self.flip(*in_file(self.folder, commit, "rows", at), data)
        key = segment.digest[index].tobytes()
        bad = segment_rows(segment, index) != ROWS_OF[key].tobytes()
        self.hits = self.hits | {(commit.segment, key)} if bad else self.hits - {(commit.segment, key)}

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def hit_a_small_file(self, data: st.DataObject) -> None:
        """The commit record, metadata or the shard's index: no record may be lost.  An array: those it belongs to.

        But where an HDF5 file has its arrays, only the commit record says.
        """
        commits = self.live()
        if not commits:
            return
        commit = data.draw(st.sampled_from(commits))
        metadata = [] if commit.store == "h5" else sorted({*commit.files} - {*CHUNK.values()} | {ROWS})
        name = data.draw(st.sampled_from(["commit", *WIDTHS, *metadata]))
        path, start = in_file(self.folder, commit, name, 0)
        size = path.stat().st_size
        if name in WIDTHS:
            width = WIDTHS[name]
            at = data.draw(st.integers(0, width * (commit.records + (name == "offsets")) - 1))
            beside = {at // width, at // width - (name == "offsets")} & set(range(commit.records))
        else:
            at = data.draw(st.integers(size - 20 if name == ROWS else 0, size - 1))
            beside = set(range(commit.records)) if commit.store == "h5" else set()
        keys, begin = in_file(self.folder, commit, "digest", 0)
        digest = keys.read_bytes()[begin:]
        self.hits |= {(commit.segment, digest[32 * n : 32 * n + 32]) for n in beside}
        self.flip(path, start + at, data)
        self.files_hit = True

    def flip(self, path: Path, at: int, data: st.DataObject) -> None:
        found = bytearray(path.read_bytes())
        found[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(found)

    # what is done about it

    @rule()
    def read(self) -> None:
        """What a new reader gives is what was stored; while there is damage it may refuse, never be wrong."""
        reader = CacheReader(self.cache, RECIPE)
        assert self.files_hit or not reader.damage
        if not reader.damage:
            assert self.files_hit or set(reader) == self.stored
        for key in ROWS_OF:
            try:
                assert reader[key].tobytes() == ROWS_OF[key].tobytes()
                assert reader.gather([key]).rows.tobytes() == ROWS_OF[key].tobytes()
                assert key in self.stored
            except KeyError:
                assert self.files_hit or key not in self.stored
            except CacheCorrupt:
                assert key in {hit for _, hit in self.hits} or self.files_hit

    @rule()
    def check(self) -> None:
        """The list of what is damaged is exact where rows were hit, and empty where nothing was."""
        report = verify(self.cache, data=True)
        if self.files_hit:
            return
        live = {commit.segment for commit in self.live()}
        expected = {(segment, key.hex()) for segment, key in self.hits if segment in live}
        assert {(found.segment, found.key) for found in report.damage} == expected
        assert all(found.kind == "record" for found in report.damage)

    @rule()
    def mend(self) -> None:
        """Only records that were hit go; what is left is whole."""
        done = repair(self.cache)
        assert not done.left
        assert not verify(self.cache, data=True).damage
        held = set(CacheReader(self.cache, RECIPE))
        lost = self.stored - held
        assert lost <= {key for _, key in self.hits}
        assert held <= self.stored
        self.stored, self.hits, self.files_hit = held, set(), False

    @rule()
    def gc(self) -> None:
        found = collect_garbage(self.cache)
        assert not {path.name for path in (*found.abandoned, *found.superseded)} & {c.segment for c in self.live()}
        # A compacted segment that was hit before gc came: its sources are kept for repair.
        assert self.files_hit or self.hits or not found.unsure

    @rule(size=st.sampled_from([1, 200, 1 << 20]))
    def compact(self, size: int) -> None:
        done = compact(self.cache, segment_bytes=size)
        live = {commit.segment for commit in self.live()}
        assert bool(done.damage) <= (self.files_hit or bool(self.hits))
        if not self.files_hit and not {segment for segment, _ in self.hits} & live:
            assert sum(commit.records for commit in self.live()) == len(self.stored)
            assert compact(self.cache, segment_bytes=size).sources == 0

    @rule(keys=SOME_KEYS)
    def merge_another(self, keys: list[bytes]) -> None:
        with CacheWriter(self.other, RECIPE, **self.store) as writer:
            for key in keys:
                writer.add(key, ROWS_OF[key])
        self.elsewhere |= set(keys)
        try:
            merge(self.cache, [self.other])
        except CacheCorrupt:
            assert self.files_hit
            return
        self.stored |= self.elsewhere


WIDTHS = {"digest": 32, "crc32c": 4, "offsets": 8}
"""Small array → bytes of one element."""


def in_file(folder: Path, commit: Commit, name: str, at: int) -> tuple[Path, int]:
    """The file, and the place in it, of a byte of an array, of a file of the segment, or of its commit record."""
    home = folder / "segments" / commit.segment
    if name == "commit":
        return folder / "commits" / f"{commit.segment}.json", at
    if commit.store == "h5":
        return home / H5, commit.parts[name].at + at
    return home / CHUNK.get(name, name), at


def segment_rows(segment: Segment, index: int) -> bytes:
    """The rows as they lie there, unchecked."""
    return segment.source.read(int(segment.offsets[index]), int(segment.offsets[index + 1])).tobytes()


@pytest.mark.parametrize("store", STORES)
def test_a_cache_is_a_dict(store: str) -> None:
    machine = type("Machine", (CacheMachine,), {"store": STORES[store]})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
