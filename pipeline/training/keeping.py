"""Checkpoints within a fold: numbers in JSON, tensors in safetensors, two generations of them.

    checkpoints/fold-N.partial-K.safetensors     first
    checkpoints/fold-N.partial-K.json            last: with SHA-256 of the tensors' file and of itself

K counts the saves.  Save K is on disk before anything of those before K − 1 is removed: at every instant the two
newest finished ones are there, and one damaged file costs the steps between two saves.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load, save
from torch import Tensor

from crossllm.cache.console.messages import note
from crossllm.cache.errors import CacheCorrupt, one_line
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json
from crossllm.pipeline.ranks.ranks import Ranks

EVERY = 10.0
"""Seconds between two saves, at least."""
TIMES = 100
"""And at least so many times what the last save took: keeping costs one part in a hundred of the time at most."""
_MAX_JSON = 256 << 20
_MAX_TENSORS = 1 << 40
_NAME = re.compile(r"fold-[0-9]+\.partial-([0-9]+)\.(?:json|safetensors)")


class Saved(NamedTuple):
    """What a fold needs to go on."""

    numbers: dict[str, Any]
    """Whatever JSON holds, without NaN."""
    tensors: dict[str, Tensor]


class Pace:
    """When to save next: `every` seconds after the last save at least, and `times` times as long as that took."""

    def __init__(self, every: float, times: float) -> None:
        self._every, self._times = every, times
        self._next = time.monotonic() + every

    def due(self) -> bool:
        """Whether it is time for another save."""
        return time.monotonic() >= self._next

    def saved(self, began: float) -> None:
        """A save that began then is done."""
        now = time.monotonic()
        self._next = now + max(self._every, self._times * (now - began))


class Keeper:
    """Keeps how far one fold has come.

    Args:
        folder: `checkpoints` of the run.
        number: of the fold.
        digest: the fold's (`RunFolder.fold_digest`): what was saved under another one is not its own.
    """

    def __init__(self, folder: Path, number: int | str, digest: str) -> None:
        self._folder, self._number, self._digest = folder, number, digest
        self._named = number + 1 if isinstance(number, int) else number
        self._good: int | None = None
        """The newest save that can be gone on with."""
        self._last = max(self._generations(), default=0)
        self._pace = Pace(EVERY, TIMES)

    def due(self) -> bool:
        """Whether it is time for another save."""
        return self._pace.due()

    def save(self, saved: Saved) -> None:
        """Put it on disk, whole or not at all, and remove what is older than the one before.

        Raises:
            OSError: the disk is full, or refuses.
        """
        began = time.monotonic()
        new = self._last + 1
        tensors = save({name: tensor.detach().cpu().contiguous() for name, tensor in saved.tensors.items()})
        body = saved.numbers | {"digest": self._digest, "tensors": [len(tensors), hashlib.sha256(tensors).hexdigest()]}
        fsio.replace(self._path(new, "safetensors"), tensors)
        fsio.replace(self._path(new, "json"), _text(body | {"sha256": _digest_of(body)}).encode())
        self._remove(keep={new, self._good})
        self._good = self._last = new
        self._pace.saved(began)

    def load(self) -> Saved | None:
        """The newest save that is whole; None where there is none.  What is passed over is said in one line."""
        damaged: list[str] = []
        for generation in sorted(self._generations("json"), reverse=True):
            try:
                found = self._read(generation)
            except (CacheCorrupt, OSError) as error:
                damaged.append(one_line(error, 200))
                continue
            if damaged:
                note(f"note: {'; '.join(damaged)}: going on from the checkpoint before")
            self._good = generation
            return found
        if damaged:
            note(f"note: {'; '.join(damaged)}: no checkpoint of fold {self._named} is whole, it begins again")
        return None

    def clear(self) -> None:
        """Remove all of it: the fold is finished."""
        self._remove(keep=set())

    def _read(self, generation: int) -> Saved:
        """One save.

        Raises:
            CacheCorrupt: it is not what was written.
        """
        where, beside = self._path(generation, "json"), self._path(generation, "safetensors")
        body = parse_json(read_bytes(where, _MAX_JSON), where)
        digest = body.pop("sha256", None)
        if digest != _digest_of(body):
            raise CacheCorrupt(f"{where}: is not what was written")
        if body["digest"] != self._digest:
            raise CacheCorrupt(f"{where}: is of a run with other settings or other test pairs")
        data = read_bytes(beside, _MAX_TENSORS)
        if [len(data), hashlib.sha256(data).hexdigest()] != body["tensors"]:
            raise CacheCorrupt(f"{beside}: is not what was written")
        return Saved(body, load(data))

    def _path(self, generation: int, kind: str) -> Path:
        return self._folder / f"fold-{self._number}.partial-{generation}.{kind}"

    def _generations(self, kind: str = "*") -> set[int]:
        """Numbers of the saves of which some file is there."""
        names = (path.name for path in self._folder.glob(f"fold-{self._number}.partial-*.{kind}"))
        return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}

    def _remove(self, keep: set[int | None]) -> None:
        for generation in self._generations() - keep:
            for kind in ("json", "safetensors"):  # what is left without its JSON is never read
                fsio.remove_file(self._path(generation, kind))


def told(ranks: Ranks, saved: Saved | None) -> Saved | None:
    """What the first process has, in all of them."""
    if ranks.count == 1:
        return saved
    numbers = ranks.tell(None if saved is None else saved.numbers)
    if numbers is None:
        return None
    return Saved(numbers, load(ranks.tell_bytes(b"" if saved is None else save(saved.tensors))))


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, allow_nan=False)


def _digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(_text(body).encode()).hexdigest()
