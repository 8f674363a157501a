"""Where a program may keep what it can do without: the user's cache folder, else a temporary folder of the user's own.

A container, a cluster's batch node and a service have users without a home, or with one that is not there.  Libraries
then write into a folder called `~`, or raise; `settle` names places to them before they are loaded.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

_MATPLOTLIB = "MPLCONFIGDIR"
LIBRARIES = {
    _MATPLOTLIB: "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Variable that tells a library where to keep its files → the folder it gets where the user has no cache folder."""


def user_cache() -> Path | None:
    """The user's cache folder (XDG base folders), made where it is absent; None where there is none to be written."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # the rule has a relative one ignored
        return named if can_be_written(named) else None
    # Not made: /nonexistent and its like say that the user has none.  Without a home this stays '~', no path at all.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 # of a path it raises
    if not home.is_absolute() or not home.is_dir() or home == Path(home.anchor):
        return None
    return home / ".cache" if can_be_written(home / ".cache") else None


def temporary() -> Path | None:
    """A folder in the system's temporary one that belongs to the user and is closed to all others; None where not.

    Machine code is loaded from it: a folder that somebody else made in advance under its name is never taken.
    """
    try:
        base = Path(tempfile.gettempdir()).resolve()
        if base == Path.cwd():  # Python's last resort; nobody asked for a folder there
            return None
        if not hasattr(os, "geteuid"):
            return base / "crossllm" if can_be_written(base / "crossllm") else None
        folder = base / f"crossllm-{os.geteuid()}"
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if own and can_be_written(folder) else None


def can_be_written(folder: Path) -> bool:
    """Whether a file can be made in the folder, which is made where it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def settle() -> None:
    """Name places to the libraries that keep files in a home, where the user has no cache folder; before they load."""
    homeless = not all(name in os.environ for name in LIBRARIES) and user_cache() is None
    wanted = {name for name in LIBRARIES if homeless and name not in os.environ}
    # Of a folder that it cannot write, also one that is named to it, matplotlib says two lines and takes a temporary
    # one; beside a cache folder it wants one for settings.
    if (_MATPLOTLIB in os.environ and not can_be_written(Path(os.environ[_MATPLOTLIB]))) or not _settings_fit():
        wanted.add(_MATPLOTLIB)
    if wanted and (folder := temporary()) is not None:
        for name in wanted:
            os.environ[name] = str(folder / LIBRARIES[name])


def _settings_fit() -> bool:
    """Whether matplotlib can make its folder of settings, or has been told where."""
    if _MATPLOTLIB in os.environ or not sys.platform.startswith("linux"):
        return True
    place = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "matplotlib")  # noqa: PTH111
    return os.access(next((p for p in (place, *place.parents) if p.exists()), place), os.W_OK | os.X_OK)
