"""The commands on caches in an object store: the walk-through of docs/cluster.md, what is refused, secrets, races."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, ROOT
from docs_pages import blocks_of, commands_of
from remote_commands import run
from s3_proxy import SECRET, Bucket, Rule
from zygote import ENTRY

from crossllm.cache import CacheReader, choose_recipe, open_cache
from crossllm.cache.remote import connection, held_file

FAULTS = ("lost_reply", "500", "slow", "409", "412", "503", "lost_request")


def files_with(folder: Path, text: str) -> list[Path]:
    """The files below a folder that hold a text, also as it is quoted in a URL."""
    wanted = [text.encode(), text.replace("/", "%2F").replace("+", "%2B").encode()]
    return [p for p in folder.rglob("*") if p.is_file() and any(w in p.read_bytes() for w in wanted)]


@pytest.mark.usefixtures("undrawn")
def test_the_walk_through_runs_under_faults(
    bucket: Bucket, inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed but for the bucket's name; the secret of the environment is in nothing that is said or written."""
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.002)
    bucket.proxy.slow_seconds = 0.05
    (inputs / "shard1.fasta").write_text(">s1\nGGAUCACGU\n>s9\nGGGGCCC\n")
    commands = [c for b in blocks_of(ROOT / "docs" / "cluster.md") if b.info == "sh s3" for c in commands_of(b)]
    assert len(commands) >= 9
    said = []
    for n, command in enumerate(commands):
        kind = FAULTS[n % len(FAULTS)]
        bucket.proxy.rules += [Rule(kind, "PUT", "commits/"), Rule(kind, "PUT", "segments/")]
        bucket.proxy.rules += [Rule("cut" if n % 2 else "500", "GET", path) for path in ("list-type", "segments/")]
        said += run(capsys, *[word.replace("my-bucket", bucket.name) for word in command.words])
    assert sum(bucket.proxy.met.values()) > 20
    assert "clean: 2 segments" in "".join(said)
    merged = open_cache(bucket.url("all"), inputs / "elsewhere")
    rna = choose_recipe(merged, "rna")
    here = CacheReader(inputs / "cache" / "all", choose_recipe(inputs / "cache" / "all", "rna"))
    there = CacheReader(merged, rna)
    assert set(there) == set(here)
    assert all(there[key].tobytes() == here[key].tobytes() for key in here)
    assert SECRET not in "".join(said)
    assert not files_with(inputs, SECRET)
    assert all(SECRET.encode() not in bucket.get(name) for name in bucket.names())


def test_embedding_again_embeds_what_is_new(bucket: Bucket, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("embed", "run", "--modality", "rna", "--encoder", "profile", "-c", bucket.url(), "--quiet", "--json")
    first = json.loads(run(capsys, *flags, "-i", "shard0.fasta")[0])
    again = json.loads(run(capsys, *flags, "-i", "rna.fasta", "--cache-local", inputs / "other")[0])
    assert first["cache"] == again["cache"] == bucket.url()
    assert (first["embedded"], again["already"], again["embedded"]) == (5, 5, 3)
    dry, _ = run(capsys, "embed", "run", "--modality", "rna", "-i", "rna.fasta", "--encoder", "profile", "-c",
                 bucket.url(), "--dry-run")  # fmt: skip
    assert "8 already there" in dry
    (recipe,) = json.loads(run(capsys, "crossllm", "cache", "info", bucket.url(), "--json")[0])["recipes"]
    assert (recipe["sequences"], recipe["segments"]) == (8, 2)


def test_two_programs_embed_into_one_address_with_one_folder_of_copies(bucket: Bucket, tmp_path: Path) -> None:
    letters = str.maketrans("0123", "ACGU")
    sequences = [f">r{n}\n{'ACGU' * 5}{np.base_repr(n, 4).translate(letters)}\n" for n in range(300)]
    (tmp_path / "a.fasta").write_text("".join(sequences[:200]))
    (tmp_path / "b.fasta").write_text("".join(sequences[100:]))
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ENTRY["embed"], "run", "--modality", "rna", "-i", name, "--encoder",
             "profile", "-c", bucket.url(), "--cache-local", "copies", "--segment-bytes", "200KiB", "--quiet"],
            cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ,
        )
        for name in ("a.fasta", "b.fasta")
    ]  # fmt: skip
    said = [one.communicate(timeout=100) for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    folder = open_cache(bucket.url(), tmp_path / "elsewhere")
    reader = CacheReader(folder, choose_recipe(folder, "rna"))
    assert len(reader) == 300
    assert all(np.isfinite(reader[key]).all() for key in reader)


def test_what_is_not_there_is_said_by_address(bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("crossllm", "cache", "info"), ("crossllm", "cache", "verify"), ("train", "-o", "runs/x")):
        _, err = run(capsys, *command, bucket.url("nothing"), code=2)
        (line,) = err.splitlines()
        assert line.startswith(f"error: {bucket.url('nothing')}")
        assert "user-cache" not in line
    _, err = run(capsys, "train", bucket.url(), code=2)
    assert "--out: is needed with s3://" in err
    _, err = run(capsys, "crossllm", "cache", "merge", "-c", "x", bucket.url(), "--link", code=2)
    assert "--link" in err


def test_the_flags_of_copies_need_an_address(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("--cache-local", "x"), ("--cache-bytes", "1GiB")):
        _, err = run(capsys, "crossllm", "cache", "info", "cache/seqs", *flags, code=2)
        assert "are for caches in object stores" in err
    assert "profile" in run(capsys, "crossllm", "cache", "info", f"file://{inputs}/cache/seqs")[0]


def test_without_the_extra_a_line_names_it(
    inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    _, err = run(capsys, "crossllm", "cache", "info", "s3://bucket/name", "--cache-local", inputs / "x", code=2)
    assert "pip install 'crossllm-mamba[s3]'" in err


@pytest.mark.parametrize(
    "address",
    [f"s3://user:{SECRET}@bucket/x", f"s3://bucket/x?X-Amz-Signature={SECRET}", f"https://u:{SECRET}@host/x",
     f"az://container/x?sig={SECRET}"],
)  # fmt: skip
def test_a_secret_in_an_address_is_not_repeated(address: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ("crossllm", "cache", "info", address), ("crossllm", "cache", "gc", address), ("train", address, "-o", "r"),
        ("embed", "run", "--modality", "rna", "-i", "rna.fasta", "-c", address),
        ("embed", "run", "--modality", "rna", "-i", address, "-c", "x"),
        ("crossllm", "data", "demo", "-c", address),
    ):  # fmt: skip
        out, err = run(capsys, *command, code=2)
        assert SECRET not in out + err
        assert len(err.splitlines()) == 1
    assert not files_with(inputs, SECRET)


def test_a_refused_login_is_not_repeated(
    bucket: Bucket, inputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setattr(connection, "RETRIES", 0)
    for fault, code in (("403", 2), ("401", 2), ("500", 4)):
        bucket.proxy.rules.append(Rule(fault, "GET", times=100))
        out, err = run(capsys, "crossllm", "cache", "info", bucket.url(), code=code)
        assert SECRET not in out + err
        assert re.fullmatch(rf"error: s3://{bucket.name}/cache.*\n", err)
        bucket.proxy.clear()
    for name, value in (("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9"), ("AWS_REGION", f"{SECRET}\n")):
        monkeypatch.setenv(name, value)
        out, err = run(capsys, "crossllm", "cache", "info", bucket.url(), code=2)
        assert SECRET not in out + err
        monkeypatch.setenv(name, "us-east-1")
    assert not files_with(inputs, SECRET)


def test_verify_finds_what_is_wrong_in_the_store(
    bucket: Bucket, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "embed", "run", "--modality", "rna", "-i", "rna.fasta", "--encoder", "profile", "-c", bucket.url())
    (name,) = [name for name in bucket.names() if name.endswith("rows/c/0/0")]
    whole = bucket.get(name)
    bucket.put(name.replace(name.split("/")[5], "0" * 32), whole)  # of a writer that was cut off
    out, err = run(capsys, "crossllm", "cache", "verify", bucket.url(), "--data")
    assert "clean: 1 segments, 8 records" in out
    assert "1 uncommitted segment folders" in err
    bucket.put(name, bytes([whole[0] ^ 1]) + whole[1:])
    _, err = run(capsys, "crossllm", "cache", "verify", bucket.url(), "--data", code=3)
    assert re.search(r"^error: s3://\S+/segments/[0-9a-f]{32}: record [0-9a-f]{64} \(r0\) does not match", err, re.M)
    run(capsys, "crossllm", "cache", "verify", bucket.url())  # structure alone
    bucket.delete(name)
    _, err = run(capsys, "crossllm", "cache", "verify", bucket.url(), code=3)
    assert "missing" in err
    assert not list((inputs / "user-cache").rglob(".fresh-*"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")
def test_a_second_reading_of_rpi1460_asks_for_no_rows(
    bucket: Bucket, tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sorted((real_data / "rpi1460").glob("*.fa*"))
    rna, protein = (next(p for p in found if word in p.name) for word in ("rna", "protein"))
    for modality, path in (("rna", rna), ("protein", protein)):
        run(capsys, "embed", "run", "--modality", modality, "-i", path, "--encoder", "profile", "-c", bucket.url(),
            "--on-bad", "skip", "--cache-local", tmp_path / "writer", "--quiet")  # fmt: skip
    rows = []
    for _ in range(2):
        bucket.proxy.clear()
        folder = open_cache(bucket.url(), tmp_path / "reader")
        readers = [CacheReader(folder, choose_recipe(folder, modality)) for modality in ("rna", "protein")]
        sums = [reader.gather(list(reader)).rows.sum(dtype=np.float64) for reader in readers]
        rows.append((len(bucket.proxy.of_rows()), sums))
    (first, sums), (second, again) = rows
    assert first > 0
    assert second == 0
    assert sums == again
    size = sum(p.stat().st_size for p in (tmp_path / "writer").rglob("rows/c/0/0"))
    assert first <= size // (held_file.GRAIN * 8) + 8, "large requests"
