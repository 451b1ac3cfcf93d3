"""The comparison with training from scratch: trained once, then remembered.

From scratch takes many times as long as the fine-tuning it is compared with, and
changes little while the data grow. So the first run trains it and keeps it in
`baseline/`, pinned by baseline.dvc as the ledger is by ledger.dvc; later runs ask it
about their own test split, without the examples that it had learnt from. It is trained
again where it cannot be compared with: another label space, architecture, input or
engine, other `baseline_steps`, or too few test examples that it does not know.

`baseline.lock`, which the fine-tuning depends on, lists every one that was used: it
only grows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import files, manifest
from pipeline.config import ENGINE, FinetuneConfig
from pipeline.context import Context
from pipeline.errors import TrainingError, VersioningError
from pipeline.files import replace_text
from pipeline.records import (
    BaselineAge,
    BaselineRecord,
    CandidateRecord,
    InputSpec,
    SplitRecord,
)
from pipeline.report.formatting import describe_age
from pipeline.training import candidates, members
from pipeline.training.crash_points import crash_point
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

# That it does not know; or all, where the test split has fewer.
FEWEST_TEST_EXAMPLES = 30

LOCK_HEADER = """\
# The models trained from scratch for comparison, the last one in use. Belongs into Git, with baseline.dvc.
"""

MEANINGS = {
    "engine": "Thaw's engine",
    "labels": "the label space",
    "architecture": "the architecture",
    "input": "the network's input",
    "baseline_steps": "finetune.baseline_steps",
}


@dataclass(frozen=True)
class Comparison:
    """What training from scratch is compared with: today's settings, network and data."""

    config: FinetuneConfig
    architecture: str
    input: InputSpec
    labels: tuple[str, ...]
    split: SplitRecord
    context: Context

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be the same for a remembered one to be compared with, as JSON
        values.
        """
        return {
            "engine": ENGINE,
            "labels": list(self.labels),
            "architecture": self.architecture,
            "input": self.input.model_dump(mode="json"),
            "baseline_steps": self.config.baseline_steps,
        }

    @property
    def place(self) -> Workspace:
        return Workspace(self.context.root)

    @property
    def has_dvc(self) -> bool:
        return (self.context.root / ".dvc").is_dir()

    def test_rows(self) -> pa.Table:
        """The manifest's test rows."""
        return manifest.read_split(self.split.manifest, "test")


def recall(comparison: Comparison) -> BaselineRecord | None:
    """The remembered model, brought back where it is missing; None where there is none,
    or none that can be used.

    Raises:
        TrainingError: baseline.dvc pins one that cannot be had.
    """
    place = comparison.place
    console = comparison.context.console
    tracked = place.baseline_dvc if comparison.has_dvc else place.baseline
    if not tracked.exists():
        return None
    record = _load(comparison)
    reason = _why_unusable(comparison, record)
    if reason:
        console.info(
            f"scratch: the remembered comparison cannot be used ({reason}); it is trained again"
        )
        return None
    _keep(comparison, record)
    console.info(
        f"scratch: remembered, {describe_age(record.age)}; to train it anew: remove baseline.dvc, then "
        "thaw run --force finetune"
    )
    return record


def remember(comparison: Comparison, candidate: CandidateRecord) -> BaselineRecord:
    """Keeps a finished candidate for later runs: in `baseline/`, baseline.dvc and
    baseline.lock.
    """
    place = comparison.place
    scratch = comparison.context.scratch
    learnt = members.seen_members(
        members.members_of_split(manifest.read(comparison.split.manifest))
    )
    trained_at = datetime.fromtimestamp(
        (candidate.folder / "record.json").stat().st_mtime, UTC
    )
    age = BaselineAge(
        trained=trained_at.date().isoformat(),
        data=_data_version(comparison),
        examples=learnt.num_rows,
    )
    part = scratch / "baseline.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    candidates.copy_to_output(candidate, part / "candidate", baseline=True)
    members.write_members(learnt, part / members.FILE)
    record = BaselineRecord(
        age=age, model_sha256=candidate.model_sha256, conditions=comparison.conditions
    )
    record.save(part)
    crash_point("before-baseline")
    shutil.rmtree(place.baseline, ignore_errors=True)
    part.replace(place.baseline)
    record = BaselineRecord.load(place.baseline)
    _keep(comparison, record)
    comparison.context.console.info(
        "scratch: remembered in baseline.dvc; later runs are compared with it"
    )
    return record


def _load(comparison: Comparison) -> BaselineRecord:
    place = comparison.place
    try:
        if comparison.has_dvc:
            Versioning(place.root).update_baseline()
        record = BaselineRecord.load(place.baseline)
        candidate = CandidateRecord.load(record.candidate)
    except VersioningError as fault:
        raise TrainingError(
            str(place.baseline),
            found=f"cannot be restored; baseline.dvc tracks it: {fault.found}",
            expected="the model trained from scratch that earlier runs were compared with",
            hint="dvc pull baseline.dvc; or remove baseline.dvc, and it is trained anew",
            details=fault.details,
        ) from fault
    if files.sha256(candidate.model) != record.model_sha256:
        raise TrainingError(
            str(candidate.model),
            found="damaged",
            expected=f"sha256 {record.model_sha256}",
            hint=f"remove the folder {place.baseline.name}, and it is brought back; or baseline.dvc, and it is trained anew",
        )
    return record


def _why_unusable(comparison: Comparison, record: BaselineRecord) -> str:
    """Why it cannot be compared with; empty where it can."""
    wanted = comparison.conditions
    changed = []
    for name, meaning in MEANINGS.items():
        if record.conditions.get(name) != wanted[name]:
            changed.append(meaning)
    if changed:
        return f"{', '.join(changed)} changed"
    unknown = members.unseen_rows(
        comparison.test_rows(), members.read_members(record.members)
    )
    needed = min(FEWEST_TEST_EXAMPLES, len(unknown))
    usable = int(unknown.sum())
    if usable < needed:
        return f"it had learnt from all but {usable} of {len(unknown)} test examples; {needed} are needed"
    return ""


def _data_version(comparison: Comparison) -> str:
    if comparison.has_dvc:
        return Versioning(comparison.context.root).data_version().md5
    return comparison.split.manifest_sha256


def _keep(comparison: Comparison, record: BaselineRecord) -> None:
    """Pins what lies in `baseline/` and adds it to baseline.lock; where a kill came
    between, the next run does it.
    """
    crash_point("before-pinning")
    if comparison.has_dvc:
        Versioning(comparison.context.root).add_baseline()
    crash_point("after-baseline")
    _note(comparison.place, record)


def _note(place: Workspace, record: BaselineRecord) -> None:
    """Adds the model to baseline.lock, where it is not in it yet."""
    path = place.baseline_lock
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known = yaml.safe_load(text) or {}
    key = record.digest[:16]
    if key in known:
        return
    beginning = text if known else LOCK_HEADER
    lines = _lines(key, record)
    replace_text(path, "".join([beginning, *lines]))


def _lines(key: str, record: BaselineRecord) -> Iterator[str]:
    yield f'"{key}":\n'
    for name, value in {
        **record.age.model_dump(),
        "model_sha256": record.model_sha256,
    }.items():
        yield (
            f"  {name}: {value}\n"
            if isinstance(value, int)
            else f'  {name}: "{value}"\n'
        )
