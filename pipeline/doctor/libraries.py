"""The libraries that the project needs: their versions, whether they are new enough, and whether they can be loaded."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from typing import NamedTuple

from crossllm.checks import Check

_SECTION = "libraries"
_MODULES = {"scikit-learn": "sklearn", "tomli-w": "tomli_w"}
"""Distribution → module, where the names differ."""
OPTIONAL = {"triton": "triton", "mamba-ssm": "mamba_ssm", "flash-attn": "flash_attn", "pandas": "pandas"}
"""Distribution → module of what is used where it is there."""


class Wanted(NamedTuple):
    """A library as pyproject.toml asks for it."""

    name: str
    least: str
    """The lowest version; empty where any will do."""


def wanted() -> list[Wanted]:
    """The project's dependencies, without extras; none where the project itself is not installed."""
    found = []
    try:
        lines = metadata.requires("crossllm-mamba") or []
    except metadata.PackageNotFoundError:
        return []
    for line in lines:
        if ";" not in line and (name := re.match(r"[\w.-]+", line)) is not None:
            least = re.search(r">=\s*([\d.]+)", line)
            found.append(Wanted(name[0], least[1] if least else ""))
    return found


def check_library(name: str) -> list[Check]:
    """Load one; it is asked for its version, and that is held to pyproject.toml.

    Args:
        name: of the distribution.

    Raises:
        Exception: whatever the library raises.
    """
    needed = name not in OPTIONAL
    least = next((one.least for one in wanted() if one.name == name), "")
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if not needed:
            return [Check(_SECTION, name, "absent", "not installed", needed=False)]
        mend = f"pip install '{name}{f'>={least}' if least else ''}'"
        return [Check(_SECTION, name, "broken", "not installed", mend)]
    if least and _numbers(version) < _numbers(least):
        said = f"{version} is installed, {least} or newer is needed"
        return [Check(_SECTION, name, "broken", said, f"pip install '{name}>={least}'", needed)]
    import_module(OPTIONAL.get(name) or _MODULES.get(name, name))
    return [Check(_SECTION, name, "ok", version, needed=needed)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0]))
