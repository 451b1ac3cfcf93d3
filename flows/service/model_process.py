"""One version of the model in a process of its own, asked one request at a time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows import settings
from flows.service.worker import LENGTH, Frame, to_bytes
from pipeline.errors import ServingError

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion

SECONDS_TO_END = 2


@dataclass(frozen=True)
class InputColumn:
    """A column that the model is asked by."""

    name: str
    type: str


class ModelProcess:
    """A loaded version that answered its input example.

    Args:
        process: the worker.
        columns: what it is asked by.
    """

    def __init__(
        self,
        version: ModelVersion,
        process: asyncio.subprocess.Process,
        columns: tuple[InputColumn, ...],
    ) -> None:
        self.version = version
        self.columns = columns
        self.turn = asyncio.Lock()
        self._process = process

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, frame: Frame) -> Frame:
        """The worker's answer; the caller has its turn.

        Raises:
            ServingError: the process ended instead.
        """
        try:
            await _write(self._process, frame)
            return await _read(self._process)
        except (OSError, EOFError) as fault:
            await self.close()
            raise ServingError(
                "the model's process", found="it ended", expected="an answer"
            ) from fault
        except asyncio.CancelledError:
            _kill(self._process)  # its late answer would be taken for the next one's
            raise

    async def close(self) -> None:
        """Ends the process."""
        await _end(self._process)


async def start_model(
    version: ModelVersion, folder: Path, log: Path, seconds: float
) -> ModelProcess:
    """Loads a version in a new process and has it answer its input example.

    Args:
        log: where what the process says goes.
        seconds: it has for that.

    Raises:
        ServingError: it cannot be loaded, or does not answer.
    """
    process = await _spawn(folder, log)
    try:
        async with asyncio.timeout(seconds):
            first = await _read(process)
    except TimeoutError:
        first = {"fault": f"no answer within {seconds:.0f} s"}
    except (OSError, EOFError):
        first = {"fault": f"its process ended, see {log}"}
    except asyncio.CancelledError:
        _kill(process)
        raise
    if "fault" in first:
        await _end(process)
        raise ServingError(
            f"{version.name} v{version.version}",
            found=first["fault"],
            expected="a model that loads and answers its input example",
            hint="thaw run --force register, or name another with --version",
        )
    columns = tuple(InputColumn(name, kind) for name, kind in first["columns"])
    return ModelProcess(version, process, columns)


async def _spawn(folder: Path, log: Path) -> asyncio.subprocess.Process:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "flows.service.worker",
            str(folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stream,
            env={**os.environ, **settings.QUIET},
            start_new_session=True,
        )


async def _write(process: asyncio.subprocess.Process, frame: Frame) -> None:
    assert process.stdin is not None
    process.stdin.write(to_bytes(frame))
    await process.stdin.drain()


async def _read(process: asyncio.subprocess.Process) -> Frame:
    assert process.stdout is not None
    header = await process.stdout.readexactly(LENGTH.size)
    (size,) = LENGTH.unpack(header)
    frame: Frame = json.loads(await process.stdout.readexactly(size))
    return frame


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(SECONDS_TO_END):
            await process.wait()
    except TimeoutError:
        _kill(process)
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
