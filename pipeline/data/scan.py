"""The scan: every example decoded and measured once, in parallel, and remembered by its
content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pipeline import files
from pipeline.context import Console
from pipeline.cores import cores
from pipeline.data.files import outside
from pipeline.data.scan_cache import ScanCache
from pipeline.data.workers import WorkerPool
from pipeline.examples import ExampleFault, MeasuredExample
from pipeline.files import FileStat
from pipeline.manifest import real_path

Measure = Callable[[str], MeasuredExample | ExampleFault]

# So many files are measured sooner than worker processes have started.
_IN_PROCESS = 256
_CHUNK = 64
_TOLD_EVERY = 50


def scan(
    root: Path,
    paths: Sequence[str],
    measure: Measure,
    memory: ScanCache,
    console: Console,
    workers: int | None = None,
) -> dict[str, MeasuredExample | ExampleFault]:
    """Measures the files that the memory does not know, and adds them to it.

    Args:
        root: the data folder.
        paths: below it, as the manifest writes them.
        measure: measures one path and never raises; pickled where there are enough
            files for worker processes.
        memory: what earlier scans with the same settings measured; saved here, also
            when a scan is broken off.
        console: is told how far the scan has come.
        workers: processes; None: the cores this process may use.

    Returns:
        What was measured, or the fault, by path.
    """
    started = time.time()
    workers = workers or cores()
    stamps = _stamps(root, paths)
    results = _recall(root, stamps, memory, workers)
    unknown = [path for path in dict.fromkeys(paths) if path not in results]
    done = total = len(paths)
    done -= len(unknown)
    try:
        for path, result in _measure_all(unknown, measure, workers):
            results[path] = result
            memory.add(path, result)
            done += 1
            if done % _TOLD_EVERY == 0:
                console.progress("scan", done, total)
    finally:
        settled = {
            path: stamp for path, stamp in stamps.items() if stamp.was_settled(started)
        }
        memory.save(settled, results)
    console.progress("scan", total, total)
    return results


def _stamps(root: Path, paths: Sequence[str]) -> dict[str, FileStat]:
    """Size, times and inode of the paths that are plain files below the folder; the
    others' faults are the task's.
    """
    within: dict[str, bool] = {}
    stamps = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in within:
            within[folder] = not path.startswith("/") and (
                not folder or outside(root, folder) is None
            )
        stamp = None
        if within[folder] and name != "..":
            stamp = FileStat.of_plain_file(real_path(root, path))
        if stamp is not None:
            stamps[path] = stamp
    return stamps


def _recall(
    root: Path, stamps: dict[str, FileStat], memory: ScanCache, workers: int
) -> dict[str, MeasuredExample | ExampleFault]:
    """What the memory knows of these files; the ones whose stamp is new are hashed."""
    if not memory:
        return {}
    identities = {path: memory.identity(path, stamp) for path, stamp in stamps.items()}
    unsure = [path for path, identity in identities.items() if identity is None]
    with ThreadPoolExecutor(workers) as pool:
        identities |= zip(
            unsure,
            pool.map(lambda path: _md5(real_path(root, path)), unsure),
            strict=True,
        )
    cached = {
        path: memory.recall(path, identity)
        for path, identity in identities.items()
        if identity
    }
    return {path: result for path, result in cached.items() if result is not None}


def _md5(path: Path) -> str | None:
    try:
        return files.md5(path)
    except OSError:
        return None  # the task says why it cannot be read


def _measure_all(
    paths: list[str], measure: Measure, workers: int
) -> Iterator[tuple[str, MeasuredExample | ExampleFault]]:
    if len(paths) < _IN_PROCESS or workers < 2:
        yield from ((path, measure(path)) for path in paths)
        return
    chunks = [paths[at : at + _CHUNK] for at in range(0, len(paths), _CHUNK)]
    unmeasured = []
    with WorkerPool(workers) as pool:
        futures = {
            pool.submit(_measure_chunk, measure, chunk): chunk for chunk in chunks
        }
        for future in as_completed(futures):
            try:
                results = future.result()
            except BrokenProcessPool:
                unmeasured += futures[future]
            else:
                yield from zip(futures[future], results, strict=True)
    yield from _one_by_one(sorted(unmeasured), measure)


def _measure_chunk(
    measure: Measure, paths: list[str]
) -> list[MeasuredExample | ExampleFault]:
    return [measure(path) for path in paths]


def _one_by_one(
    paths: list[str], measure: Measure
) -> Iterator[tuple[str, MeasuredExample | ExampleFault]]:
    """After a worker died: one file at a time, so that the one that kills its worker
    gets the blame.
    """
    while paths:
        with WorkerPool(1) as pool:
            for at, path in enumerate(paths):
                try:
                    yield path, pool.submit(measure, path).result()
                except BrokenProcessPool:
                    yield (
                        path,
                        ExampleFault(
                            path,
                            "crashed",
                            "its decoder died",
                            "a file that can be decoded",
                            "remove it",
                        ),
                    )
                    paths = paths[at + 1 :]
                    break
            else:
                return
