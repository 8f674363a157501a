"""What every store promises, one suite for all: Zarr, compressed Zarr and HDF5, each mapped and by pread."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from stores import KINDS, Kind, flip, open_segments, place, resign, write

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, key_of
from crossllm.cache.errors import RowsRefused
from crossllm.cache.files import fsio
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.store.commit import H5, PARTS, read_commit
from crossllm.cache.store.row_source import MappedRows, PreadRows, ZarrRows
from crossllm.cache.store.segment import CHUNK, ROWS

Made = dict[bytes, np.ndarray]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def filled(tmp_path: Path, recipe: Recipe, made_rows: Made, kind: Kind) -> Path:
    """A cache of `made_rows` in several segments of one kind."""
    folder = tmp_path / "cache" / "filled"
    write(folder, recipe, made_rows, kind, segment_bytes=64 << 10)
    return folder


def read_all(cache_dir: Path, recipe: Recipe, kind: Kind) -> Made:
    """Every record of every segment; raises what a reader raises."""
    segments = open_segments(cache_dir, recipe, kind.io)
    return {s.digest[i].tobytes(): s.rows(i) for s in segments for i in range(s.commit.records)}


def assert_damaged(cache_dir: Path, recipe: Recipe, kind: Kind) -> None:
    """Readers refuse something, and `verify` says so."""
    with pytest.raises(CacheCorrupt):
        read_all(cache_dir, recipe, kind)
    assert verify(cache_dir, data=True).damage


def test_rows_come_back_bit_for_bit(filled: Path, recipe: Recipe, made_rows: Made, kind: Kind) -> None:
    found = read_all(filled, recipe, kind)
    assert len(open_segments(filled, recipe)) > 1
    assert found.keys() == made_rows.keys()
    assert all(found[key].tobytes() == rows.tobytes() for key, rows in made_rows.items())
    assert all(found[key].shape == rows.shape for key, rows in made_rows.items())
    assert not any(rows.flags.writeable for rows in found.values())
    assert all(rows.flags.aligned and rows.flags.c_contiguous for rows in found.values())
    assert not verify(filled, data=True).damage


def test_rows_are_read_the_way_that_the_kind_says(filled: Path, recipe: Recipe, kind: Kind) -> None:
    way = {"mmap": MappedRows, "pread": PreadRows}[kind.io] if kind.compressor is None else ZarrRows
    assert {type(segment.source) for segment in open_segments(filled, recipe, kind.io)} == {way}


def test_rows_are_copied_into_a_given_buffer_and_checked(
    filled: Path, recipe: Recipe, made_rows: Made, kind: Kind
) -> None:
    for segment in open_segments(filled, recipe, kind.io):
        for index in range(segment.commit.records):
            rows = made_rows[segment.digest[index].tobytes()]
            out = np.full_like(rows, np.nan)
            segment.read_into(index, out)
            assert out.tobytes() == rows.tobytes()


def test_a_reader_needs_no_word_of_the_store(filled: Path, recipe: Recipe, made_rows: Made, kind: Kind) -> None:
    """One cache of all kinds: what one run wrote as one store, the next writes as another."""
    more = {key_of("rna", "C" * n): np.full((n, 24), n, np.float16) for n in range(1, 4)}
    for (key, rows), other in zip(more.items(), KINDS[::2], strict=True):
        write(filled, recipe, {key: rows}, other)
    reader = CacheReader(filled, recipe)
    assert set(reader) == made_rows.keys() | more.keys()
    assert all(reader[key].tobytes() == rows.tobytes() for key, rows in (made_rows | more).items())
    assert all(reader.length(key) == len(rows) for key, rows in made_rows.items())
    absent = key_of("rna", "A")
    assert absent not in reader
    with pytest.raises(KeyError, match=absent.hex()):
        reader[absent]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dim", [1, 3, 33, 1280])
def test_any_width_and_type(tmp_path: Path, rng: np.random.Generator, dtype: str, dim: int, kind: Kind) -> None:
    """Odd widths give rows at odd places: never an unaligned view, never a row of a neighbour."""
    recipe = Recipe("protein", "profile", 1, dim, dtype=dtype)  # type: ignore[arg-type]
    lengths = [1, 1, 7, 131, int(rng.integers(200, 400))]
    rows = {key_of("protein", "M" * (i + 1)): rng.normal(size=(n, dim)).astype(dtype) for i, n in enumerate(lengths)}
    write(tmp_path, recipe, rows, kind)
    found = read_all(tmp_path, recipe, kind)
    assert {key: found[key].tobytes() for key in found} == {key: r.tobytes() for key, r in rows.items()}
    assert all(r.flags.aligned for r in found.values())


def test_one_record_of_one_row(tmp_path: Path, kind: Kind) -> None:
    recipe = Recipe("rna", "profile", 1, 1)
    write(tmp_path, recipe, {key_of("rna", "A"): np.ones((1, 1), np.float16)}, kind)
    (rows,) = read_all(tmp_path, recipe, kind).values()
    assert rows.tolist() == [[1.0]]


def test_a_record_larger_than_a_segment_and_than_many_chunks(
    tmp_path: Path, recipe: Recipe, rng: np.random.Generator, kind: Kind
) -> None:
    """One record is never cut: it fills a segment of its own, however small segments are to be."""
    sizes = (9000, 2730, 2731, 5461)  # 2,730 rows of 48 bytes are an inner chunk
    rows = {key_of("rna", "A" * (n + 1)): rng.normal(size=(n, 24)).astype(np.float16) for n in sizes}
    write(tmp_path, recipe, rows, kind, segment_bytes=1)
    found = read_all(tmp_path, recipe, kind)
    assert len(open_segments(tmp_path, recipe)) == len(sizes)
    assert all(found[key].tobytes() == r.tobytes() for key, r in rows.items())


def test_what_a_writer_is_given_may_be_used_again_at_once(tmp_path: Path, recipe: Recipe, kind: Kind) -> None:
    """An encoder fills one buffer again and again; rows that wait in memory are a copy of it."""
    buffer = np.zeros((4, 24), np.float16)
    with CacheWriter(tmp_path, recipe, store=kind.store, compressor=kind.compressor) as writer:
        for n in range(1, 5):
            buffer[:] = n
            writer.add(key_of("rna", "A" * n), buffer)
    found = read_all(tmp_path, recipe, kind)
    assert all((found[key_of("rna", "A" * n)] == n).all() for n in range(1, 5))


def test_duplicates_and_superseded_segments(tmp_path: Path, recipe: Recipe, kind: Kind) -> None:
    key = key_of("rna", "ACGU")
    for value in (1, 2):
        write(tmp_path, recipe, {key: np.full((4, 24), value, np.float16)}, kind)
    first, second = open_segments(tmp_path, recipe)
    assert len(CacheReader(tmp_path, recipe)) == 1
    kept = second.rows(0)
    resign(second.path, supersedes=(first.path.name,))
    reader = CacheReader(tmp_path, recipe)
    assert [s.path for s in reader.segments] == [second.path]
    assert reader[key].tobytes() == kept.tobytes()


@pytest.mark.parametrize(("value", "match"), [(np.nan, "finite"), (-np.inf, "finite"), (1e5, "overflows float16")])
def test_rows_that_must_never_be_stored(tmp_path: Path, recipe: Recipe, value: float, match: str, kind: Kind) -> None:
    with CacheWriter(tmp_path, recipe, store=kind.store, compressor=kind.compressor) as writer:
        with pytest.raises(RowsRefused, match=match):
            writer.add(key_of("rna", "A"), np.full((3, 24), value))
        writer.add(key_of("rna", "C"), np.zeros((3, 24)))
    assert read_all(tmp_path, recipe, kind).keys() == {key_of("rna", "C")}


def test_a_writer_left_on_an_exception_leaves_nothing(tmp_path: Path, recipe: Recipe, kind: Kind) -> None:
    with contextlib.suppress(ZeroDivisionError):  # noqa: SIM117
        with CacheWriter(tmp_path, recipe, store=kind.store, compressor=kind.compressor) as writer:
            writer.add(key_of("rna", "A"), np.ones((1, 24)))
            assert list((recipe.folder(tmp_path) / "segments").iterdir())
            raise ZeroDivisionError
    assert not list((recipe.folder(tmp_path) / "segments").iterdir())
    assert not list((recipe.folder(tmp_path) / "commits").iterdir())


class Failing:
    """fsio's `os` with one write or fsync that fails: the n-th."""

    def __init__(self, code: int) -> None:
        self.code, self.calls, self.fail_at = code, 0, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("write", "fsync"):
            return real

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments)

        return call


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_is_said_and_leaves_the_cache_sound(
    tmp_path: Path, recipe: Recipe, code: int, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write and fsync of a segment fails once: the system's own error comes out, whatever lays the file down."""
    key, rows = key_of("rna", "A"), np.ones((40, 24), np.float16)
    failing = Failing(code)
    monkeypatch.setattr(fsio, "os", failing)
    write(tmp_path, recipe, {}, kind)  # the folders and the recipe
    failing.calls = 0
    write(tmp_path, recipe, {key_of("rna", "C"): rows}, kind)
    total = failing.calls
    assert total > 5
    for n in range(1, total + 1):
        failing.calls, failing.fail_at = 0, n
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            write(tmp_path, recipe, {key: rows}, kind)
        assert caught.value.errno == code
        assert not verify(tmp_path, data=True).damage
    failing.fail_at = 0
    write(tmp_path, recipe, {key: rows}, kind)
    assert CacheReader(tmp_path, recipe)[key].tobytes() == rows.tobytes()


def test_a_flipped_byte_of_rows_costs_its_record_alone(
    filled: Path, recipe: Recipe, made_rows: Made, rng: np.random.Generator, kind: Kind
) -> None:
    segment = open_segments(filled, recipe)[0]
    path, start, count = place(segment.path, segment.commit, "rows", kind)
    good = path.read_bytes()
    for at in [0, *rng.integers(0, min(count, int(segment.offsets[-1]) * 48), 6).tolist()]:
        flip(path, start + at)
        assert_damaged(filled, recipe, kind)
        if kind.compressor is None:
            hit = int(np.searchsorted(segment.offsets, at // 48, side="right")) - 1
            (again,) = [s for s in open_segments(filled, recipe, kind.io) if s.path == segment.path]
            for index in range(segment.commit.records):
                if index == hit:
                    with pytest.raises(CacheCorrupt, match=segment.digest[hit].tobytes().hex()):
                        again.rows(index)
                else:
                    assert again.rows(index).tobytes() == made_rows[segment.digest[index].tobytes()].tobytes()
        path.write_bytes(good)
    assert not verify(filled, data=True).damage


@pytest.mark.parametrize("array", sorted(PARTS - {"rows"}))
def test_a_flipped_byte_of_each_small_array(
    filled: Path, recipe: Recipe, array: str, rng: np.random.Generator, kind: Kind
) -> None:
    segment = open_segments(filled, recipe)[0]
    path, start, count = place(segment.path, segment.commit, array, kind)
    good = path.read_bytes()
    for at in [0, count - 1, *rng.integers(0, count, 4).tolist()]:
        flip(path, start + at)
        assert_damaged(filled, recipe, kind)
        path.write_bytes(good)
    assert not verify(filled, data=True).damage


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind.name)  # `verify` reads in a way of its own
def test_every_bit_flip_of_every_file_is_found_by_verify(
    filled: Path, recipe: Recipe, rng: np.random.Generator, kind: Kind
) -> None:
    segment = open_segments(filled, recipe)[0]
    folder = recipe.folder(filled)
    others = [folder / "commits" / f"{segment.path.name}.json", folder / "recipe.json"]
    for path in [segment.path / name for name in segment.commit.files] + others:
        good = path.read_bytes()
        for at in rng.integers(0, len(good), min(len(good), 12)).tolist():
            data = bytearray(good)
            data[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
            assert verify(filled, data=True).damage, f"bit flip at byte {at} of {path.name} not found"
        path.write_bytes(good)
    assert not verify(filled, data=True).damage


@pytest.mark.parametrize("how", ["shorter", "longer", "empty", "missing", "a folder", "a link"])
def test_a_file_that_is_not_what_it_was(filled: Path, recipe: Recipe, how: str, tmp_path: Path, kind: Kind) -> None:
    segment = open_segments(filled, recipe)[0]
    for name in segment.commit.files:
        path = segment.path / name
        good = path.read_bytes()
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a link":
            (tmp_path / "outside").write_bytes(good)
            path.symlink_to(tmp_path / "outside")
        elif how != "missing":
            path.write_bytes({"shorter": good[:-1], "longer": good + b"x", "empty": b""}[how])
        with pytest.raises(CacheCorrupt, match=r"(?s)" + path.name):
            read_all(filled, recipe, kind)
        assert verify(filled, data=False).damage, "found without reading the rows"
        path.rmdir() if how == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(good)
    assert not verify(filled, data=True).damage


def test_two_segments_swapped(tmp_path: Path, recipe: Recipe, rng: np.random.Generator, kind: Kind) -> None:
    """Same shapes, same sizes, valid files: the commit record tells them apart."""
    for letter in "AC":
        write(tmp_path, recipe, {key_of("rna", letter): rng.normal(size=(5, 24)).astype(np.float16)}, kind)
    first, second = (segment.path for segment in open_segments(tmp_path, recipe))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    assert_damaged(tmp_path, recipe, kind)


def test_the_rows_of_two_segments_swapped(tmp_path: Path, recipe: Recipe, kind: Kind) -> None:
    for value in (1, 2):
        write(tmp_path, recipe, {key_of("rna", "A" * value): np.full((5, 24), value, np.float16)}, kind)
    first, second = (segment.path / kind.rows_file for segment in open_segments(tmp_path, recipe))
    aside = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(aside)
    assert_damaged(tmp_path, recipe, kind)


@pytest.mark.parametrize("name", ["segment", "rows", "segments", "commits", "recipe"])
def test_a_link_in_place_of_a_folder_is_not_followed(
    filled: Path, recipe: Recipe, tmp_path: Path, name: str, kind: Kind
) -> None:
    folder = recipe.folder(filled)
    segment = open_segments(filled, recipe)[0].path
    if name == "rows" and kind.store == "h5":
        pytest.skip("an HDF5 segment has no folders in it")
    path = {
        "segment": segment,
        "rows": segment / "rows",
        "segments": folder / "segments",
        "commits": folder / "commits",
        "recipe": folder,
    }[name]
    path.symlink_to(shutil.move(path, tmp_path / "elsewhere"))
    with pytest.raises(CacheCorrupt, match="is a link"):
        len(CacheReader(filled, recipe))
    assert any("is a link" in str(found) for found in verify(filled, data=False).damage)


def test_others_read_the_same_rows(filled: Path, recipe: Recipe, kind: Kind) -> None:
    """zarr-python and h5py, with nothing of ours."""
    for segment in open_segments(filled, recipe, kind.io):
        found = h5py.File(segment.path / H5) if kind.store == "h5" else zarr.open_group(str(segment.path), mode="r")
        assert found["rows"].shape == (segment.commit.rows, 24)
        for index in range(segment.commit.records):
            start, stop = segment.offsets[index], segment.offsets[index + 1]
            assert found["rows"][start:stop].tobytes() == segment.rows(index).tobytes()
        for name, small in {"offsets": segment.offsets, "digest": segment.digest, "crc32c": segment.crc32c}.items():
            assert (found[name].dtype, found[name][:].tobytes()) == (small.dtype, small.tobytes())
        if kind.store == "h5":
            parts = {name: (part.at, part.bytes) for name, part in segment.commit.parts.items()}
            assert parts == {n: (found[n].id.get_offset(), found[n].id.get_storage_size()) for n in PARTS}
            assert not any(part.at % 64 for part in segment.commit.parts.values())
            assert all(found[n].chunks is None and found[n].compression is None for n in PARTS)
            found.close()


def test_the_same_records_give_the_same_bytes(tmp_path: Path, recipe: Recipe, made_rows: Made, kind: Kind) -> None:
    """No time, host or address is in a segment's files: two writers' segments of the same records are equal."""
    for name in ("one", "two"):
        write(tmp_path / name, recipe, made_rows, kind)
    one, two = (open_segments(tmp_path / name, recipe)[0] for name in ("one", "two"))
    assert one.commit.files == two.commit.files
    assert one.commit.parts == two.commit.parts
    assert all((one.path / n).read_bytes() == (two.path / n).read_bytes() for n in one.commit.files)


def test_a_segment_has_the_files_of_its_store_and_no_marker_when_it_is_committed(filled: Path, kind: Kind) -> None:
    (folder,) = (filled / "embeddings" / "rna").iterdir()
    names = {p.stem for p in (folder / "commits").iterdir()}
    assert {p.name for p in (folder / "segments").iterdir()} == names
    for segment in (folder / "segments").iterdir():
        there = {p.relative_to(segment).as_posix() for p in segment.rglob("*") if p.is_file()}
        assert there == read_commit(folder / "commits" / f"{segment.name}.json").files.keys()
        assert there == {H5} if kind.store == "h5" else there > set(CHUNK.values())


@pytest.mark.parametrize("kind", KINDS[1::2], ids=lambda kind: kind.name)
def test_a_cut_after_opening_is_an_error_by_pread(filled: Path, recipe: Recipe, kind: Kind) -> None:
    """`--io pread` is there for files that shrink under a reader; a map of one dies of a signal (not tried here)."""
    (segment, *_) = open_segments(filled, recipe, kind.io)
    _ = segment.source
    path = segment.path / kind.rows_file
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CacheCorrupt):
        segment.rows(segment.commit.records - 1)


def test_a_compressed_segment_is_smaller_where_rows_repeat(tmp_path: Path, recipe: Recipe, kind: Kind) -> None:
    write(tmp_path, recipe, {key_of("rna", "A"): np.ones((9000, 24), np.float16)}, kind)
    (segment,) = open_segments(tmp_path, recipe)
    raw = 9000 * 48
    held = segment.commit.files[kind.rows_file].bytes
    assert held < raw / 50 if kind.compressor else held >= raw
    assert (segment.path / kind.rows_file).stat().st_size == held
    assert ROWS in segment.commit.files or kind.store == "h5"
