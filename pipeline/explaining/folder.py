"""The folder of `crossllm explain`: a table, a plot and drawings for each pair, and a summary of all.

    NUMBER-A-B.tsv  .svg  .png      places of both partners; tracks and deletion curve
    NUMBER-A-B.a.svg  .b.svg        the atoms of a partner that is a molecule
    summary.tsv                     a line a pair
    explain.json                    settings, and all numbers of each pair but those of its places

It gets its name when it is whole: written beside it first, as an interrupted command leaves nothing under that name.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossllm.cache.errors import Conflict
from crossllm.cache.files import fsio
from crossllm.pipeline.explaining.atoms import atoms_svg
from crossllm.pipeline.explaining.explanation import Explanation, Track
from crossllm.pipeline.explaining.tracks import tracks_bytes

HEADER = ("side", "id", "place", "letter", "attribution", "deviation", "occlusion")
SUMMARY = (
    "pair", "a_id", "b_id", "value", "without_a", "without_b", "votes", "models", "error_a", "error_b",
    "relative_error", "rank_correlation", "without_top_tenth", "without_random_tenth", "random_deviation",
)  # fmt: skip
"""Columns of `summary.tsv`."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST = 40
"""Characters of an id in the name of a file."""


def refuse_taken(out: Path) -> None:
    """Raise `Conflict` where something has the name of the folder already."""
    if out.exists() or out.is_symlink():
        raise Conflict(f"{out}: is there already, and is never written over; name another --out")


def write_explanations(
    out: Path, explanations: Iterable[Explanation], settings: dict[str, Any], unit: str
) -> dict[str, Any]:
    """Write the folder; the contents of `explain.json`.

    Args:
        out: the folder, which must not exist.
        explanations: one at a time in memory.
        settings: what `explain.json` says beside the pairs.
        unit: of the output: logit or affinity.

    Raises:
        Conflict: something has the name of the folder.
    """
    refuse_taken(out)
    lines, pairs = [], []
    with _new_folder(out) as folder:
        for number, found in enumerate(explanations, 1):
            name = file_name(number, found.a.id, found.b.id)
            _write_pair(folder, name, found, unit)
            line = summary_line(name, found)
            lines.append(["-" if value is None else value for value in line.values()])
            pairs.append({**line, "deletion": {key: v.tolist() for key, v in found.deletion._asdict().items()}})
        body = {**settings, "unit": unit, "pairs": pairs}
        _write(folder / "summary.tsv", _table(SUMMARY, lines))
        _write(folder / "explain.json", json.dumps(body, indent=1, allow_nan=False).encode())
    return body


def file_name(number: int, a_id: str, b_id: str) -> str:
    """Of a pair's files, without their endings: its number tells it apart, whatever the ids hold."""
    ids = (_NOT_IN_NAMES.sub("-", id_)[:_LONGEST].strip(".-") for id_ in (a_id, b_id))
    return "-".join(filter(None, (f"{number:04d}", *ids)))


def summary_line(name: str, found: Explanation) -> dict[str, Any]:
    """Column of `SUMMARY` → value; numbers with all of their digits."""
    curve = found.deletion
    values = (
        name, found.a.id, found.b.id, found.value, *found.without, found.votes, found.models, *found.errors,
        found.relative_error, found.rank_correlation, float(curve.top[1]), float(curve.random_mean[1]),
        float(curve.random_std[1]),
    )  # fmt: skip
    return dict(zip(SUMMARY, values, strict=True))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name at the end, and is gone after an error."""
    parent = out.absolute().parent
    fsio.make_dirs(parent)
    temporary = parent / f".tmp-{fsio.new_name()}"
    fsio.make_new_dir(temporary)
    try:
        yield temporary
        fsio.sync_dir(temporary)
        if not fsio.move_new(temporary, out.absolute()):
            refuse_taken(out)
    finally:
        if temporary.exists():
            fsio.remove_tree(temporary)


def _write_pair(folder: Path, name: str, found: Explanation, unit: str) -> None:
    rows = [row for side, track in (("a", found.a), ("b", found.b)) for row in _rows(side, track)]
    _write(folder / f"{name}.tsv", _table(HEADER, rows))
    for kind in ("png", "svg"):
        _write(folder / f"{name}.{kind}", tracks_bytes(found, unit, kind, name))
    for side, track in (("a", found.a), ("b", found.b)):
        if track.modality == "molecule":
            _write(folder / f"{name}.{side}.svg", atoms_svg(track.sequence, track.attribution, unit).encode())


def _rows(side: str, track: Track) -> Iterator[tuple[Any, ...]]:
    """The lines of one partner; places are counted from 1."""
    deviation = ["-"] * len(track.letters) if track.deviation is None else track.deviation.tolist()
    places = zip(track.letters, track.attribution.tolist(), deviation, track.occlusion.tolist(), strict=True)
    for place, (letter, attribution, spread, fall) in enumerate(places, 1):
        yield side, track.id, place, letter, attribution, spread, fall


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    with fsio.SyncedFile(path) as file:
        file.write(data)
