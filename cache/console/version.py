"""Which version of the program this is: that of what is installed, and the commit of a checkout."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
"""Of the checkout, where this is one; a folder of site-packages where it is not."""


def version_in_words() -> str:
    """`0.1.0`, and of a checkout `0.1.0 (commit 0123456789ab)`, with `changed since` where files differ from it."""
    try:
        found = version("crossllm-mamba")
    except PackageNotFoundError:
        found = "of a checkout that is not installed"
    if (at := commit()) is None:
        return found
    number, dash, _ = at.partition("-dirty")
    return f"{found} (commit {number}{', changed since' if dash else ''})"


def commit(root: Path = _ROOT) -> str | None:
    """The commit of a checkout, 12 digits, with `-dirty` where files differ; None where none can be told.

    Args:
        root: the checkout's folder; a folder above it is never looked at.
    """
    if not (root / ".git").exists():  # in a worktree it is a file
        return None
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            [*command, "--abbrev=12", "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of somebody else, which git refuses to read
        return None
    return done.stdout.strip() or None
