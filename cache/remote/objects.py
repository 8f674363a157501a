"""`Objects`: the objects below an address, through obstore; what networks do to requests is met here.

obstore asks again after a 5xx, a dropped connection and, of reads, a timeout or a cut body.  What it cannot know is
told here: whose object it is that a conditional PUT met, a store that knows no conditional PUT, a 409.

Errors name the address and what the server said in a word.  The text of obstore's own errors is never passed on: it
holds request lines, and those may hold signatures.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from crossllm.cache.console.messages import note
from crossllm.cache.errors import Conflict, InputError
from crossllm.cache.remote import connection
from crossllm.cache.remote.address import Address
from crossllm.cache.remote.connection import obstore_module, open_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")
TRIES = 10
"""How often what obstore gives up is asked for here."""
_CHUNK = 8 << 20
"""Bytes of a part of a large upload."""
_PIECE = 8 << 20
"""Bytes of a large object that are read at once."""
_STATUS = re.compile(r"status code: ([0-9]{3})(?: ([A-Za-z ]+))?")
_RETRIED = re.compile(r"after [0-9]+ retries")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|credential|InstanceCredential", re.IGNORECASE)
_used_in: list[int] = []
"""The process that has used obstore, if one has: its threads do not live on in a forked child."""


class Found(NamedTuple):
    """An object as a listing shows it."""

    name: str
    """Below the address."""
    size: int
    version: str
    """Changes when the object does."""


class Objects:
    """The objects of one cache."""

    def __init__(self, address: Address) -> None:
        """Opened at the first request.

        Raises:
            InputError: obstore is not installed.
        """
        self.address = address
        self._stores: dict[bool, ObjectStore] = {}
        self._conditional = True
        obstore_module()

    def listed(self, folder: str) -> tuple[list[Found], list[str]]:
        """The objects of a folder, and the names of the folders in it."""
        full = self._full(folder)
        page = self._asked(folder, lambda store: obstore_module().list_with_delimiter(store, prefix=full))
        return sorted(map(self._found, page["objects"])), sorted(
            name.rstrip("/").rpartition("/")[2] for name in page["common_prefixes"]
        )

    def get(self, name: str) -> bytes:
        """All bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._asked(name, lambda store: bytes(obstore_module().get(store, self._full(name)).bytes()))

    def get_ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[memoryview]:
        """The bytes `start` to `stop` of an object, several such ranges at once.

        Raises:
            FileNotFoundError: there is no such object.
            EOFError: it ends before a range does.
        """
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]

        def ask(store: ObjectStore) -> list[memoryview]:
            return [
                memoryview(piece)  # type: ignore[arg-type,unused-ignore]
                for piece in obstore_module().get_ranges(store, self._full(name), starts=starts, ends=stops, coalesce=0)
            ]

        found = self._asked(name, ask)
        if any(len(piece) != stop - start for piece, (start, stop) in zip(found, ranges, strict=True)):
            raise EOFError(self.url(name))
        return found

    def pieces(self, found: Found) -> Iterator[bytes]:
        """The bytes of a large object, one piece after the other.

        Raises:
            FileNotFoundError: there is no such object.
            EOFError: it ends before its size.
        """
        for at in range(0, found.size, _PIECE):
            yield from map(bytes, self.get_ranges(found.name, [(at, min(at + _PIECE, found.size))]))

    def put_file(self, name: str, path: Path) -> None:
        """Upload a file under a name that nobody else uses; a large one in parts."""
        self._asked(name, lambda store: obstore_module().put(store, self._full(name), path, chunk_size=_CHUNK))

    def put(self, name: str, data: bytes) -> None:
        """Put an object, in place of what stands there."""
        self._asked(name, lambda store: obstore_module().put(store, self._full(name), data, chunk_size=_CHUNK))

    def put_new(self, name: str, data: bytes) -> None:
        """Make an object appear, whole, or find that it is there with these very bytes: a try of ours made it.

        A conditional PUT, asked for here and not by obstore.  Where its reply is lost, or says that the name is taken
        or in use, the object is read, and its bytes, with a write id in them, tell whose it is.  A store without
        conditional PUT gets a plain one, after a look that the name is free: enough for names that hold 128 random
        bits or a digest of the bytes.

        Raises:
            Conflict: an object of other bytes has the name.
            OSError: the store does not answer.
        """

        def create(store: ObjectStore) -> object:
            return obstore_module().put(store, self._full(name), data, mode="create", use_multipart=False)

        error: BaseException = OSError()
        for n in range(TRIES):
            try:
                if self._conditional:
                    self._call(create, once=True)
                elif self._there(name) is None:
                    self._asked(
                        name, lambda store: obstore_module().put(store, self._full(name), data, use_multipart=False)
                    )
                if self._conditional or self._there(name) == data:
                    return
            except Exception as failed:
                if not self._is_obstores(failed):
                    raise
                error = failed
            if self._conditional and (_status(error) == 501 or type(error).__name__ == "NotSupportedError"):
                self._conditional = False
                note(
                    f"note: {self.address}: the store knows no conditional PUT; each name is looked up before and after"
                )
                continue
            there = self._there(name)
            if there == data:
                return
            if there is not None:
                raise Conflict(f"{self.url(name)}: is there with other bytes; nothing was put in its place")
            if (_status(error) or 500) < 500 and _status(error) not in (408, 409, 412, 429):
                self._refuse(name, error)
            _wait(n)
        self._refuse(name, error)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, those that are there."""
        full = [self._full(name) for name in names]
        if full:
            self._asked(self.address.prefix, lambda store: obstore_module().delete(store, full))

    def url(self, name: str) -> str:
        """Of an object, for errors."""
        return f"{self.address}/{name}" if name else str(self.address)

    def _there(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none."""
        try:
            return self.get(name)
        except FileNotFoundError:
            return None

    def _asked(self, name: str, ask: Callable[[ObjectStore], T]) -> T:
        """What `ask` gives; asked again where the store says that something else is under way."""
        for n in range(TRIES):
            try:
                return self._call(ask)
            except FileNotFoundError as error:
                if error.filename is not None:  # a file of this machine
                    raise
                if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                    self._refuse(name, error)
                raise FileNotFoundError(errno.ENOENT, "no such object", self.url(name)) from None
            except Exception as error:
                if not self._is_obstores(error):
                    raise
                status = _status(error)
                # Without a status and a retry of obstore's: a body that was cut, of a listing for instance.
                again = status in (408, 409, 412, 429) or (status is None and not _RETRIED.search(str(error)))
                if n == TRIES - 1 or not again or _NO_CREDENTIALS.search(str(error)):
                    self._refuse(name, error)
                _wait(n)
        raise AssertionError

    def _call(self, ask: Callable[[ObjectStore], T], *, once: bool = False) -> T:
        """What `ask` gives of the store; `once`: obstore asks once and leaves the rest to the caller.

        Raises:
            InputError: obstore fell over what the environment holds.
        """
        store = self._opened(once)
        try:
            return ask(store)
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # no Exception
                raise InputError(f"{self.address}: obstore cannot use the environment's settings") from None
            raise

    @staticmethod
    def _is_obstores(error: Exception) -> bool:
        """Whether this is what obstore says of a request, and not the system of a file here."""
        if isinstance(error, OSError):
            return error.filename is None and error.errno is None
        return isinstance(error, obstore_module().exceptions.BaseError | ValueError)

    def _refuse(self, name: str, error: BaseException) -> NoReturn:
        """Raise for what obstore gave up: a wrong bucket or login is the user's to mend, the rest is the network's."""
        text, where = str(error), self.url(name)
        status, code = _status(error), _CODE.search(text)
        said = " ".join(filter(None, (str(status or ""), code[1] if code else "")))
        if status in (400, 401, 403) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
            raise InputError(f"{where}: access refused ({said}); check the credentials of the environment") from None
        if status in (301, 404) or "NoSuchBucket" in text:
            raise InputError(f"{where}: no such bucket there ({said}); check the address and the region") from None
        if status is None and _NO_CREDENTIALS.search(text):
            raise InputError(
                f"{where}: no credentials in the environment; set e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_SKIP_SIGNATURE=true for a public bucket"
            ) from None
        if type(error).__name__ in ("ValueError", "UnknownConfigurationKeyError"):
            raise InputError(f"{where}: the environment's settings of the store are refused; check them") from None
        raise OSError(errno.ETIMEDOUT, f"the store does not answer ({said or 'no connection'})", where) from None

    def _opened(self, once: bool) -> ObjectStore:
        if _used_in and _used_in[0] != os.getpid():
            raise RuntimeError(f"{self.address}: is read in a forked process; start workers by spawn")
        if once not in self._stores:
            self._stores[once] = open_store(self.address, 0 if once else connection.RETRIES)
            _used_in[:] = [os.getpid()]
        return self._stores[once]

    def _full(self, name: str) -> str:
        return f"{self.address.prefix}/{name}" if name else self.address.prefix

    def _found(self, one: Any) -> Found:
        version = one.get("e_tag") or f"{one['last_modified']}"
        return Found(one["path"].removeprefix(self.address.prefix + "/"), int(one["size"]), str(version))


def _status(error: BaseException) -> int | None:
    """The last HTTP status that an error tells of."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _wait(n: int) -> None:
    time.sleep(min(connection.LAST_WAIT, connection.FIRST_WAIT * 2**n))
