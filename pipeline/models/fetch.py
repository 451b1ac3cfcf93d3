"""Files behind URLs, kept in a cache: whole or not at all, one copy whoever asks, in a
limited time.

The file comes to `<name>.part` beside its place, under a lock, and is moved there when
complete. An attempt that breaks off is resumed where the server can; when the attempts
or the time are used up the part is removed.
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
from pipeline.files import expanded, sync
from pipeline.models import transfer
from pipeline.models.transfer import TransferInterrupted
from pipeline.redaction import redact_forms

_BYTES_TO_SPARE = 64 << 20  # of the disk


@dataclass(frozen=True)
class RetryPolicy:
    """How long a file is tried for.

    Args:
        attempts: how many at most.
        pause: seconds before the second attempt; doubled from attempt to attempt.
        stall: seconds without a byte after which an attempt is given up.
        total: seconds that all attempts may take together.
    """

    attempts: int = 5
    pause: float = 1.0
    stall: float = 30.0
    total: float = 3600.0


def cache_folder() -> Path:
    """`weights` in $THAW_CACHE, or in the user's cache folder."""
    folder = os.environ.get("THAW_CACHE")
    if not folder:
        user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = f"{user_cache}/thaw"
    return expanded(folder) / "weights"


def is_offline() -> bool:
    """Whether $THAW_OFFLINE forbids the network."""
    value = os.environ.get("THAW_OFFLINE", "")
    return value.lower() not in ("", "0", "false", "no")


def cached_path(url: str) -> Path:
    """Where the cache keeps the file of a URL, whatever the login or signature it is
    fetched with.
    """
    public = redact_forms(url)
    url_path = unquote(urlsplit(public).path)
    name = PurePosixPath(url_path).name or "weights"
    key = hashlib.sha256(public.encode()).hexdigest()[:8]
    return cache_folder() / key / name


def fetch_file(
    url: str,
    console: Console,
    *,
    no_network: bool = False,
    policy: RetryPolicy | None = None,
) -> Path:
    """The cached copy of a URL, fetched if there is none.

    Raises:
        BackboneError: it cannot be had; the message says how to bring the file by hand.
    """
    target = cached_path(url)
    if target.is_file():  # asked before anything is written: the cache may be read-only
        return target
    if no_network:
        raise _not_cached(url, target)
    policy = policy or RetryPolicy()
    try:
        _fetch_locked(url, target, policy, console)
    except Timeout as fault:
        raise BackboneError(
            str(target),
            found=f"another process has been fetching it for {policy.total:g} s",
            hint=f"see which process holds {target}.lock, end it if it hangs, and run again",
        ) from fault
    except OSError as fault:
        raise BackboneError(
            str(target),
            found=f"cannot be written: {fault.strerror or fault}",
            expected="a cache folder with room",
            hint="make room or give the folder's rights, or set THAW_CACHE to another folder",
        ) from fault
    return target


def check_reachable(url: str, *, no_network: bool = False, stall: float = 10.0) -> None:
    """Makes sure that `fetch_file` has a copy or is likely to get one.

    Args:
        stall: seconds that a server has to answer.

    Raises:
        BackboneError: there is no copy, and the network is switched off or the server
            does not answer or refuses.
    """
    target = cached_path(url)
    if target.is_file():
        return
    if no_network:
        raise _not_cached(url, target)
    try:
        with transfer.open_url(url, 0, None, stall):
            return
    except TransferInterrupted as fault:
        raise BackboneError(
            transfer.redact_url(url),
            found=str(fault),
            expected="an answer",
            hint=_explain_manual_fetch(url, target),
        ) from fault


def _not_cached(url: str, target: Path) -> BackboneError:
    return BackboneError(
        transfer.redact_url(url),
        found="not in the cache, and the network is switched off",
        expected=f"the file at {target}",
        hint=_explain_manual_fetch(url, target),
    )


def _explain_manual_fetch(url: str, target: Path) -> str:
    command = f"curl -L -o {target.name} '{transfer.redact_url(url)}'"
    return (
        f"where there is a network: {command}; then put it at {target}, "
        "or anywhere and set backbone.weights to its path"
    )


def _fetch_locked(
    url: str, target: Path, policy: RetryPolicy, console: Console
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock", timeout=policy.total):
        if not target.is_file():
            _download_to(url, target, policy, console)


def _download_to(url: str, target: Path, policy: RetryPolicy, console: Console) -> None:
    # Always the same name: the lock is held, and what a killed process left is written
    # over.
    part = target.with_name(target.name + ".part")
    try:
        _download_with_retries(url, part, target, policy, console)
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    sync(target.parent)


def _download_with_retries(
    url: str, part: Path, target: Path, policy: RetryPolicy, console: Console
) -> None:
    deadline = time.monotonic() + policy.total
    download = _Download(url, part, policy.stall, deadline, console)
    reasons: list[str] = []
    for attempt in range(policy.attempts):
        try:
            download.attempt()
            return
        except TransferInterrupted as fault:
            reasons.append(str(fault))
        pause = policy.pause * 2**attempt
        is_last = attempt + 1 == policy.attempts
        if is_last or time.monotonic() + pause > deadline:
            break
        console.info(f"{part.stem}: {reasons[-1]}; trying again in {pause:g} s")
        time.sleep(pause)
    raise BackboneError(
        transfer.redact_url(url),
        found=f"{len(reasons)} attempts failed, the last: {reasons[-1]}",
        expected="the whole file",
        hint=_explain_manual_fetch(url, target),
        details=reasons,
    )


class _Download:
    """A file on its way; remembers which version it has a part of."""

    def __init__(
        self, url: str, part: Path, stall: float, deadline: float, console: Console
    ) -> None:
        self.url = url
        self.part = part
        self.stall = stall
        self.deadline = deadline
        self.console = console
        self.version: str | None = None
        self.received = 0

    def attempt(self) -> None:
        """Fetches what is missing.

        Raises:
            TransferInterrupted: it may work later.
            BackboneError: it will not.
        """
        start = self.received if self.version else 0
        with transfer.open_url(self.url, start, self.version, self.stall) as source:
            self.received = source.start
            self.version = source.version
            _check_room(self.part.parent, self.url, source.size, source.start)
            self._write(source)
        if source.size is not None and self.received != source.size:
            raise TransferInterrupted(
                f"the connection ended after {self.received} of {source.size} bytes"
            )
        with self.part.open("rb") as file:
            beginning = file.read(16)
        if transfer.is_web_page(beginning):  # a login page may come as any type
            raise transfer.web_page_error(self.url)

    def _write(self, source: transfer.RemoteFile) -> None:
        mode = "ab" if source.start else "wb"
        with self.part.open(mode) as file:
            file.truncate(source.start)
            for chunk in source.chunks:
                self._count(chunk, source.size)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def _count(self, chunk: bytes, size: int | None) -> None:
        if time.monotonic() > self.deadline:
            raise TransferInterrupted(
                f"the time allowed is over, after {self.received} bytes"
            )
        self.received += len(chunk)
        self.console.progress(f"fetching {self.part.stem}", self.received, size or 0)


def _check_room(folder: Path, url: str, size: int | None, received: int) -> None:
    missing = (size or 0) - received
    needed = missing + _BYTES_TO_SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BackboneError(
            str(folder),
            found=f"{free >> 20} MiB free",
            expected=f"{needed >> 20} MiB for {transfer.redact_url(url)}",
            hint="make room, or set THAW_CACHE to a folder on another disk",
        )
