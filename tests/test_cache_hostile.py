"""Hostile caches, rule by rule (RELIABILITY section 5): refused on one line, nothing followed, little memory taken."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import hostile as h
import numpy as np
import pytest
from conftest import ROOT, Program
from hostile import Hostile
from stores import KINDS, open_segments, write

from crossllm.cache import CacheCorrupt, CacheReader, CacheWriter, Recipe, key_of, list_recipes
from crossllm.cache.console import runner
from crossllm.cache.errors import CrossLLMError, InputError
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.store.recipe import choose_recipe
from crossllm.pipeline.cli import crossllm

BAD_CODECS = (
    "numcodecs.pickle",
    "pickle",
    "gzip",
    "numcodecs.zlib",
    "transpose",
    "vlen-utf8",
    "json2",
    "numcodecs.lz4",
)
PLACES = ("alone", "beside a shard", "in a shard", "second", "nested", "in the index", "of a small array")
BAD_TYPES = ("object", "|O", "string", "bytes", "float64", "complex64", {"name": "numcodecs.pickle"}, ["float16"], None)
DEEP = b"[" * 100_000
MANY = b"{" + b",".join(b'"%d":1' % n for n in range(700_000)) + b"}"
BIG = 1 << 53

HOSTILE: dict[str, Hostile] = {
    # S5: codecs, types, metadata of another version
    **{
        f"S5 codec {name} {where}": Hostile(h.codec(name, where), "codec|index|not fit|crc32c|plain|shard|float16")
        for n, name in enumerate(BAD_CODECS)
        for where in (PLACES if n < 2 else PLACES[2:4])
    },
    **{f"S5 data type {kind}": Hostile(h.fields(data_type=kind), "data type|unhashable") for kind in BAD_TYPES},
    "S5 no codec": Hostile(h.shard_fields(codecs=[]), "codecs"),
    "S5 no bytes codec": Hostile(h.shard_fields(codecs=[{"name": "zstd"}]), "codecs"),
    "S5 codec is no object": Hostile(h.shard_fields(codecs=["bytes"]), "not an array"),
    "S5 a thousand checksums": Hostile(h.shard_fields(codecs=[h.BYTES] + [h.CRC] * 1000), "are not bytes, then"),
    "S5 two compressors": Hostile(h.shard_fields(codecs=[*h.ZSTD, h.ZSTD[1]]), "are not bytes, then"),
    "S5 zarr 2": Hostile(h.fields(zarr_format=2), "not an array of Zarr format 3"),
    "S5 a group": Hostile(h.fields(node_type="group"), "not an array of Zarr format 3"),
    "S5 zarr 2 names": Hostile(h.fields(chunk_key_encoding={"name": "v2"}), "not named"),
    "S5 dotted names": Hostile(
        h.fields(chunk_key_encoding={"name": "default", "configuration": {"separator": "."}}), "not named"
    ),
    "S5 storage transformer": Hostile(h.fields(storage_transformers=[{"name": "x"}]), "no regular grid"),
    "S5 other grid": Hostile(
        h.fields(chunk_grid={"name": "rectangular", "configuration": {"chunk_shape": [1, 1]}}), "no regular grid"
    ),
    # S6: HDF5 that leads elsewhere
    **{
        f"S6 {name}": Hostile(h.h5(make), "does not match its crc32c", "h5")
        for name, make in {
            "external link": h.external_link,
            "external storage": h.external_storage,
            "virtual dataset": h.virtual,
            "soft link": h.soft_link,
            "unknown filter": h.unknown_filter,
        }.items()
    },
    # S7: the commit record
    "S7 record empty": Hostile(h.raw_record(b""), "damaged"),
    "S7 record no JSON": Hostile(h.raw_record(b"\x80\x04\x95"), "damaged"),
    "S7 record a list": Hostile(h.raw_record(b"[]"), "not a JSON object"),
    "S7 record UTF-16": Hostile(h.raw_record("{}".encode("utf-16")), "damaged"),
    "S7 record BOM": Hostile(h.raw_record(b"\xef\xbb\xbf{}"), "damaged"),
    "S7 record 100,000 deep": Hostile(h.raw_record(b'{"a":' + DEEP), "more values|recursion"),
    "S7 record 40 deep": Hostile(h.raw_record(b'{"a":' * 40 + b"1" + b"}" * 40), "deep"),
    "S7 record 700,000 keys": Hostile(h.raw_record(MANY), "more values"),
    "S7 record 2,700,000 lists": Hostile(h.raw_record(b'{"a":[' + b"[]," * 2_700_000 + b"1]}"), "more values"),
    "S7 record 4,000,000 numbers": Hostile(h.raw_record(b'{"a":[' + b"9," * 4_000_000 + b"1]}"), "more values"),
    "S7 record over 8 MiB": Hostile(h.raw_record(b" " * ((8 << 20) + 1)), "bytes where at most"),
    "S7 record a key twice": Hostile(h.raw_record(b'{"a":1,"a":1}'), "stands twice"),
    "S7 record NaN": Hostile(h.raw_record(b'{"a":NaN}'), "no JSON number"),
    "S7 record Infinity": Hostile(h.raw_record(b'{"a":-Infinity}'), "no JSON number"),
    "S7 record 10,000 digits": Hostile(h.raw_record(b'{"a":' + b"9" * 10_000 + b"}"), "damaged"),
    "S7 record unsigned": Hostile(h.raw_record(b'{"format":1}'), "its own crc32c"),
    **{
        f"S7 record without {name}": Hostile(h.record(**{name: ...}), "damaged")
        for name in ("format", "segment", "recipe", "recipe_crc32c", "records", "rows", "files", "supersedes")
    },
    **{
        f"S7 {name} = {value!r}": Hostile(h.record(**{name: value}), "no size|damaged|rows of|runs? from|bytes")
        for name in ("rows", "records")
        for value in (-1, 0, 1.0, True, "3", None, [3], BIG, BIG + 1, 1 << 63, 1e400)
    },
    "S7 recipe_crc32c = true": Hostile(h.record(recipe_crc32c=True), "no size"),
    "S7 format = true": Hostile(h.record(format=True), "no size"),
    "S7 files a list": Hostile(h.record(files=[]), "damaged"),
    "S7 no files": Hostile(h.record(files={}), "its files are not"),
    "S7 supersedes a text": Hostile(h.record(supersedes="0" * 32), "damaged"),
    "S7 supersedes an object": Hostile(h.record(supersedes={"0" * 32: 1}), "no list"),
    "S7 a file of 2^53 bytes": Hostile(h.file_of_record("rows/c/0/0", [BIG, 1]), "where the commit record says"),
    "S7 a small file of 2^53": Hostile(h.file_of_record("digest/c/0/0", [BIG, 1]), "are expected"),
    "S7 a zarr.json of 2^53": Hostile(h.file_of_record("rows/zarr.json", [BIG, 1]), "at most"),
    "S7 a size of 2^53+1": Hostile(h.file_of_record("rows/c/0/0", [BIG + 1, 1]), "no size"),
    "S7 a size below zero": Hostile(h.file_of_record("rows/c/0/0", [-1, 1]), "no size"),
    "S7 a file without crc": Hostile(h.file_of_record("rows/c/0/0", [1]), "damaged"),
    "S7 record supersedes itself": Hostile(h.own_name_superseded, "supersedes itself"),
    "S7 record of another recipe": Hostile(h.record(recipe="0" * 64), "for another recipe"),
    "S7 record is a folder": Hostile(h.folder_for("commits/SEGMENT.json"), "plain file"),
    # S7: recipe.json
    "S7 recipe gone": Hostile(lambda recipe_dir: (recipe_dir / "recipe.json").unlink(), "no recipe.json"),
    "S7 recipe is a folder": Hostile(h.folder_for("recipe.json"), "plain file"),
    "S7 recipe over 1 MiB": Hostile(h.raw_recipe(b" " * ((1 << 20) + 1)), "bytes where at most"),
    "S7 recipe 100,000 deep": Hostile(h.raw_recipe(b'{"options":' + DEEP), "more values|recursion"),
    "S7 recipe a key twice": Hostile(h.raw_recipe(b'{"dim":1,"dim":1}'), "stands twice"),
    "S7 recipe NaN": Hostile(h.raw_recipe(b'{"dim":NaN}'), "no JSON number"),
    "S7 recipe of 2^60 columns": Hostile(h.recipe(dim=1 << 60), "digest does not match"),
    "S7 recipe of -1 columns": Hostile(h.recipe(dim=-1), "out of range"),
    "S7 recipe of objects": Hostile(h.recipe(dtype="object"), "out of range"),
    "S7 recipe of other fields": Hostile(h.recipe(__class__="os.system"), "damaged"),
    "S7 recipe option is a list": Hostile(h.recipe(options={"a": [1]}), "a text of the recipe is none"),
    # S7: zarr.json
    "S7 zarr.json over 1 MiB": Hostile(h.raw_meta(b" " * ((1 << 20) + 1)), "at most"),
    "S7 zarr.json deep": Hostile(h.raw_meta(b'{"shape":' + DEEP), "more values|recursion"),
    "S7 zarr.json a key twice": Hostile(h.raw_meta(b'{"shape":1,"shape":1}'), "stands twice"),
    **{
        f"S7 shape {shape}": Hostile(h.fields(shape=shape), "not an array|where")
        for shape in ([], [h.ROWS], [BIG, 24], [BIG * 2, 24], [-1, 24], [343.0, 24], ["343", 24], [True, 24], [0, 24])
    },
    "S7 shape below the record's": Hostile(h.fields(shape=[h.ROWS - 1, h.DIM]), "are expected"),
    "S7 chunks of nothing": Hostile(h.shard_fields(chunk_shape=[0, 24]), "not fit"),
    "S7 many files": Hostile(
        h.fields(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 24]}}), "in one file"
    ),
    "S7 a shard of 2^50 chunks": Hostile(
        h.fields(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [h.ROWS << 50, 24]}}), "not an array"
    ),
    "S7 a shard of 2^40 chunks": Hostile(
        h.fields(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [h.ROWS << 40, 24]}}), "no room"
    ),
    "S7 chunks that do not fill": Hostile(h.shard_fields(chunk_shape=[h.ROWS - 1, 24]), "do not fill"),
    "S7 rows that are no shard": Hostile(h.fields(codecs=h.ZSTD), "no shard"),
    "S7 index at the start": Hostile(h.shard_fields(index_location="start"), "at the end"),
    "S7 index big-endian": Hostile(
        h.shard_fields(index_codecs=[{"name": "bytes", "configuration": {"endian": "big"}}, h.CRC]), "little-endian"
    ),
    # S7: offsets and places
    **{
        f"S7 offsets {values} in {store}": Hostile(h.array("offsets", values), "offsets do not run", store)
        for values in ((0, 43, 3, 343), (0, 3, 3, 343), (1, 3, 43, 343), (0, 3, 43, 342), (-1, 3, 43, 343),
                       (0, 1 << 62, 43, 343), (0, 3, 43, 1 << 62))
        for store in ("zarr", "h5")
    },
    "S7 parts overlap": Hostile(
        h.parts(lambda found: found.update(digest=[found["rows"][0] + 64, *found["digest"][1:]])), "expected", "h5"
    ),
    "S7 part past the end": Hostile(h.part("rows", at=1 << 20), "are expected", "h5"),
    "S7 part at 2^53": Hostile(h.part("rows", at=BIG), "are expected", "h5"),
    "S7 part at 2^63": Hostile(h.part("rows", at=1 << 63), "no size", "h5"),
    "S7 part before the file": Hostile(h.part("rows", at=-64), "no size", "h5"),
    "S7 part too short": Hostile(h.part("rows", bytes=64), "are expected", "h5"),
    "S7 part of 2^53 bytes": Hostile(h.part("digest", bytes=BIG), "are expected", "h5"),
    "S7 rows unaligned": Hostile(h.part("rows", at=1217), "are expected", "h5"),
    "S7 part missing": Hostile(h.parts(lambda found: found.pop("crc32c")), "its parts are not", "h5"),
    "S7 part too many": Hostile(h.parts(lambda found: found.update(x=[0, 0, 0])), "its parts are not", "h5"),
    "S7 part of two numbers": Hostile(h.parts(lambda found: found.update(rows=[0, 0])), "damaged", "h5"),
    "S7 parts of a Zarr segment": Hostile(h.record(parts={"rows": [0, 0, 0]}), "its parts are not"),
    "S7 no parts": Hostile(h.record(parts=...), "its parts are not", "h5"),
    # S8: frames that hold more than they should
    "S8 zstd declares 1000:1": Hostile(h.shard([h.GOOD, h.frame(100 << 20), h.GOOD, h.GOOD], h.ZSTD), "declares"),
    "S8 zstd declares less": Hostile(h.shard([h.frame(7)] * 4, h.ZSTD), "declares 7 bytes"),
    "S8 zstd declares 2^60": Hostile(h.shard([h.frame_of_blocks(1 << 60, [h.RLE])] * 4, h.ZSTD), "declares"),
    "S8 zstd hides its size": Hostile(
        h.shard([h.frame_of_blocks(None, [h.RLE] * 800)] * 4, h.ZSTD), "states no content size"
    ),
    "S8 zstd holds more than it says": Hostile(
        h.shard([h.frame_of_blocks(h.CHUNK, [h.RLE] * 800)] * 4, h.ZSTD), "zarr-python cannot read"
    ),
    "S8 zstd frame after frame": Hostile(
        h.shard([h.GOOD + h.frame(100 << 20)] * 4, h.ZSTD), "before the chunk"
    ),
    "S8 zstd after a skippable frame": Hostile(
        h.shard([b"\x50\x2a\x4d\x18\x04\0\0\0" + b"skip" + h.GOOD] * 4, h.ZSTD), "begins with 184d2a50"
    ),
    "S8 zstd cut": Hostile(h.shard([h.GOOD[:-1]] * 4, h.ZSTD), "whole zstd frame"),
    "S8 zstd header cut": Hostile(h.shard([h.GOOD[:5]] * 4, h.ZSTD), "whole zstd frame"),
    "S8 zstd empty": Hostile(h.shard([b""] * 4, h.ZSTD), "whole zstd frame"),
    "S8 zstd reserved block": Hostile(h.shard([h.frame_of_blocks(h.CHUNK, [(3, 1, b"x")])] * 4, h.ZSTD), "reserved"),
    "S8 zstd trailing byte": Hostile(h.shard([h.GOOD + b"x"] * 4, h.ZSTD), "before the chunk"),
    "S8 blosc declares 1000:1": Hostile(h.shard([h.blosc_of(100 << 20, 8, 1 << 17)] * 4, h.BLOSC), "declares"),
    "S8 blosc declares 2^32-1": Hostile(h.shard([h.blosc_of(h.CHUNK, 4, 2**32 - 1)] * 4, h.BLOSC), "declares"),
    "S8 blosc declares less": Hostile(h.shard([h.blosc_of(100, 8, 100)] * 4, h.BLOSC), "declares 100 bytes"),
    "S8 blosc blocks of 2^32-1": Hostile(h.shard([h.blosc_of(h.CHUNK, 8, 2**32 - 1)] * 4, h.BLOSC), "in blocks of"),
    "S8 blosc longer than its chunk": Hostile(h.shard([h.blosc_of(h.CHUNK, 12, 9999)] * 4, h.BLOSC), "9999 bytes"),
    "S8 blosc cut": Hostile(h.shard([b"\2\1"] * 4, h.BLOSC), "whole blosc"),
    "S8 raw chunk too long": Hostile(h.shard([bytes(h.CHUNK + 1)] + [bytes(h.CHUNK)] * 3), "declares"),
    "S8 crc32c chunk too long": Hostile(h.shard([bytes(h.CHUNK + 5)] * 4, [h.BYTES, h.CRC]), "declares"),
    "S8 inner chunk of 65 MiB": Hostile(
        h.shard([h.frame(48 * 1_420_000)], h.ZSTD, inner=1_420_000), "inner chunks of 68160000 bytes"
    ),
    "S8 absent chunks for 48 TB": Hostile(
        h.shard([], h.ZSTD, index=[(h.ABSENT, h.ABSENT)] * 1000, inner=10**9, rows=10**12), "inner chunks of"
    ),
    "S8 absent chunks for 4 GB": Hostile(
        h.shard([], h.ZSTD, index=[(h.ABSENT, h.ABSENT)] * 100, inner=10**6, rows=10**8), "are said to hold"
    ),
    "S8 chunks overlap": Hostile(h.shard([h.GOOD] * 4, h.ZSTD, index=[(0, len(h.GOOD))] * 4), "overlap"),
    "S8 chunk outside": Hostile(h.shard([h.GOOD], h.ZSTD, index=[(0, 23), (1 << 63, 23)] * 2), "outside the file"),
    "S8 chunk of 2^64-2": Hostile(h.shard([h.GOOD], h.ZSTD, index=[(1, h.ABSENT - 1)] * 4), "outside the file"),
    "S8 chunk half absent": Hostile(h.shard([h.GOOD], h.ZSTD, index=[(0, h.ABSENT)] * 4), "outside the file"),
    "S8 chunk in the index": Hostile(h.shard([h.GOOD], h.ZSTD, index=[(len(h.GOOD), 22)] * 4), "outside the file"),
    "S8 bytes missing from the zeros": Hostile(h.shard([], index=[(h.ABSENT, h.ABSENT)] * 4), "its crc32c"),
    # S9: names and links
    **{
        f"S9 segment named {name!r}": Hostile(h.named_record(name), "names? another segment|is not one of the format")
        for name in ("", "..", "../" + "a" * 29, "/etc/passwd", "a" * 31, "a" * 33, "A" * 32, "a" * 31 + "\0",
                     "a\\" * 16)
    },
    **{
        f"S9 supersedes {name!r}": Hostile(h.record(supersedes=[name]), "a segment's name|damaged")
        for name in ("..", "../../x", "/" + "a" * 31, "B" * 32, "a" * 32 + "\n", 7, None)
    },
    **{
        f"S9 a file named {name!r}": Hostile(
            h.file_of_record(name, [41, 1], "rows/c/0/0"), "its files are not"
        )
        for name in ("../../../../../../outside/canary", "/etc/passwd", "rows\\c\\0\\0", "rows/c/0/0\0", "rows//c/0/0",
                     "ROWS/C/0/0", "./rows/c/0/0", "segment.h5")
    },
    "S9 one file more": Hostile(h.file_of_record("../canary", [41, 1]), "its files are not"),
    "S9 encoder with a path": Hostile(h.recipe(encoder="../../outside"), "out of range"),
    "S9 encoder upper case": Hostile(h.recipe(encoder="Profile"), "out of range"),
    "S9 other modality": Hostile(h.recipe(modality="../rna"), "does not match"),
    **{
        f"S9 a link for {name}": Hostile(h.link(name), "link|symbolic")
        for name in ("segments/SEGMENT", "segments/SEGMENT/rows", "segments/SEGMENT/rows/c",
                     "segments/SEGMENT/rows/c/0", "segments/SEGMENT/rows/c/0/0", "segments/SEGMENT/rows/zarr.json",
                     "segments/SEGMENT/digest",
                     "segments/SEGMENT/offsets/c/0", "segments", "commits", "commits/SEGMENT.json", "recipe.json", ".")
    },
    "S9 a link for an HDF5 file": Hostile(h.link("segments/SEGMENT/segment.h5"), "link", "h5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound cache of each store, and beside it a canary outside."""
    rng = np.random.default_rng(7)
    rows = {key_of("rna", "A" * n): rng.normal(size=(n, h.DIM)).astype(np.float16) for n in h.LENGTHS}
    made = {}
    for kind in (k for k in KINDS if k.io == "mmap" and k.compressor is None):
        folder = tmp_path_factory.mktemp(kind.store)
        write(folder / "cache", h.plain_recipe(), rows, kind)
        (folder / "outside").mkdir()
        (folder / "outside" / "canary").write_bytes(h.CANARY)
        made[kind.store] = folder
    return made


def forged(sound: dict[str, Path], case: Hostile, folder: Path) -> Path:
    """The cache of one case, at `folder`/cache."""
    shutil.copytree(sound[case.store], folder, dirs_exist_ok=True)
    case.forge(h.plain_recipe().folder(folder / "cache"))
    return folder / "cache"


def read_everything(cache_dir: Path) -> list[bytes]:
    """Whatever a reader gives of a cache before it refuses the rest."""
    found = []
    for recipe in list_recipes(cache_dir, "rna"):
        reader = CacheReader(cache_dir, recipe)
        for key in reader:
            found.append(reader[key].tobytes())
    return found


def tree_hash(folder: Path) -> str:
    """Of every name, kind and byte under a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path} {path.lstat().st_mode} ".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_the_sound_caches_are_read(sound: dict[str, Path]) -> None:
    """The control of all that follows: without a forgery nothing is refused."""
    for folder in sound.values():
        assert sorted(map(len, read_everything(folder / "cache"))) == [n * h.DIM * 2 for n in h.LENGTHS]
        assert not verify(folder / "cache", data=True).damage
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_cache_is_refused(sound: dict[str, Path], tmp_path: Path, name: str) -> None:
    case = HOSTILE[name]
    cache_dir = forged(sound, case, tmp_path)
    before = tree_hash(tmp_path)
    with pytest.raises(CacheCorrupt, match=case.says) as caught:
        read_everything(cache_dir)
    for line in (*caught.value.lines, *map(str, verify(cache_dir, data=True).damage)):
        assert str(tmp_path) in line, "names no file"
        assert len(line) < 1000
        assert h.CANARY.decode() not in line
    assert verify(cache_dir, data=True).damage
    assert tree_hash(tmp_path) == before, "reading changed something"


def test_sound_variants_of_a_shard_are_read(sound: dict[str, Path], tmp_path: Path) -> None:
    """The other control: compressed, with checksums, out of order, with gaps or without zero chunks, same rows."""
    rows = np.zeros((h.ROWS, h.DIM), np.float16)
    plain = [bytes(h.CHUNK)] * 4
    crc = h.crc32c(bytes(h.CHUNK)).to_bytes(4, "little")
    size = len(h.GOOD)
    blosc = bytes(h.blosc.compress(bytes(h.CHUNK), b"zstd", 5, 0))
    checked = bytes(h.Zstd(3, True).encode(bytes(h.CHUNK)))
    checked_first = bytes(h.Zstd(3).encode(bytes(h.CHUNK) + crc))
    variants = {
        "zstd": h.shard([h.GOOD] * 4, h.ZSTD),
        "zstd with a checksum": h.shard([checked] * 4, h.ZSTD),
        "zstd in many blocks": h.shard([h.frame(48 * 20_000)], h.ZSTD, inner=20_000),
        "blosc": h.shard([blosc] * 4, h.BLOSC),
        "crc32c": h.shard([bytes(h.CHUNK) + crc] * 4, [h.BYTES, h.CRC]),
        "crc32c, then zstd": h.shard([checked_first] * 4, [h.BYTES, h.CRC, h.ZSTD[1]]),
        "zstd, then crc32c": h.shard(
            [h.GOOD + h.crc32c(h.GOOD).to_bytes(4, "little")] * 4, [*h.ZSTD, h.CRC]
        ),
        "out of order": h.shard(plain, index=[(n * h.CHUNK, h.CHUNK) for n in (2, 0, 3, 1)]),
        "gaps": h.shard(plain, gap=b"gap", index=[(3 + n * h.CHUNK, h.CHUNK) for n in range(4)]),
        "absent chunks": h.shard(
            [h.GOOD], h.ZSTD, index=[(0, size), (h.ABSENT, h.ABSENT), (h.ABSENT, h.ABSENT), (h.ABSENT, h.ABSENT)]
        ),
    }  # fmt: skip
    for number, (name, forge) in enumerate(variants.items()):

        def with_zero_sums(recipe_dir: Path, forge: h.Forge = forge) -> None:
            segment = h.segment_of(recipe_dir)
            sums = [h.crc32c(bytes(n * h.DIM * 2)) for n in h.LENGTHS]
            (segment / "crc32c" / "c" / "0").write_bytes(np.array(sums, "<u4").tobytes())
            (segment / "rows" / ".zarray").write_text('{"zarr_format": 2}')  # of another version: never looked at
            forge(recipe_dir)

        cache_dir = forged(sound, Hostile(with_zero_sums, ""), tmp_path / str(number))
        found = b"".join(read_everything(cache_dir))
        assert found == rows.tobytes(), name
        assert not verify(cache_dir, data=True).damage, name


MEASURE = """
import json, resource, sys
from pathlib import Path
import numpy as np
import zarr
from crossllm.cache import CacheReader, list_recipes
from crossllm.cache.errors import CrossLLMError

def status(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name)) << 10

def read(path):
    for recipe in list_recipes(path, "rna"):
        reader = CacheReader(path, recipe)
        for key in reader:
            reader[key]

warm, limit, *paths = sys.argv[1:]
read(Path(warm))
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize:") + int(limit),) * 2)
grown = {}
for path in paths:
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again
    before = status("VmRSS:")
    try:
        np.ones(int(path[1:]), np.uint8) if path.startswith("=") else read(Path(path))
        outcome = "read"
    except (CrossLLMError, MemoryError) as error:
        outcome = type(error).__name__
    grown[path] = [outcome, status("VmHWM:") - before]
print(json.dumps(grown))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")
def test_a_hostile_cache_takes_little_memory(sound: dict[str, Path], tmp_path: Path) -> None:
    """Every case in one child under RLIMIT_AS: at most twice the largest file and 64 MiB over what was there."""
    warm = forged(sound, Hostile(h.shard([h.GOOD] * 4, h.ZSTD), ""), tmp_path / "warm")
    sums = [h.crc32c(bytes(n * h.DIM * 2)) for n in h.LENGTHS]
    (h.segment_of(h.plain_recipe().folder(warm)) / "crc32c/c/0").write_bytes(np.array(sums, "<u4").tobytes())
    h.resign(h.segment_of(h.plain_recipe().folder(warm)))
    cases = [forged(sound, case, tmp_path / str(n)) for n, case in enumerate(HOSTILE.values())]
    control, refused = f"={100 << 20}", f"={2 << 30}"
    arguments = [str(warm), str(1 << 30), control, refused, *map(str, cases)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout)
    assert grown[control][0] == "read"
    assert grown[control][1] > 90 << 20, "the measure sees 100 MiB"
    assert grown[refused][0] == "MemoryError", "the limit holds"
    for path, (name, case) in zip(cases, HOSTILE.items(), strict=True):
        outcome, peak = grown[str(path)]
        largest = max((p.stat().st_size for p in path.rglob("*") if p.is_file()), default=0)
        assert outcome == "CacheCorrupt", name
        assert peak <= 2 * largest + (64 << 20), f"{name}: {peak >> 20} MiB ({case.says})"


@pytest.mark.slow
def test_readers_of_hdf5_segments_never_load_libhdf5(sound: dict[str, Path]) -> None:
    """What libhdf5 would follow is not followed because it is not asked; only the writer loads it."""
    code = (
        "import sys; from pathlib import Path; from crossllm.cache import CacheReader, list_recipes; "
        "from crossllm.cache.maintenance.inspection import verify; "
        "p = Path(sys.argv[1]); r = CacheReader(p, list_recipes(p, 'rna')[0]); "
        "print(sum(len(r[k]) for k in r), len(verify(p, data=True).damage), 'h5py' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sound["h5"] / "cache")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == [str(h.ROWS), "0", "False"], done.stderr
    with h5_of(sound["h5"]) as file:
        assert file["rows"].shape == (h.ROWS, h.DIM)


def h5_of(folder: Path) -> h.h5py.File:
    return h.h5py.File(h.segment_of(h.plain_recipe().folder(folder / "cache")) / "segment.h5")


# S1: no pickle, nothing evaluated

_BANNED = frozenset({"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml"})


def dangerous(source: str) -> list[str]:
    """What in a module could run what a file says: pickle and its kin, eval and exec, loaders that unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in _BANNED]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _BANNED:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name, kept = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name in ("eval", "exec", "compile", "__import__"):
                found.append(name)
            if kept.get("allow_pickle", "False") != "False" or (
                name in ("torch.load", "torch.jit.load") and kept.get("weights_only") != "True"
            ):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("package", ["cache", "embed", "model", "pipeline"])
def test_nothing_unpickles_or_evaluates(package: str) -> None:
    modules = sorted((ROOT / package).glob("*.py"))
    assert modules
    assert {path.name: found for path in modules if (found := dangerous(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from marshal import loads", "import joblib", "from yaml import load", "eval('1')",
        "exec(text)", "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)", "torch.load(path)",
        "torch.load(path, weights_only=False)", "import numpy, shelve",
    ],
)  # fmt: skip
def test_the_ban_sees_what_is_banned(line: str) -> None:
    assert dangerous(line)


# S11: modes, planted links, folders of others


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
@pytest.mark.parametrize(("umask", "file", "folder"), [(0o000, 0o666, 0o777), (0o077, 0o600, 0o700)])
@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind.name)
def test_modes_follow_the_umask(tmp_path: Path, kind: h.Any, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        for letters in ("A", "AC"):  # the second run finds the folders as the first left them
            write(tmp_path / "cache", h.plain_recipe(), {key_of("rna", letters): np.ones((2, h.DIM))}, kind)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert modes == {file}
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "cache").rglob("*") if p.is_dir()} == {folder}


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
def test_a_link_planted_at_a_temporary_name_is_not_followed(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if 128 random bits were guessed: a temporary file is made new, never opened."""
    from crossllm.cache.files import fsio

    names = iter([f"{n:032x}" for n in range(100)])
    monkeypatch.setattr(fsio, "new_name", lambda: next(names))
    outside = tmp_path / "outside"
    outside.write_bytes(h.CANARY)
    recipe_dir = recipe.folder(tmp_path / "cache")
    recipe_dir.mkdir(parents=True)
    (recipe_dir / f".tmp-{0:032x}").symlink_to(outside)
    with pytest.raises(FileExistsError):
        CacheWriter(tmp_path / "cache", recipe)
    assert outside.read_bytes() == h.CANARY
    with CacheWriter(tmp_path / "cache", recipe) as writer:  # the control: the next name is free
        writer.add(key_of("rna", "A"), np.ones((1, 24)))
    assert len(CacheReader(tmp_path / "cache", recipe)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no links there")
@pytest.mark.parametrize("name", ["segments", "commits", "."])
def test_nothing_is_written_through_a_link(tmp_path: Path, recipe: Recipe, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    planted = recipe.folder(tmp_path / "cache") / name
    planted.parent.mkdir(parents=True)
    planted.symlink_to(outside)
    with pytest.raises(CacheCorrupt, match="is a link"):
        CacheWriter(tmp_path / "cache", recipe)
    assert not list(outside.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o1777, False), (0o755, False), (0o775, False)])
def test_another_users_folder_open_to_all_is_not_written_into(
    tmp_path: Path, recipe: Recipe, mode: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    CacheWriter(folder, recipe)  # one's own may be open to all
    shutil.rmtree(folder / "embeddings")
    os.chown(folder, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if not refused:
        CacheWriter(folder, recipe)
        return
    with pytest.raises(InputError, match="anybody may replace files"):
        CacheWriter(folder, recipe)
    assert not list(folder.iterdir())


# S13: control bytes


ESCAPE = "\x1b]0;owned\x07\x9b31m\u202e"


@pytest.mark.parametrize("field", ["host", "encoder", "option", "file", "folder"])
def test_control_bytes_of_a_cache_never_reach_a_terminal(
    sound: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str
) -> None:
    """In the host of a commit record, in a recipe, in names of files: shown as escapes, or not at all."""
    forge = {
        "host": h.record(writer={"host": ESCAPE, "pid": ESCAPE}, rows=-1),
        "encoder": h.recipe(encoder=ESCAPE),
        "option": h.recipe(options={ESCAPE: ESCAPE}),
        "file": h.file_of_record(ESCAPE, [1, 1]),
        "folder": lambda recipe_dir: (recipe_dir / "segments" / ESCAPE).mkdir(),
    }[field]
    cache_dir = forged(sound, Hostile(forge, ""), tmp_path)
    for command in (["info"], ["verify", "--data"], ["verify", "--json"], ["info", "--json"]):
        code = runner._run(crossllm, ["cache", *command, "--cache", str(cache_dir)])
        said = capfd.readouterr()
        assert code in (0, 3), said.err
        assert said.out or said.err
        for text in said:
            assert not set(text) & set(ESCAPE.replace("owned", "").replace("]0;", "").replace("31m", "")), command


def test_a_newer_format_is_refused_with_the_version_wanted(
    sound: dict[str, Path], tmp_path: Path, program: Program
) -> None:
    """P13: exit 2, and the versions are named; in the commit record and in the recipe."""
    for name, forge in {"commit": h.record(format=2), "recipe": h.recipe(format=2)}.items():
        cache_dir = forged(sound, Hostile(forge, ""), tmp_path / name)
        with pytest.raises(InputError, match=r"cache format 2, this version reads (up to )?1; upgrade") as caught:
            CacheReader(cache_dir, choose_recipe(cache_dir, "rna"))
        assert isinstance(caught.value, CrossLLMError)
        assert caught.value.exit_code == 2
        done = program("crossllm", "cache", "info", "--cache", cache_dir)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "cache format 2" in done.stderr


def test_open_segments_reads_what_the_table_is_made_from(sound: dict[str, Path]) -> None:
    """The forgeries change what is there: a segment of each store has the arrays that they name."""
    for store, folder in sound.items():
        (segment,) = open_segments(folder / "cache", h.plain_recipe())
        assert segment.commit.store == store
        assert np.diff(segment.offsets).tolist() == list(h.LENGTHS)
