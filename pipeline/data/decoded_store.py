"""The decoded store: every example decoded once, as uint8 in memory-mapped files,
shared by all that read examples.

`<scratch>/pixels/<spec>/` holds one presentation's examples in segments: `<n>.u8` (the
arrays, one after another) and `<n>.json` (shape and ids, written last, so a segment
without it was never finished). Segments only come and go whole: a kill while decoding
loses at most the segment being written, and a reader's map stays good when the file is
evicted. What was used longest ago goes first.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pipeline import files, storage
from pipeline.config import ENGINE
from pipeline.cores import cores
from pipeline.errors import TrainingError
from pipeline.records import digest

if TYPE_CHECKING:
    import torch

    from pipeline.context import Console
    from pipeline.records import ImageInputSpec

SEGMENT_BYTES = 256 * 2**20
SPARE_BYTES = 2**30  # disk that is always left to others
Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]


class Decoder(Protocol):
    """The part of a Task that the store needs."""

    name: str

    def shape(self, spec: ImageInputSpec) -> tuple[int, ...]:
        """The shape of a decoded example."""

    def decode(self, path: Path, spec: ImageInputSpec) -> NDArray[Any]:
        """A file as a uint8 array of that shape; raises where it cannot be read."""


class DecodedStore:
    """Decoded examples by row.

    Args:
        ids: the examples; their positions are the row numbers.
        shape: of one decoded example.
        places: where each row lies, as (segment, position); segment −1: not stored,
            decoded each time.
        segments: memory-mapped arrays (examples, *shape).
        decode: gives one row's array, for those not stored.
    """

    def __init__(
        self,
        ids: tuple[str, ...],
        shape: tuple[int, ...],
        places: Rows,
        segments: list[Pixels],
        decode: _Decode,
    ) -> None:
        self.ids = ids
        self.shape = shape
        self._places = places
        self._segments = segments
        self._decode = decode

    def __len__(self) -> int:
        return len(self.ids)

    def shapes(self, rows: Rows) -> Rows:
        """A code (n,) for the shape of each of the rows: all have the same."""
        return np.zeros(len(rows), np.int64)

    def batch(self, rows: Rows) -> torch.Tensor:
        """The examples of these rows: (N, *shape) of uint8."""
        import torch

        out = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        arrays = out.numpy()
        for position, (segment, place) in enumerate(self._places[rows].tolist()):
            row = int(rows[position])
            arrays[position] = (
                self._segments[segment][place] if segment >= 0 else self._decode(row)
            )
        return out


class _Decode(NamedTuple):
    """Decodes one row, making sure that the file still is what its id says."""

    task: Decoder
    spec: ImageInputSpec
    rows: Sequence[tuple[str, Path]]

    def __call__(self, row: int) -> Pixels:
        """Raises TrainingError naming the file where it changed or cannot be decoded."""
        name, path = self.rows[row]
        try:
            found = files.md5(path)
            decoded = self.task.decode(path, self.spec)
        except Exception as fault:  # decoders raise nearly anything on broken files
            raise TrainingError(
                str(path),
                found=getattr(fault, "found", "") or str(fault),
                expected="the example that was validated",
                hint="restore the file, or validate again: thaw run --force validate",
            ) from fault
        if found != name:
            raise TrainingError(
                str(path),
                found=f"content {found}",
                expected=f"content {name}: it changed since it was validated",
                hint="thaw run again, so that the new content is validated",
            )
        return np.asarray(decoded, np.uint8)


class _Segment(NamedTuple):
    path: Path  # of the .u8 file
    ids: tuple[str, ...]

    def pixels(self, shape: tuple[int, ...]) -> Pixels:
        whole_shape = (len(self.ids), *shape)
        return np.memmap(self.path, np.uint8, "r", shape=whole_shape)


def open_store(
    task: Decoder,
    spec: ImageInputSpec,
    rows: Sequence[tuple[str, Path]],
    scratch: Path,
    *,
    limit_gb: float,
    console: Console,
    workers: int | None = None,
) -> DecodedStore:
    """The store of these examples; what is missing is decoded now, in parallel.

    Examples beyond the limit, or beyond what the disk has room for, are decoded each
    time they are asked for, and so are all of them where the disk takes nothing; that
    is said.

    Args:
        rows: id (MD5 of the content) and file of each example.
        scratch: the workspace's `.thaw`.
        limit_gb: most disk that all stores below `scratch` may take, in 10⁹ bytes.
        workers: decoding threads; None: the cores this process may use.

    Raises:
        TrainingError: a file is missing, changed since it was validated, or cannot be
            decoded; all are named.
    """
    shape = tuple(task.shape(spec))
    decode = _Decode(task, spec, rows)
    folder = scratch / "pixels" / digest(ENGINE, task.name, spec)[:16]
    try:
        return _open(folder, shape, decode, limit_gb, console, workers or cores())
    except OSError as fault:
        console.info(
            f"decoded store: {storage.describe(fault, folder)}; examples are decoded each time"
        )
        return _store(rows, shape, [], decode)


def _open(
    folder: Path,
    shape: tuple[int, ...],
    decode: _Decode,
    limit_gb: float,
    console: Console,
    workers: int,
) -> DecodedStore:
    """The store in a folder; raises OSError where the disk does not even take its lock."""
    rows = decode.rows
    stores = folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(stores, console):
        segments = _finished(folder, shape)
        missing = _list_missing(rows, segments)
        asked = {name for name, _ in rows}
        needed = [segment for segment in segments if asked.intersection(segment.ids)]
        size = _size(shape)
        room = _make_room(stores, needed, len(missing) * size, _bytes(limit_gb))
        fits = missing[: room // size]
        if len(fits) < len(missing):
            stored = len(rows) - len(missing) + len(fits)
            spare = f"{SPARE_BYTES / 1e6:,.0f} MB"
            console.info(
                f"decoded store: room for {stored} of {len(rows)} examples "
                f"(finetune.plan.pixel_cache_gb: {limit_gb:g}; {storage.room(folder)}, of which {spare} stay free); "
                "the others are decoded each time"
            )
        segments = needed + _decode_all(decode, fits, folder, shape, console, workers)
        for segment in segments:
            files.mark_used(segment.path)
        return _store(rows, shape, segments, decode)


def _list_missing(
    rows: Sequence[tuple[str, Path]], segments: Sequence[_Segment]
) -> list[int]:
    """The rows of what no segment has, one of each name."""
    known: set[str] = set()
    for segment in segments:
        known.update(segment.ids)
    row_of = {}
    for row, (name, _) in enumerate(rows):
        if name not in known:
            row_of[name] = row
    return list(row_of.values())


@contextmanager
def _alone(stores: Path, console: Console) -> Iterator[None]:
    """One process at a time adds to the stores or evicts from them."""
    lock = FileLock(stores / "lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console.info("decoded store: waiting for another process that is decoding")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _store(
    rows: Sequence[tuple[str, Path]],
    shape: tuple[int, ...],
    segments: list[_Segment],
    decode: _Decode,
) -> DecodedStore:
    place_of: dict[str, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for place, identity in enumerate(segment.ids):
            place_of[identity] = (number, place)
    names = tuple(name for name, _ in rows)
    places = [place_of.get(name, (-1, -1)) for name in names]
    return DecodedStore(
        names,
        shape,
        np.array(places, np.int64).reshape(len(rows), 2),
        [segment.pixels(shape) for segment in segments],
        decode,
    )


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _finished(folder: Path, shape: tuple[int, ...]) -> list[_Segment]:
    """The whole segments of a folder; leftovers and whatever is damaged are removed."""
    segments = []
    for path in sorted(folder.glob("*.u8")):
        ids = _index(path.with_suffix(".json"), shape)
        if ids is not None and path.stat().st_size == len(ids) * _size(shape):
            segments.append(_Segment(path, ids))
    whole = set()
    for segment in segments:
        whole.add(segment.path)
        whole.add(segment.path.with_suffix(".json"))
    for path in folder.iterdir():
        if path not in whole:
            path.unlink()
    return segments


def _index(path: Path, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        ids = tuple(str(name) for name in values["ids"])
        if values["shape"] == list(shape) and values["check"] == digest(ids):
            return ids
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _bytes(gigabytes: float) -> int:
    """The same in bytes; without a limit, more than any disk has."""
    return int(min(gigabytes * 1e9, sys.maxsize))


def _make_room(stores: Path, keep: list[_Segment], wish: int, limit: int) -> int:
    """Removes segments, least recently used first, until `wish` bytes fit; returns the
    bytes that do.
    """
    entries = []
    for path in stores.glob("*/*.u8"):
        # A segment without its index was never finished.
        index_first = (path.with_suffix(".json"), path)
        entries.append(
            files.CacheEntry(index_first, files.used_ns(path), path.stat().st_size)
        )
    held_bytes = files.evict_least_recently_used(
        entries,
        lambda held_bytes: _room(stores, held_bytes, limit) >= wish,
        keep={segment.path for segment in keep},
    )
    return max(0, min(wish, _room(stores, held_bytes, limit)))


def _room(stores: Path, held_bytes: int, limit: int) -> int:
    free = shutil.disk_usage(stores).free
    return min(limit - held_bytes, free - SPARE_BYTES)


def _decode_all(
    decode: _Decode,
    rows: list[int],
    folder: Path,
    shape: tuple[int, ...],
    console: Console,
    workers: int,
) -> list[_Segment]:
    """Decodes rows into new segments of at most `SEGMENT_BYTES`; where the disk is full
    before the end, that is said.
    """
    each = max(1, SEGMENT_BYTES // _size(shape))
    segments: list[_Segment] = []
    first = 1 + max((int(path.stem) for path in folder.glob("*.u8")), default=0)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), each):
            part = rows[start : start + each]
            progress = _Progress(console, start, len(rows))
            path = folder / f"{first + len(segments):06d}.u8"
            try:
                segments.append(
                    _write_segment(decode, part, path, shape, pool, progress)
                )
            except OSError as fault:
                progress(len(rows) - start)
                console.info(
                    f"decoded store: {storage.describe(fault, path)}; "
                    f"{len(rows) - start} examples are decoded each time"
                )
                break
    return segments


class _Progress(NamedTuple):
    console: Console
    before: int
    total: int

    def __call__(self, done: int) -> None:
        decoded = self.before + done
        self.console.progress("decoding", decoded, self.total)


def _write_segment(
    decode: _Decode,
    rows: list[int],
    path: Path,
    shape: tuple[int, ...],
    pool: ThreadPoolExecutor,
    progress: _Progress,
) -> _Segment:
    """Raises OSError where the disk does not take it; then nothing of it is left."""
    index = path.with_suffix(".json")
    try:
        with files.replacing(path) as part:
            _write_pixels(part, decode, rows, shape, pool, progress)
        segment = _Segment(path, tuple(decode.rows[row][0] for row in rows))
        values = {"shape": shape, "ids": segment.ids, "check": digest(segment.ids)}
        files.replace_text(index, json.dumps(values), durable=True)
    except (OSError, TrainingError):
        path.unlink(missing_ok=True)
        raise
    return segment


def _write_pixels(
    path: Path,
    decode: _Decode,
    rows: list[int],
    shape: tuple[int, ...],
    pool: ThreadPoolExecutor,
    progress: _Progress,
) -> None:
    """Raises TrainingError naming what cannot be decoded, OSError where the disk
    refuses.
    """
    pixels = storage.PositionedFile(path)
    refused: list[OSError] = []

    def write(position: int, row: int) -> TrainingError | None:
        if refused:
            return None
        try:
            decoded = decode(row)
        except TrainingError as fault:
            return fault
        if decoded.shape != shape:
            raise ValueError(
                f"{decode.task.name} decoded {decoded.shape} where {shape} was promised"
            )
        try:
            pixels.write(decoded, position * _size(shape))
        except OSError as fault:
            refused.append(fault)
        return None

    faults = []
    for position, fault in enumerate(pool.map(write, range(len(rows)), rows)):
        if fault is not None:
            faults.append(fault)
        progress(position + 1)
    if faults:
        raise _together(faults)
    if refused:
        raise refused[0]
    pixels.sync()


def _together(faults: list[TrainingError]) -> TrainingError:
    if len(faults) == 1:
        return faults[0]
    return TrainingError(
        f"{len(faults)} examples",
        found="files that changed or cannot be decoded",
        expected=faults[0].expected,
        hint=faults[0].hint,
        details=[f"{fault.subject}: {fault.found}" for fault in faults],
    )
