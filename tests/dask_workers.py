"""The worker processes of a cluster that a test has started."""

from __future__ import annotations

from contextlib import suppress

import psutil


def workers_of(parent: int) -> list[psutil.Process]:
    """The worker processes of a cluster that a process has started."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):  # one that has just ended has no command line
            if "--multiprocessing-fork" in child.cmdline():
                found.append(child)
    return found
