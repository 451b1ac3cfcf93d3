"""Finished candidates: their files, and finding them again by what determines them."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import manifest
from pipeline.context import Console
from pipeline.errors import VersioningError
from pipeline.records import BackboneRecord, CandidateRecord, TileSpec
from pipeline.storage import save_tensors
from pipeline.training.crash_points import crash_point
from pipeline.training.train_state import Row

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.training.batch_source import FinetuneJob
    from pipeline.training.recipe_trainer import Recipe, TrainedRecipe

CURVES, VALIDATION = "curves.csv", "val.parquet"


def find_candidate(scratch: Path, key: str, console: Console) -> CandidateRecord | None:
    """The finished candidate of this key, if there is one and its model is what was
    saved.
    """
    folder = _place(scratch, key)
    try:
        record = CandidateRecord.load(folder)
        if manifest.sha256(record.model) == record.model_sha256:
            # A kill may have come between its completion and the end of its
            # checkpoints.
            shutil.rmtree(checkpoints_of(scratch, key), ignore_errors=True)
            return record
    except (VersioningError, OSError):
        if not folder.exists():
            return None
    console.info(f"candidate {key[:8]} in {folder.parent} is damaged; trained again")
    shutil.rmtree(folder, ignore_errors=True)
    return None


def checkpoints_of(scratch: Path, key: str) -> Path:
    """Where the checkpoints of a candidate lie while it is trained."""
    return scratch / "checkpoints" / key[:32]


def save_candidate(
    job: FinetuneJob,
    recipe: Recipe,
    trained: TrainedRecipe,
    backbone: BackboneRecord,
    target: Sequence[str],
) -> CandidateRecord:
    """Writes a trained candidate's files, so that they appear whole or not at all, and
    clears its checkpoints.

    Args:
        target: (N,) label of each validation example, by name, in the order of their
            ids.
    """
    folder = _place(job.scratch, recipe.key)
    for leftover in folder.parent.glob(f"{folder.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_suffix(f".{os.getpid()}")
    temporary.mkdir(parents=True)
    answers = job.task.scorer.answer_columns(trained.answers, job.labels)
    _write_validation(temporary / VALIDATION, job.val.ids, target, answers)
    write_curves(temporary / CURVES, trained.state.rows)
    sha = _write_model(temporary / "model.safetensors", trained)
    for name in backbone.files:
        shutil.copyfile(backbone.folder / name, temporary / name)
    _record(job, recipe, trained, backbone, sha).save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    crash_point("after-candidate")
    trained.checkpoints.clear()
    return CandidateRecord.load(folder)


def copy_to_output(
    record: CandidateRecord,
    folder: Path,
    *,
    baseline: bool,
    tiles: TileSpec | None = None,
) -> CandidateRecord:
    """Copies a finished candidate into a step's output folder.

    Args:
        tiles: in which large examples are answered now, whatever they were when it was
            trained.
    """
    # Without the modes: what DVC keeps is read-only.
    shutil.copytree(record.folder, folder, copy_function=shutil.copyfile)
    copied = record.model_copy(update={"baseline": baseline, "tiles": tiles})
    return copied.save(folder)


def read_curves(folder: Path) -> list[Row]:
    """The curves of a candidate, as `write_curves` wrote them."""
    with (folder / CURVES).open(newline="", encoding="utf-8") as stream:
        rows: list[Row] = []
        for line in csv.DictReader(stream):
            row = Row(
                stage=line["stage"],
                epoch=int(line["epoch"]),
                step=int(line["step"]),
                split=line["split"],
                metric=line["metric"],
                value=float(line["value"]),
            )
            rows.append(row)
        return rows


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Writes curves.csv; numbers in full, so that reading gives the same."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def _place(scratch: Path, key: str) -> Path:
    return scratch / "candidates" / key[:32]


def _write_model(path: Path, trained: TrainedRecipe) -> str:
    from pipeline.models.network import state_to_save

    save_tensors(state_to_save(trained.model), path)
    return manifest.sha256(path)


def _write_validation(
    path: Path,
    ids: Sequence[str],
    target: Sequence[str],
    answers: Mapping[str, pa.Array],
) -> None:
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.string()),
        "target": pa.array(target, pa.string()),
    }
    columns.update(answers)
    manifest.write_table(pa.table(columns), path)


def _record(
    job: FinetuneJob,
    recipe: Recipe,
    trained: TrainedRecipe,
    backbone: BackboneRecord,
    sha: str,
) -> CandidateRecord:
    state = trained.state
    plan = state.plan.model_dump(mode="json")
    if state.notes:
        plan["notes"] = state.notes
    return CandidateRecord(
        name=recipe.name,
        key=recipe.key,
        baseline=False,
        architecture=backbone.architecture,
        labels=job.labels,
        input=job.spec,
        stages=tuple(state.results),
        val=state.results[-1].val,
        steps=state.steps,
        model_sha256=sha,
        plan=plan,
        backbone=backbone.name,
        files=backbone.files,
        design=job.design,
    )
