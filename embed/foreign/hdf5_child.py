"""HDF5 in a child process: a damaged or hostile file can crash its C library, and must not take the import with it.

Run as a program (`python -m crossllm.embed.foreign.hdf5_child FILE BYTES`) it answers questions on standard input, one
JSON line each: `{"list": true}` with a line for each dataset and `null` at the end, `{"read": NAME}` with a line and
then the raw values.  `hdf5` beside this file is the parent's end.  Nothing outside the one file is ever opened: links
other than hard ones, external storage and virtual datasets are reported, never followed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

from crossllm.cache.console.child_process import bound_memory
from crossllm.cache.errors import one_line

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}
"""HDF5 filters that are read; any other would load a plugin, or change values."""
BOMB_BYTES, BOMB_RATIO = 1 << 20, 1000
"""A dataset larger than the first and this many times its storage is refused; gzip reaches 1,030."""
_LONGEST_ID = 1 << 16


def list_datasets(file: Any) -> Iterator[dict[str, Any]]:
    """What every dataset of the file says of itself, and every link that is refused; no values are read."""
    import h5py

    groups, seen = [("", file)], {h5py.h5o.get_info(file.id).addr}
    while groups:
        prefix, group = groups.pop()
        for own in group:
            if isinstance(own, bytes):  # h5py's way of saying that it is no UTF-8
                name = prefix + own.decode("utf-8", "backslashreplace")
                yield {"name": name, "problem": "its name is not UTF-8; rename it and what it holds"}
                continue
            name = prefix + own
            try:
                link = group.get(own, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                    raise ValueError(f"is {kind}, which is never followed; copy what it points to into the file")
                found = group[own]
                if isinstance(found, h5py.Group):
                    address = h5py.h5o.get_info(found.id).addr
                    if address not in seen:  # hard links can form a circle
                        seen.add(address)
                        groups.append((name + "/", found))
                elif isinstance(found, h5py.Dataset):
                    yield _describe(name, found)
            except MemoryError:
                raise
            except Exception as error:  # h5py raises whatever its C library says
                yield {"name": name, "problem": one_line(error, 300)}


def _describe(name: str, dataset: Any) -> dict[str, Any]:
    _check_storage(dataset)
    shape = list(dataset.shape or ())
    return {"name": name, "shape": shape, "dtype": dataset.dtype.name, "stated": _stated_id(dataset)}


def _check_storage(dataset: Any) -> None:
    """Raise `ValueError` for what reaches outside the file, needs a plugin, is a bomb, or was never written."""
    if dataset.is_virtual:
        raise ValueError("is a virtual dataset, which reads other files; copy its values into the file")
    if dataset.external:
        raise ValueError("keeps its values in another file (external storage); copy them into the file")
    plist = dataset.id.get_create_plist()
    used = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if odd := [number for number in used if number not in FILTERS]:
        known = ", ".join(FILTERS.values())
        raise ValueError(f"HDF5 filter {odd[0]} where {known} are read; repack it (h5repack -f GZIP=4)")
    if dataset.shape is None or not dataset.size:
        return
    stored, declared = dataset.id.get_storage_size(), math.prod(dataset.shape) * dataset.dtype.itemsize
    if declared > max(BOMB_BYTES, BOMB_RATIO * stored):
        raise ValueError(
            f"{declared} bytes declared and {stored} stored; damaged or a decompression bomb, leave it out"
        )
    if dataset.chunks is not None:
        chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if (written := dataset.id.get_num_chunks()) < chunks:
            raise ValueError(f"{written} of {chunks} chunks were ever written; was its writer cut off? make it again")
    elif not stored:
        raise ValueError("its values were never written; was its writer cut off? make it again")


def _stated_id(dataset: Any) -> str | None:
    """Attribute `original_id`, if it is a text."""
    import h5py

    if "original_id" not in dataset.attrs:
        return None
    attribute = h5py.h5a.open(dataset.id, b"original_id")
    if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.get_storage_size() > _LONGEST_ID:
        return None
    value = dataset.attrs["original_id"]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    return str(value) if isinstance(value, str) else None


def _say(answer: Any) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _read(file: Any, name: str) -> None:
    import numpy as np

    try:
        dataset = file[name]
        _check_storage(dataset)
        values = np.ascontiguousarray(dataset[()])
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged chunk
        _say({"problem": f"cannot be read ({one_line(error)}); make or download it again"})
        return
    _say({"shape": list(values.shape), "dtype": values.dtype.name, "bytes": values.nbytes})
    sys.stdout.buffer.write(values.reshape(-1).view(np.uint8).data)
    sys.stdout.buffer.flush()


def main() -> None:
    """The child: open the file, say so, answer until standard input ends."""
    import h5py

    path, memory = sys.argv[1], int(sys.argv[2])
    bound_memory(memory)
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        _say({"problem": one_line(error, 300)})
        return
    _say({})
    with file:
        for line in sys.stdin.buffer:
            question = json.loads(line)
            if "read" in question:
                _read(file, question["read"])
                continue
            try:
                for found in list_datasets(file):
                    _say(found)
            except (RuntimeError, KeyError, ValueError, OSError) as error:  # a damaged group, within which none is sure
                _say({"name": "", "problem": f"its list of datasets is damaged ({one_line(error)}); make it again"})
            _say(None)


if __name__ == "__main__":
    main()
