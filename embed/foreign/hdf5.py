"""HDF5, one dataset a sequence: bio_embeddings, ProtTrans, biotrainer, D-SCRIPT.  The file is read in a child."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from crossllm.cache.console.child_process import end_child, start_child
from crossllm.cache.errors import CacheCorrupt, InputError
from crossllm.embed.foreign.entry import ITEM_BYTES, MAX_BYTES, BadEntry, Entry, shape_of

SECONDS = 300.0
"""Wall time that one answer may take: one dataset's description, or its values."""
MEMORY = 4 * MAX_BYTES
"""Bytes of address space the child may take."""


class Hdf5Source:
    """Reads HDF5 files, one child process at a time."""

    layout = "hdf5"
    layer: str | None = None

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._child: Hdf5Child | None = None

    def entries(self) -> Iterator[Entry]:
        """Every dataset, also those in groups: '/' in an id makes a group of what stands before it."""
        for file in self._files:
            for found in self._open(file).datasets():
                shape = tuple(found.get("shape", ()))
                problem = found.get("problem")
                yield Entry(file, found["name"], shape, found.get("dtype", ""), found.get("stated"), problem)

    def read(self, entry: Entry) -> np.ndarray:
        """The values of one dataset."""
        return self._open(entry.file).read(entry)

    def close(self) -> None:
        """Stop the child."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def _open(self, file: Path) -> Hdf5Child:
        if self._child is None or self._child.path != file:
            self.close()
            self._child = Hdf5Child(file)
        return self._child


class Hdf5Child:
    """The parent's end of `crossllm.embed.foreign.hdf5_child`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # "::" keeps HDF5 from looking for filter plugins.
        self.process = start_child(
            "crossllm.embed.foreign.hdf5_child", str(path), str(MEMORY), env={"HDF5_PLUGIN_PRELOAD": "::"}
        )
        self._watch = _Watch(self.process)
        opened = self._line()
        if problem := opened.get("problem"):
            self.stop()
            if "lock" in problem.lower() or "already open" in problem or "h5clear" in problem:
                raise InputError(
                    f"{path}: is locked, another program has it open for writing or died while it wrote ({problem}); "
                    "close that program, or clear its mark by `h5clear -s FILE`"
                )
            raise InputError(f"{path}: is no sound HDF5 file ({problem}); copy or download it again")

    def datasets(self) -> Iterator[dict[str, Any]]:
        """What each dataset says of itself."""
        self._ask({"list": True})
        while (found := self._line()) is not None:
            yield found

    def read(self, entry: Entry) -> np.ndarray:
        """The values of one dataset; they are of the size that the entry declares, or refused."""
        self._ask({"read": entry.name})
        answer = self._line()
        if problem := answer.get("problem"):
            raise BadEntry(problem)
        length, dim = shape_of(entry)
        size = length * dim * ITEM_BYTES[entry.dtype]
        if (tuple(answer["shape"]), answer["dtype"], answer["bytes"]) != (entry.shape, entry.dtype, size):
            self.stop()
            raise BadEntry("another shape or type than a moment ago; did the file change meanwhile?")
        values = np.empty(size, np.uint8)
        assert self.process.stdout is not None  # Popen was given a pipe
        with self._watch:
            filled = self.process.stdout.readinto(values.data)  # type: ignore[attr-defined]  # a BufferedReader
        if filled != size:
            self._died()
        return values.view(entry.dtype).reshape(entry.shape)

    def stop(self) -> None:
        """End the child."""
        self._watch.end()
        end_child(self.process)

    def _ask(self, question: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # Popen was given a pipe
        with suppress(BrokenPipeError):  # it died: the next line says so
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()

    def _line(self) -> Any:
        assert self.process.stdout is not None  # Popen was given a pipe
        with self._watch:
            line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            self._died()
        return json.loads(line)

    def _died(self) -> None:
        self.stop()
        how = f"signal {-code}" if (code := self.process.returncode) < 0 else f"exit code {code}"
        raise CacheCorrupt(
            f"{self.path}: the HDF5 library crashed on it, ran out of memory or took more than {SECONDS:g} s ({how}); "
            "the file is damaged: make or download it again"
        )


class _Watch:
    """Kills the child when an answer takes too long: the read that waits for it then ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._until = math.inf
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Let the thread end."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, SECONDS)):
            if time.monotonic() > self._until:
                self._process.kill()
                return

    def __enter__(self) -> None:
        self._until = time.monotonic() + SECONDS

    def __exit__(self, *_: object) -> None:
        self._until = math.inf
