"""What earlier scans measured, kept in one file and found again by content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.examples import ExampleFault, MeasuredExample
from pipeline.files import FileStat, replace_text


class ScanCache:
    """Results of earlier scans by content and file extension; one file for each set of
    intake settings.

    A memory that is damaged, or was written by another version, is as good as none.

    Args:
        folder: where memories lie; made when one is saved.
        key: digest of everything beside the content that determines what a scan
            measures.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._file = folder / f"{key}.json"
        self._stamps: dict[str, tuple[FileStat, str]] = {}
        self._results: dict[str, MeasuredExample | ExampleFault] = {}
        self._grown = False
        try:
            self._load()
        except (OSError, ValueError, TypeError, KeyError):
            self._stamps = {}
            self._results = {}

    def __bool__(self) -> bool:
        return bool(self._results)

    def identity(self, path: str, stamp: FileStat) -> str | None:
        """The content id that a path had, if its file is unchanged since."""
        before, identity = self._stamps.get(path, (None, None))
        if before != stamp:
            return None
        return identity

    def recall(self, path: str, identity: str) -> MeasuredExample | ExampleFault | None:
        """The result for a content, as if it had been measured at this path."""
        cached = self._results.get(_key(path, identity))
        if cached is None:
            return None
        return _at(path, cached)

    def add(self, path: str, result: MeasuredExample | ExampleFault) -> None:
        """Remembers what the content determines: neither what could not be read, nor a
        shortage of memory.
        """
        if isinstance(result, ExampleFault) and result.code == "out-of-memory":
            return  # it may pass
        if result.id is not None:
            self._results[_key(path, result.id)] = _at("", result)
            self._grown = True

    def save(
        self,
        stamps: dict[str, FileStat],
        results: dict[str, MeasuredExample | ExampleFault],
    ) -> None:
        """Writes the memory atomically, with the stamps of the files it has results
        for.
        """
        known = {}
        for path, stamp in stamps.items():
            if path in results:
                known[path] = (stamp, results[path].id)
        fresh = {}
        for path, (stamp, identity) in known.items():
            if identity is not None:
                fresh[path] = (stamp, identity)
        if not self._grown and fresh == self._stamps:
            return
        self._stamps = fresh
        text = json.dumps(
            {
                "stamps": {
                    path: [*stamp, identity]
                    for path, (stamp, identity) in fresh.items()
                },
                "results": {
                    key: _plain(result) for key, result in self._results.items()
                },
            }
        )
        replace_text(self._file, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        self._grown = False

    def _load(self) -> None:
        claimed, _, text = self._file.read_text(encoding="utf-8").partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != claimed:
            raise ValueError("damaged")
        values = json.loads(text)
        self._stamps = {
            path: (FileStat(*stored[:4]), stored[4])
            for path, stored in values["stamps"].items()
        }
        self._results = {
            key: _result(stored) for key, stored in values["results"].items()
        }


def _key(path: str, identity: str) -> str:
    # The extension counts: the same content under a wrong one is measured as such.
    extension = PurePosixPath(path).suffix.lower()
    return identity + extension


def _at(
    path: str, result: MeasuredExample | ExampleFault
) -> MeasuredExample | ExampleFault:
    if isinstance(result, ExampleFault):
        return dataclasses.replace(result, path=path)
    doubt = result.doubt and dataclasses.replace(result.doubt, path=path)
    return dataclasses.replace(result, doubt=doubt) if doubt else result


def _plain(result: MeasuredExample | ExampleFault) -> dict[str, Any]:
    if isinstance(result, ExampleFault):
        return {"fault": dataclasses.asdict(result)}
    return dataclasses.asdict(result)


def _result(given: dict[str, Any]) -> MeasuredExample | ExampleFault:
    if "fault" in given:
        return ExampleFault(**given["fault"])
    doubt = given["doubt"]
    return MeasuredExample(
        given["id"],
        given["values"],
        tuple(given["converted"]),
        ExampleFault(**doubt) if doubt else None,
    )
