"""Loaded by a Dask worker before its first task: a profile encoder that takes its time, and dies of some sequences.

Its settings are variables of the environment: `SLOW`, seconds a record; `POISON`, a beginning that ends the process;
`REFUSED`, one that raises an `InputError`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator

from crossllm.cache.errors import InputError
from crossllm.cache.records.record import Record
from crossllm.embed.encoder import NotEncoded, Outputs
from crossllm.embed.encoders.profile import ProfileEncoder


def _slowly(self: ProfileEncoder, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs | NotEncoded]]:
    poison, refused = os.environ.get("POISON", "-"), os.environ.get("REFUSED", "-")
    for record in records:
        if record.sequence.startswith(poison):
            os.kill(os.getpid(), signal.SIGKILL)
        if record.sequence.startswith(refused):
            raise InputError(["first line", f"second line, of {record.id}"])
        time.sleep(float(os.environ.get("SLOW", "0")))
        yield from self.plain_encode([record])  # type: ignore[attr-defined]


if not hasattr(ProfileEncoder, "plain_encode"):  # Dask loads this more than once
    ProfileEncoder.plain_encode = ProfileEncoder.encode  # type: ignore[attr-defined]
    ProfileEncoder.encode = _slowly  # type: ignore[method-assign]
