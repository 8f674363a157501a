"""fair-esm `.pt` files, one a sequence, and safetensors, one tensor a sequence: the layouts that need torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from crossllm.cache.errors import CacheCorrupt, InputError, one_line, printable
from crossllm.cache.files.strict_json import parse_json
from crossllm.embed.foreign.entry import BadEntry, Entry, entry_name
from crossllm.embed.weights.shards import MAX_HEADER, weight_map
from crossllm.embed.weights.torch_file import NotTensors, load_tensors_only, plain, tensor_problem, zip_problem

SHOWN_LAYERS = 50
_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LAYER = re.compile(r"[A-Za-z0-9._-]{1,64}")


class PtSource:
    """Reads `{"label": id, "representations": {layer: (L, D)}}` from each file, with `weights_only` and no fallback."""

    layout = "pt"

    def __init__(self, root: Path, files: Sequence[Path], layer: str | None) -> None:
        self._root, self._files = root, files
        self.layer = layer

    def entries(self) -> Iterator[Entry]:
        """An entry a file; its values stay on disk."""
        for file in self._files:
            name = entry_name(self._root, file)
            try:
                tensor, label = self._open(file)
                yield Entry(file, name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), label)
            except BadEntry as bad:
                yield Entry(file, name, problem=str(bad))

    def read(self, entry: Entry) -> np.ndarray:
        """The rows of one file."""
        return _to_numpy(self._open(entry.file)[0])

    def close(self) -> None:
        """No file stays open."""

    def _open(self, file: Path) -> tuple[torch.Tensor, str | None]:
        found = _load(file)
        layers = found.get("representations") if isinstance(found, dict) else None
        if not isinstance(layers, dict) or not layers:
            raise BadEntry(
                "has no 'representations' of layers as fair-esm writes them; extract with `--include per_tok`, "
                "or save .npy or safetensors"
            )
        by_name = _by_name(layers)
        if self.layer is None and len(by_name) > 1:
            highest = max(by_name, key=lambda name: (len(name), name))
            raise InputError(
                f"{file}: holds the layers {_some(by_name)}; choose one, e.g. --layer {printable(highest)}"
            )
        self.layer = self.layer or next(iter(by_name))
        rows = by_name.get(self.layer)
        if not isinstance(rows, torch.Tensor):
            only = f"only of {_some(by_name)}; choose one with --layer"
            raise BadEntry(f"has no rows of layer {printable(self.layer)}, {only}")
        if (odd := tensor_problem(rows)) is not None:
            raise BadEntry(f"holds a tensor {odd} where a plain one is expected; save it as a dense float tensor")
        if rows.numel() * rows.element_size() > rows.untyped_storage().nbytes():
            raise BadEntry("declares more values than it holds; save it again after `.contiguous()`")
        label = found.get("label")
        return rows, label if isinstance(label, str) else None


def _by_name(layers: Mapping[Any, Any]) -> dict[str, Any]:
    """Layer → rows; a layer's name goes into messages and into the recipe, so it is held to a form."""
    found: dict[str, Any] = {}
    for layer, rows in layers.items():
        small = isinstance(layer, int) and abs(layer) < 1 << 32  # a longer one cannot even be written out
        name = str(layer) if small or isinstance(layer, str) else ""
        if not _LAYER.fullmatch(name):
            said = f" '{printable(name)}'" if name else ""
            raise BadEntry(f"names a layer{said} by other than a number or 1 to 64 of A-Z a-z 0-9 . _ -; rename it")
        if name in found:
            raise BadEntry(f"holds the layer {name} twice, as a number and as a text; keep one")
        found[name] = rows
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN_LAYERS]) + (", …" if len(listed) > SHOWN_LAYERS else "")


def _load(file: Path) -> Any:
    """What the file holds, if it is tensors and plain containers alone."""
    with file.open("rb") as opened:
        if (problem := zip_problem(opened)) is not None:
            raise BadEntry(problem)
    try:
        return load_tensors_only(file, mmap=True)
    except NotTensors as error:
        what = f" ({error.held})" if error.held else ""
        raise BadEntry(
            f"holds more than tensors{what} or is damaged; it is not opened, as it could run code: "
            "save tensors alone, or .npy or safetensors"
        ) from None


class SafetensorsSource:
    """Reads a tensor a sequence from one file or from the shards of a folder, with or without an index."""

    layout = "safetensors"
    layer: str | None = None

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root, self._files = root, files
        self._shard: tuple[Path, Any] | None = None  # opening one parses its whole header

    def entries(self) -> Iterator[Entry]:
        """Every tensor, from the headers alone; then what an index promises and no shard holds."""
        held: set[tuple[str, str]] = set()
        for file in self._files:
            _check_header(file)
            shard = self._open(file)
            for name in shard.keys():  # noqa: SIM118  (not a dict)
                part = shard.get_slice(name)
                kind = part.get_dtype()
                held.add((file.name, name))
                yield Entry(file, name, tuple(part.get_shape()), _TYPES.get(kind, kind))
        if self._root.is_dir():
            for index in sorted(self._root.glob("*.index.json")):
                if not index.is_file():  # a pipe would wait for ever
                    yield Entry(index, "", problem="is no regular file; remove it or save the index in its place")
                    continue
                yield from (
                    Entry(index, name, problem=f"the index says {printable(shard)}, which lacks it; a shard is missing")
                    for name, shard in weight_map(index).items()
                    if (shard, name) not in held
                )

    def read(self, entry: Entry) -> np.ndarray:
        """The rows of one tensor."""
        return _to_numpy(self._open(entry.file).get_tensor(entry.name))

    def close(self) -> None:
        """Close the shard at hand."""
        if self._shard is not None:
            self._shard[1].__exit__(None, None, None)
            self._shard = None

    def _open(self, file: Path) -> Any:  # safetensors has no types
        if self._shard is None or self._shard[0] != file:
            self.close()
            self._shard = file, _open_shard(file)
        return self._shard[1]


def _check_header(file: Path) -> None:
    """Header first: its size, and that it is one JSON object without a name twice; safetensors checks the offsets."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            most = f"at most {MAX_HEADER} in a file of {size}"
            raise InputError(
                f"{file}: a header of {length} bytes where {most} are taken; the file is cut short or damaged, "
                "or holds too many tensors: make it again, in shards"
            )
        header = opened.read(length)
    try:
        parse_json(header, file)
    except CacheCorrupt as error:
        raise InputError(str(error).replace("the file is damaged", "its header is damaged, make it again")) from None


def _open_shard(file: Path) -> Any:
    try:
        opened: Any = safe_open(file, framework="pt")  # it has no types
        return opened.__enter__()
    except SafetensorError as error:
        raise InputError(
            f"{file}: is no sound safetensors file ({one_line(error)}); copy or download it again"
        ) from None


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = plain(tensor)
    values: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values
