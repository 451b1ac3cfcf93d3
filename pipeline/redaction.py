"""Secrets are taken out of what leaves the program: terminal, logs, parameters, error
messages and files.

A secret is recognised by its form (the user part of a URL, a query parameter such as
`token=`, an Authorization header) and by its value: what settings and environment were
found to hold (`learn`, `learn_environment`) is taken out wherever it stands alone, too,
as it is, percent-encoded, escaped as in HTML or JSON, or in the base64 of basic
authentication.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote

T = TypeVar("T")

MARK = "***"

# --- by form --------------------------------------------------------------------------

# In any parameter's name.
_TELLING = r"(?:password|passwd|secret|token|(?:api|access|account)[_-]?key)"
# As the whole name.
_IN_QUERIES = (
    r"(?:x-(?:amz|goog)-[\w-]+|signature|credential|pwd|pass|auth|jwt|key|sig|sas)"
)
_VARIABLE = r"\$\{\w+\}"  # stands for a secret in a setting, and is none
_USER_VARIABLE = rf"(?:[\w.+-]+:)?{_VARIABLE}(?::{_VARIABLE})?@"
# A database's password may hold what ends the user part of any other URL.
_DATABASE = r"\b(?:postgres|mysql|mariadb|mssql|oracle)[\w+]*://"
_DATABASE_USER = r"[^\s/:@]*:(?:(?![\"'],)[^\s@])*"
# As people write it who do not encode it; `host:5000/…@` and `zip://a::s3://…@` are
# none.
_USER_WITH_SLASHES = r"[^\s/:@\"'<>\\]+:(?!\d*/|:)[^\s\"'<>\\]*"
_FORMS = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (rf"({_DATABASE})(?!{_USER_VARIABLE}){_DATABASE_USER}@", rf"\1{MARK}@"),
        (rf"(://)(?!{_USER_VARIABLE})[^\s/\"'<>\\]+@", rf"\1{MARK}@"),
        (rf"(://)(?!{_USER_VARIABLE}){_USER_WITH_SLASHES}@", rf"\1{MARK}@"),
        (r"(://)[^\s/\"'<>\\@]+(\.\.\.|…)", rf"\1{MARK}\2"),  # cut short before its @
        (r"(\.\.\.|…)[^\s/\"'<>\\]+@", rf"\1{MARK}@"),  # and what follows such a cut
        (r"(%3A%2F%2F)(?:(?!%2F)[^\s/\"'<>\\&])*%40", rf"\1{MARK}%40"),
        (rf"({_TELLING}[\w.-]*=)(?!{_VARIABLE})[^\s&#\"'<>\\]+", rf"\1{MARK}"),
        (rf"([?&;]{_IN_QUERIES}=)(?!{_VARIABLE})[^\s&#\"'<>\\]+", rf"\1{MARK}"),
        (
            rf"((?:{_TELLING}[\w.-]*|(?:%3F|%26){_IN_QUERIES})%3D)(?:(?!%26|%23)[^\s&#\"'<>\\])+",
            rf"\1{MARK}",
        ),
        (
            r"(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer|digest|token)\s+)[^\s\"',]+",
            rf"\1{MARK}",
        ),
    )
)
_HOST = r"[^\s/:?#\"'<>\\]*"
_USER_PARTS = (
    re.compile(rf"://([^\s/\"'<>\\]*)@({_HOST})"),
    re.compile(rf"{_DATABASE}({_DATABASE_USER})@({_HOST})", re.IGNORECASE),
    re.compile(rf"://({_USER_WITH_SLASHES})@({_HOST})"),
)
_PARAMETER = re.compile(
    rf"(?:{_TELLING}[\w.-]*|[?&;]{_IN_QUERIES})=([^\s&#\"'<>\\]+)",
    re.IGNORECASE,
)


def redact_forms(text: str) -> str:
    """A text without what looks like a secret, whatever values are known: the same text
    in every process.
    """
    for pattern, replacement in _FORMS:
        text = pattern.sub(replacement, text)
    return text


# --- by value -------------------------------------------------------------------------

_SECRET_VARIABLE = re.compile(
    r"(?<![A-Z])(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACC(?:ESS|OUNT)_KEY|PRIVATE_KEY|CREDENTIALS?|AUTH_STRING|AUTH)(?![A-Z])"
)
_PATH_LIKE = ("/", "~", ".")
_LONG_WORD, _LONG = 10, 8

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def redact(text: str) -> str:
    """A text without secrets: without what looks like one, and without every value that
    is known to be one.
    """
    text = redact_forms(text)
    if _pattern is not None:
        return _pattern.sub(MARK, text)
    return text


def redact_nested(value: Any) -> Any:
    """The same for the strings in lists, tuples and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_nested(item) for key, item in value.items()}
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(redact_nested(item) for item in value)
    if isinstance(value, list):
        return [redact_nested(item) for item in value]
    return value


def learn(value: Any, name: str = "") -> None:
    """Remembers the secrets that a setting holds: in its URLs, and its whole value
    where its name tells of a secret.

    Args:
        value: a string, or a mapping or list of settings.
        name: the setting's.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            learn(item, str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            learn(item, name)
    elif isinstance(value, str) and value:
        forms = {form for secret in _secrets_in(value) for form in secret}
        if _SECRET_VARIABLE.search(name.upper()) and not value.startswith(_PATH_LIKE):
            forms.update(_forms_alone(value))
            user, separator, password = value.partition(":")
            if separator:
                forms.update(_forms_of_pair(user, password))
        _remember(forms)


def learn_environment() -> None:
    """Remembers the secrets in the environment: URLs with a password, and variables
    such as MLFLOW_TRACKING_PASSWORD.
    """
    for name, value in os.environ.items():
        learn(value, name)
        user = os.environ.get(name.replace("PASSWORD", "USERNAME"))
        if name.endswith("PASSWORD") and user:
            _remember(_forms_of_pair(user, value))


def _secrets_in(text: str) -> Iterable[Iterable[str]]:
    for pattern in _USER_PARTS:
        for match in pattern.finditer(text):
            yield from _secrets_of_user(match)
    for match in _PARAMETER.finditer(text):
        yield _forms_alone(match[1])
        yield _forms_alone(unquote(match[1]))


def _secrets_of_user(match: re.Match[str]) -> Iterable[Iterable[str]]:
    """What a URL says of its user: a name and a password, or a token alone."""
    user, separator, password = match[1].partition(":")
    secret = password if separator else user
    yield _forms_alone(secret)
    yield _forms_alone(unquote(secret))
    if separator:
        yield _forms_of_pair(user, password)
        yield _forms_of_pair(unquote(user), unquote(password))
        if not _is_placeholder(password):
            # What is left of a URL that was split at its colon.
            yield [re.escape(f"{password}@{match[2]}")]
    # A token in the place of the name, as GitHub takes it.
    if len(user) >= 2 * _LONG:
        yield _forms_alone(user)


def _forms_alone(secret: str) -> list[str]:
    """Patterns of a secret that stands without its URL.

    A short one, or a plain word, is an ordinary part of other texts; it is known by its
    form and its company alone.
    """
    if len(secret) < _LONG or _is_placeholder(secret):
        return []
    kinds = sum(
        any(map(kind, secret))
        for kind in (str.islower, str.isupper, str.isdigit, _is_punctuation)
    )
    if kinds < 2 and len(secret) < _LONG_WORD:
        return []
    limit = ("(?<![A-Za-z0-9])", "(?![A-Za-z0-9])") if kinds < 2 else ("", "")
    return [f"{limit[0]}{re.escape(form)}{limit[1]}" for form in _writings(secret)]


def _forms_of_pair(user: str, password: str) -> list[str]:
    """Patterns of a name with its password, which are distinct even where each alone is
    an ordinary word.
    """
    if not password or _is_placeholder(password):
        return []
    pair = f"{user}:{password}"
    escaped = re.escape(pair)
    forms = [f"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"]
    basic = base64.b64encode(pair.encode()).decode()
    for form in {basic, basic.rstrip("="), quote(basic, safe="")}:
        escaped = re.escape(form)
        forms.append(f"(?<![A-Za-z0-9+/]){escaped}(?![A-Za-z0-9+/])")
    return [*forms, *_forms_alone(password)]


def _writings(secret: str) -> set[str]:
    basic = base64.b64encode(secret.encode()).decode().rstrip("=")
    escaped = html.escape(secret)
    in_json = json.dumps(secret)[1:-1]
    in_python = repr(secret)[1:-1]
    return {
        secret,
        quote(secret, safe=""),
        quote(secret),
        quote_plus(secret),
        escaped,
        in_json,
        in_python,
        basic,
    }


def _is_placeholder(secret: str) -> bool:
    if secret == MARK:
        return True
    return re.fullmatch(_VARIABLE, secret) is not None


def _is_punctuation(letter: str) -> bool:
    return not letter.isalnum()


def _remember(patterns: Iterable[str]) -> None:
    global _pattern
    fresh = set(patterns) - _known
    if fresh:
        _known.update(fresh)
        longest_first = sorted(_known, key=lambda pattern: (-len(pattern), pattern))
        _pattern = re.compile("|".join(longest_first))


# --- exceptions -----------------------------------------------------------------------


class RedactedError(Exception):
    """Stands for an exception whose own text held a secret and could not be changed."""


def guarded(work: Callable[[], T]) -> Callable[[], T]:
    """The same work, whose exceptions, with all that they came from, tell no secret."""

    def call() -> T:
        try:
            return work()
        except Exception as fault:
            clean = scrub(fault)
        # Raised out here: inside, Python would chain the original to it.
        raise clean

    return call


def scrub(fault: BaseException) -> BaseException:
    """An exception without secrets in its text, its notes and the exceptions it came
    from: itself, or a stand-in.
    """
    return _scrub(fault, {})


def _scrub(fault: BaseException, done: dict[int, BaseException]) -> BaseException:
    if id(fault) in done:
        return done[id(fault)]
    done[id(fault)] = fault
    if _leaks(fault):
        _redact_in_place(fault, done)
    clean = fault
    if _leaks(fault):
        text = redact(_text(fault))
        clean = RedactedError(f"{type(fault).__name__}: {text}").with_traceback(
            fault.__traceback__
        )
        done[id(fault)] = clean
    cause = fault.__cause__
    context = fault.__context__
    suppressed = fault.__suppress_context__
    clean.__cause__ = _scrub(cause, done) if cause is not None else None
    clean.__context__ = _scrub(context, done) if context is not None else None
    clean.__suppress_context__ = suppressed
    return clean


def _redact_in_place(fault: BaseException, done: dict[int, BaseException]) -> None:
    fault.args = tuple(
        _scrub(arg, done) if isinstance(arg, BaseException) else redact_nested(arg)
        for arg in fault.args
    )
    if isinstance(fault, OSError):
        names = [*vars(fault), "filename", "filename2", "strerror"]
    else:
        names = [*vars(fault)]
    for name in names:
        value = getattr(fault, name, None)
        clean = (
            _scrub(value, done)
            if isinstance(value, BaseException)
            else redact_nested(value)
        )
        if clean is not value and clean != value:
            # An attribute that cannot be set.
            with contextlib.suppress(AttributeError, TypeError):
                setattr(fault, name, clean)


def _leaks(fault: BaseException) -> bool:
    text = _text(fault)
    return redact(text) != text


def _text(fault: BaseException) -> str:
    """All that a traceback would say of an exception itself."""
    notes = getattr(fault, "__notes__", [])
    try:
        return "\n".join([str(fault), *map(str, notes)])
    except Exception:  # an exception that cannot say what it is
        return type(fault).__name__


# --- logs and streams -----------------------------------------------------------------


def install() -> None:
    """Redacts all log records made from now on, by whichever logger, and learns the
    environment's secrets.
    """
    learn_environment()
    before = logging.getLogRecordFactory()
    if getattr(before, "redacts", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        _redact_record(record)
        return record

    make.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def install_streams() -> None:
    """Redacts what this process prints, as well as its log."""
    install()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _RedactingStream):
            setattr(sys, name, _RedactingStream(stream))


def _redact_record(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except Exception:  # the handler says what is wrong with it
        return
    if redact(message) != message:
        record.msg = redact(message)
        record.args = None
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if redact(text) != text:
            record.exc_text = redact(text)
            record.exc_info = None


class _RedactingStream:
    """A text stream that writes no secrets; in all else it is the stream it stands for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
