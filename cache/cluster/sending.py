"""Tasks on their way to the workers of a cluster, and their answers, one after the other.

A task is answered by what a worker's `TaskPlugin` gives, or by what became of its worker (`Fate`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import uuid4

from crossllm.cache.cluster.marks import STOPPING, Marks, NotDone, Raised
from crossllm.cache.cluster.opening import PATIENCE, START, Cluster, within
from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, one_line

if TYPE_CHECKING:
    from distributed import Event, Future

    from crossllm.cache.cluster.task_plugin import TaskPlugin

_LOOK = 0.2
"""Seconds for which an answer is waited for."""
_COUNT = 2.0
"""Seconds for which a count of workers is good."""
T = TypeVar("T")
Fate = Literal["done", "left", "lost", "died"]
"""left: its worker was told to end, and has kept what it did.  lost: it waited in a worker that ended.  died: it was at
work in one that ended."""


class Answer(NamedTuple, Generic[T]):
    """What became of a task."""

    task: T
    fate: Fate
    result: Any = None
    """Of one that is done."""


class _Flying(NamedTuple, Generic[T]):
    """A task on its way."""

    task: T
    future: Future[Any]
    marks: Marks


class Sender(Generic[T]):
    """Sends the tasks of one run.

    Args:
        cluster: an open one.
        kind: of the run, as the dashboard shows it.
    """

    def __init__(self, cluster: Cluster, kind: str) -> None:
        self.cluster = cluster
        self.run = f"crossllm-{kind}-{uuid4().hex}"
        """Its name with the scheduler."""
        self._flying: dict[tuple[str, int], _Flying[T]] = {}
        self._answered: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._leaving: dict[tuple[str, int], float] = {}
        """Tasks whose retired workers are about to keep what they did: until when that is waited for."""
        self._sent = 0
        self._workers, self._counted = 0, 0.0
        self._alone_since: float | None = None

    def __len__(self) -> int:
        """Tasks on their way."""
        return len(self._flying)

    @contextmanager
    def registered(self, plugin: TaskPlugin) -> Iterator[None]:
        """Workers have the plugin inside; when the block is left they are to stop and keep what they have.

        Raises:
            InputError: crossllm is not there.
        """
        client = self.cluster.client
        try:
            client.register_plugin(plugin, name=self.run)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"--dask {self.cluster.name.text}: a worker cannot load crossllm ({one_line(error)}); install the same "
                "version there"
            ) from None
        try:
            yield
        finally:
            end = time.monotonic() + STOPPING
            within(PATIENCE, client.unregister_worker_plugin, self.run)
            while self._flying and time.monotonic() < end and client.status == "running":
                with suppress(Empty):
                    self._flying.pop(self._answered.get(timeout=_LOOK), None)
            within(PATIENCE, client.cancel, [one.future for one in self._flying.values()])

    def send(self, task: T, *arguments: object) -> None:
        """A task, which is the plugin's `work(*arguments)` in a worker."""
        from crossllm.cache.cluster.task_plugin import do_task

        self._sent += 1
        key = (self.run, self._sent)
        future = self.cluster.client.submit(do_task, *key, *arguments, key=key, pure=False)
        self._flying[key] = _Flying(task, future, Marks.of(*key))
        self._listen(future)

    def _listen(self, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self._answered.put(done.key))

    def answer(self) -> Answer[T] | None:
        """The next answer, if one comes soon.

        Raises:
            Exception: what a task raised.
            InputError, OSError: as `workers`.
        """
        try:
            key = self._answered.get(timeout=_LOOK)
        except Empty:
            self.workers()  # nothing comes where there are none
            return self._left()
        from distributed import KilledWorker

        flying = self._flying[key]
        future = flying.future
        if future.status == "finished":
            try:
                result = future.result(timeout=PATIENCE)
            except (TimeoutError, KilledWorker):  # lost with its worker; Dask is at it again
                self._listen(future)
                return None
            if isinstance(result, Raised):
                raise result.error
            if not isinstance(result, NotDone):
                return self._settled(key, "done", result)
            return self._settled(key, "left") if result is NotDone.STOPPED else self._not_done(key)
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            return self._not_done(key)
        if error is not None:
            raise error
        raise OSError(errno.EIO, "the scheduler gave a task up", self.cluster.name.text)

    def _settled(self, key: tuple[str, int], fate: Fate, result: object = None) -> Answer[T]:
        flying = self._flying.pop(key)
        for event in flying.marks if fate in ("left", "died") else ():
            self._event(event).clear()
        return Answer(flying.task, fate, result)

    def _not_done(self, key: tuple[str, int]) -> Answer[T] | None:
        """Of a task whose worker has gone; None where that one is about to keep what it did."""
        marks = self._flying[key].marks
        if not self._is_set(marks.begun):
            return self._settled(key, "lost")
        if self._is_set(marks.left):
            return self._settled(key, "left")
        if self._was_retired(key):
            self._leaving[key] = time.monotonic() + STOPPING
            return None
        return self._settled(key, "left" if self._is_set(marks.leaving) else "died")

    def _left(self) -> Answer[T] | None:
        """The next task whose retired worker has kept what it did, or is not waited for any more."""
        for key, until in self._leaving.items():
            if time.monotonic() > until or self._is_set(self._flying[key].marks.left):
                del self._leaving[key]
                return self._settled(key, "left")
        return None

    def _is_set(self, event: str) -> bool:
        return bool(self._event(event).is_set())

    def _event(self, name: str) -> Event:
        from distributed import Event

        return Event(name, client=self.cluster.client)

    def _was_retired(self, key: tuple[str, int]) -> bool:
        """Whether the scheduler itself took the task's last worker away: it gives its tasks to others at once."""
        removed = [
            event
            for _, event in self.cluster.client.get_events("all")
            if event.get("action") == "remove-worker" and key in event.get("processing-tasks", ())
        ]
        return bool(removed) and bool(removed[-1].get("expected"))

    def workers(self) -> int:
        """How many there are, or were a moment ago.

        Raises:
            InputError: those of this machine do not come up again.
            OSError: the scheduler has gone.
        """
        now = time.monotonic()
        if now - self._counted > _COUNT:
            if self.cluster.client.status != "running":
                raise OSError(errno.EIO, "the connection to the scheduler broke", self.cluster.name.text)
            self._workers, self._counted = self.cluster.workers(), now
            self._look_for_workers(now)
        return self._workers

    def _look_for_workers(self, now: float) -> None:
        own = self.cluster.name.contact is None
        if self._workers:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
            if not own:
                note(f"note: --dask {self.cluster.name.text}: no worker is there now; waiting for one")
        elif own and now - self._alone_since > START:
            raise InputError(f"--dask {self.cluster.name.text}: its workers do not come up again")
