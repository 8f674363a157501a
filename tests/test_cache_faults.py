"""RELIABILITY P4, P5: a full disk, an I/O error and a short write at every operation, and disks that are full."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT
from fault_operations import (
    SEGMENT_BYTES,
    broken_promises,
    contents,
    copy_start,
    embed_run,
    write_input,
)
from faultio import MAY_RAISE, Fail, FaultyOs, Op, installed

from crossllm.cache.console import runner
from crossllm.embed.cli import embed

pytestmark = pytest.mark.slow

SHORT = 0
ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "EMFILE": errno.EMFILE, "short": SHORT}
CHAOS = bool(os.environ.get("CROSSLLM_CHAOS"))
SIZES = range(1 << 20, 7 << 20, (6 << 20) // (30 if CHAOS else 8))


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    errors: list[str]
    """Lines of standard error that begin with `error: `."""
    acked: set[str]
    """Keys in hex."""
    tried: list[Op]
    """Operations begun, those that failed included."""
    raised: int


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def embed_cli(cache: Path, capsys: pytest.CaptureFixture[str], shim: FaultyOs) -> Ran:
    """`embed run … --ack-fd` in this process, through the code that turns errors into exit codes."""
    tried: list[Op] = []
    shim.on_op = lambda _n, op: tried.append(op)
    fasta, acks = cache.parent / "in.fasta", cache.parent / "acks"
    descriptor = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    arguments = ["run", "--modality", "rna", "--input", fasta, "--cache", cache, "--encoder", "profile", "--quiet"]
    arguments += ["--segment-bytes", SEGMENT_BYTES, "--ack-fd", descriptor]
    capsys.readouterr()
    try:
        with installed(shim), pytest.raises(SystemExit) as ended:
            runner.run(embed, list(map(str, arguments)))
    finally:
        os.close(descriptor)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return Ran(int(ended.value.code or 0), lines, set(acks.read_text().split()), tried, shim.raised)


@pytest.fixture
def start(request: pytest.FixtureRequest, memory: Path) -> Path:
    """One sequence to embed, in no cache or in one that holds others."""
    folder = memory / "start"
    folder.mkdir()
    cache = folder / "cache"
    if request.param == "continued":
        write_input(cache, 2)
        embed_run(cache)
    write_input(cache, 3 if request.param == "continued" else 1)
    return folder


def leftover_bytes(cache: Path) -> int:
    """Bytes of what no reader will ever look at."""
    named = {path.stem for path in cache.glob("embeddings/*/*/commits/*.json")}
    files = [path for path in cache.rglob("*") if path.is_file()]
    segments = [path for path in files if "segments" in path.parts and not named & set(path.parts)]
    return sum(p.stat().st_size for p in {*segments, *(p for p in files if p.name.startswith(".tmp-"))})


def enough(start: str, name: str, sticky: bool) -> bool:
    """Outside `make chaos`: a used up quota is a full disk, and what fails for good does it where there are rows."""
    return not (name == "EDQUOT" and (sticky or start == "continued")) and not (
        start == "fresh" and sticky and name != "ENOSPC"
    )


@pytest.mark.parametrize(
    ("start", "name", "sticky"),
    [
        pytest.param(start, name, sticky, id=f"{start}-{name}-{'sticky' if sticky else 'once'}")
        for start in ("fresh", "continued")
        for name in ERRORS
        for sticky in (False, True)
        if CHAOS or enough(start, name, sticky)
    ],
    indirect=["start"],
)
def test_every_operation_may_fail(
    start: Path, memory: Path, capsys: pytest.CaptureFixture[str], name: str, sticky: bool
) -> None:
    """Exit 4 and one line that names a path; nothing acknowledged is lost; the same command goes on when it can."""
    number = ERRORS[name]
    whole = copy_start(start, memory / "whole")
    before = contents(whole)
    total = embed_cli(whole, capsys, FaultyOs(opens=True))
    assert total.code == 0
    after = contents(whole)
    largest = max(sum(p.stat().st_size for p in s.rglob("*")) for s in whole.glob("embeddings/*/*/segments/*"))
    struck: Counter[str] = Counter()
    for n, op in enumerate(total.tried, start=1):
        if op.kind != "write" if number == SHORT else op.kind not in MAY_RAISE[number]:
            continue
        cache = copy_start(start, memory / "cut")
        ran = embed_cli(cache, capsys, FaultyOs(Fail(n, number, sticky), opens=True))
        where = f"{name} at operation {n}: {op._replace(data=b'')}"
        assert ran.raised, where
        struck[op.kind] += 1
        if number == SHORT:
            assert (ran.code, ran.errors) == (0, []), where
        else:
            assert ran.code == 4, where
            assert len(ran.errors) == 1, f"{where}: {ran.errors}"
            assert str(memory) in ran.errors[0], where
            if op.kind == "write" and number != errno.EIO:
                assert re.search(r"for [1-9]\d* more bytes", ran.errors[0]), ran.errors
        promised = before.keys() | {k for k in after if k.split()[1] in ran.acked}
        assert not (found := broken_promises(cache, before | after, promised)), f"{where}: {found}"
        assert leftover_bytes(cache) <= largest, where
        again = embed_cli(cache, capsys, FaultyOs())
        assert (again.code, contents(cache)) == (0, after), where
        if op.kind == "fsync" and number:
            refuse_second_sync(ran, again, op, before.keys())
        shutil.rmtree(memory / "cut")
    print(f"{name} {'sticky' if sticky else 'once'}: {struck.total()} operations: {dict(struck)}")
    assert struck.total() > 4


def refuse_second_sync(ran: Ran, again: Ran, op: Op, before: object) -> None:
    """P5: a file whose fsync failed is never synced again, and what it belongs to is written under a new name."""
    failed = [o.path for o in ran.tried if o.kind == "fsync"]
    synced = failed + [o.path for o in again.tried if o.kind == "fsync"]
    assert synced.count(failed[-1]) == 1, f"{failed[-1]} was synced again"
    if "/segments/" in op.path or "/commits/" in op.path:
        assert not ran.acked, "acknowledged although its fsync failed"
        assert again.acked


def test_a_short_write_of_nothing_is_an_error_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossllm.cache.files import fsio

    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(OSError, match="nothing was written"), fsio.SyncedFile(tmp_path / "a") as file:
        file.write(b"x")


def full_disk(tmp_path: Path, mode: str, sizes: list[int]) -> list[dict[str, object]]:
    command = [sys.executable, str(ROOT / "tests" / "full_disk.py"), str(tmp_path), mode, *map(str, sizes)]
    namespace = ["unshare", "-rm"] if mode == "tmpfs" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*namespace, *command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("mode", ["tmpfs", "limit"])
def test_a_disk_that_is_really_full(tmp_path: Path, mode: str) -> None:
    """File systems of 1 to 7 MiB, and files that may not grow beyond that, for some 4 MB of rows."""
    if mode == "tmpfs":
        probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
        if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
            pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    sizes = list(SIZES) if mode == "tmpfs" else [2000, 100_000, 700_000, 8 << 20]
    reports = full_disk(tmp_path, mode, sizes)
    for report in reports:
        assert (report["lost"], report["damage"]) == (0, []), report
        assert (report["again"], report["complete"]) == (0, True), report
        if report["code"]:
            lines = str(report["errors"]).splitlines()
            assert (report["code"], len(lines)) == (4, 1), report
            cure = "raise `ulimit -f`" if mode == "limit" else "free some space"
            assert re.match(rf"error: {re.escape(str(tmp_path))}/disk/\S+: .*; {cure}", lines[0]), report
    codes = Counter(report["code"] for report in reports)
    print(f"{mode}: {len(reports)} sizes, exit codes {dict(codes)}, {[report['acked'] for report in reports]} acked")
    assert codes.keys() == {0, 4}, "some sizes too small and some large enough"
    assert mode == "limit" or any(report["acked"] for report in reports if report["code"]), (
        "one that fails after a commit"
    )
