"""Minutes of load on `thaw serve`, a fifth of it hostile, with two changes of the champion:

    python bench/serve_load.py WORKSPACE --minutes 5 --versions 2 1

The workspace has the versions registered and one of them as champion. Prints the counts by kind and status, latency of good
requests and resident memory over time; exits with 1 where an answer has a status of 500 or above that is not 503.
"""

from __future__ import annotations

import argparse
import base64
import collections
import http.client
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from rich.console import Console

from flows.promotion import promote_version
from pipeline.context import SilentConsole
from pipeline.workspace import Workspace

JSON = "application/json"
HOSTILE_SHARE = 0.2
SECONDS_BETWEEN_SAMPLES = 15
THREADS = 4

console = Console(highlight=False, soft_wrap=True)


class Load:
    """What was asked and answered."""

    def __init__(self, port: int, good: bytes, until: float) -> None:
        self.port, self.good, self.until = port, good, until
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.seconds: list[float] = []
        self.versions: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()

    def hostile(self) -> list[tuple[str, bytes, str]]:
        """Name, body and content type of requests that are to be refused."""
        return [
            ("not UTF-8", b"\xff\xfe\x00", JSON),
            ("deep JSON", b"[" * 100_000, JSON),
            ("NaN", b'{"dataframe_records": [{"image": NaN}]}', JSON),
            ("not base64", b'{"dataframe_records": [{"image": "%%%"}]}', JSON),
            ("too many", b'{"dataframe_records": [' + b"{}," * 999 + b"{}]}", JSON),
            ("broken image", b"\xff\xd8\xff nothing", "image/jpeg"),
            ("another type", b"<a/>", "application/xml"),
            ("large", b" " * (40 * 2**20), JSON),
        ]

    def run(self, seed: int) -> None:
        """Asks one request after the other until the time is over."""
        draw = random.Random(seed)
        hostile = self.hostile()
        while time.monotonic() < self.until:
            if draw.random() >= HOSTILE_SHARE:
                self._ask("good", self.good, JSON)
            elif draw.random() < 0.1:
                self._hang_up()
            else:
                self._ask(*draw.choice(hostile))

    def _ask(self, name: str, body: bytes, kind: str) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", "/predict", body, {"Content-Type": kind})
            response = connection.getresponse()
            response.read()
            status, version = (
                str(response.status),
                response.headers.get("X-Thaw-Version", "none"),
            )
        except OSError as fault:
            status, version = type(fault).__name__, "none"
        finally:
            connection.close()
        with self.lock:
            self.counts[name, status] += 1
            if name == "good" and status == "200":
                self.seconds.append(time.monotonic() - began)
                self.versions[version] += 1

    def _hang_up(self) -> None:
        """Sends half of a request and goes away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"half")
        connection.close()
        with self.lock:
            self.counts["hung up", "none"] += 1


def make_champion(root: Path, number: str) -> None:
    """As a person does it."""
    promote_version(Workspace(root), number, "bench", "load run", SilentConsole())


def start(root: Path) -> tuple[subprocess.Popen[str], int]:
    """The server, and its port."""
    command = [str(Path(sys.executable).with_name("thaw")), "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if address:
            return process, int(address.group(1))
    raise SystemExit("thaw serve did not start")


def memory(process: psutil.Process) -> str:
    """MiB of the server and of its children."""
    children = [child.memory_info().rss for child in process.children(recursive=True)]
    return f"server {process.memory_info().rss / 2**20:.0f} MiB, models {sum(children) / 2**20:.0f} MiB ({len(children)})"


def watch(
    process: psutil.Process, root: Path, versions: list[str], minutes: float
) -> None:
    """Prints memory and changes the champion at equal distances, until the time is
    over.
    """
    began = time.monotonic()
    left = list(versions)
    while time.monotonic() - began < minutes * 60:
        passed = time.monotonic() - began
        changes = len(versions) - len(left)
        if left and passed > minutes * 60 * (changes + 1) / (len(versions) + 1):
            number = left.pop(0)
            make_champion(root, number)
            console.print(f"{passed:5.0f} s  champion is now v{number}")
        console.print(f"{passed:5.0f} s  {memory(process)}")
        time.sleep(SECONDS_BETWEEN_SAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--versions", nargs="*", default=[])
    given = parser.parse_args()
    picture = min(
        (path for path in (given.workspace / "data").rglob("*") if path.is_file()),
        key=str,
    )
    row = {"image": base64.b64encode(picture.read_bytes()).decode()}
    process, port = start(given.workspace)
    load = Load(
        port,
        json.dumps({"dataframe_records": [row]}).encode(),
        time.monotonic() + given.minutes * 60,
    )
    threads = [
        threading.Thread(target=load.run, args=(seed,)) for seed in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    watch(psutil.Process(process.pid), given.workspace, given.versions, given.minutes)
    for thread in threads:
        thread.join()
    process.send_signal(signal.SIGTERM)
    console.print(f"exit status {process.wait(60)}")
    for (name, status), count in sorted(load.counts.items()):
        console.print(f"{name:<14} {status:<24} {count}")
    cuts = statistics.quantiles(load.seconds, n=100)
    console.print(
        f"good: p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms; by version {dict(load.versions)}"
    )
    bad = [
        status
        for _, status in load.counts
        if status.isdigit() and int(status) >= 500 and status != "503"
    ]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
