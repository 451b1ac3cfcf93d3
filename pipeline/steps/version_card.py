"""Puts a version's model card where it is looked for: beside its files, among its run's
artifacts, and in short as the registry's description.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline import served
from pipeline.config import Config
from pipeline.context import Context
from pipeline.files import replace_text
from pipeline.promotion_journal import Entry
from pipeline.records import RunRecords
from pipeline.steps import recorded_facts

if TYPE_CHECKING:
    from pipeline.report.model_card import CardFacts
    from pipeline.tracking.registry import ModelVersion
    from pipeline.tracking.store import TrackingStore

FILE = "model_card.md"


def publish(
    store: TrackingStore,
    config: Config,
    run: RunRecords,
    version: ModelVersion,
    run_id: str,
    context: Context,
    entries: Sequence[Entry] | None = None,
) -> None:
    """Writes the card of a version anew, from the same records the same.

    Args:
        run: with the last decision, which is left out where it is about another
            version.
        run_id: of the run whose artifacts get the card.
        entries: the model's journal; None: it is read.

    Raises:
        TrackingError: the store is away, full or locked.
    """
    from pipeline.report.model_card import describe_version, write_card
    from pipeline.tracking import registry
    from pipeline.tracking.failures import with_retries
    from pipeline.tracking.journal_run import JournalRun

    if entries is None:
        entries = JournalRun(store, version.name).read()
    facts = _gather_facts(config, run, version, context, entries)
    folder = context.scratch / "cards" / version.key[:16]
    replace_text(folder / FILE, write_card(run, config, facts))
    description = describe_version(run, config, facts)

    def send() -> None:
        registry.upload(store, version, folder, [FILE])
        store.client.log_artifact(run_id, str(folder / FILE))
        registry.describe(store, version, description)

    with_retries(store, f"describing {version.name} v{version.version}", send)


def restate_decisions(
    store: TrackingStore, versions: Iterable[ModelVersion], entries: Sequence[Entry]
) -> None:
    """Brings the first sentence of versions' descriptions up to date, after a decision
    that concerned others than the one whose card was written.

    Raises:
        TrackingError: the store is away, full or locked.
    """
    from pipeline.report.card_decisions import restate
    from pipeline.tracking import registry
    from pipeline.tracking.failures import with_retries

    def send() -> None:
        for version in versions:
            registry.describe(
                store, version, restate(version.description, entries, version.version)
            )

    with_retries(store, "describing what was decided", send)


def _gather_facts(
    config: Config,
    run: RunRecords,
    version: ModelVersion,
    context: Context,
    entries: Sequence[Entry],
) -> CardFacts:
    from pipeline.report.model_card import CardFacts

    candidate = run.candidate
    return CardFacts(
        model=version.name,
        version=version.version,
        created=version.created,
        tags=version.tags,
        served=served.settings(config, candidate),
        entries=tuple(entries),
        timing=recorded_facts.find_timing(context.scratch, candidate),
        latency=recorded_facts.find_latency(context.scratch, candidate.model_sha256),
    )
