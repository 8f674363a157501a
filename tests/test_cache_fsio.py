"""How a file gets its name, on a system with hard links and on one without."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crossllm.cache.files import fsio


@pytest.fixture(params=["hard links", "none here"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if request.param == "none here":
        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


def test_a_name_is_given_once(links: str, tmp_path: Path) -> None:
    assert fsio.publish(tmp_path / "a", b"one")
    assert not fsio.publish(tmp_path / "a", b"two")
    (tmp_path / "made").write_bytes(b"three")
    assert not fsio.move_new(tmp_path / "made", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "made").exists(), "nothing moved"
    assert fsio.move_new(tmp_path / "made", tmp_path / "b")
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == [("a", b"one"), ("b", b"three")]


def test_another_failure_is_not_taken_for_a_lack_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        fsio.publish(tmp_path / "a", b"one")
    assert not list(tmp_path.iterdir())
