"""What stands at the scheduler of a task that a worker has begun, for whoever has the task next.

distributed gives a task whose worker has gone to the next one.  It must not be tried there in silence: it may be what
killed the worker, or the worker may be about to keep what it has done of it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

STOPPING = 15.0
"""Seconds in which a worker that is told to stop has kept what it has."""


class Marks(NamedTuple):
    """Names of the events of one task."""

    begun: str
    """Set when a worker begins the task, cleared when it has answered."""
    leaving: str
    """Set by a worker that is told to end in the middle of it."""
    left: str
    """Set when such a worker has kept what it did."""

    @classmethod
    def of(cls, run: str, number: int) -> Marks:
        """Those of a run's task."""
        return cls(*(f"{run}-{number}-{name}" for name in cls._fields))


class NotDone(Enum):
    """A worker's answer in place of a result."""

    STOPPED = "told to end before or in the middle of it; what was done is kept"
    BEGUN = "another worker had begun it"


class Raised(NamedTuple):
    """The same, of an error.  As an answer: Dask's own way loses what it cannot take apart, and the run would wait."""

    error: Exception
