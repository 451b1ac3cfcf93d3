"""Thaw's own contenders: the real fine-tuning step, from the image files to the
finished candidate.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch  # noqa: F401  (imported by all contenders before their clocks start)
from common import Result, Setting, StepClock, given, leave, pretrained
from safetensors.torch import save_file

from pipeline import manifest
from pipeline.config import BackboneConfig, FinetuneConfig
from pipeline.context import Context
from pipeline.models.providers.torchvision import blocks  # noqa: F401
from pipeline.records import BackboneRecord, SplitRecord
from pipeline.steps.backbone import backbone
from pipeline.steps.finetune import finetune
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.training import stage_trainer


def split_record(
    setting: Setting, folder: Path, copies: int = 1
) -> tuple[SplitRecord, Path]:
    """The data's own split as the split step would leave it, and the data folder.

    Args:
        copies: how often every training image is repeated, as a file of its own that
            differs in trailing bytes.
    """
    source = Path(setting.data)
    data = source if copies == 1 else folder / "data"
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(
        p for p in source.glob("*/*/*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
    ):
        name = path.relative_to(source).as_posix()
        for copy in range(copies if name.startswith("train/") else 1):
            content = path.read_bytes() + b"\0" * copy
            shown = (
                name
                if copies == 1
                else f"{path.parent.relative_to(source)}/{copy}-{path.name}"
            )
            if copies > 1:
                (data / shown).parent.mkdir(parents=True, exist_ok=True)
                (data / shown).write_bytes(content)
            rows[hashlib.md5(content).hexdigest()] = {
                "path": shown,
                "target": path.parent.name,
                "split": path.parent.parent.name,
            }
    columns: dict[str, list[Any]] = {field.name: [] for field in manifest.COLUMNS}
    for name, row in rows.items():
        values = {
            "id": name,
            "aliases": [],
            "group": None,
            "given_split": row["split"],
            "unit": name,
            **row,
        }
        for column, found in columns.items():
            found.append(values[column])
    out = folder / "split"
    sha256 = manifest.write(
        pa.table(columns, schema=manifest.COLUMNS), out / "manifest.parquet"
    )
    counts = {
        split: {
            label: sum(
                r["split"] == split and r["target"] == label for r in rows.values()
            )
            for label in setting.labels
        }
        for split in manifest.SPLITS
    }
    record = SplitRecord(
        manifest_sha256=sha256,
        labels=tuple(setting.labels),
        counts=counts,
        new=len(rows),
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    )
    return record.save(out), data


def backbone_record(setting: Setting, folder: Path) -> BackboneRecord:
    """The backbone step's, from the setting's weights; their file says how the setting
    presents images.
    """
    (folder / "backbone").mkdir()
    weights = folder / "weights.safetensors"
    presented = {
        key: getattr(setting, key) for key in ("size", "resize", "mean", "std")
    }
    state = {
        name: tensor.contiguous()
        for name, tensor in pretrained(setting).state_dict().items()
    }
    save_file(
        state,
        weights,
        metadata={key: json.dumps(value) for key, value in presented.items()},
    )
    config = BackboneConfig(
        name=f"torchvision/{setting.architecture}", weights=str(weights), offline=True
    )
    context = Context(
        root=folder, data=folder, scratch=folder / ".thaw", run_dir=folder / "side"
    )
    return backbone(config, folder / "backbone", context)


def train(setting: Setting, name: str, *, copies: int = 1, **changes: Any) -> Result:
    """One recipe by the fine-tuning step in a fresh folder; its clock starts before the
    first image is opened.
    """
    folder = Path(setting.scratch) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    split, data = split_record(setting, folder, copies)
    recipe = {"thaw-head": "head", "thaw-gradual": "gradual"}[name]
    values = {
        "baseline": False,
        "recipes": (recipe,),
        "seed": setting.seed,
        **setting.config,
        **changes,
    }
    config = FinetuneConfig.model_validate({**values, "epochs": setting.epochs[name]})
    task = ImageClassificationConfig()
    context = Context(
        root=folder, data=data, scratch=folder / ".thaw", run_dir=folder / "side"
    )
    weights = backbone_record(setting, folder)
    clock = StepClock()
    out = folder / "out"
    out.mkdir()
    with _marked(clock):
        record = finetune(config, task, split, weights, out, context)
    candidate = record.candidate()
    examples = sum(split.counts["val"].values())
    timing = json.loads((folder / "side" / "timing.json").read_text())
    return clock.result(
        name, examples, timing=timing, plan=candidate.plan, val=candidate.val
    )


class _marked:
    """Marks the clock after each epoch of a training, by wrapping the loop's own end of
    an epoch.
    """

    def __init__(self, clock: StepClock) -> None:
        self.clock, self.original = clock, stage_trainer.StageTrainer._end_epoch

    def __enter__(self) -> None:
        original, clock = self.original, self.clock

        def marked(run: stage_trainer.StageTrainer) -> None:
            clock.images += run.progress.state.examples_seen
            original(run)
            accuracy = [
                row
                for row in run.progress.state.rows
                if (row.split, row.metric) == ("val", "accuracy")
            ]
            clock.mark(accuracy[-1].value)

        stage_trainer.StageTrainer._end_epoch = marked  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        stage_trainer.StageTrainer._end_epoch = self.original  # type: ignore[method-assign]


if __name__ == "__main__":
    given_setting = given()
    leave(
        [
            train(given_setting, name)
            for name in given_setting.epochs
            if name.startswith("thaw-")
        ]
    )
