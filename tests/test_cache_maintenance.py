"""`crossllm cache gc|compact|merge` and the commands around them: what they do, leave alone, refuse and say."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import Program
from faultio import FaultyOs, installed

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Conflict, InputError, Recipe, key_of, record_of
from crossllm.cache.files import fsio
from crossllm.cache.maintenance import compact as compact_module
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.damage import read_commits
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.maintenance.inspection import uncommitted, verify
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.maintenance.repair import repair
from crossllm.cache.records.id_table import publish_table, read_table
from crossllm.cache.store.commit import commit_paths, live_commits, publish_commit
from crossllm.cache.store.segment import ROWS
from crossllm.cache.store.segment_writer import SegmentWriter
from crossllm.cache.store.writer_marker import WEEK, mark, marker_path

OLD = time.time() - WEEK - 60


def held(cache_dir: Path, recipe: Recipe) -> dict[bytes, bytes]:
    reader = CacheReader(cache_dir, recipe)
    return {key: reader[key].tobytes() for key in reader}


def as_bytes(rows: Mapping[bytes, np.ndarray]) -> dict[bytes, bytes]:
    return {key: value.tobytes() for key, value in rows.items()}


def put(cache_dir: Path, recipe: Recipe, rows: Mapping[bytes, np.ndarray], segment_bytes: int = 1 << 30) -> None:
    with CacheWriter(cache_dir, recipe, segment_bytes=segment_bytes) as writer:
        for key, value in rows.items():
            writer.add(key, value)


def live(cache_dir: Path, recipe: Recipe) -> list[str]:
    return [commit.segment for commit in live_commits(read_commits(recipe.folder(cache_dir)).commits)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def age(path: Path) -> None:
    for inner in (*path.rglob("*"), path):
        os.utime(inner, (OLD, OLD), follow_symlinks=False)


def flip(path: Path, at: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def other(name: str) -> bytes:
    return key_of("rna", name)


# compact


def test_compact_makes_few_segments_and_a_second_one_does_nothing(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    for key, rows in list(made_rows.items())[:9]:
        put(made_cache, recipe, {key: rows})
    before = live(made_cache, recipe)
    done = compact(made_cache)
    assert (done.sources, done.outputs, done.records, done.duplicates) == (len(before), 1, len(made_rows), 9)
    assert len(live(made_cache, recipe)) == 1
    assert held(made_cache, recipe) == as_bytes(made_rows)
    assert not verify(made_cache, data=True).damage
    state = tree(made_cache)
    assert compact(made_cache) == (0, 0, 0, 0, 0, [])
    assert tree(made_cache) == state
    gone = collect_garbage(made_cache)
    assert {path.name for path in gone.superseded} == set(before)
    assert gone.bytes >= done.bytes
    assert held(made_cache, recipe) == as_bytes(made_rows)
    assert len(list((recipe.folder(made_cache) / "segments").iterdir())) == 1


def test_compact_closes_outputs_between_sources_at_the_size_asked_for(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    put(tmp_path, recipe, made_rows, segment_bytes=1)
    assert len(live(tmp_path, recipe)) == len(made_rows)
    done = compact(tmp_path, segment_bytes=40 << 10)
    commits = live_commits(read_commits(recipe.folder(tmp_path)).commits)
    assert 1 < len(commits) == done.outputs < 8
    sizes = sorted(commit.rows * 48 for commit in commits)
    assert all(size >= 40 << 10 for size in sizes[1:])
    assert sum(len(commit.supersedes) for commit in commits) == len(made_rows)
    assert compact(tmp_path, segment_bytes=40 << 10).sources == 0
    assert held(tmp_path, recipe) == as_bytes(made_rows)


def test_compact_leaves_a_big_segment_without_duplicates_alone(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    put(tmp_path, recipe, made_rows)
    (big,) = live(tmp_path, recipe)
    for n in range(3):
        put(tmp_path, recipe, {other("C" * (n + 1)): np.ones((5, 24), np.float16)})
    assert compact(tmp_path, segment_bytes=10 << 10).sources == 3
    assert big in live(tmp_path, recipe)
    key = next(iter(made_rows))
    put(tmp_path, recipe, {key: made_rows[key]})
    done = compact(tmp_path, segment_bytes=10 << 10)
    assert (done.sources, done.duplicates) == (3, 1)
    assert big not in live(tmp_path, recipe)


def test_what_a_compacted_segment_superseded_stays_superseded_whatever_gc_unlinks_first(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    """A → B → C: with B's commit record gone and A's still there, A does not come alive again."""
    items = list(made_rows.items())
    put(tmp_path, recipe, dict(items[:2]), segment_bytes=1)
    compact(tmp_path)
    (middle,) = live(tmp_path, recipe)
    put(tmp_path, recipe, dict(items[2:3]))
    compact(tmp_path)
    (last,) = live(tmp_path, recipe)
    (recipe.folder(tmp_path) / "commits" / f"{middle}.json").unlink()
    assert live(tmp_path, recipe) == [last]
    assert {path.name for path in collect_garbage(tmp_path).superseded} >= {middle}
    assert held(tmp_path, recipe) == as_bytes(dict(items[:3]))


def test_two_compactions_at_once_lose_nothing(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second compaction, and gc, run in the middle of the first, while every key stands twice."""
    made_rows = dict(list(made_rows.items())[:12])
    put(tmp_path, recipe, made_rows, segment_bytes=1)
    put(tmp_path, recipe, made_rows, segment_bytes=1)
    real, calls = compact_module.copy_into, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 8:
            assert compact(tmp_path, segment_bytes=9 << 10).outputs
            collect_garbage(tmp_path)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compact_module, "copy_into", interrupted)
    done = compact(tmp_path, segment_bytes=9 << 10)
    assert done.outputs > 0
    assert not done.damage
    assert held(tmp_path, recipe) == as_bytes(made_rows)
    collect_garbage(tmp_path)
    assert held(tmp_path, recipe) == as_bytes(made_rows)
    compact(tmp_path)
    collect_garbage(tmp_path)
    assert held(tmp_path, recipe) == as_bytes(made_rows)
    assert sum(c.records for c in live_commits(read_commits(recipe.folder(tmp_path)).commits)) == len(made_rows)


def test_compact_leaves_a_damaged_source_alone_and_says_it(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    items = list(made_rows.items())
    for n in range(4):
        put(tmp_path, recipe, dict(items[n * 5 : n * 5 + 5]))
    damaged = live(tmp_path, recipe)[1]
    flip(recipe.folder(tmp_path) / "segments" / damaged / ROWS)
    done = compact(tmp_path)
    assert damaged in live(tmp_path, recipe)
    assert (done.sources, done.outputs, len(done.damage)) == (3, 1, 1)
    assert damaged in done.damage[0]
    assert len(verify(tmp_path, data=True).damage) == 1
    repair(tmp_path)
    assert not compact(tmp_path).damage
    assert len(CacheReader(tmp_path, recipe)) == 19


def test_compact_needs_the_space_before_it_writes(
    made_cache: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tree(made_cache)
    usage = shutil.disk_usage(made_cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"\d+ bytes are needed and 1000 are free"):
        compact(made_cache, segment_bytes=1 << 20)
    assert tree(made_cache) == state


# gc


def start_writing(cache_dir: Path, recipe: Recipe) -> SegmentWriter:
    """A segment being written by this process."""
    writer = SegmentWriter(recipe.folder(cache_dir), recipe)
    writer.add([(other("GGG"), np.ones((2, 24), np.float16))])
    return writer


@pytest.mark.slow
def test_gc_takes_what_a_dead_process_of_this_host_left_and_not_what_a_live_one_writes(
    made_cache: Path, recipe: Recipe
) -> None:
    script = f"""
import sys, os; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cache_maintenance import start_writing
from pathlib import Path
from crossllm.cache import Recipe
start_writing(Path({str(made_cache)!r}), Recipe("rna", "profile", 1, 24, tokenizer="letters"))
print("writing", flush=True); sys.stdin.read(); os._exit(9)
"""
    before = tree(made_cache)
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        mine = start_writing(made_cache, recipe)
        age(recipe.folder(made_cache))
        found = collect_garbage(made_cache)
        assert (found.abandoned, len(found.kept), found.temporary) == ([], 2, [])
        child.stdin.close()
    dry = collect_garbage(made_cache, dry_run=True)
    assert len(uncommitted(recipe.folder(made_cache))) == 2
    found = collect_garbage(made_cache)
    assert found == dry
    (gone,) = found.abandoned
    assert found.temporary == [marker_path(recipe.folder(made_cache), gone.name)]
    assert found.kept == [mine.path]
    assert found.bytes > 0
    publish_commit(recipe.folder(made_cache), mine.close())
    assert not verify(made_cache, data=True).damage
    assert other("GGG") in CacheReader(made_cache, recipe)
    collect_garbage(made_cache)
    assert tree(made_cache).items() >= before.items()


@pytest.mark.parametrize("whose", ["another host", "nobody known", "damaged marker"])
def test_gc_leaves_what_it_cannot_judge_for_a_week(made_cache: Path, recipe: Recipe, whose: str) -> None:
    writer = start_writing(made_cache, recipe)
    folder = recipe.folder(made_cache)
    path = marker_path(folder, writer.name)
    body = json.loads(path.read_text())
    if whose == "another host":
        path.write_text(json.dumps(body | {"host": "elsewhere", "pid": 1 << 30}))
    elif whose == "nobody known":
        path.unlink()
    else:
        path.write_text("{")
    found = collect_garbage(made_cache)
    assert (found.abandoned, found.kept) == ([], [writer.path])
    age(folder)
    fresh = writer.path / "rows" / "fresh"
    fresh.touch()
    assert collect_garbage(made_cache).kept == [writer.path]
    age(folder)
    assert collect_garbage(made_cache).abandoned == [writer.path]
    assert not writer.path.exists()
    assert not path.exists()


def test_gc_knows_a_reused_process_number(made_cache: Path, recipe: Recipe) -> None:
    """This process' number with a start a day ago: another process, which is dead."""
    writer = start_writing(made_cache, recipe)
    path = marker_path(recipe.folder(made_cache), writer.name)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"started": body["started"] - 10}))
    assert collect_garbage(made_cache).kept == [writer.path]  # a clock that was set
    path.write_text(json.dumps(body | {"started": body["started"] - 86400.0}))
    assert collect_garbage(made_cache).abandoned == [writer.path]


def test_gc_takes_old_temporaries_and_markers_without_a_folder(made_cache: Path, recipe: Recipe) -> None:
    folder = recipe.folder(made_cache)
    temporary = [made_cache / ".tmp-1", folder / "commits" / ".tmp-2", folder / "commits" / ".tmp-3"]
    for path in temporary:
        path.write_bytes(b"x" * 100)
    for path in temporary[:2]:
        os.utime(path, (OLD, OLD))
    mark(folder, "0" * 32)
    mark(folder, "1" * 32)
    dead = marker_path(folder, "1" * 32)
    dead.write_text(json.dumps(json.loads(dead.read_text()) | {"pid": 1 << 30}))
    found = collect_garbage(made_cache)
    assert set(found.temporary) == {*temporary[:2], dead}
    assert temporary[2].exists()
    assert marker_path(folder, "0" * 32).exists()


def test_gc_never_follows_a_link(made_cache: Path, recipe: Recipe, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    link = recipe.folder(made_cache) / "segments" / ("a" * 32)
    link.symlink_to(outside)
    os.utime(link, (OLD, OLD), follow_symlinks=False)
    assert collect_garbage(made_cache).abandoned == [link]
    assert not link.is_symlink()
    assert (outside / "precious").read_text() == "kept"


def test_gc_keeps_the_sources_of_a_damaged_segment(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    """What replaced them does not open: they are the only good copy, and repair brings them back."""
    put(tmp_path, recipe, made_rows, segment_bytes=20 << 10)
    compact(tmp_path)
    (output,) = live(tmp_path, recipe)
    shutil.rmtree(recipe.folder(tmp_path) / "segments" / output / "digest")
    found = collect_garbage(tmp_path)
    assert (found.superseded, found.unsure) == ([], [recipe.folder(tmp_path)])
    done = repair(tmp_path)
    assert (done.dropped, done.keyless) == ([], len(made_rows))
    assert held(tmp_path, recipe) == as_bytes(made_rows)


# merge


def shard(tmp_path: Path, name: str, recipe: Recipe, rows: Mapping[bytes, np.ndarray], ids: Mapping[str, str]) -> Path:
    put(tmp_path / name, recipe, rows, segment_bytes=10 << 10)
    publish_table(tmp_path / name, "rna", [record_of("rna", id_, sequence) for id_, sequence in ids.items()])
    return tmp_path / name


def test_merge_copies_what_is_not_there_and_changes_no_source(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    items = list(made_rows.items())
    protein = Recipe("protein", "profile", 1, 8, tokenizer="letters")
    a = shard(tmp_path, "a", recipe, dict(items[:25]), {"x": "ACGU", "y": "GG"})
    b = shard(tmp_path, "b", recipe, dict(items[15:]), {"y": "GG", "z": "UU"})
    put(b, protein, {other("M"): np.ones((3, 8), np.float16)})
    (a / "dataset.toml").write_text("")
    before = tree(a), tree(b)
    done = merge(tmp_path / "new" / "all", [a, b])
    assert (tree(a), tree(b)) == before
    assert (done.records, done.already, done.ids) == (len(items) + 1, 10, 3)
    assert done.left_out == [str(a / "dataset.toml")]
    assert held(tmp_path / "new" / "all", recipe) == as_bytes(made_rows)
    assert len(held(tmp_path / "new" / "all", protein)) == 1
    assert set(read_table(tmp_path / "new" / "all", "rna")) == {"x", "y", "z"}
    assert not verify(tmp_path / "new" / "all", data=True).damage
    state = tree(tmp_path / "new")
    again = merge(tmp_path / "new" / "all", [a, b])
    assert (again.records, again.ids) == (0, 0)
    assert tree(tmp_path / "new") == state


def test_merge_refuses_before_it_writes(tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]) -> None:
    a = shard(tmp_path, "a", recipe, made_rows, {"x": "ACGU", "y": "GG"})
    b = shard(tmp_path, "b", recipe, made_rows, {"x": "ACGG", "y": "GA"})
    into = tmp_path / "into"
    with pytest.raises(Conflict) as conflict:
        merge(into, [a, b])
    assert len(conflict.value.lines) == 2
    for sources in ([a, a], [a, tmp_path / "b" / ".." / "a"]):
        with pytest.raises(InputError, match="named twice"):
            merge(into, sources)
    with pytest.raises(InputError, match="named twice"):
        merge(a, [b, a])
    with pytest.raises(InputError, match="no cache here"):
        merge(into, [tmp_path / "absent"])
    flip(next((recipe.folder(a) / "commits").iterdir()), 50)
    with pytest.raises(CacheCorrupt, match="repair"):
        merge(into, [a])
    assert not into.exists()


def test_merge_takes_a_damaged_record_from_another_source(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    a = shard(tmp_path, "a", recipe, made_rows, {})
    segment = CacheReader(a, recipe).segments[0]
    flip(segment.path / ROWS)
    hit = segment.digest[0].tobytes()
    alone = merge(tmp_path / "alone", [a])
    assert len(alone.damage) == 1
    assert hit.hex() in alone.damage[0]
    assert held(tmp_path / "alone", recipe) == as_bytes({k: v for k, v in made_rows.items() if k != hit})
    b = shard(tmp_path, "b", recipe, {hit: made_rows[hit]}, {})
    assert not merge(tmp_path / "both", [a, b]).damage
    assert held(tmp_path / "both", recipe) == as_bytes(made_rows)


# the commands


def test_the_commands_and_their_exit_codes(
    program: Program, made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], tmp_path: Path
) -> None:
    def crossllm(code: int, *arguments: object) -> str:
        done = program("crossllm", "cache", *arguments)
        assert done.returncode == code, done.stderr
        assert code == 0 or "--json" in arguments or (done.stderr.startswith("error: ") and not done.stdout.strip())
        return done.stdout if code == 0 or "--json" in arguments else done.stderr

    here = ("--cache", made_cache)
    publish_table(made_cache, "rna", [record_of("rna", "first", "ACGU")])
    assert "every byte" in crossllm(0, "verify", *here, "--data")
    assert "part 2 of 3" in crossllm(0, "verify", *here, "--data-subset", "2/3")
    for part in ("0/3", "4/3", "1", "a/b", "1/0", "-1/3"):
        assert "is no part" in crossllm(2, "verify", *here, "--data-subset", part)
    assert "one of them" in crossllm(2, "verify", *here, "--data", "--data-subset", "1/2")
    assert crossllm(0, "repair", *here) == "nothing to repair\n"
    segment = next(s for s in CacheReader(made_cache, recipe).segments if key_of("rna", "ACGU") in map(bytes, s.digest))
    index = list(map(bytes, segment.digest)).index(key_of("rna", "ACGU"))
    flip(segment.path / ROWS, int(segment.offsets[index]) * 48)
    key = key_of("rna", "ACGU").hex()
    crossllm(0, "verify", *here)
    assert f"record {key} (first)" in crossllm(3, "verify", *here, "--data")
    (found,) = json.loads(crossllm(3, "verify", *here, "--data", "--json"))["damage"]
    assert (found["kind"], found["key"], found["ids"]) == ("record", key, ["first"])
    assert (found["segment"], found["recipe"]) == (segment.path.name, f"rna/{recipe.folder_name}")
    assert f"would drop record {key} (first)" in crossllm(0, "repair", *here, "--dry-run")
    assert crossllm(3, "compact", *here, "--json")
    done = json.loads(crossllm(0, "repair", *here, "--json"))
    assert [dropped["key"] for dropped in done["dropped"]] == [key]
    made_by = f"embed run --modality rna --encoder profile --input FILE --cache {made_cache} --dtype float16"
    assert done["again"] == [made_by]
    assert "segments → 1" in crossllm(0, "compact", *here)
    assert crossllm(0, "compact", *here) == "nothing to compact\n"
    assert "would remove" in crossllm(0, "gc", *here, "--dry-run")
    assert json.loads(crossllm(0, "gc", *here, "--json"))["superseded"]
    assert f"copied {len(made_rows) - 1} records" in crossllm(0, "merge", "--cache", tmp_path / "into", made_cache)
    assert "named twice" in crossllm(2, "merge", *here, made_cache)
    assert crossllm(2, "merge", *here)
    assert crossllm(2, "gc", "--cache", tmp_path / "absent")
    (made_cache / "dataset.toml").write_text("[sha256]\n'rna.fasta' = 'x'\n")
    assert "import the dataset again" in crossllm(3, "repair", *here)


@pytest.mark.parametrize("place", ["segments", "commits", "recipe", "modality", "embeddings", "records"])
@pytest.mark.parametrize("instead", ["link", "dangling link", "file"])
def test_gc_and_verify_trust_no_folder_that_is_none(
    made_cache: Path, recipe: Recipe, tmp_path: Path, place: str, instead: str
) -> None:
    """What is elsewhere may be another cache's, and without its commit records every segment looks abandoned."""
    publish_table(made_cache, "rna", [record_of("rna", "first", "ACGU")])
    folder = recipe.folder(made_cache)
    path = {
        "segments": folder / "segments",
        "commits": folder / "commits",
        "recipe": folder,
        "modality": folder.parent,
        "embeddings": folder.parent.parent,
        "records": made_cache / "records",
    }[place]
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    if instead == "file":
        path.write_text("hi")
    else:
        path.symlink_to(elsewhere if instead == "link" else tmp_path / "nowhere")
    age(elsewhere)
    age(made_cache)
    before = sorted(elsewhere.rglob("*")) + sorted(made_cache.rglob("*"))
    with pytest.raises(CacheCorrupt):
        collect_garbage(made_cache)
    assert sorted(elsewhere.rglob("*")) + sorted(made_cache.rglob("*")) == before
    assert verify(made_cache, data=True).damage


def test_lost_commits_are_damage_and_no_reason_to_collect(made_cache: Path, recipe: Recipe) -> None:
    shutil.rmtree(recipe.folder(made_cache) / "commits")
    age(made_cache)
    assert verify(made_cache, data=True).damage
    with pytest.raises(CacheCorrupt, match="put it back"):
        collect_garbage(made_cache)
    with pytest.raises(CacheCorrupt, match="put it back"):
        CacheReader(made_cache, recipe)


def test_repair_takes_what_compaction_left(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    """Until gc removes them, the replaced segments may hold a damaged record whole; gc keeps them for that."""
    compact(made_cache)
    (output,) = CacheReader(made_cache, recipe).segments
    flip(output.path / ROWS, 0)
    assert collect_garbage(made_cache).unsure
    done = repair(made_cache)
    assert not done.dropped
    assert held(made_cache, recipe) == as_bytes(made_rows)
    assert collect_garbage(made_cache).superseded
    assert held(made_cache, recipe) == as_bytes(made_rows)


def test_repair_says_that_an_hdf5_segment_is_lost_whole(tmp_path: Path, recipe: Recipe, program: Program) -> None:
    with CacheWriter(tmp_path / "c", recipe, store="h5") as writer:
        writer.add(key_of("rna", "ACGU"), np.ones((4, 24)))
    (path,) = commit_paths(recipe.folder(tmp_path / "c"))
    flip(path, 9)
    done = program("crossllm", "cache", "repair", "--cache", "c")
    assert done.returncode == 0, done.stderr
    assert f"lost: all records of segment {path.stem}" in done.stdout
    assert "to make them again: embed run --modality rna --encoder profile" in done.stdout


def test_a_dry_repair_writes_nothing(made_cache: Path, recipe: Recipe) -> None:
    flip(CacheReader(made_cache, recipe).segments[0].path / ROWS, 0)
    with installed(FaultyOs()) as shim:
        assert repair(made_cache, dry_run=True).dropped
        assert not shim.log
        assert repair(made_cache).dropped
        assert shim.log


@pytest.mark.slow
def test_a_closed_standard_error_stops_no_work(made_cache: Path) -> None:
    command = [sys.executable, "-c", "from crossllm.pipeline.main import main; main()", "cache"]
    for arguments in (["verify", "--data"], ["repair"], ["compact"]):
        line = shlex.join([*command, *arguments, "--cache", str(made_cache)]) + " 2>&-"
        assert subprocess.run(line, shell=True, stdout=subprocess.DEVNULL, check=False).returncode == 0, line


def test_a_newer_format_is_exit_2_to_verify_too(made_cache: Path, recipe: Recipe, program: Program) -> None:
    path = commit_paths(recipe.folder(made_cache))[0]
    body = json.loads(path.read_bytes())
    del body["crc32c"]
    body["format"] = 2
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    body["crc32c"] = fsio.crc32c(text)
    path.write_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    done = program("crossllm", "cache", "verify", "--cache", made_cache)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
