"""`usage.json`: what a run's training took from the cache, measured: rows read, encoders loaded, time spent waiting."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from crossllm.cache.errors import CrossLLMError
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.training.batches import PairBatches

NAME = "usage.json"
_MAX_JSON = 1 << 20
_ENCODER_CODE = ("crossllm.embed.encoders.", "transformers", "esm", "multimolecule")
"""Modules without which no encoder can be made; with a dot at the end those inside a package."""


class Usage(NamedTuple):
    """Sums over every start of a run; what a start did after its last finished fold is in them only if it ended."""

    rows_read: int = 0
    """Rows that batches took from the cache; an average that was kept in memory is read once."""
    seconds: float = 0.0
    """In training and scoring."""
    waited: float = 0.0
    """Of these, with no batch ready."""
    encoders: tuple[str, ...] = ()
    """Modules of encoders that were loaded in the process."""

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        encoders = tuple(sorted({*self.encoders, *other.encoders}))
        return Usage(
            self.rows_read + other.rows_read, self.seconds + other.seconds, self.waited + other.waited, encoders
        )

    @property
    def waiting_share(self) -> float | None:
        """Part of the time that was spent waiting; None before anything was measured."""
        return self.waited / self.seconds if self.seconds else None


def measured(batches: PairBatches) -> Usage:
    """Of this process, up to now."""
    return Usage(batches.rows_read, batches.waiting.total, batches.waiting.waited, encoder_modules())


def encoder_modules() -> tuple[str, ...]:
    """Modules of encoders that this process has loaded; none where it only trains."""
    return tuple(
        sorted(
            name
            for name in sys.modules
            if any(name.startswith(code) if code.endswith(".") else name == code for code in _ENCODER_CODE)
        )
    )


def read_usage(folder: Path) -> Usage:
    """What a run's folder says of earlier starts; zeros where it says nothing that can be read: it is no result."""
    where = folder / NAME
    try:
        found: dict[str, Any] = parse_json(read_bytes(where, _MAX_JSON), where)
        return Usage(
            int(found["rows_read"]), float(found["seconds"]), float(found["waited"]), tuple(map(str, found["encoders"]))
        )
    except (OSError, CrossLLMError, KeyError, TypeError, ValueError):  # absent or damaged: the numbers begin again
        return Usage()


def write_usage(folder: Path, usage: Usage) -> None:
    """Put it into a run's folder."""
    body = {**usage._asdict(), "waiting_share": usage.waiting_share}
    fsio.replace(folder / NAME, json.dumps(body, indent=1).encode())
