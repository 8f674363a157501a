"""Tasks on their way to the workers of a cluster, and their answers, one after the other.

A task is answered by what its function gives, or it is lost: its worker has ended, whatever the reason.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from uuid import uuid4

from crossllm.cache.cluster.opening import PATIENCE, START, Cluster, within
from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, one_line

if TYPE_CHECKING:
    from distributed import Future, WorkerPlugin

STOPPING = 15.0
"""Seconds in which workers that are told to stop have kept what they have."""
_LOOK = 0.2
"""Seconds for which an answer is waited for."""
_COUNT = 2.0
"""Seconds for which a count of workers is good."""
T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What became of a task."""

    task: T
    result: Any
    """None where it is lost."""
    lost: bool


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
        self._flying: dict[object, tuple[T, Future[Any]]] = {}
        self._answered: SimpleQueue[object] = SimpleQueue()
        self._sent = 0
        self._workers, self._counted = 0, 0.0
        self._alone_since: float | None = None

    def __len__(self) -> int:
        """Tasks on their way."""
        return len(self._flying)

    @contextmanager
    def registered(self, plugin: WorkerPlugin) -> Iterator[None]:
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
            within(PATIENCE, client.unregister_worker_plugin, self.run)
            end = time.monotonic() + STOPPING
            while self._flying and time.monotonic() < end and client.status == "running":
                with suppress(Empty):
                    self._flying.pop(self._answered.get(timeout=_LOOK), None)
            within(PATIENCE, client.cancel, [future for _, future in self._flying.values()])

    def send(self, task: T, function: Callable[..., Any], *arguments: object) -> None:
        """A task, which is `function(run, *arguments)` in a worker."""
        self._sent += 1
        key = (self.run, self._sent)
        future = self.cluster.client.submit(function, self.run, *arguments, key=key, pure=False)
        self._flying[key] = task, future
        self._listen(future)

    def _listen(self, future: Future[Any]) -> None:
        future.add_done_callback(lambda done: self._answered.put(done.key))

    def answer(self) -> Answer[T] | None:
        """The next answer, if one comes soon.

        Raises:
            Exception: what a task raised.
            OSError: the scheduler has gone.
        """
        try:
            key = self._answered.get(timeout=_LOOK)
        except Empty:
            return None
        from distributed import KilledWorker

        task, future = self._flying.pop(key)
        if future.status == "finished":
            try:
                return Answer(task, future.result(timeout=PATIENCE), False)
            except (TimeoutError, KilledWorker):  # lost with its worker; Dask is at it again
                self._flying[key] = task, future
                self._listen(future)
                return None
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            return Answer(task, None, True)
        if error is not None:
            raise error
        raise OSError(errno.EIO, "the scheduler gave a task up", self.cluster.name.text)

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
