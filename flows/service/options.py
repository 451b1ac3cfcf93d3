"""What `thaw serve` is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

HOSTS = ("127.0.0.1", "localhost")
MAX_PORT = 65535
HELD_BODIES = 8  # of the largest size, at one time


@dataclass(frozen=True)
class ServeOptions:
    """Address and limits of the server.

    Args:
        max_mib: most MiB of a request's body.
        max_items: most examples in one request.
        timeout: seconds from a request's last byte to its answer.
        queue: most requests that wait for the model or are being answered.
        version: the version to serve whatever the champion is; None: follow the
            champion.
        log: where answers are logged; None: nowhere.
        poll: seconds between two looks at the registry.
        body_timeout: seconds that a client has to send a request's headers, and again
            its body.
        load_timeout: seconds that a version has to load and to answer its input
            example.
        connections: most connections at one time.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_mib: float = 32
    max_items: int = 64
    timeout: float = 30
    queue: int = 32
    version: int | None = None
    log: Path | None = None
    poll: float = 5
    body_timeout: float = 10
    load_timeout: float = 180
    connections: int = 256

    @property
    def max_bytes(self) -> int:
        mebibyte = 2**20
        return int(self.max_mib * mebibyte)

    @property
    def max_held_bytes(self) -> int:
        """Of all bodies that are being read or answered."""
        return HELD_BODIES * self.max_bytes

    def check(self) -> None:
        """Refuses what cannot be served.

        Raises:
            ConfigError: names the option.
        """
        if self.host not in HOSTS:
            raise ConfigError("--host", found=self.host, expected=" or ".join(HOSTS))
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(
                "--port", found=str(self.port), expected=f"0 to {MAX_PORT}"
            )
        limits = {
            "max-mib": self.max_mib,
            "max-items": self.max_items,
            "timeout": self.timeout,
            "queue": self.queue,
        }
        for name, value in limits.items():
            if not 0 < value < float("inf"):
                raise ConfigError(
                    f"--{name}", found=str(value), expected="a number above 0"
                )
