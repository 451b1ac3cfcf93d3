"""One attempt at a file behind a URL: http(s) by the standard library, everything else by fsspec.

What may be tried again raises `Interrupted`; what will not get better raises BackboneError.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from pipeline.errors import BackboneError
from pipeline.redaction import MARK, redact_forms

CHUNK = 1 << 20
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class Interrupted(Exception):
    """The attempt failed for a reason that may pass."""


class Body(NamedTuple):
    """An opened file: its chunks from byte `start` on, its whole size if known, and what names this version of it."""

    chunks: Iterator[bytes]
    start: int
    size: int | None
    version: str | None


def shown(url: str) -> str:
    """The URL, or chain of URLs, without user, password and query: fit for records and messages."""
    return redact_forms(url).replace(f"{MARK}@", "").partition("?")[0].partition("#")[0]


@contextmanager
def opened(url: str, start: int, version: str | None, stall: float) -> Iterator[Body]:
    """Opens a URL at byte `start`, or at 0 if it cannot or if the file is another version than that.

    Args:
        stall: seconds without a byte after which an http server is given up.

    Raises:
        Interrupted: it may work later; the chunks raise it too.
        BackboneError: it will not.
    """
    with ExitStack() as stack:
        with _translated(url):
            http_like = urlsplit(url).scheme in ("http", "https")
            body = _http(url, start, version, stall, stack) if http_like else _fsspec(url, start, version, stack)
        yield body


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except (BackboneError, Interrupted):
        raise
    except urllib.error.HTTPError as fault:
        with closing(fault):
            said = f"HTTP {fault.code} {fault.reason}"
            raise (Interrupted(said) if fault.code in _TRY_AGAIN else refused(url, said)) from fault
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as fault:
        raise refused(url, str(fault) or type(fault).__name__) from fault
    except Exception as fault:  # every file system has errors of its own
        raise Interrupted(f"{type(fault).__name__}: {getattr(fault, 'reason', fault)}") from fault


def _chunks(url: str, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        with _translated(url):
            chunk = read(CHUNK)
        if not chunk:
            return
        yield chunk


def _http(url: str, start: int, version: str | None, stall: float, stack: ExitStack) -> Body:
    headers = {"User-Agent": "thaw", "Accept-Encoding": "identity"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    plain, login = without_login(url)
    request = urllib.request.Request(plain, headers=headers)
    response = stack.enter_context(opener(plain, login).open(request, timeout=stall))
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise web_page(url)
    asked = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    start = start if response.status == 206 and asked else 0
    length = response.headers.get("Content-Length")
    etag = response.headers.get("ETag", "")
    current = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    # read1 hands over what has come, so that a trickle cannot outlast the time allowed.
    return Body(_chunks(url, response.read1), start, start + int(length) if length else None, current)


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its user and password, and these."""
    parts = urlsplit(url)
    userinfo, separator, host = parts.netloc.rpartition("@")
    if not separator:
        return url, None
    user, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def opener(url: str, login: tuple[str, str] | None) -> urllib.request.OpenerDirector:
    """Opens URLs; the login goes with requests to the URL's own server alone, wherever that redirects to."""
    if login is None:
        return urllib.request.build_opener()
    known = urllib.request.HTTPPasswordMgrWithPriorAuth()
    server = urlunsplit(urlsplit(url)._replace(path="/", query="", fragment=""))
    known.add_password(None, server, *login, is_authenticated=True)
    return urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(known))


def _fsspec(url: str, start: int, version: str | None, stack: ExitStack) -> Body:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    size, current = system.info(path).get("size"), str(system.ukey(path))
    file = stack.enter_context(system.open(path, "rb"))
    start = start if current == version else 0
    file.seek(start)
    return Body(_chunks(url, file.read), start, size, current)


def is_page(start: bytes) -> bool:
    """Whether a file that should hold weights begins (at least 9 bytes are looked at) like HTML or XML."""
    # A safetensors file is a length of 8 bytes, any of which may look like text, and then JSON.
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and start[8:9] != b"{"


def refused(url: str, found: str) -> BackboneError:
    """The server answers, and says no."""
    return BackboneError(
        shown(url), found=found, expected="a weights file",
        hint="check backbone.weights and backbone.mirror, and that you may read it",
    )  # fmt: skip


def web_page(url: str) -> BackboneError:
    """The server answers with a page to look at, such as a login."""
    return BackboneError(
        shown(url), found="a web page (HTML), perhaps a login or a proxy's notice", expected="a weights file",
        hint="open the URL in a browser, download the file there and set backbone.weights to it",
    )  # fmt: skip
