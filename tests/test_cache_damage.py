"""RELIABILITY P6: whatever is hit, no wrong byte is read, the list is exact, and repair drops only that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, choose_recipe, key_of
from crossllm.cache.maintenance.damage import Damage, names_in, read_commits
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.maintenance.integrity import Subset, bad_records, check_segment
from crossllm.cache.maintenance.repair import repair
from crossllm.cache.store.commit import Commit, commit_paths, live_commits
from crossllm.cache.store.recipe import read_recipe
from crossllm.cache.store.segment import CHUNK, ROWS, Segment
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run

pytestmark = pytest.mark.slow

SEQUENCES = 24


class Made(NamedTuple):
    """An embedded cache, and what it was made from."""

    folder: Path
    recipe_dir: Path
    recipe: Recipe
    fasta: Path
    good: dict[bytes, bytes]
    """Key → rows, as bytes."""

    def segments(self) -> list[Path]:
        return sorted((self.recipe_dir / "segments").iterdir())

    def commit_of(self, segment: Path) -> Path:
        return self.recipe_dir / "commits" / f"{segment.name}.json"

    def keys_in(self, segment: Path) -> set[bytes]:
        digest = (segment / CHUNK["digest"]).read_bytes()
        return {digest[at : at + 32] for at in range(0, len(digest), 32)}

    def embed(self) -> int:
        """Run `embed run` again; how many sequences it made."""
        options = RunOptions("rna", self.fasta, self.folder, encoder="profile", segment_bytes=24 << 10, quiet=True)
        return run(options).embedded


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A cache of 24 RNAs in several segments, by `embed run`."""
    home = tmp_path_factory.mktemp("damage")
    rng = np.random.default_rng(24)
    letters = ["".join(rng.choice(list("ACGU"), int(n))) for n in rng.integers(3, 90, SEQUENCES)]
    fasta = home / "in.fasta"
    fasta.write_text("".join(f">id{n}\n{sequence}\n" for n, sequence in enumerate(letters)))
    folder = home / "cache"
    made = Made(folder, folder, Recipe("rna", "profile", 1, 1), fasta, {})
    made.embed()
    recipe = choose_recipe(folder, "rna")
    reader = CacheReader(folder, recipe)
    assert len(reader) == SEQUENCES
    assert len(reader.segments) > 2
    return Made(folder, recipe.folder(folder), recipe, fasta, {key: reader[key].tobytes() for key in reader})


@pytest.fixture
def made(first: Made, tmp_path: Path) -> Made:
    """A copy of it to be damaged."""
    folder = tmp_path / "cache"
    shutil.copytree(first.folder, folder)
    return first._replace(folder=folder, recipe_dir=first.recipe.folder(folder))


READS: tuple[Callable[[CacheReader, bytes], np.ndarray], ...] = (lambda reader, key: reader[key],)
"""Every way of reading a record; a new one goes here."""


def unreadable(made: Made) -> set[bytes]:
    """Keys that cannot be read; whatever can be read is held to the bytes that were stored."""
    try:
        reader = CacheReader(made.folder, made.recipe)
    except CacheCorrupt:
        return set(made.good)
    refused = set()
    for key, rows in made.good.items():
        for read in READS:
            try:
                assert read(reader, key).tobytes() == rows
            except (CacheCorrupt, KeyError):
                refused.add(key)
    return refused


def check(made: Made, commit: Commit) -> list[Damage]:
    """What `verify --data` says of one segment."""
    return check_segment(
        made.recipe_dir,
        made.recipe,
        commit,
        data=True,
        subset=None,
        names=names_in(made.folder),
        seen=lambda _: None,
    )


def mend(made: Made, hit: set[bytes] | int) -> None:
    """`repair` drops the records of `hit` (or so many), nothing else; `embed run` makes them, nothing else."""
    assert verify(made.folder, data=True).damage
    before = {path: path.read_bytes() for path in made.recipe_dir.rglob("*") if path.is_file()}
    tried = repair(made.folder, dry_run=True)
    assert {path: path.read_bytes() for path in made.recipe_dir.rglob("*") if path.is_file()} == before
    done = repair(made.folder)
    assert len(done.dropped) + done.keyless == (hit if isinstance(hit, int) else len(hit))
    assert tried == done
    if not isinstance(hit, int):
        assert {found.key for found in done.dropped} == {key.hex() for key in hit}
        assert all(found.ids for found in done.dropped)
    assert bool(done.again) == bool(hit)
    assert not done.left
    assert not verify(made.folder, data=True).damage
    gone = unreadable(made)
    assert len(gone) == len(done.dropped) + done.keyless
    assert made.embed() == len(gone)
    assert not unreadable(made)
    assert not verify(made.folder, data=True).damage
    assert not repair(made.folder).segments


class Patch:
    """A file whose bytes are changed and put back in place."""

    def __init__(self, path: Path) -> None:
        self.good = path.read_bytes()
        self._descriptor = os.open(path, os.O_RDWR)

    def put(self, at: int, data: bytes) -> None:
        os.pwrite(self._descriptor, data, at)

    def restore(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, self.good, 0)

    def cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def flips(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Each place and bit, flipped while it is looked at."""
        for at, bit in places:
            self.put(at, bytes([self.good[at] ^ 1 << bit]))
            yield at, bit
            self.put(at, self.good[at : at + 1])


def every_bit(size: int) -> Iterator[tuple[int, int]]:
    return ((at, bit) for at in range(size) for bit in range(8))


def test_every_bit_of_every_small_file_of_a_segment(made: Made) -> None:
    """The segment with the fewest records; each flip is named by file, and nobody can open the segment meanwhile."""
    segment = min(made.segments(), key=lambda path: len(made.keys_in(path)))
    (commit,) = [c for c in read_commits(made.recipe_dir).commits if c.segment == segment.name]
    assert not check(made, commit)
    for name in commit.files.keys() - {ROWS}:
        patch = Patch(segment / name)
        for at, bit in patch.flips(every_bit(len(patch.good))):
            with pytest.raises(CacheCorrupt, match="crc32c"):
                Segment(made.recipe_dir, made.recipe, commit)
            if bit == at % 8 and at % 4 == 0:
                (found,) = check(made, commit)
                assert (found.kind, found.segment) == ("segment", segment.name)
                assert found.unreadable == commit.records
                assert name in str(found) or Path(name).parts[0] in str(found)
    assert not check(made, commit)


def test_every_bit_of_a_commit_record(made: Made) -> None:
    path = commit_paths(made.recipe_dir)[0]
    patch = Patch(path)
    assert not read_commits(made.recipe_dir).damage
    for at, bit in patch.flips(every_bit(len(patch.good))):
        (found,) = read_commits(made.recipe_dir).damage
        assert (found.kind, found.file, found.segment) == ("commit", path, path.stem), (at, bit)
        assert found.unreadable == len(made.keys_in(made.recipe_dir / "segments" / path.stem))
    assert not verify(made.folder, data=True).damage


def test_every_bit_of_the_recipe(made: Made) -> None:
    patch = Patch(made.recipe_dir / "recipe.json")
    assert read_recipe(made.recipe_dir) == made.recipe
    for n, _ in enumerate(patch.flips(every_bit(len(patch.good)))):
        with pytest.raises((CacheCorrupt, Exception)) as error:
            read_recipe(made.recipe_dir)
        assert type(error.value).__name__ in ("CacheCorrupt", "InputError")
        if n % 97 == 0:
            (found,) = verify(made.folder, data=True).damage
            assert found.file == made.recipe_dir / "recipe.json"
            assert unreadable(made) == set()  # a reader was told the recipe by somebody; rows are not its bytes
    assert not verify(made.folder, data=True).damage


def test_a_damaged_recipe_is_left_and_said(made: Made) -> None:
    patch = Patch(made.recipe_dir / "recipe.json")
    patch.put(30, bytes([patch.good[30] ^ 1]))
    done = repair(made.folder)
    (left,) = done.left
    assert not done.dropped
    assert left.unreadable == SEQUENCES
    assert "put back recipe.json" in str(left)
    patch.restore()
    assert not verify(made.folder, data=True).damage


class Big(NamedTuple):
    """One segment whose shard is 64 KiB of rows and its index, 16 records."""

    folder: Path
    recipe: Recipe
    commit: Commit
    good: dict[bytes, bytes]

    @property
    def shard(self) -> Path:
        return self.folder / "segments" / self.commit.segment / ROWS

    def found(self) -> list[Damage]:
        return check_segment(
            self.folder, self.recipe, self.commit, data=True, subset=None, names=lambda *_: (), seen=lambda _: None
        )


@pytest.fixture
def big(tmp_path: Path, rng: np.random.Generator) -> Big:
    recipe = Recipe("rna", "profile", 1, 16, tokenizer="letters")
    lengths = rng.integers(1, 200, 15).tolist()
    lengths.append((64 << 10) // 32 - sum(lengths))
    good = {
        key_of("rna", "A" * (n + 1)): rng.normal(size=(length, 16)).astype(np.float16)
        for n, length in enumerate(lengths)
    }
    with CacheWriter(tmp_path, recipe) as writer:
        for key, rows in good.items():
            writer.add(key, rows)
    folder = recipe.folder(tmp_path)
    (commit,) = read_commits(folder).commits
    return Big(folder, recipe, commit, {key: rows.tobytes() for key, rows in good.items()})


def hit_by(segment: Segment, row_bytes: int, first: int, last: int) -> list[int]:
    """The records whose rows lie in the bytes `first` to `last` of a plain shard."""
    starts = segment.offsets[:-1] * row_bytes
    ends = segment.offsets[1:] * row_bytes
    return np.flatnonzero((starts <= last) & (ends > first)).tolist()


def test_one_bit_in_every_byte_of_a_shard(big: Big, rng: np.random.Generator) -> None:
    """The damaged records are those whose bytes were touched, no more and no fewer; readers refuse just these."""
    segment = Segment(big.folder, big.recipe, big.commit, io="pread")
    patch = Patch(big.shard)
    bits = rng.integers(0, 8, len(patch.good)).tolist()
    rows = big.commit.rows * 32
    assert (rows, len(patch.good)) == (64 << 10, (64 << 10) + 20)
    assert bad_records(segment, big.recipe) == []
    for at, _ in patch.flips(enumerate(bits)):
        if at >= rows:  # the shard's index
            (found,) = big.found()
            assert found.kind == "segment"
            assert "index" in str(found)
            continue
        hit = hit_by(segment, 32, at, at)
        assert bad_records(segment, big.recipe) == hit
        if at % 64 == 0:
            fresh = Segment(big.folder, big.recipe, big.commit)
            with pytest.raises(CacheCorrupt, match="does not match its crc32c"):
                fresh.rows(hit[0])
            other = (hit[0] + 1) % big.commit.records
            assert fresh.rows(other).tobytes() == big.good[fresh.digest[other].tobytes()]
    assert big.found() == []


def test_bursts_of_32_bits_in_a_shard(big: Big, rng: np.random.Generator) -> None:
    segment = Segment(big.folder, big.recipe, big.commit, io="pread")
    patch = Patch(big.shard)
    for at in rng.integers(0, (64 << 10) - 4, 1000).tolist():
        burst = rng.integers(1, 256, 4).astype(np.uint8)  # no zero: every byte is touched
        patch.put(at, bytes(a ^ int(b) for a, b in zip(patch.good[at : at + 4], burst, strict=True)))
        assert bad_records(segment, big.recipe) == hit_by(segment, 32, at, at + 3)
        patch.put(at, patch.good[at : at + 4])
    assert big.found() == []


def test_zeroed_pages_of_a_shard(big: Big) -> None:
    patch = Patch(big.shard)
    segment = Segment(big.folder, big.recipe, big.commit, io="pread")
    for at in range(0, 64 << 10, 4096):
        patch.put(at, bytes(4096))
        hit = hit_by(segment, 32, at, at + 4095)
        assert [found.key for found in big.found()] == [segment.digest[n].tobytes().hex() for n in hit]
        patch.put(at, patch.good[at : at + 4096])
    assert big.found() == []


def test_two_thousand_truncations(big: Big, rng: np.random.Generator) -> None:
    """Cut or lengthened by any number of bytes: a file of another size is refused before a byte of it is believed."""
    files = [big.folder / "segments" / big.commit.segment / name for name in big.commit.files]
    patches = [Patch(path) for path in files]
    for n in range(2000):
        patch = patches[n % len(patches)]
        patch.cut(int(rng.integers(0, len(patch.good))))
        (found,) = big.found()
        assert found.unreadable == big.commit.records
        with pytest.raises(CacheCorrupt):
            Segment(big.folder, big.recipe, big.commit)
        patch.restore()
    for patch in patches:
        patch.cut(len(patch.good) + 1)
        assert len(big.found()) == 1
        patch.restore()
    assert big.found() == []


def test_a_subset_reads_every_record_once(big: Big) -> None:
    """Over n = 1 … t every record is looked at by one n, and no byte by two."""
    segment = Segment(big.folder, big.recipe, big.commit, io="pread")
    Patch(big.shard).put(0, bytes(64 << 10))
    for parts in (1, 2, 3, 7, 100):
        found: list[int] = []
        read: list[int] = []
        for part in range(1, parts + 1):
            found += bad_records(segment, big.recipe, Subset(part, parts), read.append)
        assert sorted(found) == list(range(big.commit.records))
        assert sum(read) == 64 << 10


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rows_of(made: Made, segment: Path) -> list[int]:
    return np.frombuffer((segment / CHUNK["offsets"]).read_bytes(), "<i8").tolist()


def test_repair_drops_the_records_whose_rows_are_hit(made: Made) -> None:
    hit = set()
    for segment in made.segments()[:2]:
        digest = (segment / CHUNK["digest"]).read_bytes()
        for index in (0, 1):
            at = rows_of(made, segment)[index] * made.recipe.dim * 2
            flip(segment / ROWS, at)
            hit.add(digest[32 * index : 32 * index + 32])
    report = verify(made.folder, data=True)
    assert {found.key for found in report.damage} == {key.hex() for key in hit}
    assert all(found.ids[0].startswith("id") for found in report.damage)
    assert not verify(made.folder, data=False).damage
    assert unreadable(made) == hit
    mend(made, hit)


@pytest.mark.parametrize("name", sorted(CHUNK.keys() - {"rows"}))
def test_repair_proves_records_where_a_small_array_is_hit(made: Made, name: str) -> None:
    """A flipped key is one record; a flipped offset spoils the two beside it, a flipped checksum one."""
    segment = max(made.segments(), key=lambda path: len(made.keys_in(path)))
    flip(segment / CHUNK[name], {"digest": 40, "offsets": 16, "crc32c": 5}[name])
    mend(made, {"digest": 1, "offsets": 2, "crc32c": 1}[name])


DAMAGE: dict[str, Callable[[Made, Path], None]] = {
    "shard index": lambda made, segment: flip(segment / ROWS, -3),
    "zarr.json of the rows": lambda made, segment: flip(segment / "rows" / "zarr.json", 9),
    "zarr.json of the group gone": lambda made, segment: (segment / "zarr.json").unlink(),
    "commit record": lambda made, segment: flip(made.commit_of(segment), 100),
    "commit record empty": lambda made, segment: made.commit_of(segment).write_bytes(b""),
    "commit record is a folder": lambda made, segment: folder_for(made.commit_of(segment)),
    "commit record of another segment": lambda made, segment: shutil.copy(
        made.commit_of(made.segments()[-1]), made.commit_of(segment)
    ),
    "two segments swapped": lambda made, segment: swap(segment, made.segments()[-1]),
}
"""Damage that costs no record: what is left proves them all."""


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@pytest.mark.parametrize("kind", DAMAGE)
def test_repair_keeps_every_record_that_can_be_proved(made: Made, kind: str) -> None:
    DAMAGE[kind](made, made.segments()[0])
    assert unreadable(made)
    mend(made, set())


@pytest.mark.parametrize("gone", ["shard", "segment", "keys"])
def test_repair_withdraws_a_segment_of_which_nothing_is_left(made: Made, gone: str) -> None:
    segment = made.segments()[0]
    keys = made.keys_in(segment)
    if gone == "shard":
        (segment / ROWS).unlink()
        mend(made, keys)
    elif gone == "keys":
        (segment / CHUNK["digest"]).unlink()
        mend(made, len(keys))
    else:
        shutil.rmtree(segment)
        mend(made, len(keys))


def test_swapped_shards(made: Made) -> None:
    """Rows of one segment under the keys of another, sizes alike or not: refused, and both dropped."""
    one, other = made.segments()[:2]
    keys = made.keys_in(one) | made.keys_in(other)
    swap(one / ROWS, other / ROWS)
    assert unreadable(made) >= keys
    mend(made, keys)


def test_an_old_commit_record_put_back(made: Made) -> None:
    """Superseded, it stays ignored; of a segment that is gone, it is damage, and is withdrawn again."""
    segment = made.segments()[0]
    path = made.commit_of(segment)
    old = path.read_bytes()
    flip(segment / ROWS, 0)
    assert len(repair(made.folder).dropped) == 1
    assert made.embed() == 1
    path.write_bytes(old)
    assert not verify(made.folder, data=True).damage
    assert not unreadable(made)
    for later in live_commits(read_commits(made.recipe_dir).commits):
        if segment.name in later.supersedes:
            made.commit_of(made.recipe_dir / "segments" / later.segment).unlink()
    shutil.rmtree(segment)
    (found,) = verify(made.folder, data=False).damage
    assert found.segment == segment.name
    assert not unreadable(made) - set(made.good)
    repair(made.folder)
    assert not verify(made.folder, data=True).damage
    made.embed()
    assert not unreadable(made)


def test_damage_of_every_file_at_random_places_is_mended(made: Made, rng: np.random.Generator) -> None:
    """Twelve random places, a bit, a burst or a page each: sampled, because each costs a repair and an `embed run`."""
    for _ in range(12):
        files = [path for path in made.recipe_dir.rglob("*") if path.is_file() and path.name != "recipe.json"]
        live = {commit.segment for commit in live_commits(read_commits(made.recipe_dir).commits)}
        files = [path for path in files if path.stem in live or live & set(path.parts)]
        path = files[int(rng.integers(len(files)))]
        data = bytearray(path.read_bytes())
        at = int(rng.integers(len(data)))
        size = (1, 4, 4096)[int(rng.integers(3))]
        data[at : at + size] = bytes(b ^ 0x55 for b in data[at : at + size])
        path.write_bytes(data)
        found = verify(made.folder, data=True).damage
        refused = {key.hex() for key in unreadable(made)}
        if all(damage.kind == "record" for damage in found):  # a file hides more, and may have replaced what was hit
            assert refused <= {damage.key for damage in found}  # fewer where another segment holds it too
        done = repair(made.folder)
        gone, named = unreadable(made), {bytes.fromhex(dropped.key) for dropped in done.dropped}
        assert named <= gone
        assert len(gone) <= len(named) + done.keyless
        assert made.embed() == len(gone)
        assert not unreadable(made)


def test_a_table_and_a_dataset_file_are_left_and_said(made: Made) -> None:
    (table,) = (made.folder / "records").iterdir()
    flip(table, 200)
    flip(made.segments()[0] / ROWS, 0)
    done = repair(made.folder)
    assert len(done.dropped) == 1
    assert done.dropped[0].ids == ()
    (left,) = done.left
    assert left.kind == "records"
    assert "delete it and run again" in str(left)
    table.unlink()
    assert made.embed() == 1
    assert not verify(made.folder, data=True).damage
