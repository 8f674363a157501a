"""What torchrun, or whoever starts the processes as it does, says to each in its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from crossllm.cache.errors import InputError, printable

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MOST = 1 << 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Launched(NamedTuple):
    """One of several processes."""

    rank: int
    processes: int
    local_rank: int
    """Of those on this machine."""
    address: str
    """Of the first one's machine."""
    port: int
    hosted: bool
    """Whether the launcher holds the store through which they find each other; else the first process does."""
    attempt: int
    """How often the launcher has started them again."""


def launched(environment: Mapping[str, str] = os.environ) -> Launched | None:
    """Which of several processes this is; None: it is the only one.

    Raises:
        InputError: a variable is missing, or is no number in its range.
    """
    count = _number(environment, "WORLD_SIZE", 1, _MOST) if environment.get("WORLD_SIZE") else 1
    if count == 1:
        return None
    if missing := [name for name in _NAMES if not environment.get(name)]:
        raise InputError(
            f"WORLD_SIZE is {count} and {', '.join(missing)} is not set; start the processes with "
            f"`torchrun --nproc-per-node={count} $(which train) …`, or unset WORLD_SIZE"
        )
    rank = _number(environment, "RANK", 0, count - 1)
    return Launched(
        rank,
        count,
        _number(environment, "LOCAL_RANK", 0, count - 1) if environment.get("LOCAL_RANK") else rank,
        environment["MASTER_ADDR"],
        _number(environment, "MASTER_PORT", 1, _MOST - 1),
        environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        _number(environment, "TORCHELASTIC_RESTART_COUNT", 0, _MOST)
        if environment.get("TORCHELASTIC_RESTART_COUNT")
        else 0,
    )


def refuse_several(what: str) -> None:
    """Raise `InputError` where several processes were launched for something that is one's work."""
    if (found := launched()) is not None:
        raise InputError(
            f"{what}: is one process, and WORLD_SIZE is {found.processes}; start it without torchrun, or unset "
            "WORLD_SIZE"
        )


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise InputError(f"{name} is '{printable(text)}', expected {least} to {most}; torchrun sets it")
    return int(text)
