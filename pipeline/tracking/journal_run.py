"""The journal of a registered model in MLflow: the parameters of one run.

An alias is moved by whoever comes last. A parameter of a run is written once: the store
refuses another value for it, by a constraint of its database. So entries are parameters
`000001`, `000002`, … of one run, and of two writers of one number one is refused. Which
run it is stands in a parameter of the run that version 1 comes from, which is written
once too.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.errors import TrackingError
from pipeline.files import replace_text
from pipeline.promotion_journal import (
    Entry,
    JournalMovedError,
    TestSplit,
    now,
    read_history,
)
from pipeline.tracking import registry
from pipeline.tracking.failures import with_retries
from pipeline.tracking.store import TrackingStore

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion

NUMBER = re.compile(r"\d{6}")
JOURNAL_TAG = "thaw.journal"  # of the run that holds entries: the model's name
MOST_ATTEMPTS = 50  # of appending, while others append
TEST_SPLITS = "test-splits"  # folder of that run
MOST_READINGS = 10  # until alias and journal agree, while others append


class JournalRun:
    """The Journal of one registered model."""

    def __init__(self, store: TrackingStore, name: str) -> None:
        self._store = store
        self._name = name
        self._run_id = ""

    def read(self) -> list[Entry]:
        """All entries in order; none where no version was registered yet."""
        return with_retries(
            self._store, f"reading the journal of {self._name}", self._read
        )

    def append(self, entry: Entry) -> None:
        """Adds an entry whose champion is the champion; see `Journal`."""
        with_retries(
            self._store,
            f"writing to the journal of {self._name}",
            lambda: self._append(entry),
        )

    def reconcile(self) -> str:
        """Makes the alias follow the journal. An alias from before the journal becomes
        its first entry; where the champion was deleted from the registry, there is
        none.
        """
        return with_retries(
            self._store, f"naming the champion of {self._name}", self._reconcile
        )

    def _read(self) -> list[Entry]:
        run_id = self._find_run()
        if not run_id:
            return []
        params: dict[str, str] = self._store.client.get_run(run_id).data.params
        numbers = sorted(number for number in params if NUMBER.fullmatch(number))
        return [self._parse(number, params[number]) for number in numbers]

    def _parse(self, number: str, text: str) -> Entry:
        try:
            return Entry.model_validate_json(text)
        except ValidationError as fault:
            raise TrackingError(
                f"journal of {self._name}, entry {number}",
                found=text[:200],
                expected="what Thaw writes",
                hint="a newer version of Thaw may have written it: install that version",
            ) from fault

    def _append(self, entry: Entry) -> None:
        run_id = self._find_run() or self._make_run()
        client = self._store.client
        # By mistake: it can be had back, and is needed.
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
        own = entry.model_copy(update={"nonce": secrets.token_hex(8)})
        for _ in range(MOST_ATTEMPTS):
            entries = self._read()
            champion = read_history(entries).champion
            if entry.champion != champion:
                raise JournalMovedError(
                    f"{self._name}",
                    found=f"its champion is {_title(champion)}",
                    expected=f"{_title(entry.champion)}, on which this was decided",
                    hint="look at thaw models, then decide anew",
                )
            if self._write(run_id, f"{len(entries) + 1:06d}", own):
                return
        raise TrackingError(
            f"journal of {self._name}",
            found=f"others were quicker {MOST_ATTEMPTS} times",
            expected="a moment without other writers",
            hint="try again",
        )

    def _write(self, run_id: str, number: str, entry: Entry) -> bool:
        """Writes an entry under a number; False where another has it."""
        text = entry.model_dump_json(exclude_defaults=True)
        client = self._store.client
        if _write_once(client, run_id, number, text):
            return True
        return bool(client.get_run(run_id).data.params.get(number) == text)

    def _reconcile(self) -> str:
        versions = registry.versions(self._store, self._name)
        if not versions:
            return ""
        for _ in range(MOST_READINGS):
            entries = self._read()
            aliased = registry.aliases_of(self._store, self._name).get(
                registry.CHAMPION, ""
            )
            if not entries and aliased:
                self._adopt(aliased)
                continue
            champion = read_history(entries).champion
            if champion not in {version.version for version in versions}:
                # It was deleted: until another is made champion there is none to be
                # served.
                champion = ""
            if aliased == champion:
                return champion
            self._move_alias(aliased, champion)
        return read_history(self._read()).champion

    def _adopt(self, version: str) -> None:
        reason = "the alias champion was set before there was a journal"
        self._append(
            Entry(
                kind="adopted",
                champion="",
                version=version,
                by="thaw",
                reason=reason,
                time=now(),
            )
        )

    def _move_alias(self, aliased: str, champion: str) -> None:
        """Sets the alias; where another has moved it meanwhile, which a database may
        refuse, nothing is amiss.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._set_alias(champion)
        except MlflowException:
            if (
                registry.aliases_of(self._store, self._name).get(registry.CHAMPION, "")
                == aliased
            ):
                raise

    def _set_alias(self, champion: str) -> None:
        client = self._store.client
        if champion:
            client.set_registered_model_alias(self._name, registry.CHAMPION, champion)
        else:
            client.delete_registered_model_alias(self._name, registry.CHAMPION)

    # --- test splits ---------------------------------------------------------------------------------------------

    def keep_test_split(self, split: TestSplit, folder: Path) -> None:
        """Keeps the examples of a test split beside the entries, under its digest.

        Args:
            folder: of this machine, where test splits lie too, a folder a journal.
        """
        run_id = self._find_run() or self._make_run()
        path = folder / run_id / f"{split.digest}.json"
        if path.exists():
            return
        part = path.parent / "sending" / path.name
        replace_text(part, split.model_dump_json())

        def send() -> None:
            self._store.client.log_artifact(run_id, str(part), TEST_SPLITS)

        with_retries(self._store, f"keeping a test split of {self._name}", send)
        part.replace(path)

    def find_test_split(self, digest: str, folder: Path) -> TestSplit | None:
        """The test split with a digest; None where the store has lost it.

        Raises:
            TrackingError: the store is away: without the test splits of earlier looks,
                this one would pass for new.
        """
        run_id = self._find_run()
        path = folder / run_id / f"{digest}.json"
        if path.exists():
            return _parse_test_split(path.read_text(encoding="utf-8"))
        text = with_retries(
            self._store,
            f"fetching a test split of {self._name}",
            lambda: self._fetch_test_split(run_id, path.name),
        )
        split = _parse_test_split(text)
        if split is not None:
            replace_text(path, text)
        return split

    def _fetch_test_split(self, run_id: str, name: str) -> str:
        """What the store holds of a test split; empty where it has lost it."""
        client = self._store.client
        present = [entry.path for entry in client.list_artifacts(run_id, TEST_SPLITS)]
        artifact = f"{TEST_SPLITS}/{name}"
        if artifact not in present:
            return ""
        fetched = Path(client.download_artifacts(run_id, artifact))
        return fetched.read_text(encoding="utf-8")

    # --- which run it is -----------------------------------------------------------------------------------------

    def _find_run(self) -> str:
        """The id of the run with the entries; empty where there is none yet."""
        if self._run_id or self._store.empty:
            return self._run_id
        for version in self._oldest_first():
            run = self._get_run(version.run_id)
            if run is None:
                pointer = ""
            else:
                pointer = str(run.data.params.get(self._pointer, ""))
            if pointer and self._get_run(pointer) is not None:
                self._run_id = pointer
                return pointer
        self._run_id = self._search_run()
        return self._run_id

    def _search_run(self) -> str:
        """The run with the entries where no version points to it any longer, since the
        oldest ones were deleted; empty where there is none. The oldest version that is
        left points to it from now on.
        """
        from mlflow.entities import ViewType

        client = self._store.client
        experiments = [
            experiment.experiment_id
            for experiment in client.search_experiments(view_type=ViewType.ALL)
        ]
        # Names may hold any quotes, which a filter cannot express.
        runs = client.search_runs(
            experiments,
            f"tags.`{JOURNAL_TAG}` != ''",
            ViewType.ALL,
            order_by=["start_time"],
        )
        for run in runs:
            is_own = run.data.tags[JOURNAL_TAG] == self._name
            if is_own and any(NUMBER.fullmatch(name) for name in run.data.params):
                run_id = str(run.info.run_id)
                oldest = self._find_oldest_run()
                if oldest:
                    _write_once(client, oldest, self._pointer, run_id)
                return run_id
        return ""

    def _get_run(self, run_id: str) -> Any:
        """A run; None where it was removed for good."""
        from mlflow.exceptions import MlflowException

        try:
            return self._store.client.get_run(run_id)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _make_run(self) -> str:
        """A new run for the entries, or the one that another made meanwhile."""
        client = self._store.client
        pointed_from = self._find_oldest_run()
        if not pointed_from:
            raise TrackingError(
                f"journal of {self._name}",
                found=f"no version of {self._name} at {self._store.shown} whose run is there",
                expected="a registered version with its run",
                hint="thaw run --force register",
            )
        run = client.create_run(
            self._store.experiment_id,
            run_name=f"journal of {self._name}",
            tags={JOURNAL_TAG: self._name},
        )
        client.set_terminated(run.info.run_id)
        if not _write_once(client, pointed_from, self._pointer, run.info.run_id):
            client.delete_run(run.info.run_id)
        return self._find_run()

    def _find_oldest_run(self) -> str:
        """The run of the oldest version whose run can still be written to, and does not
        point to what was removed; empty where there is none.
        """
        for version in self._oldest_first():
            run = self._get_run(version.run_id)
            is_active = run is not None and run.info.lifecycle_stage == "active"
            if is_active and self._pointer not in run.data.params:
                return version.run_id
        return ""

    @property
    def _pointer(self) -> str:
        hashed = hashlib.sha256(self._name.encode()).hexdigest()
        return f"thaw.journal.{hashed[:16]}"

    def _oldest_first(self) -> list[ModelVersion]:
        return [
            version
            for version in reversed(registry.versions(self._store, self._name))
            if version.run_id
        ]


def _parse_test_split(text: str) -> TestSplit | None:
    """A test split; None where its file was cut short."""
    try:
        return TestSplit.model_validate_json(text)
    except ValidationError:
        return None


def _write_once(client: Any, run_id: str, name: str, value: str) -> bool:
    """Sets a parameter of a run; False where it has another value."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_param(run_id, name, value)
    except MlflowException as fault:
        if fault.error_code != "INVALID_PARAMETER_VALUE":
            raise
        if client.get_run(run_id).data.params.get(name) in (None, value):
            raise
        return False
    return bool(client.get_run(run_id).data.params.get(name) == value)


def _title(version: str) -> str:
    return f"version {version}" if version else "none"
