"""The key index: each answer of a reader with it is that of a reader that opens every segment."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import Program

from crossllm.cache import CacheReader, CacheWriter, Recipe
from crossllm.cache.errors import CacheCorrupt
from crossllm.cache.index import index_writer, layout
from crossllm.cache.index.index_file import IndexFile, index_paths, open_index
from crossllm.cache.maintenance.compact import compact
from crossllm.cache.maintenance.garbage_collection import collect_garbage
from crossllm.cache.maintenance.indexing import index
from crossllm.cache.maintenance.inspection import info, verify
from crossllm.cache.maintenance.merge import merge
from crossllm.cache.maintenance.repair import repair


def key(rng: np.random.Generator) -> bytes:
    return rng.bytes(32)


def fill(cache: Path, recipe: Recipe, keys: list[bytes], rng: np.random.Generator, a_segment: int = 7) -> None:
    """One segment for each so many keys; compressed and HDF5 ones among them."""
    kinds = [("zarr", None), ("h5", None), ("zarr", "zstd")]
    for n, start in enumerate(range(0, len(keys), a_segment)):
        store, compressor = kinds[n % 3]
        with CacheWriter(cache, recipe, store=store, compressor=compressor) as writer:  # type: ignore[arg-type]
            for one in keys[start : start + a_segment]:
                writer.add(one, rng.normal(size=(int(rng.integers(1, 9)), recipe.dim)))


def agree(cache: Path, recipe: Recipe, absent: list[bytes]) -> None:
    """Every answer of both readers."""
    plain, indexed = CacheReader(cache, recipe, use_index=False), CacheReader(cache, recipe)
    held = list(plain)
    assert indexed._file is not None
    assert sorted(indexed) == sorted(held)
    assert (len(indexed), indexed.residues) == (len(plain), plain.residues)
    assert (indexed.stored_bytes, indexed.layouts) == (plain.stored_bytes, plain.layouts)
    assert len(indexed.segments) == len(plain.segments)
    assert sorted(one.name for one in indexed.segments) == sorted(one.name for one in plain.segments)
    asked = [*held[::2], *absent, *held[1::2], *held[:3]]
    assert (indexed.absent(asked) == plain.absent(asked)).all()
    assert indexed.missing(asked) == plain.missing(asked) == absent
    for one in held:
        assert one in indexed
        assert indexed.length(one) == plain.length(one)
    for one in absent:
        assert one not in indexed
        for call in (indexed.length, indexed.__getitem__):
            with pytest.raises(KeyError):
                call(one)
    indexed.prefetch([*held, *absent])
    again = pickle.loads(pickle.dumps(indexed))
    for reader in (indexed, again, CacheReader(cache, recipe, io="pread")):
        found, expected = reader.gather(held), plain.gather(held)
        assert found.offsets.tolist() == expected.offsets.tolist()
        # A key that stands twice has the rows of either record.
        twice = {n for n in range(len(held)) if held[n] in doubled(plain)}
        for n in set(range(len(held))) - twice:
            a, b = expected.offsets[n : n + 2]
            assert found.rows[a:b].tobytes() == expected.rows[a:b].tobytes() == reader[held[n]].tobytes()


def doubled(reader: CacheReader) -> set[bytes]:
    keys = [bytes(one) for segment in reader.segments for one in segment.digest]
    return {one for one in keys if keys.count(one) > 1}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and runs of few keys."""
    monkeypatch.setattr(index_writer, "BLOCK_KEYS", 4)
    monkeypatch.setattr(index_writer, "RUN_KEYS", 20)
    monkeypatch.setattr(index_writer, "_SPARSE", 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [1, 6, 90])
def test_both_readers_agree(tmp_path: Path, recipe: Recipe, rng: np.random.Generator, count: int) -> None:
    keys = [key(rng) for _ in range(count)]
    fill(tmp_path, recipe, keys, rng)
    (made,) = index(tmp_path)
    assert (made.keys, made.distinct) == (count, count)
    absent = [key(rng) for _ in range(20)]
    agree(tmp_path, recipe, absent)
    fill(tmp_path, recipe, [key(rng) for _ in range(10)], rng)  # later segments
    agree(tmp_path, recipe, absent)
    assert not verify(tmp_path, data=True).damage


@pytest.mark.usefixtures("small_blocks")
def test_keys_that_stand_twice_and_keys_that_begin_alike(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator
) -> None:
    alike = [b"\xff" * 8 + rng.bytes(24) for _ in range(15)]
    keys = [key(rng) for _ in range(20)]
    for part in (alike[:9] + keys, keys[5:9] + alike[3:]):
        with CacheWriter(tmp_path, recipe) as writer:
            for one in part:
                writer.add(one, np.full((1 + one[9] % 5, recipe.dim), one[10] / 256))
    (made,) = index(tmp_path)
    assert (made.keys, made.distinct) == (len(alike) + 6 + len(keys) + 4, len(alike) + len(keys))
    absent = [b"\xff" * 8 + rng.bytes(24), b"\x00" * 32, b"\xff" * 32]
    agree(tmp_path, recipe, absent)
    with CacheWriter(tmp_path, recipe) as writer:  # a later segment repeats some of the index, and itself
        for one in [alike[0], keys[0], absent[0], absent[0]]:
            writer.add(one, np.full((1 + one[9] % 5, recipe.dim), one[10] / 256))
    agree(tmp_path, recipe, absent[1:])


def test_numbers_beyond_four_bytes(tmp_path: Path, recipe: Recipe, rng: np.random.Generator) -> None:
    keys = [key(rng) for _ in range(30)]
    digest = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
    long = np.arange(30, dtype=np.int64) + (1 << 40)
    one = index_writer.Indexed("a" * 32, digest, long, 5, ("h5", None), ())
    made = index_writer.write_index(tmp_path, "d", [one])
    records, lengths = IndexFile(made.path).find_many(digest)
    assert records.tolist() == list(range(30))
    assert lengths.tolist() == long.tolist()


@pytest.mark.slow
def test_an_index_of_what_was_replaced_is_not_used(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key(rng) for _ in range(30)]
    fill(tmp_path, recipe, keys, rng)
    index(tmp_path)
    opened = CacheReader(tmp_path, recipe)
    before = {one: CacheReader(tmp_path, recipe, use_index=False)[one].tobytes() for one in keys}
    with monkeypatch.context() as patched:
        patched.setattr("crossllm.cache.maintenance.compact.renew_index", lambda *_, **__: None)  # killed before it
        compact(tmp_path)
    after = CacheReader(tmp_path, recipe)
    assert after._file is None, "a later commit replaces what the index tells"
    assert {one: after[one].tobytes() for one in keys} == before
    index(tmp_path)  # the replaced segments' commit records are still there
    agree(tmp_path, recipe, [key(rng)])
    collect_garbage(tmp_path)
    agree(tmp_path, recipe, [key(rng)])
    assert {one: opened[one].tobytes() for one in keys} == before, "an open reader finds what was moved"
    assert (opened.gather(keys).rows.tobytes()) == b"".join(before[one] for one in keys)


def test_a_segment_that_is_gone_is_not_missed_by_the_index(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator
) -> None:
    keys = [key(rng) for _ in range(14)]
    fill(tmp_path, recipe, keys, rng)
    index(tmp_path)
    (recipe.folder(tmp_path) / "commits" / f"{CacheReader(tmp_path, recipe).segments[0].name}.json").unlink()
    reader = CacheReader(tmp_path, recipe)
    assert reader._file is None
    assert len(reader) == 7


@pytest.mark.parametrize("at", ["table", "block", "blocks", "footer", "ending", "cut", "empty", "link"])
def test_a_damaged_index_never_gives_other_rows(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator, at: str
) -> None:
    keys = [key(rng) for _ in range(30)]
    fill(tmp_path, recipe, keys, rng)
    index(tmp_path)
    expected = {one: CacheReader(tmp_path, recipe, use_index=False)[one].tobytes() for one in keys}
    (path,) = index_paths(recipe.folder(tmp_path))
    data = bytearray(path.read_bytes())
    found = IndexFile(path)
    blocks = int(found._blocks[0, 0])
    where = {"table": 3, "block": blocks + 9, "blocks": len(data) - 230, "footer": len(data) - 60, "ending": -1}
    path.unlink()
    if at == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        if at in where:
            data[where[at]] ^= 1
        path.write_bytes(data[: {"cut": len(data) - 9, "empty": 0}.get(at, len(data))])
    reader = CacheReader(tmp_path, recipe)
    if at == "block":
        with pytest.raises(CacheCorrupt, match="make it again with `crossllm cache index`, or delete it"):
            reader.absent(keys)
        index(tmp_path)
        reader = CacheReader(tmp_path, recipe)
        assert reader._file is not None
    else:
        assert reader._file is None, "every segment is opened, as without"
    assert {one: reader[one].tobytes() for one in keys} == expected


def test_an_index_that_names_another_record_is_found_out(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator
) -> None:
    """Sound in itself, and of the same segments, but wrong: no reader takes rows by it."""
    keys = [key(rng) for _ in range(14)]
    fill(tmp_path, recipe, keys, rng)
    segments = list(CacheReader(tmp_path, recipe).segments)
    wrong = [
        index_writer.Indexed(s.name, s.digest[::-1].copy(), np.diff(s.offsets), s.commit.bytes, s.stored_as, ())
        for s in segments
    ]
    index_writer.write_index(recipe.folder(tmp_path), recipe.digest, wrong)
    reader = CacheReader(tmp_path, recipe)
    asked = segments[0].digest[0].tobytes()
    for call in (reader.__getitem__, lambda one: reader.gather([one])):
        with pytest.raises(CacheCorrupt, match="cache index"):
            call(asked)


def test_a_damaged_segment_hides_no_other(tmp_path: Path, recipe: Recipe, rng: np.random.Generator) -> None:
    keys = [key(rng) for _ in range(21)]
    fill(tmp_path, recipe, keys, rng)
    index(tmp_path)
    segment = next(s for s in CacheReader(tmp_path, recipe).segments if s.commit.store == "zarr")
    hurt = {bytes(one) for one in segment.digest}
    path = segment.path / "offsets/c/0"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1, *path.read_bytes()[1:]]))
    reader = CacheReader(tmp_path, recipe)
    for one in keys:
        if one in hurt:
            with pytest.raises(CacheCorrupt):
                reader[one]
        else:
            assert len(reader[one])
    repair(tmp_path)
    reader = CacheReader(tmp_path, recipe)
    assert reader._file is not None, "made again"
    assert rows_of(reader) == rows_of(CacheReader(tmp_path, recipe, use_index=False))


def test_the_command_and_what_other_commands_say(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator, program: Program
) -> None:
    assert program("crossllm", "cache", "index", "c").returncode == 2
    fill(tmp_path / "c", recipe, [key(rng) for _ in range(20)], rng)
    before = info(tmp_path / "c")
    said = program("crossllm", "cache", "index", "c")
    assert said.returncode == 0, said.stderr
    assert "20 records of 3 segments" in said.stdout
    first = index_paths(recipe.folder(tmp_path / "c"))
    program("crossllm", "cache", "index", "c", "--json")
    second = index_paths(recipe.folder(tmp_path / "c"))
    assert len(first) == len(second) == 1
    assert first != second, "the older one goes"
    assert info(tmp_path / "c") == before
    assert open_index(recipe.folder(tmp_path / "c"), "another recipe", {*map(str, range(3))}) is None


def test_blocks_are_cut_by_the_first_bits(rng: np.random.Generator) -> None:
    prefix = rng.integers(0, 1 << 64, 100, np.uint64, endpoint=False)
    for bits in (0, 1, 9):
        assert layout.block_of(prefix, bits).tolist() == [int(one) >> (64 - bits) for one in prefix]


def test_only_touched_segments_are_opened(tmp_path: Path, recipe: Recipe, rng: np.random.Generator) -> None:
    keys = [key(rng) for _ in range(40)]
    fill(tmp_path, recipe, keys, rng)
    index(tmp_path)
    reader = CacheReader(tmp_path, recipe)
    assert not reader.absent(keys).any()
    assert sum(map(reader.length, keys)) == reader.residues
    assert not reader.segments._kept  # type: ignore[attr-defined]
    reader[keys[0]]
    assert len(reader.segments._kept) == 1  # type: ignore[attr-defined]


def rows_of(reader: CacheReader) -> dict[bytes, bytes]:
    return {one: reader[one].tobytes() for one in reader}


def test_compact_makes_it_again_and_merge_says_what_it_lacks(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, more = [key(rng) for _ in range(30)], [key(rng) for _ in range(9)]
    fill(tmp_path / "a", recipe, keys, rng)
    fill(tmp_path / "b", recipe, more, rng)
    index(tmp_path / "a")
    compact(tmp_path / "a", dry_run=True)
    merge(tmp_path / "a", [tmp_path / "b"])
    assert "its key index lacks 1 of 6 segments" in capsys.readouterr().err
    agree(tmp_path / "a", recipe, [key(rng)])
    expected = rows_of(CacheReader(tmp_path / "a", recipe, use_index=False))
    merge(tmp_path / "a", [tmp_path / "b"])
    assert not capsys.readouterr().err, "nothing came"
    compact(tmp_path / "a")
    assert "its key index was made again" in capsys.readouterr().err
    (path,) = index_paths(recipe.folder(tmp_path / "a"))
    agree(tmp_path / "a", recipe, [key(rng)])
    collect_garbage(tmp_path / "a")
    agree(tmp_path / "a", recipe, [key(rng)])
    assert rows_of(CacheReader(tmp_path / "a", recipe)) == expected
    compact(tmp_path / "b")
    assert not index_paths(recipe.folder(tmp_path / "b")), "none where none was"
    assert not capsys.readouterr().err
    assert index_paths(recipe.folder(tmp_path / "a")) == [path]


def test_an_index_that_compact_cannot_make_again_is_not_taken(
    tmp_path: Path,
    recipe: Recipe,
    rng: np.random.Generator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk is full, say: one line, and the right rows."""
    fill(tmp_path, recipe, [key(rng) for _ in range(30)], rng)
    index(tmp_path)
    expected = rows_of(CacheReader(tmp_path, recipe))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("crossllm.cache.maintenance.indexing.write_index", full)
    compact(tmp_path)
    assert "its key index is out of date" in capsys.readouterr().err
    assert rows_of(CacheReader(tmp_path, recipe)) == expected
    collect_garbage(tmp_path)
    reader = CacheReader(tmp_path, recipe)
    assert reader._file is None
    assert rows_of(reader) == expected
