"""A proxy on loopback before an S3-speaking server: counts requests, and makes of chosen ones what networks make."""

from __future__ import annotations

import http.client
import re
import secrets
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

FAULTS = ("lost_reply", "lost_request", "cut", "slow", "500", "503", "409", "412", "501")
"""`lost_reply`: the server did it, nobody hears; `cut`: half the body; a number: that status, and the server is not
asked."""
SECRET = "planted-secret-7Kq/x+9"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKTESTS", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
_SIGNED = {
    "authorization": "AWS4-HMAC-SHA256 Credential=AKTESTS/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, "
    "Signature=0"
}
"""The server looks at who asks, not whether it is true."""
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass
class Rule:
    """What befalls the next `times` requests of a method whose path and query match."""

    fault: str
    method: str = "GET"
    path: str = ""
    times: int = 1
    header: str = ""
    """Only requests that have this header."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    headers: dict[str, str] = field(default_factory=dict)


class FaultProxy:
    """Listens on a free port of loopback until it is closed."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: HOST:PORT."""
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.requests: list[Request] = []
        self.met: Counter[str] = Counter()
        """Fault → how many requests met it."""
        self.slow_seconds = 0.3
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def of_rows(self) -> list[Request]:
        """Requests for rows so far."""
        return [r for r in self.requests if r.method == "GET" and re.search(r"/rows/c/0/0|segment\.h5", r.path)]

    def clear(self) -> None:
        with self._lock:
            self.rules.clear()
            self.requests.clear()
            self.met.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        """Note a request; the fault that befalls it."""
        with self._lock:
            self.requests.append(Request(method, path, headers.get("range"), headers))
            for rule in self.rules:
                if rule.times and rule.method == method and re.search(rule.path, path):
                    if rule.header and rule.header not in headers:
                        continue
                    rule.times -= 1
                    self.met[rule.fault] += 1
                    return rule.fault
        return None


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def _any(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            fault = proxy.take(self.command, self.path, headers)
            if fault == "lost_request":
                self._hang_up()
                return
            if fault is not None and fault.isdigit():
                self._answer(int(fault), {}, _CODES[fault])
                return
            if fault == "slow":
                time.sleep(proxy.slow_seconds)
            status, found, data = self._forwarded(headers, body)
            if fault == "lost_reply":
                self._hang_up()
                return
            self._answer(status, found, data, cut=fault == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 # the names that http.server looks for

        def _forwarded(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
            try:
                kept = {name: value for name, value in headers.items() if name not in _HOP}
                connection.request(self.command, self.path, body, kept)
                reply = connection.getresponse()
                data = reply.read()
                return (
                    reply.status,
                    {n: v for n, v in reply.getheaders() if n.lower() not in _HOP}
                    | ({"content-length": reply.headers["content-length"]} if self.command == "HEAD" else {}),
                    data,
                )
            finally:
                connection.close()

        def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if self.command != "HEAD" or "content-length" not in headers:
                self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


_CODES = {
    code: f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>made by the test</Message></Error>".encode()
    for code, name in {
        "401": "InvalidToken",
        "403": "AccessDenied",
        "500": "InternalError",
        "503": "SlowDown",
        "409": "ConditionalRequestConflict",
        "412": "PreconditionFailed",
        "501": "NotImplemented",
    }.items()
}


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own for a test."""

    proxy: FaultProxy
    name: str

    def url(self, cache: str = "cache") -> str:
        return f"s3://{self.name}/{cache}"

    def names(self) -> list[str]:
        """Of all objects, asked of the server itself."""
        body = self._asked("GET", f"/{self.name}?list-type=2&max-keys=1000")[1].decode()
        return re.findall("<Key>([^<]+)</Key>", body)

    def get(self, name: str) -> bytes:
        status, body = self._asked("GET", f"/{self.name}/{name}")
        assert status == 200, name
        return body

    def put(self, name: str, data: bytes) -> None:
        assert self._asked("PUT", f"/{self.name}/{name}", data)[0] == 200

    def delete(self, name: str) -> None:
        assert self._asked("DELETE", f"/{self.name}/{name}")[0] == 204

    def _asked(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            connection.request(method, path, body, _SIGNED)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


def new_bucket(proxy: FaultProxy) -> Bucket:
    found = Bucket(proxy, f"tests-{secrets.token_hex(8)}")
    assert found._asked("PUT", f"/{found.name}")[0] == 200
    return found
