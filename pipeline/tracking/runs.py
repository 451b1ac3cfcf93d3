"""Runs in the tracking store: opened by key, written through an outbox, never waited
for longer than a bounded delay.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.context import Console, MetricPoint, TrackedRun
from pipeline.redaction import redact
from pipeline.text import shorten
from pipeline.tracking import failures, outbox
from pipeline.tracking.outbox import Outbox, Write
from pipeline.tracking.store import TrackingStore
from pipeline.tracking.system_metrics import SystemSampler

KEY = "thaw.key"
PARENT = "mlflow.parentRunId"

BATCH = 1000  # metrics the store takes at once
PAIRS_AT_ONCE = 100  # params or tags it takes at once
LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
SECONDS_BETWEEN_SENDS = 5.0  # of metrics
SEND_BUDGET = 10.0  # seconds one sending may take before it leaves the rest for later
# A sending is followed by this many times its own duration without one: at most 5 % of
# the time.
REST_RATIO = 20.0
SECONDS_AWAY = 30.0  # at least, before a store that failed is asked again
# Writes of which several can be sent as one.
JOINABLE = ("metrics", "system", "params", "tags")


class _BudgetSpentError(Exception):
    """The budget of one sending is spent."""


class LoggedPoint(NamedTuple):
    """A point of a curve as it is sent; `time` in milliseconds since 1970."""

    name: str
    value: float
    step: int
    time: int


class MlflowRun:
    """One run; see `pipeline.context.TrackedRun`. `id` is empty until the store has
    answered once.

    Args:
        key: by which it is found again.
    """

    def __init__(self, tracker: MlflowTracker, key: str) -> None:
        self.key = key
        self.id = ""
        self.outbox = Outbox(tracker.folder / f"{key}.jsonl")
        self.start = 0  # ms since 1970, as the store has it
        # Metric → step → the value the store has.
        self.points: dict[str, dict[int, float]] = {}
        self.existed = True  # the run may hold metrics of an earlier process
        self.finished = False  # it had ended when it was opened
        self.sampler: SystemSampler | None = None
        self._tracker = tracker
        # Metric and step → value, in this process.
        self._recorded: dict[tuple[str, int], float] = {}

    def params(self, values: Mapping[str, object]) -> None:
        self._write({"op": "params", "values": _to_texts(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        self._write({"op": "tags", "values": _to_texts(values)})

    def metrics(self, points: Iterable[MetricPoint]) -> None:
        now = _now()
        new = []
        for point in points:
            name = _valid_name(point.name)
            value = float(point.value)
            step = int(point.step)
            if self._recorded.get((name, step)) != value:
                self._recorded[name, step] = value
                new.append(LoggedPoint(name, value, step, now))
        if new:
            self.outbox.append({"op": "metrics", "points": new})
            self._tracker.send(self, metrics_only=True)

    def artifact(self, path: Path, folder: str = "") -> None:
        files = []
        for file, name in _list_files(path):
            try:
                held_file, fault = self.outbox.keep(file, name)
            except OSError as unreadable:
                self._tracker.info(
                    f"tracking: {name} cannot be read and is left out ({unreadable.strerror})"
                )
                continue
            files.append(held_file)
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

    def _write(self, write: Write) -> None:
        self.outbox.append(write)
        self._tracker.send(self)


class MlflowTracker:
    """Opens runs by key in one store; see `pipeline.context.Tracker`.

    Args:
        store: where.
        folder: of the outboxes, one file a run.
        console: told once when the store is away, and when it is back; None: the log.
        system_metrics: whether a run without a parent samples the machine it runs on.
    """

    def __init__(
        self,
        store: TrackingStore,
        folder: Path,
        *,
        console: Console | None = None,
        system_metrics: bool,
    ) -> None:
        self.store = store
        self.folder = folder
        self._console = console
        self._system_metrics = system_metrics
        self._runs: dict[str, MlflowRun] = {}
        self._away_until = 0.0
        self._rest_until = 0.0
        self._is_away = False

    def open(
        self,
        key: str,
        name: str,
        *,
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> MlflowRun:
        run = self._runs.setdefault(key, MlflowRun(self, key))
        parent_key = parent.key if isinstance(parent, MlflowRun) else None
        texts = _to_texts(tags or {})
        run.outbox.append(
            {
                "op": "open",
                "name": name,
                "parent": parent_key,
                "tags": texts,
                "time": _now(),
            }
        )
        self.send(run)
        if (
            self._system_metrics
            and parent_key is None
            and not run.finished
            and run.sampler is None
        ):
            run.sampler = SystemSampler(lambda values: _append_sample(run, values))
        return run

    def send(
        self, run: MlflowRun, *, metrics_only: bool = False, last: bool = False
    ) -> None:
        """Sends what the run and every other outbox hold, if the store may be asked
        now; never raises for the store.
        """
        started = time.monotonic()
        away_until = self._away_until
        if last:
            away_until += SECONDS_BETWEEN_SENDS - SECONDS_AWAY
        if started < away_until:
            return
        is_resting = started < self._rest_until
        if metrics_only and is_resting and len(run.outbox.writes) < BATCH:
            return
        try:
            with failures.limit_requests(failures.TRAINING):
                self.store.client  # noqa: B018  imports MLflow, once: no fault of the store's
                started = time.monotonic()
                self._send_writes([run, *self._other_runs(run)], started + SEND_BUDGET)
                self._remove_orphans()
        except _BudgetSpentError:
            now = time.monotonic()
            self._rest_until = now + REST_RATIO * (now - started)
            self._away_until = self._rest_until
        except Exception as fault:
            self._pause_after(fault, time.monotonic() - started)
        else:
            self._rest_after(started)

    def _rest_after(self, started: float) -> None:
        """How long to wait after a sending that went well; says so if none did before."""
        now = time.monotonic()
        rest = max(SECONDS_BETWEEN_SENDS, REST_RATIO * (now - started))
        self._rest_until = now + rest
        if self._is_away:
            self._is_away = False
            self.info(
                f"tracking: {self.store.shown} answers again; what was kept is recorded"
            )

    def flush(self) -> None:
        """Sends everything unconfirmed, with patience.

        Raises:
            TrackingError: the store is away or refuses.
        """
        runs = list(self._runs.values())

        def send_all() -> None:
            others = self._other_runs(*runs)
            self._send_writes([*runs, *others], math.inf)

        failures.with_retries(self.store, "recording the run", send_all)
        self._away_until = 0.0
        self._is_away = False
        self._remove_orphans()

    def info(self, text: str) -> None:
        """A line for the user."""
        if self._console is not None:
            self._console.info(redact(text))
        else:
            logging.getLogger(__name__).warning(redact(text))

    def run_of(self, key: str) -> MlflowRun:
        """The run with this key: the one opened here, or one that only its outbox is
        known of.
        """
        return self._runs.get(key) or MlflowRun(self, key)

    def _remove_orphans(self) -> None:
        keys = {run.key for run in self._other_runs()}
        outbox.remove_orphaned_contents(self.folder, keys)

    def _other_runs(self, *runs: MlflowRun) -> list[MlflowRun]:
        """Runs with unconfirmed writes, those that earlier processes left among them."""
        keys = {path.stem for path in self.folder.glob("*.jsonl")}
        for key, run in self._runs.items():
            if run.outbox.writes:
                keys.add(key)
        for run in runs:
            keys.discard(run.key)
        return [self.run_of(key) for key in sorted(keys)]

    def _send_writes(self, runs: Sequence[MlflowRun], deadline: float) -> None:
        def check_budget() -> None:
            if time.monotonic() > deadline:
                raise _BudgetSpentError

        for run in runs:
            while run.outbox.writes:
                check_budget()
                writes = list(_take_joinable(run.outbox.writes))
                handler = HANDLERS[writes[0]["op"]]
                try:
                    handler(self, run, writes, check_budget)
                except Exception as fault:
                    if not failures.is_refusal(self.store, fault):
                        raise
                    self.info(
                        f"tracking: refused and left out: {failures.one_line(fault)[:200]}"
                    )
                run.outbox.drop(len(writes))

    def _pause_after(self, fault: Exception, seconds: float) -> None:
        """Leaves the store alone for a while after a failure, and says so the first
        time.
        """
        self._away_until = time.monotonic() + max(SECONDS_AWAY, REST_RATIO * seconds)
        if self._is_away:
            return
        self._is_away = True
        reason = failures.to_tracking_error(self.store, "tracking", fault).found[:160]
        self.info(
            f"tracking: {self.store.shown} is away; the run goes on and is recorded later ({reason})"
        )


# --- what each kind of write asks of the store ----------------------------------------

CheckBudget = Callable[[], None]
Handler = Callable[[MlflowTracker, MlflowRun, Sequence[Write], CheckBudget], None]


def _find_or_create(
    tracker: MlflowTracker, run: MlflowRun, name: str = "", started: int | None = None
) -> str:
    """The id of the run with this key, which is made where there is none."""
    if run.id:
        return run.id
    client = tracker.store.client
    experiment = tracker.store.experiment_id
    query = f"tags.`{KEY}` = '{run.key}'"
    runs = client.search_runs(
        [experiment], query, max_results=1, order_by=["attributes.start_time ASC"]
    )
    run.existed = bool(runs)
    if runs:
        info = runs[0].info
    else:
        info = client.create_run(experiment, started, {KEY: run.key}, name or None).info
    run.finished = run.existed and info.status == "FINISHED"
    run.start = info.start_time
    run.id = info.run_id
    return run.id


def _open_run(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    write = writes[0]
    is_first = not run.id
    _find_or_create(tracker, run, write["name"], write["time"])
    client = tracker.store.client
    tags = dict(write["tags"])
    if write["parent"]:
        tags[PARENT] = _find_or_create(tracker, tracker.run_of(write["parent"]))
    if is_first:
        client.update_run(
            run.id, status=None if run.finished else "RUNNING", name=write["name"]
        )
    _log_tags(client, run.id, tags)


def _log_params(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    """Parameters cannot be changed in MLflow: one that differs is kept as a tag beside
    the first.
    """
    from mlflow.entities import Param

    client = tracker.store.client
    run_id = _find_or_create(tracker, run)
    known = client.get_run(run_id).data.params
    fresh = []
    changed = {}
    for key, value in _join_values(writes).items():
        text = shorten(value, LONGEST_PARAM)
        if key not in known:
            fresh.append(Param(key, text))
        elif known[key] != text:
            changed[f"changed.{key}"[:LONGEST_NAME]] = text
    for start in range(0, len(fresh), PAIRS_AT_ONCE):
        check()
        client.log_batch(run_id, params=fresh[start : start + PAIRS_AT_ONCE])
    _log_tags(client, run_id, changed)


def _log_tag_writes(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    run_id = _find_or_create(tracker, run)
    tags = _join_values(writes)
    _log_tags(tracker.store.client, run_id, tags)


def _log_metrics(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    points = []
    for write in writes:
        for point in write["points"]:
            points.append(LoggedPoint(*point))
    _log_points(tracker, run, points, check)


def _log_system(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    """The machine's own metrics, by the second since the run began."""
    _find_or_create(tracker, run)
    points = []
    for write in writes:
        second = max(0, (write["time"] - run.start) // 1000)
        for name, value in write["values"].items():
            points.append(LoggedPoint(name, value, second, write["time"]))
    _log_points(tracker, run, points, check)


def _log_points(
    tracker: MlflowTracker,
    run: MlflowRun,
    points: Sequence[LoggedPoint],
    check: CheckBudget,
) -> None:
    """Logs the points that the run does not have: of a curve, one value a step, the
    first.

    A metric that has no step but 0 is no curve: what a later evaluation found is logged
    after it, and shown.
    """
    from mlflow.entities import Metric

    client = tracker.store.client
    run_id = _find_or_create(tracker, run)
    for name in {point.name for point in points} - run.points.keys():
        check()
        run.points[name] = _read_history(client, run_id, name) if run.existed else {}
    # A point that is sent again bears its first time, so the store knows it even if its
    # answer was lost.
    fresh: dict[tuple[str, int], LoggedPoint] = {}
    for point in reversed(points):
        if _is_new(run.points[point.name], point.value, point.step):
            fresh[point.name, point.step] = point
    metrics = [
        Metric(point.name, point.value, point.time, point.step)
        for point in fresh.values()
    ]
    for start in range(0, len(metrics), BATCH):
        check()
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    for point in fresh.values():
        run.points[point.name][point.step] = point.value


def _log_artifact(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    write = writes[0]
    run_id = _find_or_create(tracker, run)
    # None in what a Thaw long before this one left, which kept no contents.
    files = write.get("files", [])
    with run.outbox.lay_out(files) as (folder, lost):
        if lost or not files:
            names = ", ".join(lost) or Path(write["path"]).name
            tracker.info(
                f"tracking: left out of run {run_id}, changed or removed since: {names}"
            )
        if len(lost) < len(files):
            tracker.store.client.log_artifacts(
                run_id, str(folder), write["folder"] or None
            )


def _close_run(
    tracker: MlflowTracker, run: MlflowRun, writes: Sequence[Write], check: CheckBudget
) -> None:
    write = writes[0]
    tracker.store.client.set_terminated(
        _find_or_create(tracker, run), write["status"], write["time"]
    )


HANDLERS: dict[str, Handler] = {
    "open": _open_run,
    "params": _log_params,
    "tags": _log_tag_writes,
    "metrics": _log_metrics,
    "system": _log_system,
    "artifact": _log_artifact,
    "close": _close_run,
}


def _append_sample(run: MlflowRun, values: Mapping[str, float]) -> None:
    sample = {"op": "system", "values": dict(values), "time": _now()}
    run.outbox.append(sample)


def _list_files(path: Path) -> Iterator[tuple[Path, str]]:
    """A file, or the files of a folder, with the names they are recorded under."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield file, file.relative_to(path).as_posix()
    else:
        yield path, path.name


def _read_history(client: Any, run_id: str, name: str) -> dict[int, float]:
    """A metric's values by step, the latest where a step has several."""
    history = client.get_metric_history(run_id, name)
    in_order = sorted(history, key=lambda point: point.timestamp)
    return {point.step: point.value for point in in_order}


def _is_new(known: Mapping[int, float], value: float, step: int) -> bool:
    if step not in known:
        return True
    if step != 0 or len(known) > 1:
        return False
    return known[0] != value and not math.isnan(value)


def _take_joinable(writes: Sequence[Write]) -> Iterator[Write]:
    """The first write and those after it that can be sent with it."""
    first = writes[0]
    yield first
    if first["op"] not in JOINABLE:
        return
    size = _count_values(first)
    for write in writes[1:]:
        size += _count_values(write)
        if write["op"] != first["op"] or size > BATCH:
            return
        yield write


def _count_values(write: Write) -> int:
    values = write.get("points") or write.get("values") or ()
    return len(values)


def _join_values(writes: Sequence[Write]) -> dict[str, str]:
    """The values of several writes of params or tags; of one name the last."""
    values: dict[str, str] = {}
    for write in writes:
        values |= write["values"]
    return values


def _log_tags(client: Any, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(key, shorten(value, LONGEST_TAG)) for key, value in values.items()]
    for start in range(0, len(tags), PAIRS_AT_ONCE):
        client.log_batch(run_id, tags=tags[start : start + PAIRS_AT_ONCE])


def _to_texts(values: Mapping[str, object]) -> dict[str, str]:
    """Parameters or tags as the store gets them: texts without secrets, by names that
    it accepts.
    """
    texts = {}
    for key, value in values.items():
        texts[_valid_name(key)] = redact(str(value))
    return texts


def _valid_name(text: str) -> str:
    """A name MLflow accepts: letters, digits, `_ - . : /` and spaces, at most 250."""
    replaced = re.sub(r"[^/\w.\- :]", "_", text)
    return replaced[:LONGEST_NAME]


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
