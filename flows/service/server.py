"""Runs the HTTP server until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from flows.service.app import BoundedConnections, make_app
from flows.service.follower import ServedModel
from flows.service.options import ServeOptions
from pipeline.errors import ConfigError
from pipeline.signals import CTRL_C, ENDING, handled
from pipeline.workspace import Workspace

Ready = Callable[[str, str], None]


def serve(workspace: Workspace, options: ServeOptions, ready: Ready) -> None:
    """Serves the workspace's champion until SIGINT, SIGTERM or SIGHUP; answers in
    flight are finished.

    Args:
        ready: told the address and the version once requests are answered.

    Raises:
        ConfigError: an option cannot be used, or the port is taken.
        ServingError: there is no champion, or it cannot be loaded.
        TrackingError: the registry is away.
        KeyboardInterrupt, SystemExit: the signal that ended it, as for any command.
    """
    options.check()
    listening = _listen(options)
    with listening:
        received = asyncio.run(_serve(workspace, options, listening, ready))
    if received == CTRL_C:
        raise KeyboardInterrupt
    raise SystemExit(128 + received if received else 1)


def _listen(options: ServeOptions) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
        listening.listen(options.connections)
    except OSError as fault:
        listening.close()
        raise ConfigError(
            "--port",
            found=f"{options.port}: {(fault.strerror or str(fault)).lower()}",
            expected="a free port",
            hint="end the program that listens there, or --port 0 for any free one",
        ) from fault
    return listening


async def _serve(
    workspace: Workspace, options: ServeOptions, listening: socket.socket, ready: Ready
) -> int:
    model = ServedModel(workspace, options)
    await model.start()
    assert model.current is not None
    server = _make_server(model, options)
    try:
        with handled((signal.SIGINT, *ENDING), server.handle_exit):
            following = asyncio.create_task(model.follow())
            host, port = listening.getsockname()[:2]
            version = model.current.version
            ready(f"http://{host}:{port}", f"{version.name} v{version.version}")
            await server.serve(sockets=[listening])
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
    finally:
        await model.close()
    return server.received


def _make_server(model: ServedModel, options: ServeOptions) -> QuietServer:
    BoundedProtocol.seconds = options.body_timeout
    app = BoundedConnections(
        make_app(model, options),
        lambda: len(server.server_state.connections),
        options.connections,
    )
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(options.body_timeout),
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )
    server = QuietServer(config)
    return server


class QuietServer(uvicorn.Server):
    """uvicorn's server with the signals of Thaw's commands."""

    received = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the server once the answers in flight are given; a second Ctrl-C does
        not wait for them.
        """
        self.force_exit = bool(self.received) and sig == CTRL_C
        self.received = self.received or sig
        self.should_exit = True


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 whose client has to send a request's headers within some seconds."""

    seconds: float = 10
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._deadline is None and not is_answering:
            self._deadline = self.loop.call_later(self.seconds, self.transport.abort)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
