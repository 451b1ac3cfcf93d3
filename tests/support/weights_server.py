"""A real HTTP server on loopback that misbehaves as scripted: one behaviour a request,
the last one repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY = b"\x08" + bytes(range(256)) * 2000
Behaviour = Callable[[BaseHTTPRequestHandler], None]


class WeightsServer(ThreadingHTTPServer):
    """Keeps the headers of every request, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Behaviour] = [whole()]
        self.requests: list[dict[str, str]] = []
        self.counting = threading.Lock()
        self.reached = threading.Event()  # a behaviour that hangs has begun to
        self.release = threading.Event()  # lets it go on

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/net.safetensors"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: WeightsServer

    def do_GET(self) -> None:
        with self.server.counting:
            turn = len(self.server.requests)
            self.server.requests.append(dict(self.headers))
        self.server.script[min(turn, len(self.server.script) - 1)](self)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def serving() -> Iterator[WeightsServer]:
    """The server, running until the end of the block."""
    with WeightsServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


def _head(
    handler: BaseHTTPRequestHandler, code: int, length: int | None, **headers: str
) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()


def whole(body: bytes = BODY, etag: str = '"1"', ranges: bool = True) -> Behaviour:
    """The file, or the part asked for if it is of the same version."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if ranges and asked and handler.headers.get("If-Range") == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            _head(handler, 206, len(body) - start, ETag=etag, Content_Range=span)
            handler.wfile.write(body[start:])
        else:
            _head(handler, 200, len(body), ETag=etag)
            handler.wfile.write(body)

    return behave


def cut(at: int, body: bytes = BODY, etag: str = '"1"') -> Behaviour:
    """Promises the whole file and hangs up after `at` bytes."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, len(body), ETag=etag)
        handler.wfile.write(body[:at])

    return behave


def stalled(at: int, body: bytes = BODY) -> Behaviour:
    """Says nothing more after `at` bytes."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, len(body), ETag='"1"')
        handler.wfile.write(body[:at])
        handler.wfile.flush()
        handler.server.reached.set()  # type: ignore[attr-defined]
        handler.server.release.wait(60)  # type: ignore[attr-defined]

    return behave


def trickle(pause: float, body: bytes = BODY) -> Behaviour:
    """Sends a byte now and then."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, len(body), ETag='"1"')
        for turn in range(len(body)):
            handler.wfile.write(body[turn : turn + 1])
            handler.wfile.flush()
            time.sleep(pause)

    return behave


def answer(code: int, body: bytes = b"", kind: str = "text/plain") -> Behaviour:
    """A plain answer."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, code, len(body), Content_Type=kind)
        handler.wfile.write(body)

    return behave
