"""Text files from users: plain or gzip (by magic, not by name), BOM and CRLF accepted, everything else said plainly."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from crossllm.cache.errors import InputError
from crossllm.cache.files.file_kind import LOOK, wrong_text

MAX_LINE_BYTES = 64 << 20
"""A longer line is an error: no RNA or protein is that long, and one line must fit in memory."""
BOMB_BYTES, BOMB_RATIO = 64 << 20, 200
"""A gzip file that has grown past the first number of bytes and past this ratio is refused."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")
"""C0 and C1 controls, what turns the direction of a line round, and a byte-order mark that is not the first."""


class Line(NamedTuple):
    """One line of a text file."""

    number: int
    text: str
    """Without its newline."""
    problem: str | None
    """Why it is no clean text (bad UTF-8, a control character, a lone CR); None for a good line."""


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file.  A bad line is yielded too, so that the caller can tell which record it belongs to.

    Raises:
        InputError: what concerns the file as a whole: it is missing, not text, a damaged gzip file, …
    """
    with _open(path) as file:
        number = 0
        while True:
            raw = _next_line(file, path, number + 1)
            if not raw:
                return
            number += 1
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            raw, problem = raw.rstrip(b"\n").removesuffix(b"\r"), None
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
                text, problem = raw.decode("utf-8", "replace"), f"{place} is not UTF-8; save the file as UTF-8"
            # What is printable holds no control character, and is found to be so ten times faster.
            if problem is None and not text.isprintable():
                problem = control_problem(text)
            yield Line(number, text, problem)


def control_problem(text: str) -> str | None:
    """What is wrong with a line that holds a control character."""
    match = _CONTROL.search(text)
    if match is None:
        return None
    if match.group() == "\r":
        return f"carriage return inside the line at column {match.start() + 1}; end lines with LF or CRLF"
    if match.group() == "\ufeff":
        return f"byte-order mark at column {match.start() + 1}; were two files joined? remove it"
    return f"control character 0x{ord(match.group()):02x} at column {match.start() + 1}; remove it"


def _open(path: Path) -> IO[bytes]:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; name the file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file; it is read twice, so save it to disk first")
    try:
        with open(path, "rb") as file:
            head = file.read(LOOK)
    except PermissionError:
        raise InputError(f"{path}: cannot be read; check its permissions") from None
    if (kind := wrong_text(head)) is not None:
        raise InputError(f"{path}: {kind}")
    if not head.startswith(b"\x1f\x8b"):
        return path.open("rb")
    if (kind := wrong_text(_unpacked_head(path))) is not None:
        raise InputError(f"{path}: unpacked, {kind}")
    return io.BufferedReader(_BoundedGzip(path), 1 << 16)


def first_bytes(path: Path) -> bytes:
    """The first bytes of a text file, unpacked, for a look at what it is.

    Raises:
        InputError: as `read_lines` does.
    """
    with _open(path) as file:
        if isinstance(file, io.BufferedReader) and not isinstance(file.raw, _BoundedGzip):
            return file.read(LOOK)
    return _unpacked_head(path)


def _unpacked_head(path: Path) -> bytes:
    """The first bytes in a gzip file; nothing where it is damaged, which whoever reads it will say."""
    with suppress(EOFError, OSError, zlib.error), gzip.open(path, "rb") as file:
        return file.read(LOOK)
    return b""


class _BoundedGzip(io.RawIOBase):
    """A gzip stream that stops at a decompression bomb."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gzip = gzip.GzipFile(path, "rb")
        self._bound = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._gzip.read(len(buffer))
        self._size += len(data)
        if self._size > self._bound:
            raise InputError(f"{self._path}: grows more than {BOMB_RATIO}-fold when unpacked; unpack and check it")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._gzip.close()
        super().close()


def _next_line(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        raw = file.readline(MAX_LINE_BYTES + 1)
    except EOFError:
        raise InputError(f"{path}:{number}: the gzip file ends early; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number}: the gzip file is damaged ({error}); copy or download it again") from None
    if len(raw) > MAX_LINE_BYTES:
        raise InputError(f"{path}:{number}: a line of more than {MAX_LINE_BYTES} bytes; wrap long sequences")
    return raw
