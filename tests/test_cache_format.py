"""docs/format.md holds: its script reads a cache, and so does a reader written from its words alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from cache import CacheReader, CacheWriter, Recipe, key_of
from embed.run import RunOptions, run


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
    assert len(script.splitlines()) == 5
    assert "crossllm" not in script
    monkeypatch.chdir(tmp_path)
    found: dict[str, list[np.ndarray]] = {}
    exec(compile(script, "format.md", "exec"), found)
    (rows,) = found["rows"]
    from cache import choose_recipe

    reader = CacheReader(tmp_path / "cache" / "mine", choose_recipe(tmp_path / "cache" / "mine", "rna", None))
    assert rows.tobytes() == reader[key_of("rna", "GGAUCACGU")].tobytes()


def test_a_reader_from_the_words_of_format_md_alone(
    made_cache: Path, recipe: Recipe, made_rows: dict[bytes, np.ndarray]
) -> None:
    """No zarr and nothing of ours: json, a file's bytes, the index of its shard."""
    found = {}
    (folder,) = (made_cache / "embeddings" / "rna").iterdir()
    made_with = json.loads((folder / "recipe.json").read_bytes())
    for path in (folder / "commits").glob("*.json"):
        commit = json.loads(path.read_bytes())
        segment = folder / "segments" / commit["segment"]
        assert {str(p.relative_to(segment)) for p in segment.rglob("*") if p.is_file()} == set(commit["files"])
        assert all((segment / name).stat().st_size == size for name, (size, _) in commit["files"].items())
        offsets = np.frombuffer((segment / "offsets/c/0").read_bytes(), "<i8")
        digest = (segment / "digest/c/0/0").read_bytes()
        meta = json.loads((segment / "rows/zarr.json").read_bytes())
        inner = meta["codecs"][0]["configuration"]["chunk_shape"][0]
        shard = (segment / "rows/c/0/0").read_bytes()
        chunks = meta["chunk_grid"]["configuration"]["chunk_shape"][0] // inner
        index = np.frombuffer(shard[-16 * chunks - 4 : -4], "<u8").reshape(chunks, 2)
        chunk_bytes = inner * made_with["dim"] * 2
        assert (index == [[i * chunk_bytes, chunk_bytes] for i in range(chunks)]).all()
        rows = np.frombuffer(shard[: commit["rows"] * made_with["dim"] * 2], "<f2").reshape(-1, made_with["dim"])
        for i in range(commit["records"]):
            found[digest[32 * i : 32 * i + 32]] = rows[offsets[i] : offsets[i + 1]]
    assert found.keys() == made_rows.keys()
    assert all(found[key].tobytes() == rows.tobytes() for key, rows in made_rows.items())


def test_a_commit_survives_only_in_the_order_of_format_md(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is synced before its folder, folders before the commit record, that before `commit` returns."""
    import os

    from cache import fsio

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
    with CacheWriter(tmp_path, recipe) as writer:
        writer.add(key_of("rna", "A"), np.ones((1, 24)))
        log.clear()
    (segment,) = (recipe.folder(tmp_path) / "segments").iterdir()
    at = {entry: n for n, entry in enumerate(log)}
    files = [p for p in segment.rglob("*") if p.is_file()]
    published = at[f"link {recipe.folder(tmp_path) / 'commits' / (segment.name + '.json')}"]
    for path in segment.rglob("*"):
        assert at[f"fsync {path}"] < at[f"fsync {path.parent}"], f"{path} before its folder"
    assert len(files) == 9
    assert at[f"fsync {segment}"] < at[f"fsync {segment.parent}"] < published
    assert "fsync" in log[published - 1], "the record's own bytes before its name"
    assert ".tmp-" in log[published - 1]
    assert log[-1] == f"fsync {segment.parent.parent / 'commits'}"
