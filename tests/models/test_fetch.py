"""Files over a bad network: whole or not at all, bounded in time, one copy whoever
asks.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import fsspec
import pytest

from pipeline import files
from pipeline.context import SilentConsole
from pipeline.errors import BackboneError
from pipeline.models import fetch
from pipeline.models.fetch import RetryPolicy
from weights_server import (
    BODY,
    WeightsServer,
    answer,
    cut,
    serving,
    stalled,
    trickle,
    whole,
)

QUICK = RetryPolicy(attempts=3, pause=0.02, stall=0.4, total=20)
LOGIN = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
FETCH = "import sys; from pipeline import files; from pipeline.models import fetch; from pipeline.context import SilentConsole; print(files.sha256(fetch.fetch_file(sys.argv[1], SilentConsole())))"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THAW_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving() as running:
        yield running


def get(url: str, **options: object) -> Path:
    return fetch.fetch_file(url, SilentConsole(), policy=QUICK, **options)  # type: ignore[arg-type]


def refused(url: str, **options: object) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        get(url, **options)
    return caught.value


def leftovers(cache: Path) -> list[str]:
    """Files of the cache but for the empty lock files."""
    return [
        path.name
        for path in cache.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    ]


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(
    server: WeightsServer, cache: Path
) -> None:
    path = get(server.url)
    assert path.read_bytes() == BODY
    assert path == get(server.url)
    assert len(server.requests) == 1
    assert leftovers(cache) == ["net.safetensors"]


def test_files_of_one_name_from_two_places_are_kept_apart(
    server: WeightsServer,
) -> None:
    server.script = [whole(b"one"), whole(b"two")]
    assert get(server.url).read_bytes() == b"one"
    assert get(server.url + "?version=2").read_bytes() == b"two"


class TestBrokenConnections:
    def test_a_transfer_that_breaks_off_goes_on_where_it_was(
        self, server: WeightsServer
    ) -> None:
        server.script = [cut(100_000), whole()]
        assert get(server.url).read_bytes() == BODY
        assert server.requests[1]["Range"] == "bytes=100000-"
        assert server.requests[1]["If-Range"] == '"1"'

    def test_it_starts_again_where_the_server_cannot_resume(
        self, server: WeightsServer
    ) -> None:
        server.script = [cut(100_000), whole(ranges=False)]
        assert get(server.url).read_bytes() == BODY
        assert "Range" in server.requests[1]

    def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(
        self, server: WeightsServer
    ) -> None:
        server.script = [cut(100_000), whole(BODY[::-1], etag='"2"')]
        assert get(server.url).read_bytes() == BODY[::-1]
        assert server.requests[1]["If-Range"] == '"1"'

    def test_a_server_in_trouble_is_asked_again(self, server: WeightsServer) -> None:
        server.script = [answer(500), answer(503), whole()]
        assert get(server.url).read_bytes() == BODY
        assert len(server.requests) == 3

    @pytest.mark.parametrize("behaviour", [answer(500), cut(1000), stalled(1000)])
    def test_attempts_are_bounded_and_nothing_is_left(
        self, server: WeightsServer, cache: Path, behaviour: object
    ) -> None:
        server.script = [behaviour]  # type: ignore[list-item]
        fault = refused(server.url)
        assert len(server.requests) == QUICK.attempts
        assert leftovers(cache) == []
        assert f"curl -L -o net.safetensors '{server.url}'" in fault.hint
        assert str(fetch.cached_path(server.url)) in fault.hint

    def test_a_trickle_ends_when_the_time_is_up(
        self, server: WeightsServer, cache: Path
    ) -> None:
        server.script = [trickle(0.05)]
        with pytest.raises(BackboneError, match="time allowed is over"):
            fetch.fetch_file(
                server.url,
                SilentConsole(),
                policy=RetryPolicy(attempts=3, pause=0.02, stall=5, total=0.5),
            )
        assert leftovers(cache) == []

    def test_nobody_listening(self, cache: Path) -> None:
        with serving() as gone:
            url = gone.url
        fault = refused(url)
        assert "3 attempts failed" in fault.found
        assert "backbone.weights" in fault.hint


class TestRefusals:
    @pytest.mark.parametrize("code", [401, 403, 404])
    def test_a_no_is_not_asked_for_again(
        self, server: WeightsServer, cache: Path, code: int
    ) -> None:
        server.script = [answer(code, LOGIN, "text/html")]
        assert f"HTTP {code}" in refused(server.url).found
        assert len(server.requests) == 1
        assert leftovers(cache) == []

    @pytest.mark.parametrize(
        "kind", ["text/html; charset=utf-8", "application/octet-stream"]
    )
    def test_a_login_page_in_place_of_the_file_is_called_that(
        self, server: WeightsServer, cache: Path, kind: str
    ) -> None:
        server.script = [answer(200, LOGIN, kind)]
        fault = refused(server.url)
        assert "login" in fault.found
        assert len(server.requests) == 1
        assert leftovers(cache) == []

    def test_a_safetensors_file_that_begins_like_a_page_is_none(
        self, server: WeightsServer
    ) -> None:
        body = (0x3C20).to_bytes(8, "little") + b"{}".ljust(0x3C20)
        assert body.startswith(b" <")
        server.script = [whole(body)]
        assert get(server.url).read_bytes() == body

    @pytest.mark.parametrize("code", [404, 500])
    def test_secrets_in_urls_are_not_repeated(
        self, server: WeightsServer, code: int
    ) -> None:
        server.script = [answer(code)]
        assert "hush5309" not in str(refused(server.url + "?token=hush5309"))


class TestLogin:
    def test_user_and_password_of_a_url_are_sent_and_never_asked_of_the_name_server(
        self, server: WeightsServer, cache: Path
    ) -> None:
        url = server.url.replace("://", "://lab:p%40ss%2Fword-5309@")
        path = get(url)
        assert path.read_bytes() == BODY
        assert (
            server.requests[0]["Authorization"]
            == "Basic " + b64encode(b"lab:p@ss/word-5309").decode()
        )
        assert server.requests[0]["Host"] == server.url.split("/")[2]

    def test_they_are_not_sent_where_the_server_redirects_to(
        self, server: WeightsServer
    ) -> None:
        with serving() as other:

            def redirect(handler: BaseHTTPRequestHandler) -> None:
                handler.send_response(302)
                handler.send_header("Location", other.url)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            server.script = [redirect]
            assert (
                get(server.url.replace("://", "://lab:hush5309@")).read_bytes() == BODY
            )
            assert "Authorization" in server.requests[0]
            assert "Authorization" not in other.requests[0]

    def test_another_password_or_signature_leads_to_the_same_copy(
        self, server: WeightsServer
    ) -> None:
        first = get(
            server.url.replace("://", "://lab:hush5309@")
            + "?v=1&X-Amz-Date=1&X-Amz-Signature=abc"
        )
        again = get(
            server.url.replace("://", "://lab:hush8675@")
            + "?v=1&X-Amz-Date=2&X-Amz-Signature=def"
        )
        assert first == again
        assert len(server.requests) == 1

    @pytest.mark.parametrize("chain", ["simplecache::", "filecache::blockcache::"])
    def test_a_chain_of_urls_is_shown_without_them(
        self, server: WeightsServer, chain: str
    ) -> None:
        server.script = [answer(401)]
        fault = refused(
            chain + server.url.replace("://", "://lab:hush5309@") + "?sig=hush8675"
        )
        assert "hush" not in str(fault)
        assert server.url in str(fault)


class TestOffline:
    def test_the_error_says_how_to_bring_the_file(self, server: WeightsServer) -> None:
        fault = refused(server.url, no_network=True)
        place = fetch.cached_path(server.url)
        assert server.requests == []
        assert server.url in fault.hint
        assert str(place) in fault.hint
        assert "backbone.weights" in fault.hint
        place.parent.mkdir(parents=True)
        place.write_bytes(BODY)  # what the message says to do
        assert get(server.url, no_network=True) == place

    @pytest.mark.parametrize(
        ("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False)]
    )
    def test_the_environment_can_say_so(
        self, monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
    ) -> None:
        monkeypatch.setenv("THAW_OFFLINE", value)
        assert fetch.is_offline() is expected


class TestDisk:
    def test_a_complete_read_only_cache_is_used_without_writing(
        self, server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get(server.url)
        for lock in cache.rglob("*.lock"):
            lock.unlink()
        before = sorted(cache.rglob("*"))

        def forbidden(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(fetch, "FileLock", forbidden)
        monkeypatch.setattr(Path, "mkdir", forbidden)
        assert get(server.url).read_bytes() == BODY
        assert sorted(cache.rglob("*")) == before
        assert "Read-only" in refused(server.url + "?other").found, (
            "the cache should have been forbidden"
        )

    def test_a_cache_that_cannot_be_made_names_the_setting(
        self, server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("THAW_CACHE", str(tmp_path / "file" / "cache"))
        assert "THAW_CACHE" in refused(server.url).hint

    def test_room_is_asked_for_before(
        self, server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
        fault = refused(server.url)
        assert "MiB free" in fault.found
        assert len(server.requests) == 1
        assert leftovers(cache) == []

    def test_a_disk_that_fills_up_leaves_nothing(
        self, server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        assert "No space left" in refused(server.url).found
        assert leftovers(cache) == []


class TestProcesses:
    def test_two_at_once_give_one_valid_file(
        self, server: WeightsServer, cache: Path
    ) -> None:
        server.script = [stalled(100_000), whole()]
        first = subprocess.Popen(
            [sys.executable, "-c", FETCH, server.url], stdout=subprocess.PIPE, text=True
        )
        assert server.reached.wait(30)
        second = subprocess.Popen(
            [sys.executable, "-c", FETCH, server.url], stdout=subprocess.PIPE, text=True
        )
        time.sleep(0.5)
        assert second.poll() is None, "it should wait for the first"
        assert len(server.requests) == 1
        server.release.set()
        printed = {
            process.communicate(timeout=60)[0].strip() for process in (first, second)
        }
        assert printed == {files.sha256(fetch.cached_path(server.url))}
        assert fetch.cached_path(server.url).read_bytes() == BODY
        assert len(server.requests) == 2, (
            "the first was cut and went on; the second found the file"
        )
        assert leftovers(cache) == ["net.safetensors"]

    def test_killed_half_way_nothing_is_visible_and_the_next_one_completes(
        self, server: WeightsServer
    ) -> None:
        server.script = [stalled(100_000), whole()]
        process = subprocess.Popen([sys.executable, "-c", FETCH, server.url])
        assert server.reached.wait(30)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        place = fetch.cached_path(server.url)
        assert place.with_name(place.name + ".part").exists(), (
            "the kill should come in the middle"
        )
        assert not place.exists()
        server.release.set()
        assert get(server.url).read_bytes() == BODY
        assert leftovers(place.parent) == ["net.safetensors"]


class TestOtherFileSystems:
    def test_any_fsspec_url(self) -> None:
        with fsspec.open("memory://models/net.pt", "wb") as file:
            file.write(BODY)
        assert get("memory://models/net.pt").read_bytes() == BODY

    def test_a_missing_file_is_named(self) -> None:
        assert refused("memory://models/none.pt").subject == "memory://models/none.pt"

    def test_an_unknown_protocol_is_named(self) -> None:
        assert "carrier" in refused("carrier://pigeon/net.pt").found

    def test_a_read_that_fails_is_taken_up_where_it_was(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fsspec.implementations.memory import MemoryFile

        with fsspec.open("memory://models/flaky.pt", "wb") as file:
            file.write(BODY * 4)
        read, offsets = MemoryFile.read, []

        def flaky(self: MemoryFile, size: int = -1) -> bytes:
            offsets.append(self.tell())
            if len(offsets) == 2:
                raise RuntimeError("connection lost")
            return read(self, size)

        monkeypatch.setattr(MemoryFile, "read", flaky)
        assert get("memory://models/flaky.pt").read_bytes() == BODY * 4
        assert offsets[2] == offsets[1] > 0
