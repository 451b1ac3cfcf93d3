"""Writers that race for the champion of a registered model, through the journal and by the alias alone, and are killed:

    python bench/journal_race.py --rounds 100 --kills 200
    python bench/journal_race.py --server --rounds 100 --kills 200
    python bench/journal_race.py --uri postgresql+psycopg2://USER@127.0.0.1:PORT/DATABASE --rounds 100 --kills 200

Without a store, one of SQLite is made in a temporary folder; `--server` puts MLflow's server in front of it. PostgreSQL must
run already, and `psycopg2-binary` be installed; the database is filled.

In a round every writer reads who is champion and, on the strength of that, makes its own version champion. By the alias alone
a round is wrong where two writers decided on the same champion. By the journal it is wrong where an entry was added that its
writer does not know of, or is void, or is missing, or the alias is not the champion in the end. Of the killed writers, every
entry that was acknowledged must be there, without a gap. Exits with 1 where the journal was wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.servers import HOST, Server, free_port, stop
from pipeline.promotion_journal import Entry, JournalMovedError, now, read_history
from pipeline.tracking import registry
from pipeline.tracking.journal_run import JournalRun
from pipeline.tracking.store import TrackingStore

NAME = "race"
WRITERS = 8
KILLED_AT_ONCE = 4
LONGEST_LIFE = 1.5  # seconds of a writer that is to be killed, from its first entry on

console = Console(highlight=False, soft_wrap=True)
processes = multiprocessing.get_context("forkserver")


def open_store(uri: str) -> TrackingStore:
    """The store as a writer opens it; its experiment is there already."""
    return TrackingStore(uri, None, "race")


def make_entry(champion: str, version: str, reason: str) -> Entry:
    return Entry(
        kind="promoted",
        champion=champion,
        version=version,
        by="race",
        reason=reason,
        time=now(),
    )


def choose_version(champion: str, writer: int) -> str:
    """A writer's own version; where that is champion, the one that nobody owns."""
    own = str(writer + 1)
    return own if own != champion else str(WRITERS + 1)


# --- rounds ---------------------------------------------------------------------------


def race(uri: str, writer: int, start: Any, orders: Connection) -> None:
    """Takes part in rounds until told to end; answers each with what it decided on, and
    whether it had its way.
    """
    store = open_store(uri)
    journal = JournalRun(store, NAME)
    journal.read()
    orders.send("ready")
    while True:
        order = orders.recv()
        if order == "end":
            return
        start.wait()
        if order == "alias":
            orders.send(move_alias(store, writer))
        else:
            orders.send(move_by_journal(journal, writer, order))


def move_alias(store: TrackingStore, writer: int) -> str:
    """Makes the writer's version champion by the alias alone; returns the champion on
    which it did.
    """
    champion = registry.aliases_of(store, NAME).get(registry.CHAMPION, "")
    store.client.set_registered_model_alias(
        NAME, registry.CHAMPION, choose_version(champion, writer)
    )
    return champion


def move_by_journal(journal: JournalRun, writer: int, order: str) -> bool:
    """Makes the writer's version champion by the journal; returns whether it had its
    way.
    """
    champion = read_history(journal.read()).champion
    try:
        journal.append(
            make_entry(champion, choose_version(champion, writer), f"{order} {writer}")
        )
    except JournalMovedError:
        return False
    finally:
        journal.reconcile()
    return True


@contextmanager
def writers_at(uri: str) -> Iterator[list[Connection]]:
    """Writers that wait for orders."""
    start = processes.Barrier(WRITERS)
    pipes = [processes.Pipe() for _ in range(WRITERS)]
    started = []
    for writer, (_, theirs) in enumerate(pipes):
        process = processes.Process(target=race, args=(uri, writer, start, theirs))
        process.start()
        started.append(process)
    ours = [own for own, _ in pipes]
    for one in ours:
        one.recv()
    try:
        yield ours
    finally:
        for one in ours:
            one.send("end")
        for process in started:
            process.join()


def ask_all(writers: Sequence[Connection], order: str) -> list[Any]:
    for writer in writers:
        writer.send(order)
    return [writer.recv() for writer in writers]


def race_by_alias(
    store: TrackingStore, writers: Sequence[Connection], rounds: int
) -> int:
    """How many rounds were wrong."""
    wrong = 0
    store.client.set_registered_model_alias(NAME, registry.CHAMPION, str(WRITERS + 1))
    for _ in range(rounds):
        decided_on = ask_all(writers, "alias")
        wrong += len(set(decided_on)) < len(decided_on)
    store.client.delete_registered_model_alias(NAME, registry.CHAMPION)
    return wrong


def race_by_journal(
    store: TrackingStore, writers: Sequence[Connection], rounds: int
) -> tuple[int, int]:
    """How many rounds were wrong, and how many entries were added in all."""
    wrong = 0
    journal = JournalRun(store, NAME)
    before = len(journal.read())
    first = before
    for number in range(rounds):
        order = f"round {number}"
        had_its_way = ask_all(writers, order)
        entries = journal.read()
        added = entries[before:]
        before = len(entries)
        known = {f"{order} {writer}" for writer, won in enumerate(had_its_way) if won}
        history = read_history(entries)
        is_right = (
            {entry.reason for entry in added} == known
            and len(added) == len(known) >= 1
            and len(history.valid) == len(entries)
            and registry.aliases_of(store, NAME).get(registry.CHAMPION)
            == history.champion
        )
        wrong += not is_right
    return wrong, before - first


# --- kills ----------------------------------------------------------------------------


def write_for_ever(uri: str, writer: int, told: Connection) -> None:
    """Adds entries, and tells of each as soon as it is acknowledged."""
    journal = JournalRun(open_store(uri), NAME)
    number = 0
    while True:
        number += 1
        order = f"life {os.getpid()} {number}"
        told.send((move_by_journal(journal, writer, order), f"{order} {writer}"))


def kill_writers(store: TrackingStore, uri: str, kills: int) -> tuple[int, int, int]:
    """Kills writers at any moment; returns kills, times that the journal was wrong
    afterwards, and entries added.
    """
    draw = random.Random(0)
    journal = JournalRun(store, NAME)
    first = len(journal.read())
    done, wrong = 0, 0
    while done < kills:
        acknowledged = _kill_some(uri, draw)
        done += KILLED_AT_ONCE
        entries = journal.read()
        champion = journal.reconcile()
        reasons = {entry.reason for entry in entries}
        numbers = store.client.get_run(journal._find_run()).data.params
        is_right = (
            acknowledged <= reasons
            and sorted(numbers)
            == [f"{number:06d}" for number in range(1, len(entries) + 1)]
            and champion == read_history(entries).champion
            and registry.aliases_of(store, NAME).get(registry.CHAMPION) == champion
        )
        wrong += not is_right
    return done, wrong, len(journal.read()) - first


def _kill_some(uri: str, draw: random.Random) -> set[str]:
    """Starts writers and kills each after a while; returns the reasons of the entries
    that were acknowledged.
    """
    running = []
    for writer in range(KILLED_AT_ONCE):
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=write_for_ever, args=(uri, writer, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    acknowledged: set[str] = set()
    for process, ours in running:
        _note(acknowledged, ours.recv())
        time.sleep(draw.uniform(0, LONGEST_LIFE / KILLED_AT_ONCE))
        process.kill()
        process.join()
        try:
            while True:
                _note(acknowledged, ours.recv())
        except (EOFError, OSError):
            ours.close()
    return acknowledged


def _note(acknowledged: set[str], told: tuple[bool, str]) -> None:
    won, reason = told
    if won:
        acknowledged.add(reason)


# --- stores ---------------------------------------------------------------------------


def lay_out(uri: str) -> TrackingStore:
    """Registers a model with a version for each writer and one more."""
    store = TrackingStore(uri, None, "race")
    client = store.client
    client.create_registered_model(NAME)
    for _ in range(WRITERS + 1):
        run = client.create_run(store.experiment_id)
        client.create_model_version(NAME, run.info.artifact_uri, run.info.run_id)
    return store


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    """The address of MLflow's own server in front of a store, on a free loopback port."""
    port = free_port(0)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--workers", "2"]
    command += ["--backend-store-uri", uri, "--default-artifact-root", folder.as_uri()]
    command += ["--host", HOST, "--port", str(port)]
    # Where MLflow looks for uvicorn.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    log = folder / "log"
    server = Server("MLflow", port, "/health", command, {"PATH": path}, log, folder)
    process = server.start()
    try:
        server.wait(process)
        yield server.url
    finally:
        stop([process])


def measure(uri: str, rounds: int, kills: int) -> bool:
    """Runs both sides and the kills; returns whether the journal was right."""
    store = lay_out(uri)
    console.print(f"store {store.shown}, {WRITERS} writers")
    with writers_at(uri) as writers:
        began = time.monotonic()
        by_alias = race_by_alias(store, writers, rounds)
        console.print(
            f"by the alias alone: {by_alias} of {rounds} rounds wrong, {time.monotonic() - began:.0f} s"
        )
        began = time.monotonic()
        by_journal, added = race_by_journal(store, writers, rounds)
        took = time.monotonic() - began
        console.print(
            f"by the journal: {by_journal} of {rounds} rounds wrong, {added} entries, {took:.0f} s"
        )
    began = time.monotonic()
    done, wrong, added = kill_writers(store, uri, kills)
    took = time.monotonic() - began
    console.print(
        f"killed: {done} writers; wrong afterwards {wrong} times; {added} entries, {took:.0f} s"
    )
    return not by_journal and not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", default="")
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    processes.set_forkserver_preload(
        [
            "mlflow",
            "mlflow.store.tracking.sqlalchemy_store",
            "pipeline.tracking.journal_run",
        ]
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        uri = options.uri or f"sqlite:///{folder / 'mlflow.db'}"
        if options.server:
            with served(uri, folder) as address:
                is_right = measure(address, options.rounds, options.kills)
        else:
            is_right = measure(uri, options.rounds, options.kills)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
