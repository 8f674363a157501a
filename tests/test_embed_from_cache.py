"""`embed run --from-cache`: rows of the same recipe are taken from another cache, and only the rest is embedded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from conftest import Program

from crossllm.cache import CacheReader, Conflict, choose_recipe
from crossllm.cache.errors import InputError
from crossllm.cache.files import fsio
from crossllm.cache.maintenance.inspection import verify
from crossllm.cache.records.shards import Shard
from crossllm.embed.encoders.profile import ProfileEncoder
from crossllm.embed.run.dry_run import dry_run
from crossllm.embed.run.plan import RunOptions
from crossllm.embed.run.run import run


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    path.write_text("".join(f">{id_}\n{sequence}\n" for id_, sequence in sequences.items()))
    return path


def rows(cache_dir: Path) -> dict[bytes, bytes]:
    reader = CacheReader(cache_dir, choose_recipe(cache_dir, "rna", None))
    return {key: reader[key].tobytes() for key in reader}


def row_files(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.glob("embeddings/rna/*/segments/*/rows/c/0/0"))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file of 5, the same with 3 more, and one that has two of the first alone; `other` holds the first."""
    made = {f"r{n}": "ACGU" * n + "GG" for n in range(1, 9)}
    parts = {"old": slice(0, 5), "grown": slice(0, 8), "few": slice(3, 7)}
    found = {name: write_fasta(tmp_path / f"{name}.fasta", dict([*made.items()][at])) for name, at in parts.items()}
    run(RunOptions("rna", found["old"], tmp_path / "other", "profile", quiet=True))
    run(RunOptions("rna", found["grown"], tmp_path / "whole", "profile", quiet=True))
    return found


def test_the_rest_alone_is_embedded_and_the_segment_is_linked(files: dict[str, Path], tmp_path: Path) -> None:
    asked = RunOptions("rna", files["grown"], tmp_path / "c", "profile", from_cache=tmp_path / "other", quiet=True)
    planned = dry_run(asked)
    assert (planned.already, planned.elsewhere, planned.pending) == (0, 5, 3)
    done = run(asked)
    assert (done.already, done.copied, done.embedded) == (0, 5, 3)
    assert [(one.already, one.copied, one.embedded) for one in done.recipes] == [(0, 5, 3)]
    assert rows(tmp_path / "c") == rows(tmp_path / "whole")
    shared = {path.stat().st_ino for path in row_files(tmp_path / "other")}
    assert shared <= {path.stat().st_ino for path in row_files(tmp_path / "c")}
    again = run(asked)
    assert (again.already, again.copied, again.embedded) == (8, 0, 0)
    assert not verify(tmp_path / "c", data=True).damage


def test_of_a_segment_that_is_not_wanted_whole_records_are_copied(files: dict[str, Path], tmp_path: Path) -> None:
    done = run(RunOptions("rna", files["few"], tmp_path / "c", "profile", from_cache=tmp_path / "other", quiet=True))
    assert (done.copied, done.embedded) == (2, 2)
    whole = rows(tmp_path / "whole")
    assert {key: whole[key] for key in rows(tmp_path / "c")} == rows(tmp_path / "c")
    assert len(rows(tmp_path / "c")) == 4


def test_no_encoder_runs_where_the_other_has_all(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program
) -> None:
    def not_to_be_called(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(ProfileEncoder, "encode", not_to_be_called)
    run(RunOptions("rna", files["old"], tmp_path / "c", "profile", from_cache=tmp_path / "whole", quiet=True))
    assert len(rows(tmp_path / "c")) == 5
    asked = ("embed", "run", "--modality", "rna", "--encoder", "profile", "-i", files["old"])
    said = program(*asked, "-c", "d", "--from-cache", "whole").stdout
    assert "nothing to embed, 5 copied, 0 are in d" in said


def test_a_damaged_record_is_said_and_embedded(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = row_files(tmp_path / "other")
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    done = run(RunOptions("rna", files["grown"], tmp_path / "c", "profile", from_cache=tmp_path / "other", quiet=True))
    assert (done.copied, done.embedded) == (4, 4)
    assert "embedded again here" in capsys.readouterr().err
    assert rows(tmp_path / "c") == rows(tmp_path / "whole")


def test_another_recipe_is_refused_and_none_is_said(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = RunOptions("rna", files["old"], tmp_path / "c", "profile", dtype="float32", from_cache=tmp_path / "other")
    with pytest.raises(Conflict, match="dtype: float32, not float16"):
        run(asked)
    assert not (tmp_path / "c").exists()
    (tmp_path / "empty" / "records").mkdir(parents=True)
    run(RunOptions("rna", files["old"], tmp_path / "c", "profile", from_cache=tmp_path / "empty"))
    assert "has no rows of profile-" in capsys.readouterr().err
    for wrong, says in (("c", "is the cache that is written"), ("nowhere", "no cache here .*; check the path")):
        with pytest.raises(InputError, match=says):
            run(RunOptions("rna", files["old"], tmp_path / "c", "profile", from_cache=tmp_path / wrong))


@pytest.mark.parametrize("clones", [True, False])
def test_where_there_are_no_hard_links_a_reflink_is_made_or_records_are_copied(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clones: bool
) -> None:
    """The file system here has no reflinks: what the ioctl does is stood in for by a copy."""
    fcntl = pytest.importorskip("fcntl")
    cloned: list[int] = []

    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def ioctl(new: int, request: int, old: int) -> int:
        assert request == 0x40049409
        if not clones:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        cloned.append(os.write(new, os.pread(old, 1 << 30, 0)))
        return 0

    real_link = os.link
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(os, "link", lambda *a, **k: (no_link if "follow_symlinks" in k else real_link)(*a, **k))
    done = run(RunOptions("rna", files["grown"], tmp_path / "c", "profile", from_cache=tmp_path / "other", quiet=True))
    assert (done.copied, done.embedded) == (5, 3)
    assert rows(tmp_path / "c") == rows(tmp_path / "whole")
    assert bool(cloned) == clones
    assert not verify(tmp_path / "c", data=True).damage


def test_a_name_that_is_taken_is_not_written_over(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        fsio.link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"


def test_shards_take_their_own_part(files: dict[str, Path], tmp_path: Path) -> None:
    done = [
        run(
            RunOptions(
                "rna",
                files["grown"],
                tmp_path / "c",
                "profile",
                shard=Shard(n, 3),
                from_cache=tmp_path / "other",
                quiet=True,
            )
        )
        for n in range(3)
    ]
    assert (sum(one.copied for one in done), sum(one.embedded for one in done)) == (5, 3)
    assert rows(tmp_path / "c") == rows(tmp_path / "whole")
