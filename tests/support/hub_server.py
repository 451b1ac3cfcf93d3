"""A small hub of networks on loopback: as much of the hub's protocol as fetching a
network takes.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIRST, SECOND = "1" * 40, "2" * 40  # commits


class HubServer(ThreadingHTTPServer):
    """Keeps what was asked for, in order, as "METHOD path"."""

    daemon_threads = True

    def __init__(self, repository: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.revisions: dict[str, dict[str, bytes]] = {}  # commit → file → content
        self.newest = FIRST
        self.requests: list[str] = []
        self.cuts = 0  # that many transfers of weights break off in the middle

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        repository = self.server.repository
        api, resolve = f"/api/models/{repository}", f"/{repository}/resolve/"
        if path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            self._file(self._commit(revision), name, body=body)
        elif path.startswith(f"{api}/tree/"):
            self._tree(self._commit(path.removeprefix(f"{api}/tree/")))
        elif path == api or path.startswith(f"{api}/revision/"):
            self._facts(
                self._commit(
                    path.removeprefix(f"{api}/revision/") if path != api else "main"
                )
            )
        else:
            self._json(
                {"error": "Repository not found"},
                code=404,
                **{"X-Error-Code": "RepoNotFound"},
            )

    def _commit(self, revision: str) -> str:
        return self.server.newest if revision == "main" else revision

    def _facts(self, commit: str) -> None:
        if commit not in self.server.revisions:
            self._json(
                {"error": "Invalid rev id"},
                code=404,
                **{"X-Error-Code": "RevisionNotFound"},
            )
            return
        siblings = [{"rfilename": name} for name in self.server.revisions[commit]]
        self._json({"id": self.server.repository, "sha": commit, "siblings": siblings})

    def _tree(self, commit: str) -> None:
        entries = []
        for name, content in self.server.revisions[commit].items():
            oid = hashlib.sha1(content).hexdigest()
            entries.append(
                {"type": "file", "path": name, "size": len(content), "oid": oid}
            )
        self._json(entries)

    def _file(self, commit: str, name: str, *, body: bool) -> None:
        content = self.server.revisions.get(commit, {}).get(name)
        if content is None:
            self._json(
                {"error": "Entry not found"},
                code=404,
                **{"X-Error-Code": "EntryNotFound"},
            )
            return
        start = 0
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body and name.endswith(".safetensors") and self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(content[start : len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif body:
            self.wfile.write(content[start:])

    def _json(self, content: Any, code: int = 200, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving(repository: str) -> Iterator[HubServer]:
    """The server, running until the end of the block."""
    with HubServer(repository) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
