"""The served model: asked through a bounded queue, and replaced when the champion
changes.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flows.service.bodies import RefusedRequest
from flows.service.champion import fetch_version, find_served_version
from flows.service.model_process import ModelProcess, start_model
from flows.service.worker import Frame
from pipeline.errors import ServingError, ThawError

if TYPE_CHECKING:
    from flows.service.options import ServeOptions
    from pipeline.tracking.registry import ModelVersion
    from pipeline.workspace import Workspace

SECONDS_BEFORE_RETRY = 60  # of a version that was refused


class ServedModel:
    """The version that answers now.

    A new champion is loaded beside it, and takes over once it has answered its input
    example. One that does not is refused, and the reason is in `faults`.
    """

    def __init__(self, workspace: Workspace, options: ServeOptions) -> None:
        self.workspace = workspace
        self.options = options
        self.current: ModelProcess | None = None
        self.waiting = 0
        self.swaps = 0
        self.refusals = 0
        self.restarts = 0
        self.registry_fault = ""
        self.version_fault = ""
        self._refused: tuple[str, float] | None = None
        self._wake = asyncio.Event()

    @property
    def faults(self) -> list[str]:
        """Why the service is degraded; empty where it is not."""
        faults = [self.registry_fault, self.version_fault]
        if not self.available:
            faults.append("the model's process ended and is started again")
        return [fault for fault in faults if fault]

    @property
    def available(self) -> bool:
        return self.current is not None and self.current.alive

    async def start(self) -> None:
        """Loads the version to serve.

        Raises:
            ServingError: there is none, or it cannot be loaded.
            TrackingError: the registry is away.
        """
        version = await asyncio.to_thread(
            find_served_version, self.workspace, self.options.version
        )
        self.current = await self._load(version)

    async def _load(self, version: ModelVersion) -> ModelProcess:
        folder = await asyncio.to_thread(fetch_version, self.workspace, version)
        logs = self.workspace.scratch / "logs"
        log = logs / f"serve-{version.version}.log"
        timeout = self.options.load_timeout
        return await start_model(version, Path(folder), log, timeout)

    async def answer(self, frame: Frame) -> tuple[ModelVersion, Frame]:
        """The answer, and the version that gave it.

        Raises:
            RefusedRequest: 503 where too many wait, it takes too long or the model is
                not there; 422 where the model cannot use the input.
        """
        if self.waiting >= self.options.queue:
            raise RefusedRequest(
                503, f"{self.waiting} requests are waiting already", retry=1
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(self.options.timeout):
                version, reply = await self._ask_current(frame)
        except TimeoutError as fault:
            raise RefusedRequest(
                503, f"no answer within {self.options.timeout:g} s", retry=5
            ) from fault
        except ServingError as fault:
            raise RefusedRequest(503, "the model's process ended", retry=10) from fault
        finally:
            self.waiting -= 1
            if not self.available:
                self._wake.set()
        if "error" in reply:
            raise (
                RefusedRequest(422, reply["error"])
                if reply["refused"]
                else RefusedRequest(503, reply["error"], 5)
            )
        return version, reply

    async def _ask_current(self, frame: Frame) -> tuple[ModelVersion, Frame]:
        """Asks the version that is current when it is this request's turn."""
        while True:
            model = self.current
            if model is None or not model.alive:
                raise ServingError("the model's process", found="it ended")
            async with model.turn:
                if model is self.current and model.alive:
                    return model.version, await model.ask(frame)

    async def follow(self) -> None:
        """Keeps what is served up to date, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self.options.poll):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._bring_up_to_date()

    async def _bring_up_to_date(self) -> None:
        if not self.available:
            await self._restart()
        try:
            version = await asyncio.to_thread(
                find_served_version, self.workspace, self.options.version
            )
            self.registry_fault = ""
        except Exception as fault:
            self.registry_fault = (
                f"the champion cannot be asked for: {_one_line(fault)}"
            )
            return
        if self.current is not None and version.version == self.current.version.version:
            self.version_fault, self._refused = "", None
        elif not self._was_just_refused(version):
            await self._replace(version)

    def _was_just_refused(self, version: ModelVersion) -> bool:
        if self._refused is None:
            return False
        number, moment = self._refused
        if number != version.version:
            return False
        return time.monotonic() - moment < SECONDS_BEFORE_RETRY

    async def _restart(self) -> None:
        assert self.current is not None
        try:
            self.current = await self._load(self.current.version)
            self.restarts += 1
        except Exception as fault:
            self.version_fault = f"v{self.current.version.version} cannot be started again: {_one_line(fault)}"

    async def _replace(self, version: ModelVersion) -> None:
        """Loads a version beside the current one, which it replaces if it answers."""
        try:
            new = await self._load(version)
        except Exception as fault:
            self.refusals += 1
            self._refused = (version.version, time.monotonic())
            self.version_fault = f"v{version.version} is refused: {_one_line(fault)}"
            return
        old, self.current = self.current, new
        self.swaps += 1
        self.version_fault, self._refused = "", None
        if old is not None:
            async with old.turn:  # the answer that it is giving
                await old.close()

    async def close(self) -> None:
        """Ends the model's process."""
        if self.current is not None:
            await self.current.close()


def _one_line(fault: Exception) -> str:
    if isinstance(fault, ThawError):
        return f"{fault.subject}: {fault.found}"
    kind = type(fault).__name__
    return " ".join(f"{kind}: {fault}".split())
