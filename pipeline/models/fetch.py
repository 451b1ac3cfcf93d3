"""Files from far away, kept in a cache: whole or not at all, one copy whoever asks, and never for ever.

The file comes to `<name>.part` beside its place, under a lock, and is moved there when complete. An attempt that
breaks off is resumed where the server can; when the attempts or the time are used up the part is removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from pipeline.context import Console
from pipeline.errors import BackboneError
from pipeline.files import expanded
from pipeline.models import transfer
from pipeline.models.transfer import Interrupted
from pipeline.redaction import redact_forms

_SPARE = 64 << 20  # bytes of disk to leave free


@dataclass(frozen=True)
class RetryPolicy:
    """How long a file is tried for, in seconds: `pause` doubles from attempt to attempt."""

    attempts: int = 5
    pause: float = 1.0
    stall: float = 30.0
    total: float = 3600.0


def cache_folder() -> Path:
    """`weights` in $THAW_CACHE, or in the user's cache folder."""
    own = os.environ.get("THAW_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(own or f"{user}/thaw") / "weights"


def offline() -> bool:
    """Whether $THAW_OFFLINE forbids the network."""
    return os.environ.get("THAW_OFFLINE", "").lower() not in ("", "0", "false", "no")


def place(url: str) -> Path:
    """Where the cache keeps the file of a URL, whatever the login or signature it is fetched with."""
    public = redact_forms(url)
    name = PurePosixPath(unquote(urlsplit(public).path)).name or "weights"
    return cache_folder() / hashlib.sha256(public.encode()).hexdigest()[:8] / name


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, console: Console, *, no_network: bool = False, patience: RetryPolicy | None = None) -> Path:
    """The cached copy of a URL, fetched if there is none.

    Raises:
        BackboneError: it cannot be had; the message says how to bring the file by hand.
    """
    final, patience = place(url), patience or RetryPolicy()
    if final.is_file():  # asked before anything is written: the cache may be read-only
        return final
    if no_network:
        raise _not_cached(url, final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock", timeout=patience.total):
            if not final.is_file():
                _bring(url, final, patience, console)
    except Timeout as fault:
        raise BackboneError(
            str(final), found=f"another process has been fetching it for {patience.total:g} s",
            hint=f"see which process holds {final}.lock, end it if it hangs, and run again",
        ) from fault  # fmt: skip
    except OSError as fault:
        raise BackboneError(
            str(final), found=f"cannot be written: {fault.strerror or fault}", expected="a cache folder with room",
            hint="make room or give the folder's rights, or set THAW_CACHE to another folder",
        ) from fault  # fmt: skip
    return final


def require_reachable(url: str, *, no_network: bool = False, stall: float = 10.0) -> None:
    """Makes sure that `fetch` has a copy or is likely to get one.

    Args:
        stall: seconds that a server has to answer.

    Raises:
        BackboneError: there is no copy, and the network is switched off or the server does not answer or refuses.
    """
    final = place(url)
    if final.is_file():
        return
    if no_network:
        raise _not_cached(url, final)
    try:
        with transfer.opened(url, 0, None, stall):
            return
    except Interrupted as fault:
        raise BackboneError(
            transfer.shown(url), found=str(fault), expected="an answer", hint=_recipe(url, final)
        ) from fault


def _not_cached(url: str, final: Path) -> BackboneError:
    return BackboneError(
        transfer.shown(url),
        found="not in the cache, and the network is switched off",
        expected=f"the file at {final}",
        hint=_recipe(url, final),
    )


def _recipe(url: str, final: Path) -> str:
    return (
        f"where there is a network: curl -L -o {final.name} '{transfer.shown(url)}'; then put it at {final}, "
        "or anywhere and set backbone.weights to its path"
    )


def _bring(url: str, final: Path, patience: RetryPolicy, console: Console) -> None:
    part = final.with_name(final.name + ".part")
    try:
        _complete(url, part, final, patience, console)
        part.replace(final)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    _sync_folder(final.parent)


def _complete(url: str, part: Path, final: Path, patience: RetryPolicy, console: Console) -> None:
    deadline = time.monotonic() + patience.total
    download = _Download(url, part, patience.stall, deadline, console)
    reasons: list[str] = []
    for attempt in range(patience.attempts):
        try:
            return download.attempt()
        except Interrupted as fault:
            reasons.append(str(fault))
            pause = patience.pause * 2**attempt
            if time.monotonic() + pause > deadline:
                break
            if attempt + 1 < patience.attempts:
                console.info(f"{part.stem}: {fault}; trying again in {pause:g} s")
                time.sleep(pause)
    raise BackboneError(
        transfer.shown(url), found=f"{len(reasons)} attempts failed, the last: {reasons[-1]}",
        expected="the whole file", hint=_recipe(url, final), details=reasons,
    )  # fmt: skip


class _Download:
    """A file on its way; remembers which version it has a part of."""

    def __init__(self, url: str, part: Path, stall: float, deadline: float, console: Console) -> None:
        self.url, self.part, self.stall, self.deadline, self.console = (
            url,
            part,
            stall,
            deadline,
            console,
        )
        self.version: str | None = None
        self.have = 0

    def attempt(self) -> None:
        start = self.have if self.version else 0
        with transfer.opened(self.url, start, self.version, self.stall) as body:
            self.have, self.version = body.start, body.version
            _check_room(self.part.parent, self.url, body.size, body.start)
            with self.part.open("ab" if body.start else "wb") as file:
                file.truncate(body.start)
                for chunk in body.chunks:
                    self._take(chunk, body.size)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        if body.size is not None and self.have != body.size:
            raise Interrupted(f"the connection ended after {self.have} of {body.size} bytes")
        with self.part.open("rb") as file:
            if transfer.is_page(file.read(16)):  # a login page may come as any type
                raise transfer.web_page(self.url)

    def _take(self, chunk: bytes, size: int | None) -> None:
        if time.monotonic() > self.deadline:
            raise Interrupted(f"the time allowed is over, after {self.have} bytes")
        self.have += len(chunk)
        self.console.progress(f"fetching {self.part.stem}", self.have, size or 0)


def _check_room(folder: Path, url: str, size: int | None, have: int) -> None:
    needed = (size or 0) - have + _SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackboneError(
            str(folder), found=f"{free >> 20} MiB free", expected=f"{needed >> 20} MiB for {transfer.shown(url)}",
            hint="make room, or set THAW_CACHE to a folder on another disk",
        )  # fmt: skip


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # a directory can be opened, and its entry made durable, only there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
