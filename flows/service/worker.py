"""The process that holds one model: `python -P -m flows.service.worker FOLDER`.

Standard input and output carry frames: four bytes of length (big endian), then JSON.
The first frame out says that the model is loaded and answered its input example, or why
not; then one frame out for each frame in. Standard input closes when the server ends,
even by SIGKILL; the process then ends at once, whatever it is doing.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = struct.Struct(">I")
Frame = dict[str, Any]


def to_bytes(frame: Frame) -> bytes:
    """A frame as it is sent.

    Raises:
        ValueError: it holds a number that JSON has not.
    """
    text = json.dumps(frame, allow_nan=False, default=_to_plain)
    content = text.encode()
    return LENGTH.pack(len(content)) + content


def _to_plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's."""
    return value.tolist()


def serve(folder: Path, incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answers frames until the input ends."""
    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(incoming, frames), daemon=True).start()
    try:
        model, first = _load(folder)
    except Exception as fault:
        _send(outgoing, {"fault": f"{type(fault).__name__}: {fault}"})
        return
    _send(outgoing, first)
    while True:
        _send(outgoing, _answer(model, json.loads(frames.get())))


def _receive(incoming: BinaryIO, frames: queue.SimpleQueue[bytes]) -> None:
    while True:
        header = incoming.read(LENGTH.size)
        if len(header) < LENGTH.size:
            os._exit(0)
        (size,) = LENGTH.unpack(header)
        frames.put(incoming.read(size))


def _send(outgoing: BinaryIO, frame: Frame) -> None:
    outgoing.write(to_bytes(frame))
    outgoing.flush()


def _load(folder: Path) -> tuple[Any, Frame]:
    """The model, once it answered its input example, and the frame that says so."""
    from pipeline.tracking import packaging

    model = packaging.load(folder)
    example = model.input_example
    if example is None:
        raise ValueError("the version has no input example to try it on")
    answers = model.predict(example)
    if len(answers) != len(example):
        raise ValueError(
            f"{len(answers)} answers to the {len(example)} rows of its input example"
        )
    columns = [[column.name, column.type] for column in packaging.input_columns(model)]
    to_bytes({"answers": answers.to_dict(orient="records")})
    return model, {"columns": columns}


def _answer(model: Any, frame: Frame) -> Frame:
    from pipeline.tracking import packaging

    try:
        answers = packaging.ask(model, _decode_columns(frame)).to_dict(orient="records")
        to_bytes({"answers": answers})
    except Exception as fault:
        return {"error": str(fault), "refused": packaging.is_refusal(fault)}
    return {"answers": answers}


def _decode_columns(frame: Frame) -> Mapping[str, list[Any]]:
    columns: dict[str, list[Any]] = dict(frame["columns"])
    for name in frame["binary"]:
        columns[name] = [base64.b64decode(value) for value in columns[name]]
    return columns


def main() -> None:
    """Keeps the true standard output for frames: what libraries print goes to standard
    error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server says when to end
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    incoming = sys.stdin.buffer
    serve(folder, incoming, outgoing)


if __name__ == "__main__":
    main()
