"""The HTTP routes: /predict, /health, /version, /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

from flows.service.answer_log import AnswerLog
from flows.service.bodies import RefusedRequest, parse_body
from flows.service.follower import ServedModel
from flows.service.measures import Measures
from flows.service.options import HOSTS, ServeOptions

MAX_LENGTH_DIGITS = 18
# Times what is accepted: most clients read an answer only once they have sent
# everything.
READ_BEFORE_REFUSAL = 4


def make_app(model: ServedModel, options: ServeOptions) -> FastAPI:
    """The application for a model that is loaded."""
    service = Service(model, options)
    app = FastAPI(title="Thaw", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route(
        "/predict", service.predict, methods=["POST"], response_model=None
    )
    app.add_api_route("/health", service.health, methods=["GET"], response_model=None)
    app.add_api_route("/version", service.version, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", service.metrics, methods=["GET"], response_model=None)
    app.add_exception_handler(Exception, service.fail)
    # A page of another site, whose name was made to lead to this machine, shall not ask
    # through its visitor's browser.
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False
    )
    return app


AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]  # scope, receive, send


class BoundedConnections:
    """Refuses requests while there are too many connections; uvicorn's own limit names
    no time to come again.

    Args:
        app: what answers otherwise.
        count: how many connections there are.
        most: how many there may be.
    """

    def __init__(self, app: AsgiApp, count: Callable[[], int], most: int) -> None:
        self._app = app
        self._count = count
        self._most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._count() <= self._most:
            await self._app(scope, receive, send)
            return
        message = f"{self._most} connections are open already"
        headers = {"Retry-After": "1", "Connection": "close"}
        await JSONResponse({"error": message}, status_code=503, headers=headers)(
            scope, receive, send
        )


class Service:
    """What the routes do."""

    def __init__(self, model: ServedModel, options: ServeOptions) -> None:
        self.model = model
        self.options = options
        self.log = None if options.log is None else AnswerLog(options.log)
        self._held_bytes = 0  # of all bodies that are read or being answered
        self.measures = Measures(model, self.log, lambda: self._held_bytes)

    async def predict(self, request: Request) -> Response:
        """Predictions, with the version that made them."""
        began = time.monotonic()
        try:
            response = await self._predict(request)
        except RefusedRequest as refusal:
            response = self._refuse(refusal)
        self.measures.count(response.status_code, time.monotonic() - began)
        return response

    async def _predict(self, request: Request) -> Response:
        model = self.model.current
        assert model is not None
        held = _HeldBytes(self)
        try:
            body = await self._read_body(request, held)
            kind = request.headers.get("content-type", "")
            question = await asyncio.to_thread(
                parse_body, kind, body, model.columns, self.options.max_items
            )
            version, reply = await self.model.answer(question.frame)
        finally:
            held.release()
        if self.log is not None:
            self.log.append(version.version, question.ids, reply["answers"])
        content = {
            "predictions": reply["answers"],
            "model": version.name,
            "version": version.version,
        }
        return JSONResponse(
            content, headers=self._name_version(version.name, version.version)
        )

    def hold(self, size: int) -> None:
        """Counts bytes of a body in.

        Raises:
            RefusedRequest: 503 where all bodies together are too large.
        """
        if self._held_bytes + size > self.options.max_held_bytes:
            raise RefusedRequest(
                503,
                "the requests that are being answered are too large together",
                retry=1,
            )
        self._held_bytes += size

    def let_go(self, size: int) -> None:
        """Counts bytes of a body out."""
        self._held_bytes -= size

    async def _read_body(self, request: Request, held: _HeldBytes) -> bytes:
        """The body, in limited size and time.

        Raises:
            RefusedRequest: 408 too slow, 413 too long, 503 too much with those of
                others, 400 the client went away.
        """
        length = request.headers.get("content-length", "0")
        most_read = READ_BEFORE_REFUSAL * self.options.max_bytes
        if (
            len(length) > MAX_LENGTH_DIGITS
            or not length.isdecimal()
            or int(length) > most_read
        ):
            raise self._too_long()
        body = bytearray()
        size = 0
        try:
            async with asyncio.timeout(self.options.body_timeout):
                async for part in request.stream():
                    size += len(part)
                    if size <= self.options.max_bytes:
                        held.add(len(part))
                        body += part
                    else:
                        body = bytearray()
                        held.release()
                    if size > most_read:
                        raise self._too_long()
        except TimeoutError as fault:
            raise RefusedRequest(
                408, f"body: not sent within {self.options.body_timeout:g} s"
            ) from fault
        except RefusedRequest:
            raise
        except Exception as fault:  # starlette's ClientDisconnect
            raise RefusedRequest(400, "body: cut short") from fault
        if size > self.options.max_bytes:
            raise self._too_long()
        return bytes(body)

    def _too_long(self) -> RefusedRequest:
        return RefusedRequest(
            413, f"body: at most {self.options.max_bytes} bytes are accepted"
        )

    def _refuse(self, refusal: RefusedRequest) -> Response:
        version = self.model.current
        assert version is not None
        headers = self._name_version(version.version.name, version.version.version)
        if refusal.retry is not None:
            headers["Retry-After"] = str(refusal.retry)
        if refusal.status in (408, 413, 503):
            headers["Connection"] = "close"  # the rest of the body is not read
        content = {
            "error": refusal.message,
            "model": version.version.name,
            "version": version.version.version,
        }
        return JSONResponse(content, status_code=refusal.status, headers=headers)

    def _name_version(self, name: str, version: str) -> dict[str, str]:
        return {
            "X-Thaw-Model": name.encode("ascii", "backslashreplace").decode(),
            "X-Thaw-Version": version,
        }

    async def health(self) -> Response:
        """Whether it answers (else 503), and whether all is as it should be."""
        faults = list(self.model.faults)
        if self.log is not None and self.log.fault:
            faults.append(self.log.fault)
        content = {
            **self._describe_version(),
            "status": "degraded" if faults else "ok",
            "reasons": faults,
        }
        if self.model.available:
            return JSONResponse(content)
        return JSONResponse(content, status_code=503, headers={"Retry-After": "10"})

    async def version(self) -> Response:
        """The model and version that answer now."""
        return JSONResponse(self._describe_version())

    def _describe_version(self) -> dict[str, Any]:
        assert self.model.current is not None
        version = self.model.current.version
        return {"model": version.name, "version": version.version}

    async def metrics(self) -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(self.measures.text(), media_type=self.measures.media_type)

    async def fail(self, request: Request, fault: Exception) -> Response:
        """The answer where the server itself is at fault."""
        return self._refuse(
            RefusedRequest(
                503, "internal error, see the terminal of thaw serve", retry=5
            )
        )


class _HeldBytes:
    """The part of one request in the bytes that a service holds."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._size = 0

    def add(self, size: int) -> None:
        """Counts more of the body in; see `Service.hold`."""
        self._service.hold(size)
        self._size += size

    def release(self) -> None:
        self._service.let_go(self._size)
        self._size = 0
