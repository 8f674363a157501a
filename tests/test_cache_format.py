"""docs/format.md holds: its script reads a cache, and so does a reader written from its words alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from reader_by_words import crc as by_words_crc
from reader_by_words import read_cache
from stores import KINDS, Kind, flip, open_segments, place, resign, write

from crossllm.cache import CacheReader, CacheWriter, Recipe, choose_recipe, key_of
from crossllm.cache.maintenance.inspection import verify
from crossllm.embed.run.run import RunOptions, run


def test_the_script_of_format_md_reads_a_sequences_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seqs.fasta").write_text(">a\nACGU\n>b\nGGATCACGT\n")
    (tmp_path / "more.fasta").write_text(">c\nCC\n")
    for name in ("seqs.fasta", "more.fasta"):  # two segments
        run(RunOptions("rna", tmp_path / name, tmp_path / "cache" / "mine", "profile", quiet=True))
    (folder,) = (tmp_path / "cache" / "mine" / "embeddings" / "rna").iterdir()
    (folder / "segments" / ("0" * 32)).mkdir()  # another writer at work
    text = (ROOT / "docs" / "format.md").read_text()
    match = re.search(r"```python\n(.*?)```", text, re.S)
    assert match is not None
    script = match[1]
    assert len(script.splitlines()) == 6
    assert "crossllm" not in script
    monkeypatch.chdir(tmp_path)
    found: dict[str, list[np.ndarray]] = {}
    exec(compile(script, "format.md", "exec"), found)
    (rows,) = found["rows"]
    from crossllm.cache import choose_recipe

    reader = CacheReader(tmp_path / "cache" / "mine", choose_recipe(tmp_path / "cache" / "mine", "rna", None))
    assert rows.tobytes() == reader[key_of("rna", "GGAUCACGU")].tobytes()


GOLDEN = ["format-1", "format-1-h5", "format-1-zstd"]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_caches_of_every_version_are_read_for_ever(name: str) -> None:
    """Each was written once by the first release of its kind of segment (tests/data/make_golden.py)."""
    folder = ROOT / "tests" / "data" / name
    reader = CacheReader(folder, choose_recipe(folder, "rna", None))
    assert not verify(folder, data=True).damage
    by_words = {key: rows for _, _, key, rows in read_cache(folder)}
    for letters in ("A", "ACGU", "GGAUC" * 9):
        expected = np.outer(np.arange(len(letters)), np.arange(1, 5)).astype(np.float16)
        assert (reader[key_of("rna", letters)] == expected).all()
        assert by_words[key_of("rna", letters)] == expected.tobytes()
    assert len(by_words) == len(reader) == 3


def test_the_writer_still_writes_what_it_released(tmp_path: Path) -> None:
    """Byte for byte where no library has a say: the plain Zarr segment of the first release."""
    recipe = Recipe("rna", "profile", 1, 4, tokenizer="letters")
    with CacheWriter(tmp_path, recipe) as writer:
        for letters in ("A", "ACGU", "GGAUC" * 9):
            writer.add(key_of("rna", letters), np.outer(np.arange(len(letters)), np.arange(1, 5)))
    (new,), (old,) = (
        (recipe.folder(root) / "segments").iterdir() for root in (tmp_path, ROOT / "tests" / "data" / "format-1")
    )
    files = [p.relative_to(old) for p in old.rglob("*") if p.is_file()]
    assert {p.relative_to(new) for p in new.rglob("*") if p.is_file()} == set(files)
    assert all((new / name).read_bytes() == (old / name).read_bytes() for name in files)


def test_the_reader_by_words_uses_nothing_of_ours() -> None:
    """Its words are docs/format.md's; only the frames of zstd are numcodecs's to decode."""
    tree = ast.parse((ROOT / "tests" / "reader_by_words.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"hashlib", "json", "mmap", "re", "struct", "collections.abc", "pathlib", "typing", "numcodecs.zstd"}
    assert modules == ours
    assert by_words_crc(b"123456789") == 0xE3069283, "the check value of format.md"


@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind.name)
def test_a_reader_by_the_words_of_format_md_reads_every_store(
    tmp_path: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray], kind: Kind
) -> None:
    """Several segments, one superseded, leftovers of writers beside them."""
    write(tmp_path, recipe, made_rows, kind, segment_bytes=64 << 10)
    key = key_of("rna", "C")
    for value in (1, 2):
        write(tmp_path, recipe, {key: np.full((3000, 24), value, np.float16)}, kind)  # more than one inner chunk
    first, second = [s for s in open_segments(tmp_path, recipe) if s.commit.rows == 3000]
    resign(second.path, supersedes=(first.path.name,))
    kept = second.rows(0).tobytes()
    folder = recipe.folder(tmp_path)
    (folder / "segments" / ("0" * 32)).mkdir()
    (folder / "segments" / f".writer-{'0' * 32}.json").write_text("{")
    (folder / "commits" / ".tmp-1").write_text("{")
    found = {key: rows for _, _, key, rows in read_cache(tmp_path)}
    assert found.pop(key) == kept
    assert found == {key: rows.tobytes() for key, rows in made_rows.items()}
    for name in ("rows", "offsets", "digest", "crc32c"):
        path, at, count = place(second.path, second.commit, name, kind)
        for spot in (0, count // 2, count - 1):
            flip(path, at + spot)
            with pytest.raises((ValueError, RuntimeError)):  # RuntimeError: zstd's
                list(read_cache(tmp_path))
            flip(path, at + spot)


@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind.name)
def test_a_commit_survives_only_in_the_order_of_format_md(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Every file is synced before its folder, folders before the commit record, that before `commit` returns."""
    import os

    from crossllm.cache.files import fsio

    log: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        log.append("fsync " + str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        log.append(f"link {target}")
        real_link(source, target)

    monkeypatch.setattr(fsio.os, "fsync", fsync)
    monkeypatch.setattr(fsio.os, "link", link)
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to name descriptors")
    with CacheWriter(tmp_path, recipe, store=kind.store, compressor=kind.compressor) as writer:
        writer.add(key_of("rna", "A"), np.ones((1, 24)))
        log.clear()
    (segment,) = (recipe.folder(tmp_path) / "segments").iterdir()
    at = {entry: n for n, entry in enumerate(log)}
    files = [p for p in segment.rglob("*") if p.is_file()]
    published = at[f"link {recipe.folder(tmp_path) / 'commits' / (segment.name + '.json')}"]
    for path in segment.rglob("*"):
        assert at[f"fsync {path}"] < at[f"fsync {path.parent}"], f"{path} before its folder"
    assert len(files) == (1 if kind.store == "h5" else 9)
    assert at[f"fsync {segment}"] < at[f"fsync {segment.parent}"] < published
    assert "fsync" in log[published - 1], "the record's own bytes before its name"
    assert ".tmp-" in log[published - 1]
    assert log[-1] == f"fsync {segment.parent.parent / 'commits'}"
