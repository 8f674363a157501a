"""Several processes find each other, work together, and leave; of what goes wrong one of them says one line."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from crossllm.cache.console.runner import Terminated
from crossllm.cache.errors import CrossLLMError, InputError, one_line
from crossllm.pipeline.ranks.launch import LOOPBACK, Launched
from crossllm.pipeline.ranks.ranks import Ranks
from crossllm.pipeline.ranks.watch import LOST, Watch

COMING = 300.0
"""Seconds in which all processes have to come."""
LEAVING = 3.0
"""In which the others hear of an error of the first one."""
_ANSWER = timedelta(seconds=10)
"""In which the store answers."""
_EVER = timedelta(days=365)
"""Of torch's own clock on what is sent: the others wait as long as the first one works alone, and `Watch` knows who is
gone."""
_CODE_OF = {KeyboardInterrupt: 130, Terminated: 143}


@contextmanager
def together(found: Launched, device: str) -> Iterator[Ranks]:
    """Be one of several processes while the block lasts; all of them leave it together.

    Standard error is the first one's alone, but for an error that the first one has not: whichever process meets it
    first says it, and the others leave without a word.

    Raises:
        InputError: they do not all come, or have not a device each.
        RankLost: one of them ends before the others.
    """
    with ExitStack() as stack:
        if found.rank > 0:
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        meeting = _Meeting(found)
        stack.callback(meeting.stop_watch)
        try:
            meeting.join(device)
            yield Ranks(found.rank, found.processes)
            meeting.stop_watch()
            dist.destroy_process_group()
        except (KeyboardInterrupt, Terminated) as signal:
            if found.rank > 0:
                raise SystemExit(_CODE_OF[type(signal)]) from None
            meeting.may_speak()
            meeting.leave()
            raise
        except Exception as error:
            speaks = meeting.may_speak()
            meeting.leave()
            if not speaks and isinstance(error, CrossLLMError | OSError):  # what is neither is never a consequence
                raise SystemExit(error.exit_code if isinstance(error, CrossLLMError) else LOST) from None
            raise


class _Meeting:
    """The store through which the processes find each other."""

    def __init__(self, found: Launched) -> None:
        self._found = found
        self._store: Any = None
        self._watch: Watch | None = None

    def join(self, device: str) -> None:
        """Meet the others."""
        found = self._found
        try:
            named = f"crossllm/{found.attempt}"
            self._store = PrefixStore(named, self._opened(found.rank == 0, timedelta(seconds=COMING)))
            # A connection of its own: the group may wait on the other.
            own = PrefixStore(named, self._opened(False, _ANSWER))
            self._watch = Watch(own, found.rank, found.processes, self.may_speak)
            self._wait_for_all()
            self._take_device(device)
            dist.init_process_group(
                "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", store=self._store, rank=found.rank,
                world_size=found.processes, timeout=_EVER,
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            where = f"process {found.rank + 1} of {found.processes}, at {found.address}:{found.port}"
            raise InputError(f"{where}: {one_line(error, 200)}; look at MASTER_ADDR and MASTER_PORT") from None

    def stop_watch(self) -> None:
        """Nobody is watched from now on."""
        if self._watch is not None:
            self._watch.stop()

    def may_speak(self) -> bool:
        """Whether nobody has said yet what went wrong."""
        try:
            return bool(self._store.add("said", 1) == 1)
        except (RuntimeError, AttributeError):  # the store went with the first one, or was never there
            return self._found.rank == (1 if self._store is not None and not self._found.hosted else 0)

    def leave(self) -> None:
        """Let the others know that it is over, while the store can still tell them that it was said why."""
        with suppress(RuntimeError, AttributeError, ValueError):
            self._store.add("left", 1)
            if self._found.rank > 0 or self._found.hosted:
                return
            if dist.is_initialized():
                dist.destroy_process_group()
            end = time.monotonic() + LEAVING
            while self._store.add("left", 0) < self._found.processes and time.monotonic() < end:
                time.sleep(0.05)

    def _opened(self, host: bool, timeout: timedelta) -> Any:
        """A connection to the store, which the first process holds where the launcher does not."""
        found = self._found
        kept = None
        if host and not found.hosted and found.address in LOOPBACK:  # torch's own socket hears all of the network
            kept = socket.create_server((found.address, found.port)).detach()
        return TCPStore(
            found.address, found.port, is_master=host and not found.hosted, wait_for_workers=False,
            timeout=timeout, master_listen_fd=kept,
        )  # fmt: skip

    def _take_device(self, device: str) -> None:
        """A GPU for each process of a machine; on loopback the machine's own network interface."""
        if self._found.address in LOOPBACK and any(name == "lo" for _, name in socket.if_nameindex()):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if device == "cpu":
            return
        if device != "cuda":
            raise InputError(f"--device {device}: each process takes a GPU of its own; write --device cuda")
        if self._found.local_rank >= (count := torch.cuda.device_count()):
            raise InputError(
                f"--device cuda: process {self._found.local_rank + 1} of this machine has no GPU, there are {count}; "
                f"start {max(count, 1)} processes on a machine"
            )
        torch.cuda.set_device(self._found.local_rank)

    def _wait_for_all(self) -> None:
        end = time.monotonic() + COMING
        came = self._store.add("came", 1)
        while came < self._found.processes:
            if time.monotonic() > end:
                raise InputError(
                    f"{came} of {self._found.processes} processes came within {COMING:.0f} s; start as many as "
                    "WORLD_SIZE says"
                )
            time.sleep(0.1)
            came = self._store.add("came", 0)
