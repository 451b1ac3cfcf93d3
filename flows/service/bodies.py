"""A request's body as the columns that the model is asked by."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from flows.service.model_process import InputColumn
from flows.service.worker import Frame

RECORDS = "dataframe_records"
JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
ENCODINGS = ("", "utf-8", "utf8", "us-ascii")


class RefusedRequest(Exception):
    """A request that is answered with an HTTP status of its own.

    Args:
        retry: seconds after which it may be sent again; None: it is no use.
    """

    def __init__(self, status: int, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry = retry


@dataclass(frozen=True)
class Question:
    """What a request asks.

    Args:
        frame: as the model's process takes it.
        ids: of each example the MD5 of its content, as the manifest has it.
    """

    frame: Frame
    ids: tuple[str, ...]


def parse_body(
    content_type: str, body: bytes, columns: Sequence[InputColumn], max_items: int
) -> Question:
    """The question in a body: JSON records, or one example as it is.

    Args:
        columns: what the model is asked by.

    Raises:
        RefusedRequest: 413 too many examples, 415 another content type, 422 malformed;
            names the field.
    """
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    _check_encoding(parameters)
    if kind == JSON_TYPE:
        return _to_question(_read_records(body, max_items), columns)
    if len(columns) == 1 and _takes_raw(kind, columns[0]):
        is_binary = columns[0].type == "binary"
        value = base64.b64encode(body).decode() if is_binary else _decode(body)
        return _to_question([{columns[0].name: value}], columns)
    raise RefusedRequest(
        415,
        f"Content-Type: found {kind or 'none'}, expected {_accepted_types(columns)}",
    )


def _check_encoding(parameters: str) -> None:
    name, _, value = parameters.strip().partition("=")
    encoding = value.strip().strip('"').lower()
    if name.strip().lower() == "charset" and encoding not in ENCODINGS:
        raise RefusedRequest(
            415, f"Content-Type: found charset {encoding}, expected utf-8"
        )


def _takes_raw(kind: str, column: InputColumn) -> bool:
    if column.type == "binary":
        return kind.startswith("image/")
    return kind == TEXT_TYPE


def _accepted_types(columns: Sequence[InputColumn]) -> str:
    if len(columns) > 1:
        return JSON_TYPE
    raw_type = TEXT_TYPE
    if columns[0].type == "binary":
        raw_type = "image/*"
    return f"{JSON_TYPE} or {raw_type}"


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise RefusedRequest(
            422, f"body: a byte that is not UTF-8 at offset {fault.start}"
        ) from fault


def _read_records(body: bytes, max_items: int) -> list[Any]:
    text = _decode(body)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as fault:
        raise RefusedRequest(422, "body: JSON that is nested too deeply") from fault
    except ValueError as fault:
        raise RefusedRequest(422, f"body: not JSON: {fault}") from fault
    if not isinstance(content, dict) or list(content) != [RECORDS]:
        raise RefusedRequest(
            422, f"body: expected an object with the one key {RECORDS}"
        )
    records = content[RECORDS]
    if not isinstance(records, list) or not records:
        raise RefusedRequest(422, f"{RECORDS}: expected a list of at least one record")
    if len(records) > max_items:
        raise RefusedRequest(
            413, f"{RECORDS}: {len(records)} records; at most {max_items} are accepted"
        )
    return records


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _to_question(records: Sequence[Any], columns: Sequence[InputColumn]) -> Question:
    names = [column.name for column in columns]
    values: dict[str, list[str]] = {name: [] for name in names}
    ids = []
    for number, record in enumerate(records):
        field = f"{RECORDS}[{number}]"
        if not isinstance(record, dict) or set(record) != set(names):
            raise RefusedRequest(
                422, f"{field}: expected an object with the keys {', '.join(names)}"
            )
        contents = {}
        for column in columns:
            name = column.name
            contents[name] = _content(f"{field}.{name}", record[name], column)
            values[name].append(record[name])
        ids.append(_example_id(contents))
    binary = [column.name for column in columns if column.type == "binary"]
    return Question({"columns": values, "binary": binary}, tuple(ids))


def _content(field: str, value: Any, column: InputColumn) -> bytes | str:
    """A cell's content.

    Raises:
        RefusedRequest: it is not what the column takes.
    """
    if not isinstance(value, str):
        raise RefusedRequest(
            422, f"{field}: expected a string, found {type(value).__name__}"
        )
    try:
        if column.type == "binary":
            return base64.b64decode(value, validate=True)
        value.encode("utf-8")
    except binascii.Error as fault:
        raise RefusedRequest(422, f"{field}: not base64: {fault}") from fault
    except ValueError as fault:
        raise RefusedRequest(
            422, f"{field}: a character that UTF-8 cannot express"
        ) from fault
    return value


def _example_id(contents: Mapping[str, bytes | str]) -> str:
    """The MD5 of an example's content: of the file, or of the texts as canonical JSON."""
    from pipeline.modalities.text.content import Texts, to_content

    first = next(iter(contents.values()))
    if isinstance(first, bytes):
        return hashlib.md5(first, usedforsecurity=False).hexdigest()
    pair = contents.get("pair")
    content = to_content(
        Texts(str(contents["text"]), None if pair is None else str(pair))
    )
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
