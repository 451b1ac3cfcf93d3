"""`thaw models`, `promote`, `rollback`, `approve` and `refuse`: what a person decides
about registered versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline import receipts
from pipeline.context import Console, SilentConsole
from pipeline.errors import ConfigError, ServingError, ThawError
from pipeline.promotion_journal import (
    CLOCK_DIFFERENCE,
    MOST_OF_A_NAME,
    Entry,
    History,
    Kind,
    earlier_champions,
    now,
    read_history,
    to_reason,
)
from pipeline.storage import storage_errors
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.tracking.journal_run import JournalRun
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.store import TrackingStore


@dataclass(frozen=True)
class RegisteredModel:
    """A workspace's registered model: its versions, newest first, and what was decided
    about them.
    """

    name: str
    versions: tuple[ModelVersion, ...]
    history: History

    def describe(self, at: datetime | None = None) -> list[str]:
        """A line for each version, and one for each decision.

        Args:
            at: tells which version was champion then; None: now.
        """
        lines = [self._describe_version(version) for version in self.versions]
        if at is None:
            entries = [describe_entry(entry) for entry in self.history.valid]
            return [*lines, *entries]
        champion = self.history.champion_at(at)
        which = f"version {champion}" if champion else "none"
        moment = at.isoformat(timespec="seconds")
        return [f"champion at {moment}: {which}", *lines]

    def _describe_version(self, version: ModelVersion) -> str:
        verdict = self.history.find_verdict(version.version)
        notes = []
        if version.version in self.history.withdrawn:
            notes.append("rolled back")
        if verdict is not None:
            notes.append(f"verdict {verdict.decision}")
        return "  ".join([str(version), *notes])


def describe_entry(entry: Entry) -> str:
    """2026-11-27 01:30 UTC  promoted v3 (champion before: v2) by NAME: better than …"""
    when = entry.when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    before = ""
    if entry.champion:
        before = f" (champion before: v{entry.champion})"
    overridden = ""
    if entry.is_override:
        overridden = f", overriding the verdict {entry.decision}"
    kind: str = entry.kind
    if kind == "verdict":
        kind = f"verdict {entry.decision}"
    decided = f"{kind} v{entry.version or 'none'}{before} by {entry.by}{overridden}"
    return f"{when}  {decided}: {entry.reason}"


def read_model(workspace: Workspace) -> RegisteredModel:
    """The workspace's registered model, once the alias was made to follow the journal.

    Raises:
        ServingError: nothing is registered.
        TrackingError: the registry is away.
    """
    return _Registry(workspace, SilentConsole()).read()


def promote_version(
    workspace: Workspace, version: str, by: str, reason: str, console: Console
) -> str:
    """Makes a version champion, whatever its verdict; it is served once first. Returns
    what was done.

    Raises:
        ConfigError: there is no such version, or it is champion already.
        ServingError: it cannot be served.
        JournalMovedError: another became champion meanwhile.
    """
    registry = _Registry(workspace, console)
    model = registry.read()
    chosen = _find_version(model, version)
    if model.history.champion == chosen.version:
        raise ConfigError(
            "version", found=f"{version}, the champion", expected="another version"
        )
    verdict = model.history.find_verdict(chosen.version)
    decision = verdict.decision if verdict is not None else "none"
    registry.require_served(chosen)
    registry.decide(
        "promoted", model, chosen.version, by, reason or "by hand", decision
    )
    return f"{model.name} v{chosen.version} is champion"


def roll_back(
    workspace: Workspace, to: str, by: str, reason: str, console: Console
) -> str:
    """Makes the champion before champion again, or a version that is named; the one
    that was champion is withdrawn: no run promotes it again. Returns what was done.

    Raises:
        ConfigError: there is no champion, none before it, or no such version.
        ServingError: the version cannot be served.
        JournalMovedError: another became champion meanwhile.
    """
    registry = _Registry(workspace, console)
    model = registry.read()
    champion = model.history.champion
    if not champion:
        raise ConfigError(
            "rollback",
            found=f"{model.name} has no champion",
            expected="one to roll back",
        )
    target = to or next(earlier_champions(model.history), "")
    if not target:
        raise ConfigError(
            "rollback",
            found=f"v{champion} is the first champion of {model.name}",
            expected="a champion before it",
            hint="name a version: thaw rollback --to VERSION",
        )
    chosen = _find_version(model, target)
    if chosen.version == champion:
        raise ConfigError(
            "--to", found=f"{target}, the champion", expected="another version"
        )
    registry.require_served(chosen)
    registry.decide("rolled-back", model, chosen.version, by, reason or "by hand", "")
    return f"{model.name} v{chosen.version} is champion; v{champion} is withdrawn, and no run promotes it again"


def answer_request(
    workspace: Workspace,
    version: str,
    by: str,
    comment: str,
    console: Console,
    *,
    approve: bool,
) -> str:
    """Approves or refuses a version that waits for it. Returns what was done.

    Raises:
        ConfigError: the version does not wait: it was answered, has lapsed, or another
            became champion since.
        ServingError: it cannot be served.
        JournalMovedError: another became champion meanwhile.
    """
    registry = _Registry(workspace, console)
    model = registry.read()
    chosen = _find_version(model, version)
    days = registry.config.promotion.expires_days
    request = model.history.find_request(chosen.version, days, datetime.now(UTC))
    if request is None:
        raise ConfigError(
            f"version {chosen.version}",
            found=f"no open request for its approval: {_explain_no_request(model.history, chosen.version, days)}",
            expected="a version that waits",
            hint=_suggest_instead(model.history, chosen.version, approve=approve),
        )
    if not approve:
        registry.decide("refused", model, chosen.version, by, comment, "")
        return f"{model.name} v{chosen.version} is refused; version {model.history.champion or 'none'} stays champion"
    registry.require_served(chosen)
    registry.decide("approved", model, chosen.version, by, comment, "promote")
    return f"{model.name} v{chosen.version} is champion"


class _Registry:
    """The registry of a workspace, opened."""

    def __init__(self, workspace: Workspace, console: Console) -> None:
        from pipeline.tracking.journal_run import JournalRun
        from pipeline.tracking.store import find

        self.config: Config = workspace.config()
        if not self.config.tracking.enabled:
            raise ConfigError(
                "tracking.enabled",
                found="false",
                expected="true: a registry is part of the tracking store",
            )
        self._workspace = workspace
        self._console = console
        self._name = workspace.model_name(self.config)
        self._store: TrackingStore = find(self.config.tracking, workspace)
        self._journal: JournalRun = JournalRun(self._store, self._name)

    def read(self) -> RegisteredModel:
        from pipeline.tracking.registered_versions import registered

        versions = registered(self.config, self._workspace)
        if not versions:
            raise ServingError(
                f"model {self._name}",
                found="nothing is registered",
                expected="a registered model",
                hint="thaw run",
            )
        return RegisteredModel(
            self._name, tuple(versions), read_history(self._mirror())
        )

    def decide(
        self,
        kind: Kind,
        model: RegisteredModel,
        version: str,
        by: str,
        reason: str,
        decision: str,
    ) -> None:
        """Enters a decision, and makes follow what follows from it.

        Raises:
            JournalMovedError: another version is champion by now.
            TrackingError: the store is away, full or locked.
        """
        from pipeline.steps.promote import who_runs

        entry = Entry(
            kind=kind,
            champion=model.history.champion,
            version=version,
            by=to_reason(by or who_runs(), MOST_OF_A_NAME),
            reason=to_reason(reason),
            time=now(),
            decision=decision,
        )
        self._journal.append(entry)
        self._follow_up(model)

    def _follow_up(self, model: RegisteredModel) -> None:
        """Makes alias, mirror and cards follow a decision, which stands whatever
        becomes of them: told as a failure, it would be made twice.
        """
        from pipeline.steps.version_card import restate_decisions

        scratch = self._workspace.scratch
        try:
            with storage_errors(scratch):
                self._journal.reconcile()
                entries = self._mirror()
                restate_decisions(self._store, model.versions, entries, scratch)
        except ThawError as fault:
            self._console.info(
                "warning: this is decided, but not all that follows from it was written "
                f"({fault.subject}: {fault.found}); thaw models, then thaw run, write it"
            )

    def require_served(self, version: ModelVersion) -> None:
        """Serves a version once, in a process of its own, and asks it about its input
        example.

        Raises:
            ServingError: it cannot be served.
        """
        from pipeline.promotion.served_answers import ServedVersion
        from pipeline.tracking.serve_check import ask_served, read_input_example

        title = f"{version.name} v{version.version}"
        self._console.info(f"serving {title} once, to see that it answers")
        folder = ServedVersion(self._store, version, self._workspace.scratch).files()
        ask_served(folder, read_input_example(folder, title), title)

    def _mirror(self) -> list[Entry]:
        entries = self._journal.read()
        receipts.write_journal(self._workspace, self._name, entries)
        return entries


def _find_version(model: RegisteredModel, number: str) -> ModelVersion:
    """A version by its number, with or without a v.

    Raises:
        ConfigError: there is none; those there are are listed.
    """
    number_alone = number.removeprefix("v")
    for version in model.versions:
        if version.version == number_alone:
            return version
    raise ConfigError(
        "version",
        found=f"{number}: no such version of {model.name}",
        expected="one that is registered",
        details=[str(version) for version in model.versions],
    )


def _suggest_instead(history: History, version: str, *, approve: bool) -> str:
    """What to type where a version does not wait; empty where there is nothing to do."""
    is_champion = history.champion == version
    if approve and not is_champion:
        return f"thaw promote {version} makes it champion all the same"
    if is_champion and not approve:
        return "thaw rollback withdraws the champion"
    return ""


def _explain_no_request(history: History, version: str, days: int) -> str:
    if history.champion == version:
        return "it is the champion"
    own = []
    for entry in history.valid:
        if entry.version == version and entry.kind in ("requested", "refused"):
            own.append(entry)
    if not own:
        return "none was made"
    last = own[-1]
    if last.kind == "refused":
        return f"it was refused by {last.by}"
    now = datetime.now(UTC)
    if last.when > now + CLOCK_DIFFERENCE:
        return f"it is dated {last.time}, by a clock that was ahead"
    if now > last.when + timedelta(days=days):
        return f"it lapsed after {days} days"
    return "another version became champion since"


def parse_date(text: str) -> datetime | None:
    """A day (its end), or a moment, in ISO 8601; UTC where it names no zone. None for
    an empty text.

    Raises:
        ConfigError: it is neither.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if _is_day(text):
            moment += timedelta(days=1)
        if moment.tzinfo:
            return moment.astimezone(UTC)
        return moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as fault:
        raise ConfigError(
            "--at", found=text, expected="a date such as 2026-11-27 or 2026-11-27T14:00"
        ) from fault


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
