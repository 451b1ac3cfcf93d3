"""No secret leaves, in whatever writing; and what is no secret stays readable."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import traceback
import urllib.error
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
from pydantic import BaseModel, ValidationError

from pipeline import redaction
from pipeline.config import BackboneConfig, expand_variables, parse
from pipeline.errors import BackboneError, ConfigError, ThawError
from pipeline.redaction import guarded, redact, redact_forms, scrub

SECRET = "Zx9/&canary<7>é"
URL = f"https://lab:{quote(SECRET, safe='')}@files.example.com/net.pt"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known of any secret; and the log is as it was afterwards."""
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_pattern", None)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            "https://lab:canary@files.example.com/net.pt",
            "https://***@files.example.com/net.pt",
        ),
        (
            "https://canary@files.example.com/net.pt",
            "https://***@files.example.com/net.pt",
        ),
        (
            "https://lab:can@ry@files.example.com/net.pt",
            "https://***@files.example.com/net.pt",
        ),
        (
            "simplecache::https://lab:canary@h/net.pt",
            "simplecache::https://***@h/net.pt",
        ),
        ("zip://a.pt::s3://lab:canary@h/b.zip", "zip://a.pt::s3://***@h/b.zip"),
        ("postgresql+psycopg2://u:canary@db/x", "postgresql+psycopg2://***@db/x"),
        ("postgresql+psycopg2://u:can/ary@db/x", "postgresql+psycopg2://***@db/x"),
        ("mysql://u:c'a\"n/ry@db:3306/x and more", "mysql://***@db:3306/x and more"),
        (
            "Invalid url: http://u:can/ary@h:5000/api",
            "Invalid url: http://***@h:5000/api",
        ),
        ("AccountName=lab;AccountKey=canary==", "AccountName=lab;AccountKey=***"),
        (
            "https://h/n?version=2&token=canary&a=b#c",
            "https://h/n?version=2&token=***&a=b#c",
        ),
        ("https://h/n?password=canary", "https://h/n?password=***"),
        (
            "https://h/n?X-Amz-Date=1&X-Amz-Signature=canary&v=1",
            "https://h/n?X-Amz-Date=***&X-Amz-Signature=***&v=1",
        ),
        ("https://h/n?se=2&sig=canary%3D", "https://h/n?se=2&sig=***"),
        (
            "https://h/n?a=1&amp;access_token=canary&amp;b=2",
            "https://h/n?a=1&amp;access_token=***&amp;b=2",
        ),
        (
            "https%3A%2F%2Flab%3Acanary%40h%2Fn%3Ftoken%3Dcanary%26v%3D1",
            "https%3A%2F%2F***%40h%2Fn%3Ftoken%3D***%26v%3D1",
        ),
        ("{'Authorization': 'Basic Y2FuYXJ5'}", "{'Authorization': 'Basic ***'}"),
        (
            "Authorization: Bearer canary, and more",
            "Authorization: Bearer ***, and more",
        ),
        (
            '{"url": "https://lab:canary@h/n", "next": 1}',
            '{"url": "https://***@h/n", "next": 1}',
        ),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, clean: str) -> None:
    assert redact_forms(text) == clean
    assert redact_forms(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "registered as flowers v3 (challenger): models:/flowers@champion",
        "http://127.0.0.1:5000/#/models/a@b",
        "learning-rate range test from 1e-6 to 1: 256 tokens, key=5, a.b=c",
        "postgresql://db:5432/x by lab@example.com",
        "http://…, https://…, sqlite:///…, postgresql://… or mysql://…",
        "http://[::1]:5000/#/models/a@b and zip://a.pt::file:///a@b",
        "mysql://${USER}:${PASSWORD}@db/x",
        "mail lab@example.com about https://example.com/a",
        "file:///work/a@b/data",
        "https://${WEIGHTS_LOGIN}@h/n?token=${TOKEN}&v=1",
        "https://lab:${PASSWORD}@h/n and https://${USER}:${PASSWORD}@h/n",
    ],
)
def test_what_does_not_stays(text: str) -> None:
    assert redact_forms(text) == text


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        html.escape(SECRET),
        json.dumps(SECRET),
        repr(SECRET),
        base64.b64encode(f"lab:{SECRET}".encode()).decode(),
        f"nonnumeric port: '{quote(SECRET, safe='')}@files.example.com'",
    ],
)
def test_a_known_secret_is_taken_out_without_its_url_in_any_writing(
    written: str,
) -> None:
    redaction.learn({"backbone": {"weights": [URL]}})
    said = redact(f"the server said {written}, twice")
    for form in (
        SECRET,
        quote(SECRET, safe=""),
        base64.b64encode(f"lab:{SECRET}".encode()).decode(),
    ):
        assert form not in said
    assert said.startswith("the server said ")
    assert said.endswith(", twice")


def test_a_databases_password_is_known_whatever_it_holds() -> None:
    redaction.learn({"uri": "postgresql://lab:S1ash/inside@db/x"})
    redaction.learn({"uri": "http://lab:An0ther/one@h/x"})
    assert (
        redact("no such user: S1ash/inside, S1ash%2Finside, An0ther/one")
        == "no such user: ***, ***, ***"
    )


def test_short_and_common_words_do_not_mangle_what_is_said() -> None:
    redaction.learn(
        [
            "https://a:b@h/x",
            "http://mlflow:mlflow@h",
            "https://admin:flowers@h",
            "https://u:12345678@h",
        ]
    )
    line = "a better model of flowers in mlflow/mlflow.db, 12345678 rows by admin at /home/a/b"
    assert redact(line) == line
    assert (
        redact("could not log in as a:b with YTpi")
        == "could not log in as *** with ***"
    )
    assert "flowers" not in redact("port 'flowers@h' and admin:flowers")


def test_the_environments_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "lab")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Canary-1234")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "thaw:Canary-5678")
    monkeypatch.setenv("https_proxy", "http://lab:Canary-9999@proxy.example.com:3128")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/lab/key.json")
    redaction.learn_environment()
    basic = base64.b64encode(b"lab:Canary-1234").decode()
    said = redact(
        f"{basic} Canary-1234 thaw:Canary-5678 Canary-5678 Canary-9999 /home/lab/key.json"
    )
    assert said == "*** *** *** *** *** /home/lab/key.json"


class TestExceptions:
    def test_an_exception_and_all_it_came_from_are_clean(self) -> None:
        def work() -> None:
            try:
                try:
                    raise urllib.error.URLError(OSError(f"no route to {URL}"))
                except OSError as fault:
                    raise ValueError(f"cannot open {URL}", {"url": URL}) from fault
            except ValueError as fault:
                fault.add_note(f"while fetching {URL}")
                raise RuntimeError("the step failed") from fault

        redaction.learn(URL)
        with pytest.raises(RuntimeError) as caught:
            guarded(work)()
        printed = "".join(traceback.format_exception(caught.value))
        assert "canary" not in printed
        assert printed.count("https://***@files.example.com/net.pt") >= 3
        assert isinstance(caught.value.__cause__, ValueError)
        assert "no route to" in printed

    def test_one_that_cannot_be_changed_is_stood_for(self) -> None:
        class Settings(BaseModel):
            port: int

        def work() -> None:
            try:
                Settings.model_validate({"port": URL})
            except ValidationError as fault:
                raise RuntimeError("settings") from fault

        redaction.learn(URL)
        with pytest.raises(RuntimeError) as caught:
            guarded(work)()
        printed = "".join(traceback.format_exception(caught.value))
        assert "Zx9" not in printed
        assert "ValidationError: 1 validation error for Settings" in printed
        with pytest.raises(redaction.RedactedError) as alone:
            guarded(lambda: Settings.model_validate({"port": URL}))()
        assert "Zx9" not in "".join(traceback.format_exception(alone.value))

    def test_one_without_secrets_is_the_same(self) -> None:
        fault = ValueError("plain")
        fault.__cause__ = KeyError("cause")
        assert scrub(fault) is fault
        assert str(fault.__cause__) == "'cause'"

    def test_a_mendable_error_is_made_without_them(self) -> None:
        fault = BackboneError(
            URL, found=f"no {URL}", expected=URL, hint=f"curl {URL}", details=[URL]
        )
        assert "canary" not in f"{fault} {fault.found} {fault.details} {fault.args}"


class TestExits:
    def test_log_records_of_any_logger(self) -> None:
        redaction.learn(URL)
        redaction.install()
        stream = io.StringIO()
        logger = logging.getLogger("somebody.elses")
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
        try:
            logger.warning("fetching %s, %d times", URL, 3)
            try:
                raise ValueError(f"cannot open {URL}")
            except ValueError:
                logger.exception("failed: %s", SECRET)
        finally:
            logger.removeHandler(handler)
        assert "canary" not in stream.getvalue()
        assert (
            "fetching https://***@files.example.com/net.pt, 3 times"
            in stream.getvalue()
        )
        assert (
            "ValueError: cannot open https://***@files.example.com/net.pt"
            in stream.getvalue()
        )

    def test_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = io.StringIO()
        monkeypatch.setattr("sys.stdout", real)
        monkeypatch.setattr("sys.stderr", real)
        redaction.install_streams()
        redaction.install_streams()
        print(f"View run at {URL}")
        assert real.getvalue() == "View run at https://***@files.example.com/net.pt\n"


class TestSettings:
    @pytest.mark.parametrize(
        "url", [URL, "https://h/n?token=canary", "simplecache::https://lab:canary@h/n"]
    )
    @pytest.mark.parametrize("name", ["weights", "mirror"])
    def test_a_secret_that_dvc_would_copy_into_its_lock_is_refused(
        self, name: str, url: str
    ) -> None:
        with pytest.raises(
            ConfigError, match=r"backbone\.\w+: .*dvc\.lock.*environment variable"
        ) as caught:
            parse({"backbone": {name: url}}, "params.yaml")
        assert "canary" not in str(caught.value)

    def test_a_variable_stands_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEIGHTS_LOGIN", f"lab:{quote(SECRET, safe='')}")
        text = BackboneConfig(
            weights="https://${WEIGHTS_LOGIN}@files.example.com/net.pt"
        ).weights
        assert expand_variables(text, "backbone.weights") == URL
        assert "canary" not in redact(f"what the server said of {SECRET}")

    def test_a_variable_that_is_not_set_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WEIGHTS_LOGIN", raising=False)
        with pytest.raises(ThawError, match="WEIGHTS_LOGIN"):
            expand_variables("https://${WEIGHTS_LOGIN}@h/n", "backbone.weights")
