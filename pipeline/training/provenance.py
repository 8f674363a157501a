"""`provenance.json`: with what a run was begun, as far as no number hangs on it: command, versions, commit, machine.

What numbers hang on stands in `config.toml`.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossllm.cache.errors import CrossLLMError
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json

NAME = "provenance.json"
_MAX_JSON = 1 << 20
_PROGRAMS = ("train", "crossllm")
_PACKAGES = ("crossllm-mamba", "torch", "numpy", "scipy", "scikit-learn", "numba")


def record_provenance(folder: Path) -> None:
    """Put it into a run's folder, once: a run that is gone on with keeps what it was begun with."""
    if (folder / NAME).exists():
        return
    program, *arguments = sys.argv or [""]
    named = Path(program).name in _PROGRAMS
    body = {
        "command": shlex.join([Path(program).name, *arguments]) if named else None,
        "commit": checkout_commit(Path(__file__).parents[2]),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    fsio.replace(folder / NAME, json.dumps(body, indent=1).encode())


def read_provenance(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it; empty where it says nothing that can be read: it is no result."""
    try:
        return parse_json(read_bytes(folder / NAME, _MAX_JSON), folder / NAME)
    except (OSError, CrossLLMError):
        return {}


def checkout_commit(root: Path) -> str | None:
    """The commit that a git checkout is at, read from its files, so that no git is needed; None where it is none.

    Whether files were changed since is not known.
    """
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return _commit(head)
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return _commit((git / name).read_text().strip())
        packed = (line.split() for line in (git / "packed-refs").read_text().splitlines())
        return next((_commit(words[0]) for words in packed if words[1:] == [name]), None)
    except (OSError, ValueError):
        return None


def _commit(text: str) -> str | None:
    return text if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
