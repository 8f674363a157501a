"""`TaskPlugin`: a worker's part in a run.  One task at a time, and one that another worker had begun is not tried."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from socket import gethostname
from threading import Event, Lock
from traceback import format_exc
from typing import Any

from distributed import Event as SharedEvent
from distributed import WorkerPlugin, get_worker
from distributed.utils import sync

from crossllm.cache.cluster.marks import STOPPING, Marks, NotDone, Raised


class _Line:
    """A worker's own line to the scheduler, in place of a whole client in each worker."""

    def __init__(self, worker: Any) -> None:
        self.scheduler, self._loop = worker.scheduler, worker.loop

    def sync(self, call: Callable[..., Any], **named: Any) -> Any:
        """What a call of the event loop gives."""
        return sync(self._loop, call, **named)


class TaskPlugin(WorkerPlugin, ABC):
    """Does the tasks of one run in a worker, until the run is over or the worker ends."""

    def setup(self, worker: Any) -> None:
        """Called in each worker, those that come later too."""
        self._busy, self.stopping = Lock(), Event()
        self._line = _Line(worker)
        self._at: Marks | None = None

    async def teardown(self, worker: Any) -> None:
        """Called when the run or the worker ends: the task at hand stops, and is waited for.

        A worker that is closed is not cut off from its scheduler, nor ended, before this is over.
        """
        self.stopping.set()
        if (at := self._at) is not None:
            await self._line.scheduler.event_set(name=at.leaving)
        if await asyncio.to_thread(self._busy.acquire, timeout=STOPPING):
            self._busy.release()  # tasks that wait for it are answered

    def prepare(self) -> None:
        """What a task needs, made before the first one is begun."""

    @abstractmethod
    def work(self, *arguments: Any) -> Any:
        """The result of a task; None where `stopping` has cut it off."""

    def do(self, run: str, number: int, *arguments: object) -> Any:
        """`work`, unless another worker had begun it; one at a time, however many threads the worker has."""
        with self._busy:
            if self.stopping.is_set():
                return NotDone.STOPPED
            self.prepare()
            marks = Marks.of(run, number)
            begun = SharedEvent(marks.begun, client=self._line)
            if begun.is_set():
                return NotDone.BEGUN
            begun.set()
            self._at = marks
            try:
                result = self.work(*arguments)
            finally:
                self._at = None
                if self.stopping.is_set():  # nobody may hear the answer
                    SharedEvent(marks.left, client=self._line).set()
                else:
                    begun.clear()
            return NotDone.STOPPED if result is None else result


def do_task(run: str, number: int, *arguments: object) -> Any:
    """A task of a run: see `TaskPlugin.do`."""
    plugin = get_worker().plugins.get(run)
    if not isinstance(plugin, TaskPlugin):
        return NotDone.STOPPED
    try:
        return plugin.do(run, number, *arguments)
    except Exception as error:
        error.add_note(f"in the worker on {gethostname()}:\n{format_exc(limit=-8)}")
        error.__traceback__ = error.__context__ = error.__cause__ = None  # frames need not survive the journey
        return Raised(error)
