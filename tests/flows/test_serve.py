"""`thaw serve`: the real command on a free port, asked over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import psutil
import pytest

from commands import THAW, Thaw
from flows.service.answer_log import AnswerLog
from flows.service.app import BoundedConnections
from flows.service.bodies import RefusedRequest, parse_body
from flows.service.follower import ServedModel
from flows.service.model_process import InputColumn, ModelProcess
from flows.service.options import HELD_BODIES, ServeOptions
from pipeline.config import Config, RegisterConfig, to_yaml
from pipeline.tracking import registry
from pipeline.tracking import store as stores
from pipeline.tracking.journal_run import JournalRun
from pipeline.workspace import Workspace
from registry_helpers import LABELS, Finished, lay_finished, name_champion

JSON = "application/json"
SECONDS_TO_FOLLOW = 90  # generous: other tests run beside
TEXT = (InputColumn("text", "string"),)
IMAGE = (InputColumn("image", "binary"),)


class Answer(NamedTuple):
    status: int
    content: Any
    headers: dict[str, str]


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def ask(self, path: str, body: bytes | None = None, kind: str = JSON) -> Answer:
        request = urllib.request.Request(
            self.url + path, data=body, headers={"Content-Type": kind} if body else {}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as response:
                return self._read(response)
        except urllib.error.HTTPError as fault:
            with fault:
                return self._read(fault)

    def _read(self, response: Any) -> Answer:
        text = response.read()
        is_json = response.headers.get("Content-Type", "").startswith(JSON)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(
            response.status, json.loads(text) if is_json else text.decode(), headers
        )

    def send_raw(self, content: bytes) -> bytes:
        """What comes back for bytes as they are, until the server closes."""
        with socket.create_connection(self.address, timeout=60) as connection:
            parts = []
            try:
                connection.sendall(content)
                while part := connection.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass
            return b"".join(parts)

    def wait_for_metric(self, name: str, value: float) -> None:
        """Returns once a metric has this value."""
        deadline = time.monotonic() + SECONDS_TO_FOLLOW
        while True:
            (found,) = re.findall(
                rf"^{name} (\S+)$", self.ask("/metrics").content, re.MULTILINE
            )
            if float(found) == value:
                return
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
            time.sleep(0.1)

    def wait_for(self, path: str, **values: Any) -> Any:
        """The answer at a path once these of its values are so."""
        deadline = time.monotonic() + SECONDS_TO_FOLLOW
        while True:
            content = self.ask(path).content
            if all(content.get(name) == value for name, value in values.items()):
                return content
            assert time.monotonic() < deadline, content
            time.sleep(0.2)


@contextmanager
def bodies_under_way(
    served: Served, head: bytes, size: int, count: int
) -> Iterator[None]:
    """Requests whose bodies lack their last byte."""
    with ExitStack() as open_connections:
        for _ in range(count):
            connection = open_connections.enter_context(
                socket.create_connection(served.address, timeout=60)
            )
            connection.sendall(
                head + f"Content-Length: {size}\r\n\r\n".encode() + b" " * (size - 1)
            )
        yield


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Served]:
    command = [str(THAW), "serve", "--port", "0", *options]
    with subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                address = re.search(r"http://127\.0\.0\.1:\d+", line)
                if address:
                    yield Served(process, address.group())
                    break
            else:
                pytest.fail(said)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A workspace whose champion is version 1."""
    made = lay_finished(tmp_path / "insects", tmp_path_factory)
    register = RegisterConfig(name="insects", thresholds={"accuracy": 0.5})
    made.config = Config(register=register)  # type: ignore[call-arg]
    (made.root / "params.yaml").write_text(to_yaml(made.config))
    (made.root / "dvc.yaml").write_text("")
    made.promote()
    return made


def records(*files: Path) -> bytes:
    """A request about image files."""
    rows = [{"image": base64.b64encode(file.read_bytes()).decode()} for file in files]
    return json.dumps({"dataframe_records": rows}).encode()


def make_champion(root: Path, number: str) -> registry.ModelVersion:
    workspace = Workspace(root)
    store = stores.find(workspace.config().tracking, workspace)
    version = registry.find(store, f"models:/insects/{number}")
    name_champion(JournalRun(store, version.name), version.version)
    return version


@pytest.mark.slow
def test_what_cannot_be_served_is_said_without_a_traceback(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, thaw: Thaw
) -> None:
    made = lay_finished(tmp_path / "insects", tmp_path_factory)
    made.config = Config(register=RegisterConfig(name="insects"))  # type: ignore[call-arg]
    (made.root / "params.yaml").write_text(to_yaml(made.config))
    (made.root / "dvc.yaml").write_text("")
    cases = [
        (("--host", "0.0.0.0"), "--host"),
        (("--queue", "0"), "--queue"),
        (("--port", "0"), "thaw run"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases.append((("--port", str(taken.getsockname()[1])), "a free port"))
        for options, expected in cases:
            refused = thaw("serve", *options, cwd=made.root, check=False)
            assert refused.returncode == 2, refused.stderr
            assert expected in refused.stderr
            assert "Traceback" not in refused.stderr
    made.register()
    no_champion = thaw("serve", "--port", "0", cwd=made.root, check=False)
    assert no_champion.returncode == 2
    assert "thaw serve --version 1" in no_champion.stderr


@pytest.mark.slow
def test_questions_limits_and_log(done: Finished, tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    options = ("--max-mib", "1", "--max-items", "2", "--log", str(log))
    with serving(done.root, *options) as served:
        small = done.files[-1]
        answer = served.ask("/predict", records(small))
        assert answer.status == 200, answer
        assert answer.content["predictions"][0]["label"] in LABELS
        assert (answer.content["model"], answer.content["version"]) == ("insects", "1")
        assert answer.headers["x-thaw-version"] == "1"
        raw = served.ask("/predict", small.read_bytes(), "image/webp")
        assert raw.content["predictions"] == answer.content["predictions"]
        assert served.ask("/health").content["status"] == "ok"
        assert served.ask("/version").content == {"model": "insects", "version": "1"}

        assert served.ask("/predict", records(small, small, small)).status == 413
        assert served.ask("/predict", b" " * 2**21).status == 413
        assert served.ask("/predict", b"{}", "application/xml").status == 415
        broken = served.ask("/predict", b"\xff\xd8\xff nothing", "image/jpeg")
        assert broken.status == 422
        assert "not an image" in broken.content["error"]
        assert served.ask("/elsewhere").status == 404
        assert served.ask("/predict").status == 405
        elsewhere = b"POST /predict HTTP/1.1\r\nHost: rebound.example\r\nContent-Length: 2\r\n\r\n{}"
        assert b" 400 " in served.send_raw(elsewhere), (
            "a page of another site must not ask through a browser"
        )
        head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        assert b" 400 " in served.send_raw(head + b"Content-Length: -1\r\n\r\n")
        assert b" 413 " in served.send_raw(
            head + b"Content-Length: 99999999999\r\n\r\n"
        )
        chunk = b"180000\r\n" + b" " * 0x180000 + b"\r\n"
        chunked = (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk + b"0\r\n\r\n"
        )
        assert b" 413 " in served.send_raw(chunked)

        metrics = served.ask("/metrics").content
        assert 'thaw_predict_requests_total{status="200"} 2.0' in metrics
        with bodies_under_way(served, head, 2**20, HELD_BODIES):
            served.wait_for_metric("thaw_held_bytes", HELD_BODIES * (2**20 - 1))
            refused = served.ask("/predict", records(small))
            assert refused.status == 503
            assert "too large together" in refused.content["error"]
            assert refused.headers["retry-after"] == "1"
        served.wait_for_metric("thaw_held_bytes", 0)
        assert served.ask("/predict", records(small)).status == 200
        assert "thaw_served_version 1.0" in metrics
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 128 + signal.SIGTERM
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 3
    assert set(lines[0]) == {"time", "id", "version", "label", "score"}


@pytest.mark.slow
def test_a_new_champion_takes_over_and_one_that_cannot_answer_is_refused(
    done: Finished,
) -> None:
    assert done.retrained(seed=4).register().version == "2"
    assert done.retrained(seed=5).register().version == "3"
    body = records(done.files[-1])
    with serving(done.root) as served:
        answers: list[Answer] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                answers.append(served.ask("/predict", body))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            make_champion(done.root, "2")
            served.wait_for("/version", version="2")
            broken = make_champion(done.root, "3")
            (weights,) = Path(broken.source.removeprefix("file://")).rglob(
                "weights.safetensors"
            )
            weights.write_bytes(b"nothing")
            health = served.wait_for("/health", status="degraded")
        finally:
            over.set()
            thread.join()
        assert "v3 is refused" in health["reasons"][0]
        assert health["version"] == "2"
        statuses = {answer.status for answer in answers}
        assert statuses <= {200, 503}
        versions = [
            answer.content["version"] for answer in answers if answer.status == 200
        ]
        assert versions == sorted(versions)
        assert set(versions) == {"1", "2"}
        make_champion(done.root, "1")
        assert served.wait_for("/health", status="ok", version="1")["reasons"] == []


@pytest.mark.slow
def test_a_killed_server_leaves_no_process_and_a_killed_model_is_started_again(
    done: Finished,
) -> None:
    with serving(done.root) as served:
        (model,) = psutil.Process(served.process.pid).children()
        model.kill()
        assert served.ask("/predict", records(done.files[-1])).status in (200, 503)
        served.wait_for("/health", status="ok")
        assert served.ask("/predict", records(done.files[-1])).status == 200
        (model,) = psutil.Process(served.process.pid).children()
        served.process.kill()
        psutil.wait_procs([model], timeout=30)
        assert not model.is_running()


class SlowProcess:
    """Stands for a model's process that takes for ever."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.alive = True
        self.version = None

    async def ask(self, frame: Any) -> Any:
        await asyncio.Event().wait()


def test_too_many_connections_are_503_with_the_time_to_come_again() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the request was let through")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/predict", "headers": []}
    asyncio.run(BoundedConnections(app, lambda: 3, 2)(scope, cast(Any, None), send))
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]


def test_a_full_queue_and_a_late_answer_are_503_with_the_time_to_come_again(
    tmp_path: Path,
) -> None:
    async def ask_two() -> list[RefusedRequest]:
        model = ServedModel(Workspace(tmp_path), ServeOptions(queue=1, timeout=0.2))
        model.current = cast(ModelProcess, SlowProcess())
        results = await asyncio.gather(
            model.answer({}), model.answer({}), return_exceptions=True
        )
        assert model.waiting == 0
        return cast(list[RefusedRequest], results)

    late, full = asyncio.run(ask_two())
    assert (late.status, late.retry) == (503, 5)
    assert "no answer within" in late.message
    assert (full.status, full.retry) == (503, 1)
    assert "waiting" in full.message


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"\xff", 422, "UTF-8 at offset 0"),
        (b'{"dataframe_records": [{"text": NaN}]}', 422, "NaN"),
        (b"[" * 200_000, 422, "body"),
        (b"{}", 422, "dataframe_records"),
        (b'{"dataframe_records": []}', 422, "at least one"),
        (
            b'{"dataframe_records": [{"text": "a"}, {"texts": "b"}]}',
            422,
            "dataframe_records[1]",
        ),
        (b'{"dataframe_records": [{"text": 1}]}', 422, "dataframe_records[0].text"),
        (
            b'{"dataframe_records": [{"text": "\\ud800"}]}',
            422,
            "dataframe_records[0].text",
        ),
        (b'{"dataframe_records": [' + b"1," * 3 + b"1]}", 413, "4 records"),
        (b'{"dataframe_records": ' + b"1" * 10_000 + b"}", 422, "body"),
    ],
    ids=range(10),
)
def test_a_malformed_body_is_refused_by_the_name_of_its_field(
    body: bytes, status: int, message: str
) -> None:
    with pytest.raises(RefusedRequest) as refusal:
        parse_body(JSON, body, TEXT, 3)
    assert refusal.value.status == status
    assert message in refusal.value.message


def test_one_example_may_come_as_it_is() -> None:
    by_json = parse_body(
        JSON, b'{"dataframe_records": [{"text": "so it goes"}]}', TEXT, 1
    )
    assert parse_body("text/plain; charset=utf-8", b"so it goes", TEXT, 1) == by_json
    assert parse_body("image/png", b"abc", IMAGE, 1).ids == (
        "900150983cd24fb0d6963f7d28e17f72",
    )
    with pytest.raises(RefusedRequest, match="expected application/json or image"):
        parse_body("text/plain", b"abc", IMAGE, 1)


def test_a_log_is_rotated_and_a_full_disk_is_counted(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "log.jsonl", max_bytes=1)
    log.append("1", ["a"], [{"label": "ant", "score": 1.0}])
    log.append("1", ["b"], [{"objects": [{}, {}]}])
    assert json.loads((tmp_path / "log.jsonl.1").read_text())["label"] == "ant"
    assert json.loads((tmp_path / "log.jsonl").read_text())["objects"] == 2
    cut = {"label": "good", "score": 1.0, "probabilities": {}, "truncated_tokens": 3}
    log.append("1", ["c"], [cut])
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    assert logged["truncated_tokens"] == 3
    assert "probabilities" not in logged
    full = AnswerLog(Path("/dev/full"), max_bytes=1 << 40)
    full.append("1", ["a"], [{"label": "ant", "score": 1.0}])
    assert full.failures == 1
    assert "No space left" in full.fault
