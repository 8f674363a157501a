"""A table that is written part by part and appears under its name whole, or not at all: TSV, CSV or Parquet.

    .NAME.parts/plan.json        digest of all that decides the table
    .NAME.parts/00000000.tsv     rows of the first part, without a header; the next ones follow
    NAME                         put together from the parts, and moved into place

A killed command leaves its parts, and `--resume` goes on after the last of them.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from crossllm.cache.console.messages import note
from crossllm.cache.errors import CacheCorrupt, Conflict, InputError, printable
from crossllm.cache.files import fsio
from crossllm.cache.files.plain_file import read_bytes
from crossllm.cache.files.strict_json import parse_json

Kind = Literal["tsv", "csv", "parquet"]
_MAX_JSON = 1 << 20
_PIECE = 1 << 20
FORMAT = 1


def kind_of(out: Path) -> Kind:
    """What a file of this name is to be.

    Raises:
        InputError: the name ends in none of the three, a folder has it, its folder is a file, or Parquet cannot be
            written here.
    """
    kind = out.suffix.lower().lstrip(".")
    if kind not in ("tsv", "csv", "parquet"):
        raise InputError(f"--out {out}: ends in none of .tsv, .csv, .parquet; name a file that does")
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file in it, e.g. {out / 'predictions.tsv'}")
    if (beside := next((p for p in out.absolute().parents if p.exists()), None)) is not None and not beside.is_dir():
        raise InputError(f"--out {out}: {beside} is no folder; name a file in a folder")
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                f"--out {out}: Parquet needs pyarrow, which is not installed: `pip install pyarrow`, or name a .tsv"
            ) from None
    return cast(Kind, kind)


def refuse_existing(out: Path, *, overwrite: bool, resume: bool) -> bool:
    """Raise `Conflict` where something has the name; whether, under `--resume`, it is there and so finished."""
    parts = parts_folder(out)
    if (parts / "plan.json").exists():
        if not (overwrite or resume):
            raise Conflict(
                f"{parts}: holds parts of a table that was not finished; go on with --resume, or start over with "
                "--overwrite"
            )
        return False
    if os.path.lexists(out) and resume and not overwrite:
        note(f"note: {out}: is there, and no part of an unfinished one beside it; nothing is done")
        return True
    refuse_taken(out, overwrite=overwrite)
    return False


def refuse_taken(out: Path, *, overwrite: bool) -> None:
    """Raise `Conflict` where something has the name and is not to be replaced."""
    if os.path.lexists(out) and not overwrite:
        raise Conflict(f"{out}: is there already; replace it with --overwrite, or name another by --out")


def parts_folder(out: Path) -> Path:
    """Where the parts of a file lie until it is whole."""
    return out.with_name(f".{out.name}.parts")


class Table:
    """A table in parts.

        with Table(out, header, digest, overwrite=False, resume=True) as table:
            if not table.has(0):
                table.write(0, rows)
            table.finish(1)

    Args:
        out: the file.
        header: names of its columns.
        numbers: those of them that are numbers, for Parquet: column → "float" or "int".
        digest: of all that decides its rows.
        overwrite: parts of another, or of the same, are removed first.
        resume: parts of the same are taken.

    Raises:
        Conflict: the parts are those of another table, or another process is at work on it.
    """

    def __init__(
        self,
        out: Path,
        header: Sequence[str],
        digest: str,
        *,
        numbers: dict[str, str] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self._out, self._header, self._numbers = out, tuple(header), numbers or {}
        self._kind = kind_of(out)
        self._folder = parts_folder(out)
        fsio.make_dirs(self._folder)
        try:
            self._lock = fsio.Lock(self._folder / ".lock")
        except BlockingIOError:
            raise Conflict(f"{self._folder}: another process is writing {out}; wait for it") from None
        try:
            self._begin(digest, overwrite and not resume)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, digest: str, start_over: bool) -> None:
        where = self._folder / "plan.json"
        held = None
        if where.exists():
            held = parse_json(read_bytes(where, _MAX_JSON), where).get("digest")
        if held is not None and (start_over or held != digest):
            if not start_over:
                raise Conflict(
                    f"{self._folder}: holds parts of another table: the run, the pairs, the sequences or a setting "
                    "have changed since; start over with --overwrite"
                )
            self._remove_parts()
        elif held is None:
            self._remove_parts()
        fsio.replace(where, json.dumps({"format": FORMAT, "digest": digest}).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._lock.close()

    @property
    def folder(self) -> Path:
        """Of the parts; what lies in it goes with them."""
        return self._folder

    def has(self, part: int) -> bool:
        """Whether a part is there."""
        return self._part(part).exists()

    def write(self, part: int, rows: Iterable[Sequence[Any]]) -> None:
        """Write a part, whole or not at all."""
        text = io.StringIO()
        csv.writer(text, delimiter="," if self._kind == "csv" else "\t", lineterminator="\n").writerows(rows)
        fsio.replace(self._part(part), text.getvalue().encode())

    def finish(self, parts: int) -> None:
        """Put the file together from so many parts, move it into place, and remove them."""
        missing = [n for n in range(parts) if not self.has(n)]
        if missing:
            raise CacheCorrupt(f"{self._folder}: part {missing[0]} is gone; run the same command with --resume")
        whole = self._folder / f"whole.{self._kind}"  # in here, so that a kill leaves nothing beside the file
        if self._kind == "parquet":
            self._parquet(parts, whole)
        else:
            fsio.replace(whole, self._text(parts))
        fsio.put_in_place(whole, self._out)
        self._remove_parts()
        for name in ("plan.json", ".lock"):
            fsio.remove_file(self._folder / name)
        fsio.remove_tree(self._folder)

    def _text(self, parts: int) -> Iterator[bytes]:
        head = io.StringIO()
        csv.writer(head, delimiter="," if self._kind == "csv" else "\t", lineterminator="\n").writerow(self._header)
        yield head.getvalue().encode()
        for n in range(parts):
            yield from _pieces(self._part(n))

    def _parquet(self, parts: int, whole: Path) -> None:
        """One row group a part; what is no number is text."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"float": pa.float64(), "int": pa.int64()}
        schema = pa.schema([(name, kinds.get(self._numbers.get(name, ""), pa.string())) for name in self._header])
        with pq.ParquetWriter(str(whole), schema) as writer:
            for n in range(parts):
                with self._part(n).open(newline="", encoding="utf-8") as file:
                    columns = list(zip(*csv.reader(file, delimiter="\t"), strict=True)) or [()] * len(self._header)
                arrays = [pa.array(self._typed(name, cells)) for name, cells in zip(self._header, columns, strict=True)]
                writer.write_table(pa.table(arrays, names=list(self._header)).cast(schema))

    def _typed(self, name: str, cells: Sequence[str]) -> list[Any]:
        kind = self._numbers.get(name)
        if kind is None:
            return list(cells)
        make = int if kind == "int" else float
        return [make(cell) if cell else None for cell in cells]

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:08d}.{'csv' if self._kind == 'csv' else 'tsv'}"

    def _remove_parts(self) -> None:
        """All that an earlier command left, but for the lock."""
        for path in self._folder.iterdir():
            if path.name != ".lock":
                if not path.is_file() or path.is_symlink():
                    raise Conflict(f"{printable(str(path), 200)}: is no part of a table; remove it")
                fsio.remove_file(path)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
