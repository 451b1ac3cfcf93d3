"""Validate: the data folder becomes a manifest, or the run stops and says all that is
wrong with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline import config, manifest
from pipeline.config_section import TaskConfig
from pipeline.context import Context
from pipeline.data import checks
from pipeline.data.deduplication import (
    Deduplicated,
    Partition,
    conversions,
    deduplicate,
    partition_by_fault,
    quarantine_conflicts,
)
from pipeline.data.expectations import content_suites, drift_suite
from pipeline.data.manifest_history import ManifestHistory
from pipeline.errors import DataError
from pipeline.examples import CheckedTargets, ExampleFault, ExampleListing
from pipeline.files import replace_json
from pipeline.records import Finding, ValidateRecord
from pipeline.tasks import catalog
from pipeline.text import first_few, natural_order, printable

FINDINGS, DRIFT = "findings.json", "drift.json"
# Quarantined files, and items of a finding, named on the console; files have them all.
NAMED = 5


def validate(
    data: config.DataConfig, task: TaskConfig, out: Path, context: Context
) -> ValidateRecord:
    """Reads, scans and judges the data folder; writes manifest.parquet,
    quarantine.parquet and record.json.

    What the inputs do not determine goes to `context.run_dir`: Data Docs and
    drift.json; and manifest.parquet, quarantine.parquet and findings.json too, so that
    a refusal loses nothing.

    Raises:
        DataError: the data cannot be used; everything that is wrong with them is named.
    """
    context.run_dir.mkdir(parents=True, exist_ok=True)
    intake = _take_in(data, task, context)
    manifest.write_table(_quarantine(intake), context.run_dir / "quarantine.parquet")
    _refuse_emptiness(intake, context)
    sha256 = manifest.write(intake.folded.rows, context.run_dir / "manifest.parquet")
    accepted = ManifestHistory(context.scratch / "accepted")
    judged = _judge(intake, task, data, accepted.before(sha256), context)
    findings = [*intake.findings, *judged.findings]
    if any(finding.severity == "critical" for finding in findings):
        raise _refusal(intake, findings, context)

    _write(judged.drift, context.run_dir / DRIFT)
    _write(findings, context.run_dir / FINDINGS)
    for name in ("manifest.parquet", "quarantine.parquet"):
        shutil.copyfile(context.run_dir / name, out / name)
    accepted.add(out / "manifest.parquet", sha256)
    record = _record(intake, sha256, findings, judged.checks)
    _tell(record, intake, judged.drift, context)
    return record.save(out)


def _record(
    intake: _Intake, sha256: str, findings: Sequence[Finding], checks: int
) -> ValidateRecord:
    return ValidateRecord(
        manifest_sha256=sha256,
        labels=intake.labels,
        examples=intake.folded.rows.num_rows,
        files=intake.files,
        aliases=intake.folded.aliases,
        quarantined=len(intake.faults),
        per_class=_per_class(intake),
        converted=intake.converted,
        findings=tuple(findings),
        checks=checks,
    )


@dataclass(frozen=True)
class _Intake:
    """The data folder as it was read and scanned, before it is judged."""

    folded: Deduplicated
    faults: tuple[ExampleFault, ...]  # by path
    object_faults: tuple[ExampleFault, ...]  # of examples that stay, by path
    labels: tuple[str, ...]
    files: int
    converted: dict[str, int]
    findings: tuple[Finding, ...]


def _take_in(data: config.DataConfig, task: TaskConfig, context: Context) -> _Intake:
    reader = catalog.find(task.name).reader
    listing = reader.list_examples(context.data, data, task)
    paths = sorted({example.path for example in listing.examples})
    results = reader.scan_examples(
        context.data, listing.examples, task, context.scratch, context.console
    )
    parted = partition_by_fault(listing.examples, results, data.max_bad_fraction)
    checked = reader.check_targets(
        context.data, parted.usable, data, task, context.scratch, context.console
    )
    parted = Partition(
        checked.usable,
        (*parted.faults, *checked.faults),
        (*parted.findings, *checked.findings),
    )
    if data.conflicts == "quarantine":
        parted = quarantine_conflicts(parted)
    faults = _by_path((*listing.faults, *parted.faults))
    folded = deduplicate(parted.usable)
    return _Intake(
        folded=folded,
        faults=faults,
        object_faults=_by_path((*listing.object_faults, *checked.object_faults)),
        labels=_label_space(data, checked, listing),
        files=len({*paths, *(fault.path for fault in faults)}),
        converted=conversions(measured for _, measured in parted.usable),
        findings=(*listing.findings, *parted.findings, *folded.findings),
    )


def _by_path(faults: Sequence[ExampleFault]) -> tuple[ExampleFault, ...]:
    return tuple(
        sorted(faults, key=lambda fault: (natural_order(fault.path), fault.code))
    )


def _label_space(
    data: config.DataConfig, checked: CheckedTargets, listing: ExampleListing
) -> tuple[str, ...]:
    if data.labels:
        return data.labels
    if checked.labels is not None:
        return checked.labels
    return tuple(sorted({example.target for example in listing.examples}))


@dataclass(frozen=True)
class _Judged:
    findings: list[Finding]
    drift: list[Finding]
    checks: int  # those that the data alone determine


def _judge(
    intake: _Intake,
    task: TaskConfig,
    data: config.DataConfig,
    before: pa.Table | None,
    context: Context,
) -> _Judged:
    rows = intake.folded.rows
    reader = catalog.find(task.name).reader
    suites = content_suites(
        rows,
        intake.labels,
        reader.expectations(task),
        list(map(_line, intake.faults)),
        intake.files,
        data,
    )
    count = sum(len(suite.checks) for suite in suites)
    if before is not None:
        suites.append(
            drift_suite(rows, before, data, reader.measure_drift(rows, before, task))
        )
    findings = checks.judge(suites, context.run_dir)
    drift = [finding for finding in findings if finding.code.startswith("drift-")]
    return _Judged(
        [finding for finding in findings if finding not in drift], drift, count
    )


def _refuse_emptiness(intake: _Intake, context: Context) -> None:
    """Stops where nothing can be judged: no usable example, or no object in any of
    them.
    """
    if not intake.folded.rows.num_rows:
        raise _refusal(intake, [*intake.findings, _nothing_usable(intake)], context)
    if not intake.labels:
        raise _refusal(intake, [*intake.findings, _no_objects(intake)], context)


def _nothing_usable(intake: _Intake) -> Finding:
    return Finding(
        code="nothing-usable",
        severity="critical",
        subject="usable examples",
        found=f"none of {intake.files}",
        expected="examples that can be used",
        hint="see what is wrong with each",
        items=tuple(map(_line, intake.faults)),
    )


def _no_objects(intake: _Intake) -> Finding:
    return Finding(
        code="no-objects",
        severity="critical",
        subject="annotated objects",
        found=f"none in {intake.folded.rows.num_rows} examples",
        expected="objects to learn from",
        hint="see what was left out; check data.drop_classes and the task's settings",
        items=tuple(map(_line, intake.object_faults)),
    )


def _refusal(
    intake: _Intake, findings: Sequence[Finding], context: Context
) -> DataError:
    """One error that names everything: what stops the run first, then warnings, then
    what was quarantined.
    """
    _write(findings, context.run_dir / FINDINGS)
    critical = [finding for finding in findings if finding.severity == "critical"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    lines = []
    for finding in (*critical, *warnings):
        lines += _lines(finding)
    codes = [finding.code for finding in critical]
    if "too-many-bad" not in codes and "nothing-usable" not in codes:
        lines += [f"quarantined {_line(fault)}" for fault in intake.faults]
    ending = "s" if len(critical) > 1 else ""
    return DataError(
        f"data folder {context.data}",
        found=f"{len(critical):,} finding{ending} that must be fixed first: {', '.join(codes)}",
        expected="data that pass every critical check",
        hint="as each line says; nothing was changed",
        details=lines,
    )


def _lines(finding: Finding) -> list[str]:
    sentence = f"{finding.severity}: {finding.subject}: {finding.found}"
    if finding.expected:
        sentence += f"; expected {finding.expected}"
    if finding.hint:
        sentence += f"; {finding.hint}"
    lines = [printable(sentence)]
    for item in finding.items:
        lines.append(f"    {printable(item)}")
    return lines


def _written_to(finding: Finding) -> str:
    """The file that holds all items of a finding that stops nothing."""
    return DRIFT if finding.code.startswith("drift-") else FINDINGS


def _line(fault: ExampleFault) -> str:
    return printable(
        f"{fault.path}: {fault.code}: {fault.found}; expected {fault.expected}"
    )


def _quarantine(intake: _Intake) -> pa.Table:
    faults = _by_path((*intake.faults, *intake.object_faults))
    columns = {}
    for name in manifest.QUARANTINE.names:
        columns[name] = [getattr(fault, name) for fault in faults]
    return pa.table(columns, schema=manifest.QUARANTINE)


def _write(findings: Sequence[Finding], path: Path) -> None:
    values = [finding.model_dump(mode="json") for finding in findings]
    replace_json(path, values, ensure_ascii=False)


def _per_class(intake: _Intake) -> dict[str, int]:
    counted = manifest.count_classes(intake.folded.rows)
    per_class = {}
    for label in intake.labels:
        per_class[label] = counted.get(label, 0)
    return per_class


def _tell(
    record: ValidateRecord, intake: _Intake, drift: Sequence[Finding], context: Context
) -> None:
    info = context.console.info
    where = f"artifacts/validate/{record.quarantine.name}"
    quarantined = [f"quarantined {_line(fault)}" for fault in intake.faults]
    objects = [
        f"left out of its image {_line(fault)}" for fault in intake.object_faults
    ]
    for line in (
        *first_few(quarantined, NAMED, where),
        *first_few(objects, NAMED, where),
    ):
        info(line)
    for finding in (*record.findings, *drift):
        if finding.severity == "warning":
            first, *items = _lines(finding)
            info(first)
            where = os.path.relpath(
                context.run_dir / _written_to(finding), context.root
            )
            for line in first_few(items, NAMED, where):
                info(line)
    docs = os.path.relpath(context.run_dir / checks.DOCS / "index.html", context.root)
    info(f"{record.checks} checks; data docs: {docs}")
