"""How far a screen has come, kept beside the parts of its table: the best pairs of the blocks that are done."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import numpy as np

from crossllm.cache.console.messages import note
from crossllm.cache.errors import one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.pipeline.training.keeping import EVERY, TIMES, Pace

_NAME = "best.npz"
_MOST = 1 << 40
_DONE = "done"


class Unfinished:
    """Keeps and gives back.

    Args:
        folder: of the parts, which belong to one table and no other.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._pace = Pace(EVERY, TIMES)

    def save_when_due(self, blocks: int, pairs: int, best: dict[str, np.ndarray]) -> None:
        """Put the best of so many blocks, of so many pairs, on disk, whole or not at all, if it is time to."""
        if not self._pace.due():
            return
        began = time.monotonic()
        data = io.BytesIO()
        np.savez(data, **{_DONE: np.array([blocks, pairs])}, **best)  # type: ignore[arg-type]
        fsio.replace(self._path, data.getvalue())
        self._pace.saved(began)

    def load(self) -> tuple[int, int, dict[str, np.ndarray]] | None:
        """What was saved last; None where nothing was, or where it is damaged, which is said."""
        if not self._path.exists():
            return None
        try:
            with np.load(io.BytesIO(read_bytes(self._path, _MOST)), allow_pickle=False) as held:
                best = {name: held[name] for name in held.files}
            blocks, pairs = best.pop(_DONE).tolist()
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            note(f"note: {self._path}: {one_line(error)}; not what was written, the screen begins again")
            return None
        return blocks, pairs, best
