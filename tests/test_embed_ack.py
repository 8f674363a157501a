"""`embed run --ack-fd`: what is said to be committed, and to whom."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_operations import SEQUENCES, contents, embed_run, write_input
from faultio import FaultyOs, Op, installed

from crossllm.cache.console import runner
from crossllm.embed.cli import embed
from crossllm.embed.run.ack import Acknowledger


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("descriptor", ["99", "readable"])
def test_a_bad_descriptor_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], descriptor: str
) -> None:
    write_input(tmp_path / "cache")
    with (tmp_path / "in.fasta").open() as readable:
        number = descriptor if descriptor == "99" else str(readable.fileno())
        arguments = ["run", "--modality", "rna", "--input", "absent.fasta", "--encoder", "profile", "--ack-fd", number]
        with pytest.raises(SystemExit) as ended:
            runner.run(embed, [*arguments, "--cache", str(tmp_path / "cache")])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line == (f"error: --ack-fd: descriptor {number} is not open for writing; open it, e.g. `{number}>acks.txt`")
    assert not (tmp_path / "cache").exists()


def test_acknowledged_is_what_is_committed(tmp_path: Path) -> None:
    write_input(tmp_path / "cache")
    with (tmp_path / "acks").open("ab") as acks:
        embed_run(tmp_path / "cache", acks.fileno())
        lines = (tmp_path / "acks").read_text().splitlines()
        assert sorted(lines) == sorted(name.split()[1] for name in contents(tmp_path / "cache"))
        assert len(lines) == len(SEQUENCES)
        embed_run(tmp_path / "cache", acks.fileno())
    assert (tmp_path / "acks").read_text().splitlines() == lines, "nothing new, nothing more to say"


def test_an_acknowledgement_comes_after_the_commit_is_on_disk(tmp_path: Path) -> None:
    """And before the marker of the writer goes, which could fail."""
    write_input(tmp_path / "cache", 1)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    told: list[str] = []

    def look(_n: int, op: Op) -> None:
        with suppress(BlockingIOError):
            told.extend(["ack"] * len(os.read(reader, 1000).splitlines()))
        told.append(f"{op.kind} {Path(op.path).name if 'commits' in op.path else ''}".strip())

    with installed(FaultyOs()) as shim:
        shim.on_op = look
        embed_run(tmp_path / "cache", writer)
    os.close(writer)
    os.close(reader)
    at = told.index("ack")
    assert told[at - 1] == "fsync dir commits"
    assert told[at + 1].startswith("unlink")


def test_a_reader_of_acks_that_went_away_does_not_stop_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_input(tmp_path / "cache")
    reader, writer = os.pipe()
    os.close(reader)
    embed_run(tmp_path / "cache", writer)
    os.close(writer)
    assert len(contents(tmp_path / "cache")) == len(SEQUENCES)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "--ack-fd" in line]
    assert line == f"note: --ack-fd {writer}: Broken pipe; the run goes on, no more keys are written"


def test_a_device_that_is_full_does_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "cache")
    with open("/dev/full", "wb", buffering=0) as full:
        embed_run(tmp_path / "cache", full.fileno())
        said = f"note: --ack-fd {full.fileno()}: No space left on device; the run goes on, no more keys are written"
    assert len(contents(tmp_path / "cache")) == len(SEQUENCES)
    assert [line for line in capsys.readouterr().err.splitlines() if "--ack-fd" in line] == [said]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE])
def test_what_a_descriptor_answers_at_first_is_taken_as_later(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[bytes] = []

    def fails(_descriptor: int, data: bytes) -> int:
        written.append(data)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("crossllm.embed.run.ack.os.write", fails)
    Acknowledger(7)([bytes(32)])
    assert written == [b""], "given up at the first look"
    said = f"note: --ack-fd 7: {os.strerror(number)}; the run goes on, no more keys are written\n"
    assert capsys.readouterr().err == said


def test_acks_wait_for_a_slow_reader(tmp_path: Path) -> None:
    """A descriptor that does not block, and is full: nothing is left out and no line is cut."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    keys = [bytes([n % 256]) * 32 for n in range(5000)]
    found: list[bytes] = []

    def read_all() -> None:
        with open(reader, "rb") as file:
            found.extend(file)

    thread = threading.Thread(target=read_all)
    acknowledge = Acknowledger(writer)
    for full in (keys[:1000], keys[1000:]):
        if full is not keys[:1000] and not thread.is_alive():
            thread.start()
        acknowledge(full)
    os.close(writer)
    thread.join()
    assert found == [key.hex().encode() + b"\n" for key in keys]
