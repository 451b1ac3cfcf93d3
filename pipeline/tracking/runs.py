"""Runs in the tracking store: opened by key, written through a spool, never waited for longer than a bounded delay."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.context import Console, MetricPoint, TrackedRun
from pipeline.redaction import redact
from pipeline.tracking import outbox
from pipeline.tracking import store as stores
from pipeline.tracking.outbox import Outbox, Write
from pipeline.tracking.store import TrackingStore
from pipeline.tracking.system_metrics import SystemSampler

KEY = "thaw.key"
PARENT = "mlflow.parentRunId"

BATCH = 1000  # metrics the store takes at once
_PAIRS = 100  # params or tags it takes at once
_EVERY = 5.0  # seconds between two sendings of metrics
_BUDGET = 10.0  # seconds one sending may take before it leaves the rest for later
_RATIO = 20.0  # a sending is followed by this many times its own duration without one: at most 5 % of the time
_AWAY = 30.0  # seconds at least before a store that failed is asked again


class _Late(Exception):
    """The budget of one sending is spent."""


class MlflowRun:
    """One run; see `pipeline.context.TrackedRun`. `id` is empty until the store has answered once."""

    def __init__(self, tracker: MlflowTracker, key: str) -> None:
        self.key, self.id = key, ""
        self.outbox = Outbox(tracker.folder / f"{key}.jsonl")
        self.start = 0  # ms since 1970, as the store has it
        self.points: dict[str, dict[int, float]] = {}  # metric → step → the value the store has
        self.found = True  # the run may hold metrics of an earlier process
        self.finished = False  # it had ended when it was opened
        self.sampler: SystemSampler | None = None
        self._tracker = tracker
        self._told: dict[tuple[str, int], float] = {}  # what this process was told already

    def params(self, values: Mapping[str, object]) -> None:
        self._write({"op": "params", "values": _texts(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        self._write({"op": "tags", "values": _texts(values)})

    def metrics(self, points: Iterable[MetricPoint]) -> None:
        now = _now()
        rows = []
        for point in points:
            name, value, step = _name(point.name), float(point.value), int(point.step)
            if self._told.get((name, step)) != value:
                self._told[name, step] = value
                rows.append([name, value, step, now])
        if rows:
            self.outbox.append({"op": "metrics", "points": rows})
            self._tracker.send(self, metrics_only=True)

    def artifact(self, path: Path, folder: str = "") -> None:
        inside = sorted(below for below in path.rglob("*") if below.is_file()) if path.is_dir() else []
        files = []
        for file in inside or [path]:
            name = file.relative_to(path).as_posix() if inside else file.name
            try:
                listed, fault = self.outbox.keep(file, name)
            except OSError as unreadable:
                self._tracker.info(f"tracking: {name} cannot be read and is left out ({unreadable.strerror})")
                continue
            files.append(listed)
            if fault is not None:
                self._tracker.info(
                    f"tracking: no copy of {name} could be kept ({fault.strerror}); it is recorded if the store takes it "
                    "before the file changes"
                )
        if files:
            self._write({"op": "artifact", "files": files, "folder": folder})

    def close(self, status: str = "FINISHED") -> None:
        if self.sampler is not None:
            self.sampler.stop()
            self.sampler = None
        self.outbox.append({"op": "close", "status": status, "time": _now()})
        self._tracker.send(self, last=True)

    def _write(self, op: Write) -> None:
        self.outbox.append(op)
        self._tracker.send(self)


class MlflowTracker:
    """Opens runs by key in one store; see `pipeline.context.Tracker`.

    Args:
        store: where.
        folder: of the spools, one file a run.
        console: told once when the store is away, and when it is back; None: the log.
        system_metrics: whether a run without a parent samples the machine it runs on.
    """

    def __init__(
        self, store: TrackingStore, folder: Path, *, console: Console | None = None, system_metrics: bool
    ) -> None:
        self.store, self.folder = store, folder
        self._console, self._system_metrics = console, system_metrics
        self._runs: dict[str, MlflowRun] = {}
        self._away_until = self._rest_until = 0.0
        self._trouble = ""

    def open(
        self, key: str, name: str, *, parent: TrackedRun | None = None, tags: Mapping[str, str] | None = None
    ) -> MlflowRun:
        run = self._runs.setdefault(key, MlflowRun(self, key))
        above = parent.key if isinstance(parent, MlflowRun) else None
        given = _texts(tags or {})
        run.outbox.append({"op": "open", "name": name, "parent": above, "tags": given, "time": _now()})
        self.send(run)
        if self._system_metrics and above is None and not run.finished and run.sampler is None:
            run.sampler = SystemSampler(
                lambda values: run.outbox.append({"op": "system", "values": values, "time": _now()})
            )
        return run

    def send(self, run: MlflowRun, *, metrics_only: bool = False, last: bool = False) -> None:
        """Sends what the run and every other spool hold, if the store may be asked now; never raises for the store."""
        now = time.monotonic()
        if now < (self._away_until - _AWAY + _EVERY if last else self._away_until):
            return
        if metrics_only and now < self._rest_until and len(run.outbox.ops) < BATCH:
            return
        try:
            with stores.limits(stores.TRAINING):
                self.store.client  # noqa: B018  imports MLflow, once: no fault of the store's
                now = time.monotonic()
                self._send([run, *self._others(run)], now + _BUDGET)
                self._sweep()
        except _Late:
            self._rest_until = self._away_until = time.monotonic() + _RATIO * (time.monotonic() - now)
        except Exception as fault:
            self._away(fault, time.monotonic() - now)
        else:
            self._rest_until = time.monotonic() + max(_EVERY, _RATIO * (time.monotonic() - now))
            if self._trouble:
                self._trouble = ""
                self.info(f"tracking: {self.store.shown} answers again; what was kept is recorded")

    def flush(self) -> None:
        """Sends everything unconfirmed, with patience.

        Raises:
            TrackingError: the store is away or refuses.
        """
        runs = list(self._runs.values())
        stores.with_retries(
            self.store, "recording the run", lambda: self._send([*runs, *self._others(*runs)], math.inf)
        )
        self._away_until, self._trouble = 0.0, ""
        self._sweep()

    def _sweep(self) -> None:
        outbox.sweep(self.folder, {run.key for run in self._others()})

    def _others(self, *runs: MlflowRun) -> list[MlflowRun]:
        """Runs with unconfirmed writes, those that earlier processes left among them."""
        known = {run.key for run in runs}
        keys = {path.stem for path in self.folder.glob("*.jsonl")} | {k for k, r in self._runs.items() if r.outbox.ops}
        return [self._runs.get(key) or MlflowRun(self, key) for key in sorted(keys - known)]

    def _send(self, runs: list[MlflowRun], deadline: float) -> None:
        def check() -> None:
            if time.monotonic() > deadline:
                raise _Late

        for run in runs:
            while run.outbox.ops:
                check()
                ops = list(_batch(run.outbox.ops))
                try:
                    HANDLERS[ops[0]["op"]](self, run, ops, check)
                except Exception as fault:
                    if not stores.refused(fault):
                        raise
                    self.info(f"tracking: refused and left out: {stores.one_line(fault)[:200]}")
                run.outbox.drop(len(ops))

    def _away(self, fault: Exception, spent: float) -> None:
        self._away_until = time.monotonic() + max(_AWAY, _RATIO * spent)
        if not self._trouble:
            self._trouble = str(fault)
            reason = stores.to_tracking_error(self.store, "tracking", fault).found
            self.info(f"tracking: {self.store.shown} is away; the run goes on and is recorded later ({reason[:160]})")

    def info(self, text: str) -> None:
        """A line for the user."""
        if self._console is not None:
            self._console.info(redact(text))
        else:
            logging.getLogger(__name__).warning(redact(text))

    # --- what the operations ask of the store ---------------------------------------------------------------

    def _identify(self, run: MlflowRun, name: str = "", started: int | None = None) -> str:
        """The id of the run with this key, which is made where there is none."""
        if run.id:
            return run.id
        client, experiment = self.store.client, self.store.experiment_id
        query = f"tags.`{KEY}` = '{run.key}'"
        found = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
        run.found = bool(found)
        info = (found[0] if found else client.create_run(experiment, started, {KEY: run.key}, name or None)).info
        run.finished = run.found and info.status == "FINISHED"
        run.start, run.id = info.start_time, info.run_id
        return run.id

    def _open(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        op = ops[0]
        first = not run.id
        self._identify(run, op["name"], op["time"])
        client = self.store.client
        above = (
            {PARENT: self._identify(self._runs.get(op["parent"]) or MlflowRun(self, op["parent"]))}
            if op["parent"]
            else {}
        )
        if first:
            client.update_run(run.id, status=None if run.finished else "RUNNING", name=op["name"])
        _in_tags(client, run.id, {**op["tags"], **above})

    def _params(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        """Parameters cannot be changed in MLflow: one that differs is kept as a tag beside the first."""
        from mlflow.entities import Param

        client, run_id = self.store.client, self._identify(run)
        known = client.get_run(run_id).data.params
        values = {key: _short(value, 6000) for op in ops for key, value in op["values"].items()}
        fresh = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(fresh), _PAIRS):
            check()
            client.log_batch(run_id, params=fresh[start : start + _PAIRS])
        changed = {f"changed.{key}"[:250]: value for key, value in values.items() if known.get(key, value) != value}
        _in_tags(client, run_id, changed)

    def _tags(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        _in_tags(self.store.client, self._identify(run), {k: v for op in ops for k, v in op["values"].items()})

    def _metrics(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        self._points(run, [tuple(row) for op in ops for row in op["points"]], check)

    def _system(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        """The machine's own metrics, by the second since the run began."""
        self._identify(run)
        self._points(run, [
            (name, value, max(0, (op["time"] - run.start) // 1000), op["time"])
            for op in ops for name, value in op["values"].items()
        ], check)  # fmt: skip

    def _points(self, run: MlflowRun, rows: list[tuple[str, float, int, int]], check: Callable[[], None]) -> None:
        """Logs the points that the run does not have: of a curve, one value a step, the first.

        A metric that has no step but 0 is no curve: what a later evaluation found is logged after it, and shown.
        """
        from mlflow.entities import Metric as Point

        client, run_id = self.store.client, self._identify(run)
        for name in {row[0] for row in rows} - run.points.keys():
            check()
            run.points[name] = stores.history(client, run_id, name) if run.found else {}
        # A row that is sent again bears its first time, so the store knows it even if its answer was lost.
        fresh = {(row[0], row[2]): row for row in reversed(rows) if _new(run.points[row[0]], row[1], row[2])}
        points = [Point(name, value, at, step) for name, value, step, at in fresh.values()]
        for start in range(0, len(points), BATCH):
            check()
            client.log_batch(run_id, metrics=points[start : start + BATCH])
        for (name, step), row in fresh.items():
            run.points[name][step] = row[1]

    def _artifact(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        run_id = self._identify(run)
        listed = ops[0].get("files", [])  # none in what a Thaw before this one left, which kept no contents
        with run.outbox.laid_out(listed) as (files, lost):
            if lost or not listed:
                names = ", ".join(lost) or Path(ops[0]["path"]).name
                self.info(f"tracking: left out of run {run_id}, changed or removed since: {names}")
            if len(lost) < len(listed):
                self.store.client.log_artifacts(run_id, str(files), ops[0]["folder"] or None)

    def _close(self, run: MlflowRun, ops: list[Write], check: Callable[[], None]) -> None:
        self.store.client.set_terminated(self._identify(run), ops[0]["status"], ops[0]["time"])


HANDLERS: dict[str, Callable[[MlflowTracker, MlflowRun, list[Write], Callable[[], None]], None]] = {
    "open": MlflowTracker._open,
    "params": MlflowTracker._params,
    "tags": MlflowTracker._tags,
    "metrics": MlflowTracker._metrics,
    "system": MlflowTracker._system,
    "artifact": MlflowTracker._artifact,
    "close": MlflowTracker._close,
}


def _new(known: Mapping[int, float], value: float, step: int) -> bool:
    if step not in known:
        return True
    return step == 0 and len(known) == 1 and known[0] != value and not math.isnan(value)


def _batch(ops: list[Write]) -> Iterator[Write]:
    """The first operation and those after it that can be sent with it."""
    kind, size = ops[0]["op"], 0
    for op in ops:
        size += len(op.get("points") or op.get("values") or ())
        if op is not ops[0] and (
            op["op"] != kind or size > BATCH or kind not in ("metrics", "system", "params", "tags")
        ):
            return
        yield op


def _in_tags(client: Any, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(key, _short(value, 5000)) for key, value in values.items()]
    for start in range(0, len(tags), _PAIRS):
        client.log_batch(run_id, tags=tags[start : start + _PAIRS])


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Parameters or tags as the store gets them: texts without secrets, by names that it accepts."""
    return {_name(key): redact(str(value)) for key, value in values.items()}


def _name(text: str) -> str:
    """A name MLflow accepts: letters, digits, `_ - . : /` and spaces, at most 250."""
    return re.sub(r"[^/\w.\- :]", "_", text)[:250]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
