"""Opening a URL for reading: https alone, after redirects too; failed connections tried again; nothing secret said.

`file://` is taken too, for mirrors on a mounted disk.  Proxies are those of the environment.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, one_line, printable

TRIES = 3
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""
WAIT = 1.0
"""Seconds before the second try; doubled before the third."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may be another a moment later."""
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")
_HEADERS = {"User-Agent": "crossllm-mamba (https weights download)", "Accept-Encoding": "identity"}


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request, or `InputError`."""
        if urlsplit(newurl).scheme != "https":
            raise InputError(f"{shown(req.full_url)}: leads to {shown(newurl)}, which is not https; use another --url")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(_HttpsOnly)


class Source(NamedTuple):
    """An open URL."""

    url: str
    length: int | None
    """Bytes to come, as the server says; None where it does not."""
    body: Any
    advice: str

    def chunks(self, size: int) -> Iterator[bytes]:
        """The bytes.

        Raises:
            InputError: the connection broke off before the last.
        """
        came = 0
        try:
            while chunk := self.body.read(size):
                came += len(chunk)
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(f"{came} bytes ({_said(error)})") from None
        if self.length is not None and came != self.length:
            raise self._broken(f"{came} of {self.length} bytes")

    def _broken(self, after: str) -> InputError:
        return InputError(
            f"embed pull: {_host(self.url)} broke off after {after}; run the same command again, or {self.advice}"
        )


@contextmanager
def opened(url: str, advice: str) -> Iterator[Source]:
    """The URL, open; `advice` ends the message when it cannot be reached.

    Raises:
        InputError: no https or file URL, one with a user or password in it, a redirect elsewhere, no answer after
            `TRIES`, or an answer that refuses.
    """
    check_url(url)
    with closing(_answer(url, advice)) as body:
        length = body.headers.get("Content-Length")
        yield Source(url, int(length) if length and length.isdecimal() else None, body, advice)


def shown(url: str) -> str:
    """A URL, or a package's, for a message: no user, password or query, which may hold a token; safe for a terminal."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    if parts.scheme == "pkg":
        return printable(f"{parts.scheme}:{parts.path}", 200)
    return printable(f"{parts.scheme}://{host}{port}{parts.path}{'?…' if parts.query else ''}", 200)


def check_url(url: str) -> None:
    """Raise `InputError` for what is no https or file URL, one with a user or password in it, or no file."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna") and parts.port != 0
        named = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
        if named is not None and "\0" in str(named):
            raise ValueError("a null byte")
        no_file = named is not None and named.exists() and not named.is_file()
    except ValueError:  # what it says of a port, a bracket, a label of a host, a null byte
        raise InputError(f"--url {printable(url, 80)}: cannot be read as a URL; write https://HOST/PATH") from None
    if _UNSAFE.search(url):
        raise InputError(f"--url {printable(shown(url))}: holds a blank or a control character; write it as %20")
    if parts.scheme not in ("https", "file"):
        raise InputError(f"--url {shown(url)}: is not https; name an https URL (or file:///PATH)")
    if "@" in parts.netloc:
        raise InputError(f"--url {shown(url)}: holds a user or a password; leave them out")
    if parts.scheme == "https" and not host:
        raise InputError(f"--url {shown(url)}: names no host; write https://HOST/PATH")
    if no_file:
        raise InputError(f"--url {shown(url)}: is no plain file; name the file itself")


def _answer(url: str, advice: str) -> Any:
    """The open answer; failed connections and busy servers are tried again."""
    why, tried = "", 0
    while tried < TRIES:
        if tried:
            note(f"note: {_host(url)} {why}; trying again")
            time.sleep(WAIT * 2 ** (tried - 1))
        tried += 1
        try:
            return OPENER.open(urllib.request.Request(url, headers=_HEADERS), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            # A redirect that urllib itself refuses tells the whole URL, which may hold a signature.
            reason = "with a redirect that is not followed" if error.code < 400 else printable(str(error.reason))
            why, final = f"answers {error.code} {reason}", error.code not in _BUSY
        except ValueError as error:  # a redirect to what is no host
            why, final = f"cannot be reached ({_said(error)})", True
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            why = f"cannot be reached ({_said(error)})"
            final = isinstance(getattr(error, "reason", error), (ssl.SSLCertVerificationError, FileNotFoundError))
        if final:
            break
    times = f" after {tried} tries" if tried > 1 else ""
    raise InputError(f"embed pull: {_host(url)} {why}{times}; {advice}") from None


def _host(url: str) -> str:
    return printable(urlsplit(url).hostname or shown(url))


def _said(error: BaseException) -> str:
    """What an error says, without anything before an '@': a proxy's user and password."""
    reason = getattr(error, "reason", None)
    return re.sub(r"[^\s'\"/]*@", "", one_line(reason if isinstance(reason, BaseException) else error))
