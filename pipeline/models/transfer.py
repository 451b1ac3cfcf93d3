"""One attempt at a file behind a URL: http(s) by the standard library, everything else
by fsspec.

What may be tried again raises `TransferInterrupted`; what will not get better raises
BackboneError.
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

CHUNK_BYTES = 1 << 20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_BYTE_ORDER_MARK_AND_SPACE = b"\xef\xbb\xbf \t\r\n"


class TransferInterrupted(Exception):
    """The attempt failed for a reason that may pass."""


class RemoteFile(NamedTuple):
    """An opened file.

    Args:
        chunks: its content from byte `start` on.
        start: the first byte that the chunks hold.
        size: of the whole file in bytes, if known.
        version: what tells this version of the file from others, if known.
    """

    chunks: Iterator[bytes]
    start: int
    size: int | None
    version: str | None


class Login(NamedTuple):
    """User and password of a URL."""

    user: str
    password: str


def redact_url(url: str) -> str:
    """The URL, or chain of URLs, without user, password and query: fit for records and
    messages.
    """
    without_login = redact_forms(url).replace(f"{MARK}@", "")
    without_query, _, _ = without_login.partition("?")
    without_fragment, _, _ = without_query.partition("#")
    return without_fragment


@contextmanager
def open_url(
    url: str, start: int, version: str | None, stall: float
) -> Iterator[RemoteFile]:
    """Opens a URL at byte `start`, or at 0 if it cannot or if the file is another
    version than that.

    Args:
        stall: seconds without a byte after which an http server is given up.

    Raises:
        TransferInterrupted: it may work later; the chunks raise it too.
        BackboneError: it will not.
    """
    with ExitStack() as stack:
        with _translate_errors(url):
            if urlsplit(url).scheme in ("http", "https"):
                remote = _open_http(url, start, version, stall, stack)
            else:
                remote = _open_fsspec(url, start, version, stack)
        yield remote


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (BackboneError, TransferInterrupted):
        raise
    except urllib.error.HTTPError as fault:
        with closing(fault):
            raise _translate_status(url, fault) from fault
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as fault:
        raise refusal_error(url, str(fault) or type(fault).__name__) from fault
    except Exception as fault:  # every file system has errors of its own
        reason = getattr(fault, "reason", fault)
        raise TransferInterrupted(f"{type(fault).__name__}: {reason}") from fault


def _translate_status(url: str, fault: urllib.error.HTTPError) -> Exception:
    answer = f"HTTP {fault.code} {fault.reason}"
    if fault.code in _TRANSIENT_STATUS:
        return TransferInterrupted(answer)
    return refusal_error(url, answer)


def _read_chunks(url: str, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        with _translate_errors(url):
            chunk = read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _open_http(
    url: str, start: int, version: str | None, stall: float, stack: ExitStack
) -> RemoteFile:
    headers = {"User-Agent": "thaw", "Accept-Encoding": "identity"}
    if start and version:
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = version
    plain_url, login = split_login(url)
    request = urllib.request.Request(plain_url, headers=headers)
    opener = build_opener(plain_url, login)
    response = stack.enter_context(opener.open(request, timeout=stall))
    if response.headers.get_content_type() in _WEB_PAGE_TYPES:
        raise web_page_error(url)
    content_range = response.headers.get("Content-Range", "")
    is_rest = response.status == 206 and content_range.startswith(f"bytes {start}-")
    if not is_rest:
        start = 0
    length = response.headers.get("Content-Length")
    size = start + int(length) if length else None
    etag = response.headers.get("ETag", "")
    is_strong = etag and not etag.startswith("W/")
    current = etag if is_strong else response.headers.get("Last-Modified")
    # read1 hands over what has come, so that a trickle cannot outlast the time allowed.
    return RemoteFile(_read_chunks(url, response.read1), start, size, current)


def split_login(url: str) -> tuple[str, Login | None]:
    """A URL without its user and password, and these."""
    parts = urlsplit(url)
    userinfo, separator, host = parts.netloc.rpartition("@")
    if not separator:
        return url, None
    user, _, password = userinfo.partition(":")
    plain_url = urlunsplit(parts._replace(netloc=host))
    return plain_url, Login(unquote(user), unquote(password))


def build_opener(url: str, login: Login | None) -> urllib.request.OpenerDirector:
    """Opens URLs; the login goes with requests to the URL's own server alone, wherever
    that redirects to.
    """
    if login is None:
        return urllib.request.build_opener()
    known = urllib.request.HTTPPasswordMgrWithPriorAuth()
    server = urlunsplit(urlsplit(url)._replace(path="/", query="", fragment=""))
    known.add_password(None, server, login.user, login.password, is_authenticated=True)
    return urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(known))


def _open_fsspec(
    url: str, start: int, version: str | None, stack: ExitStack
) -> RemoteFile:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    size = system.info(path).get("size")
    current = str(system.ukey(path))
    file = stack.enter_context(system.open(path, "rb"))
    if current != version:
        start = 0
    file.seek(start)
    return RemoteFile(_read_chunks(url, file.read), start, size, current)


def is_web_page(beginning: bytes) -> bool:
    """Whether a file that should hold weights begins (at least 9 bytes are looked at)
    like HTML or XML.
    """
    # A safetensors file is a length of 8 bytes, any of which may look like text, and
    # then JSON.
    is_safetensors = beginning[8:9] == b"{"
    text = beginning.lstrip(_BYTE_ORDER_MARK_AND_SPACE)
    return text.startswith(b"<") and not is_safetensors


def refusal_error(url: str, found: str) -> BackboneError:
    """The server answers, and says no."""
    return BackboneError(
        redact_url(url),
        found=found,
        expected="a weights file",
        hint="check backbone.weights and backbone.mirror, and that you may read it",
    )


def web_page_error(url: str) -> BackboneError:
    """The server answers with a page to look at, such as a login."""
    return BackboneError(
        redact_url(url),
        found="a web page (HTML), perhaps a login or a proxy's notice",
        expected="a weights file",
        hint="open the URL in a browser, download the file there and set backbone.weights to it",
    )
