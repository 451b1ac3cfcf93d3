"""Promote: whether the registered version becomes the champion, by evidence and policy;
written into the journal.
"""

from __future__ import annotations

import getpass
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.config import Config
from pipeline.context import Context
from pipeline.errors import ServingError, TrackingError
from pipeline.promotion.decide import Policy, Verdict, decide
from pipeline.promotion.evidence import Evidence
from pipeline.promotion_journal import (
    MOST_OF_A_NAME,
    Entry,
    History,
    JournalMovedError,
    Kind,
    TestSplit,
    count_looks,
    now,
    read_history,
    to_reason,
)
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    EvaluateRecord,
    FinetuneRecord,
    MetricEstimate,
    PromoteRecord,
    RegisterRecord,
    SplitRecord,
    ValidateRecord,
    digest,
)
from pipeline.steps import version_card
from pipeline.steps.promotion_evidence import (
    Challenger,
    gather_evidence,
    read_test_split,
)
from pipeline.steps.provenance import describe_environment
from pipeline.steps.recorded_facts import MODEL_SHA256_TAG
from pipeline.training.crash_points import crash_point
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.promotion.served_answers import ServedVersion
    from pipeline.tracking.journal_run import JournalRun
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.store import TrackingStore

MOST_DECISIONS = 5  # on champions that change while it is decided
TRIED_EXAMPLES = 8  # test examples that the served version must answer as it was judged


def promote_registered(
    config: Config,
    validated: ValidateRecord,
    split: SplitRecord,
    backbone: BackboneRecord,
    finetuned: FinetuneRecord,
    evaluated: EvaluateRecord,
    registered: RegisterRecord,
    context: Context,
) -> PromoteRecord:
    """Decides on the registered version with the version of the data that DVC knows;
    see `promote`.
    """
    from pipeline.versioning import Versioning

    data = Versioning(context.root).data_version()
    records = (validated, split, backbone, finetuned, evaluated, registered)
    return promote(Challenger(config, *records, data, context))


def promote(challenger: Challenger) -> PromoteRecord:
    """Decides on the registered version, and makes it champion where it deserves it.

    Calling it again decides the same and adds no look. The entry in the journal comes
    before the alias, so a kill in between is made good by whoever asks the registry
    next.

    Raises:
        TrackingError: the store is away, full or locked.
    """
    config = challenger.config
    context = challenger.context
    workspace = Workspace(context.root)
    record = _decide_unregistered(challenger)
    if record is None:
        from pipeline.tracking.store import find

        record = _Promotion(
            challenger, workspace, find(config.tracking, workspace)
        ).run()
    receipts.write_promotion(config, workspace, record)
    return record


def _decide_unregistered(challenger: Challenger) -> PromoteRecord | None:
    """What there is to say of an evaluation that was not registered; None where it was."""
    registered = challenger.registered
    if registered.version:
        return None
    return PromoteRecord(
        evaluation=registered.evaluation,
        key=registered.key,
        model=registered.model,
        version="",
        champion="",
        decision="none",
        reason=registered.reason,
    )


@dataclass(frozen=True)
class _Decided:
    """A verdict, and what it was given on."""

    evidence: Evidence
    verdict: Verdict
    history: History
    split: TestSplit

    @property
    def looked_at(self) -> str:
        """The digest of the test split, where its examples had a say; else empty."""
        settled = bool(
            self.evidence.withdrawn
            or self.evidence.dirty_reason
            or self.evidence.same_weights
        )
        compared = (
            self.evidence.comparison is not None or self.evidence.trivial is not None
        )
        if compared and not settled:
            return self.split.digest
        return ""


class _Promotion:
    """Deciding on one version of one registered model."""

    def __init__(
        self, challenger: Challenger, workspace: Workspace, store: TrackingStore
    ) -> None:
        from pipeline.tracking.journal_run import JournalRun

        self._challenger = challenger
        self._config = challenger.config
        self._workspace = workspace
        self._store = store
        self._name = challenger.registered.model
        self._version = challenger.registered.version
        self._journal: JournalRun = JournalRun(store, self._name)

    def run(self) -> PromoteRecord:
        from pipeline.tracking.failures import with_retries
        from pipeline.tracking.probe import SECONDS_OF_RUNS, require_answer

        require_answer(self._store, SECONDS_OF_RUNS)
        with_retries(
            self._store, f"naming the challenger of {self._name}", self._set_challenger
        )
        self._require_version()
        self._journal.reconcile()  # an alias from before the journal is its first entry
        decided = self._decide_and_write()
        crash_point("before-champion")
        self._journal.reconcile()
        entries = self._journal.read()
        receipts.write_journal(self._workspace, self._name, entries)
        record = self._make_record(decided, read_history(entries))
        record = self._keep_comparison(record)
        self._publish_card(record, entries)
        return record

    def _set_challenger(self) -> None:
        from pipeline.tracking import registry

        for version in registry.versions(self._store, self._name):
            if version.version == self._version:
                registry.set_alias(self._store, version, registry.CHALLENGER)

    def _decide_and_write(self) -> _Decided:
        """Decides anew where someone else wrote into the journal meanwhile."""
        for _ in range(MOST_DECISIONS - 1):
            decided = self._decide()
            try:
                self._write(decided)
                return decided
            except JournalMovedError:
                continue
        decided = self._decide()
        self._write(decided)
        return decided

    def _require_version(self) -> None:
        """Makes sure that the version is still there, before anything is decided about
        it.

        Raises:
            TrackingError: somebody deleted it.
        """
        if self._version not in self._list_versions():
            raise TrackingError(
                f"{self._name} v{self._version}",
                found=f"no such version at {self._store.shown}, though it was registered",
                expected="the version that this run registered",
                hint="thaw run --force register",
            )

    # --- deciding --------------------------------------------------------------------------------------------------

    def _decide(self) -> _Decided:
        history = read_history(self._journal.read())
        split = read_test_split(self._challenger)
        looks = self._count_looks(history, split)
        versions = self._list_versions()
        champion = versions.get(history.champion)
        withdrawn = self._is_withdrawn(history, versions)
        served = self._open(champion, looks, withdrawn=withdrawn)
        evidence = gather_evidence(self._challenger, champion, served, looks, withdrawn)
        if history.champion and champion is None:
            evidence = _without_champion(evidence, history.champion)
        policy = Policy(self._config.promotion, self._config.register_.thresholds)
        verdict = decide(evidence, policy)
        is_other = history.champion != self._version
        if is_other and verdict.decision in ("promote", "nothing-to-decide"):
            blocked = self._find_serving_fault(versions[self._version])
            evidence = replace(evidence, blocked=blocked)
            verdict = decide(evidence, policy)
        return _Decided(evidence, verdict, history, split)

    def _count_looks(self, history: History, split: TestSplit) -> int:
        folder = self._test_splits
        test_splits: dict[str, TestSplit] = {}
        for entry in history.looks:
            if entry.test_split and entry.test_split not in test_splits:
                test_split = self._journal.find_test_split(entry.test_split, folder)
                if test_split is not None:
                    test_splits[entry.test_split] = test_split
        return count_looks(
            history.looks, test_splits, split, self._challenger.registered.key
        )

    def _open(
        self, champion: ModelVersion | None, looks: int, *, withdrawn: bool
    ) -> ServedVersion | None:
        """The champion, to be asked; None where its answers would change nothing."""
        from pipeline.promotion.served_answers import ServedVersion

        is_own = champion is None or champion.version == self._version
        is_worn = looks > self._config.promotion.looks
        if champion is None or is_own or is_worn or withdrawn:
            return None
        return ServedVersion(self._store, champion, self._challenger.context.scratch)

    def _is_withdrawn(
        self, history: History, versions: Mapping[str, ModelVersion]
    ) -> bool:
        """Whether a version with these weights was rolled back."""
        for number in history.withdrawn:
            version = versions.get(number)
            weights = "" if version is None else version.tags.get(MODEL_SHA256_TAG, "")
            if (
                number == self._version
                or weights == self._challenger.evaluated.model_sha256
            ):
                return True
        return False

    def _list_versions(self) -> dict[str, ModelVersion]:
        """What is registered, by number."""
        from pipeline.tracking import registry
        from pipeline.tracking.failures import with_retries

        def search() -> list[ModelVersion]:
            return registry.versions(self._store, self._name)

        versions = with_retries(self._store, "asking what is registered", search)
        return {version.version: version for version in versions}

    def _find_serving_fault(self, version: ModelVersion) -> str:
        """Why the version cannot be served from the registry; empty where it can, or
        was seen to before.
        """
        key = self._challenger.registered.key
        mark = serving_mark(self._challenger.context.scratch, key)
        if mark.exists():
            return ""
        try:
            self._try_serving(version)
        except ServingError as fault:
            return fault.found
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return ""

    def _try_serving(self, version: ModelVersion) -> None:
        """Asks the version, served as it lies in the registry, about a few test
        examples.

        Raises:
            ServingError: it does not start, or answers otherwise than it was judged.
        """
        import pyarrow.parquet as pq

        from pipeline import served
        from pipeline.promotion.served_answers import ServedVersion
        from pipeline.tracking.serve_check import ask_served

        challenger = self._challenger
        rows = (
            pq.read_table(challenger.evaluated.predictions)
            .slice(0, TRIED_EXAMPLES)
            .to_pylist()
        )
        serving = served.serving_of(self._config.task.name)
        folder = ServedVersion(self._store, version, challenger.context.scratch).files()
        title = f"{self._name} v{self._version}"
        challenger.context.console.info(
            f"serving {title} once, to see that it answers as it was judged"
        )
        answers = ask_served(
            folder, serving.requests(rows, challenger.context.data), title
        )
        candidate = challenger.finetuned.candidate(challenger.evaluated.candidate)
        for row, answer in zip(rows, answers, strict=True):
            difference = _find_difference(serving, answer, row, candidate)
            if difference:
                raise ServingError(
                    title,
                    found=f"{row['path']}: {difference}",
                    expected="the evaluation's answers",
                )

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, decided: _Decided) -> None:
        """Enters the look, and what follows from it.

        Raises:
            JournalMovedError: another version is champion by now.
        """
        if decided.verdict.decision == "nothing-to-decide":
            self._follow_weights(decided)
            return
        if not _is_known(decided, self._challenger.registered.key):
            if decided.looked_at:
                self._journal.keep_test_split(decided.split, self._test_splits)
            self._append("verdict", decided)
        crash_point("before-promotion")
        if decided.verdict.decision != "promote":
            return
        if self._config.promotion.mode == "automatic":
            self._append("promoted", decided)
        elif (
            not self._is_waiting(decided.history)
            and decided.history.find_refusal(self._version) is None
        ):
            self._append("requested", decided)

    def _follow_weights(self, decided: _Decided) -> None:
        """A version with the champion's weights, served otherwise, takes its place:
        there is nothing to weigh.
        """
        if decided.evidence.champion != self._version:
            self._append("promoted", decided)

    def _append(self, kind: Kind, decided: _Decided) -> None:
        verdict = decided.verdict
        self._journal.append(
            Entry(
                kind=kind,
                champion=decided.history.champion,
                version=self._version,
                by=to_reason(who_runs(), MOST_OF_A_NAME),
                reason=to_reason(verdict.reason),
                time=now(),
                decision=verdict.decision,
                key=self._challenger.registered.key,
                test_split=decided.looked_at,
            )
        )

    def _publish_card(self, record: PromoteRecord, entries: Sequence[Entry]) -> None:
        """Writes the version's card anew, with what was decided."""
        challenger = self._challenger
        others = self._list_versions()
        version = others.pop(self._version)
        decided = replace(challenger.run, promote=record)
        run_id = challenger.registered.run_id
        version_card.publish(
            self._store,
            self._config,
            decided,
            version,
            run_id,
            challenger.context,
            entries,
        )
        version_card.restate_decisions(
            self._store, others.values(), entries, challenger.context.scratch
        )

    def _is_waiting(self, history: History) -> bool:
        request = find_request(history, self._version, self._config)
        return request is not None

    def _keep_comparison(self, record: PromoteRecord) -> PromoteRecord:
        """The record of a champion that is asked about again, with the comparison by
        which it became champion.
        """
        earlier = receipts.load_promotion(self._workspace)
        if (
            record.decision != "nothing-to-decide"
            or earlier is None
            or earlier.gain is None
        ):
            return record
        if (earlier.key, earlier.version, earlier.evaluation) != (
            record.key,
            record.version,
            record.evaluation,
        ):
            return record
        kept = (
            "compared_with",
            "metric",
            "gain",
            "error_rate",
            "examples",
            "seen",
            "negative_flips",
            "positive_flips",
        )
        values = {}
        for name in (*kept, "better", "worse", "flips", "looks", "looks_allowed"):
            values[name] = getattr(earlier, name)
        return record.model_copy(update=values)

    def _make_record(self, decided: _Decided, history: History) -> PromoteRecord:
        evidence = decided.evidence
        verdict = decided.verdict
        comparison = evidence.comparison
        promotion = self._config.promotion
        refusal = history.find_refusal(self._version)
        if refusal is not None:
            verdict = Verdict(
                "reject",
                f"deserves it, but was refused by {refusal.by}: {refusal.reason}",
            )
        waits = verdict.decision == "promote" and history.champion != self._version
        return PromoteRecord(
            evaluation=self._challenger.registered.evaluation,
            key=self._challenger.registered.key,
            model=self._name,
            version=self._version,
            champion=history.champion,
            decision=verdict.decision,
            reason=verdict.reason,
            details=verdict.details,
            compared_with=evidence.champion,
            metric=evidence.metric,
            gain=_estimate_gain(evidence, promotion.error_rate),
            error_rate=promotion.error_rate,
            examples=comparison.examples if comparison else 0,
            seen=comparison.seen if comparison else 0,
            negative_flips=comparison.negative_flips if comparison else None,
            positive_flips=comparison.positive_flips if comparison else None,
            better=comparison.better if comparison else None,
            worse=comparison.worse if comparison else None,
            flips=comparison.flips if comparison else "",
            looks=evidence.looks,
            looks_allowed=promotion.looks,
            waits=waits,
            provisional=_may_change(evidence) and history.champion != self._version,
            next_command=_suggest_command(verdict, self._version, waits),
        )

    @property
    def _test_splits(self) -> Any:
        scratch = self._challenger.context.scratch
        return scratch / "promotion" / "test-splits"


def serving_mark(scratch: Path, key: str) -> Path:
    """The file that remembers that a version was served, with these very libraries.

    Args:
        scratch: the workspace's `.thaw`.
        key: the version's.
    """
    seen = digest(key, describe_environment())
    return scratch / "promotion" / "served" / seen[:32]


def find_request(history: History, version: str, config: Config) -> Entry | None:
    """The open request for a version's approval; None where there is none."""
    from datetime import UTC, datetime

    return history.find_request(
        version, config.promotion.expires_days, datetime.now(UTC)
    )


def who_runs() -> str:
    """Who runs this, as the journal says it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _without_champion(evidence: Evidence, champion: str) -> Evidence:
    """The evidence where the champion is no longer registered."""
    return replace(
        evidence,
        champion=champion,
        champion_fault="it is not registered any longer",
        comparison=None,
    )


def _may_change(evidence: Evidence) -> bool:
    """Whether what stood in the way of a verdict may be gone at the next run, though
    nothing has changed here: a store that was away, a server that was slow.
    """
    return bool(evidence.dirty_reason or evidence.champion_fault or evidence.blocked)


def _is_known(decided: _Decided, key: str) -> bool:
    """Whether this very verdict stands in the journal already."""
    last = decided.history.find_verdict(decided.evidence.version)
    if last is None:
        return False
    split = decided.looked_at
    champion = decided.history.champion
    known = (last.key, last.test_split, last.champion, last.decision, last.reason)
    return known == (
        key,
        split,
        champion,
        decided.verdict.decision,
        to_reason(decided.verdict.reason),
    )


def _find_difference(
    serving: Any,
    answer: Mapping[str, Any],
    row: Mapping[str, Any],
    candidate: CandidateRecord,
) -> str:
    """In what an answer differs from the one that was judged; an answer of another form
    is a difference too.
    """
    try:
        return str(serving.difference(answer, row, candidate))
    except (KeyError, TypeError, ValueError) as fault:
        return f"an answer of another form ({type(fault).__name__}: {fault})"


def _estimate_gain(evidence: Evidence, error_rate: float) -> MetricEstimate | None:
    gain = evidence.comparison.gain if evidence.comparison else evidence.trivial
    if gain is None or math.isnan(gain.value):
        return None
    return MetricEstimate(
        value=gain.value,
        low=gain.lower_bound(error_rate),
        high=gain.upper_bound(error_rate),
    )


def _suggest_command(verdict: Verdict, version: str, waits: bool) -> str:
    """What to type next; empty where nothing is left to do."""
    if waits:
        return f"thaw approve {version} --by NAME --comment TEXT"
    if verdict.decision in ("cannot-tell", "reject"):
        return f"thaw promote {version} --by NAME --reason TEXT"
    return ""
