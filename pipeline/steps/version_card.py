"""Puts a version's model card where it is looked for: beside its files, among its run's
artifacts, and in short as the registry's description.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
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
    folder = _card_folder(context.scratch, version)
    replace_text(folder / FILE, write_card(run, config, facts))
    description = describe_version(run, config, facts)

    def send() -> None:
        _upload(store, version, run_id, folder)
        registry.describe(store, version, description)

    with_retries(store, f"describing {version.name} v{version.version}", send)


def restate_decisions(
    store: TrackingStore,
    versions: Iterable[ModelVersion],
    entries: Sequence[Entry],
    scratch: Path,
) -> None:
    """Brings versions' descriptions and cards up to date, after a decision that
    concerned others than the one whose card was written.

    Args:
        scratch: the workspace's `.thaw`.

    Raises:
        TrackingError: the store is away, full or locked.
    """
    from pipeline.report.card_decisions import restate
    from pipeline.tracking import registry
    from pipeline.tracking.failures import with_retries

    if entries:
        concerned = {entries[-1].version, entries[-1].champion}
    else:
        concerned = set()

    def send() -> None:
        for version in versions:
            description = restate(version.description, entries, version.version)
            if version.version in concerned or description != version.description:
                # First the card: where that fails, the description tells next time.
                _restate_card(store, version, entries, scratch)
            registry.describe(store, version, description)

    with_retries(store, "describing what was decided", send)


def _restate_card(
    store: TrackingStore, version: ModelVersion, entries: Sequence[Entry], scratch: Path
) -> None:
    """Writes what was decided into a version's card, where it has one."""
    from pipeline.report.card_decisions import restate_card
    from pipeline.tracking import registry

    folder = _card_folder(scratch, version)
    if not registry.has_file(store, version, FILE):
        return
    card = registry.fetch_file(store, version, FILE, folder)
    before = card.read_text(encoding="utf-8")
    after = restate_card(before, entries, version.version)
    if after != before:
        replace_text(card, after)
        _upload(store, version, version.run_id, folder)


def _card_folder(scratch: Path, version: ModelVersion) -> Path:
    name = version.key[:16]
    if not name:
        name = f"untagged-v{version.version}"
    return scratch / "cards" / name


def _upload(
    store: TrackingStore, version: ModelVersion, run_id: str, folder: Path
) -> None:
    """Puts the card beside the version's files, and among its run's artifacts where it
    has a run: a copied version has none.
    """
    from pipeline.tracking import registry

    registry.upload(store, version, folder, [FILE])
    if run_id:
        store.client.log_artifact(run_id, str(folder / FILE))


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
