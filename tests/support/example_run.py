"""A finished run, made up: records and files as the steps leave them, with numbers from
the real metric code.

`python tests/support/example_run.py FOLDER` writes its page, to be looked at while
working on the template.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline import manifest
from pipeline.config import EvaluateConfig
from pipeline.evaluation import tables
from pipeline.evaluation.bootstrap import BootstrapSettings, number_units
from pipeline.evaluation.calibration import reliability_bins
from pipeline.evaluation.class_judge import ClassJudge
from pipeline.evaluation.compare import compare_accuracies
from pipeline.evaluation.judge import ExhibitPlace
from pipeline.evaluation.metrics import Predictions, estimate_metrics
from pipeline.evaluation.per_class import count_confusions, score_classes
from pipeline.evaluation.slices import score_slices, slice_columns
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    Finding,
    FinetuneRecord,
    ImageInputSpec,
    InputSpec,
    Latency,
    MetricEstimate,
    PromoteRecord,
    RegisterRecord,
    RunRecords,
    SplitRecord,
    StageResult,
    TextInputSpec,
    TimedBatch,
    TruncatedTexts,
    ValidateRecord,
)
from pipeline.report.page import build_page, write_page
from pipeline.report.report_context import ReportContext, Sweep
from pipeline.tasks.base import Exhibit, Highlight

LABELS = ("crack", "ok", "pit", "scratch", "stain")
BLOCKS = (
    "features.0",
    *(f"features.{n}" for n in range(1, 13)),
    "classifier.0",
    "head",
)
SETTINGS = BootstrapSettings(resamples=200, confidence=0.95, seed=0)
IMAGE_INPUT = ImageInputSpec(size=96, resize=96)
TEXT_INPUT = TextInputSpec(max_tokens=128, pooling="mean", columns=("text",))
TRUNCATED_TEXTS = TruncatedTexts(
    max_tokens=128, examples=4200, truncated=37, median_excess=9, max_excess=310
)
HOSTILE = '<script>alert("x")</script>'


@dataclass(frozen=True)
class Made:
    """The arguments of `build_page`."""

    run: RunRecords
    context: ReportContext

    def html(self) -> str:
        return build_page(self.run, self.context)

    def with_records(self, **records: Any) -> Made:
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **records))


class Pictures:
    """A Display of made-up pictures."""

    measured_slices: tuple[str, ...] = ()

    def exhibit(
        self, example: Mapping[str, Any], data: Path, folder: Path, name: str
    ) -> Exhibit:
        dice = np.random.default_rng(sum(Path(example["path"]).name.encode()))
        ramp = (
            np.add.outer(np.arange(96), np.arange(96) * dice.integers(-2, 3))
            * dice.random()
            * 0.7
        )
        pixels = (
            dice.integers(90, 160, 3)
            + ramp[..., None] % 80
            + dice.normal(0, 6, (96, 96, 1))
        ).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(
            folder / f"{name}.jpg", quality=80
        )
        return Exhibit("picture", f"{name}.jpg")


class Quotations:
    """A Display of texts."""

    measured_slices = ("words",)

    def exhibit(
        self, example: Mapping[str, Any], data: Path, folder: Path, name: str
    ) -> Exhibit:
        return Exhibit("text", json.loads(example["content"])["text"])


def make(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    parts: int = 21,
    skill: tuple[float, float] = (2.6, 1.1),
    hostile: bool = False,
    baseline: bool = True,
    texts: bool = False,
) -> Made:
    """A run over `parts` groups of three test examples with these classes; `skill`
    (fine-tuned, from scratch) says how far the right class stands out; the examples are
    images, or rows of a table where they are texts.
    """
    labels = tuple(labels)
    dice = np.random.default_rng(7)
    table = _test_table(labels, parts, dice, hostile)
    if texts:
        table = _as_texts(table)
    names = ("gradual", "head", "scratch") if baseline else ("gradual", "head")
    spec = TEXT_INPUT if texts else IMAGE_INPUT
    candidates = [
        _candidate(folder / "finetune", name, labels, spec, baseline=name == "scratch")
        for name in names
    ]
    finetuned = FinetuneRecord(
        key="f" * 64,
        candidates=names,
        best="gradual",
        primary="accuracy",
        higher_is_better=True,
        val={one.name: one.val for one in candidates},
        truncated_texts=TRUNCATED_TEXTS if texts else None,
    ).save(folder / "finetune")
    strength = {
        "gradual": skill[0],
        "head": (skill[0] + skill[1]) / 2,
        "scratch": skill[1],
    }
    evaluated = _evaluated(
        folder / "evaluate", table, labels, {n: strength[n] for n in names}, dice
    )
    registered = RegisterRecord(
        evaluation=evaluated.digest,
        tracking_uri="sqlite:////work/mlflow/mlflow.db",
        model="surfaces",
        version="3",
        run_id="8d1f0c",
    )
    promoted = PromoteRecord(
        evaluation=evaluated.digest,
        key="",
        model="surfaces",
        version="3",
        champion="3",
        decision="promote",
        reason="better than version 2, the champion: +4.0 points of accuracy",
        compared_with="2",
        metric="accuracy",
        gain=MetricEstimate(value=0.04, low=0.01, high=0.07),
        error_rate=0.0025,
        examples=120,
        seen=3,
        negative_flips=0.01,
        positive_flips=0.05,
        better=6,
        worse=1,
        looks=2,
        looks_allowed=20,
    )
    run = RunRecords(
        validate=_validated(folder / "validate", labels, hostile),
        split=_split(folder / "split", labels, 3 * parts),
        backbone=_backbone(folder / "backbone"),
        finetune=finetuned,
        evaluate=evaluated,
        register=registered,
        promote=promoted,
    )
    return Made(run, _context(hostile))


def _as_texts(table: pa.Table) -> pa.Table:
    """The same rows as texts of a table: their content in the manifest, no files."""
    count = table.num_rows
    texts = [
        " ".join(["so it goes"] * (row + 1)) + f"\n{HOSTILE}\u202e"
        for row in range(count)
    ]
    contents = [
        json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":"))
        for text in texts
    ]
    table = table.set_column(
        table.column_names.index("path"),
        "path",
        [[f"reviews.csv:{row + 2}" for row in range(count)]],
    )
    table = table.append_column("content", [contents])
    return table.append_column("scan.words", [[3 * (row + 1) for row in range(count)]])


def _test_table(
    labels: tuple[str, ...], parts: int, dice: np.random.Generator, hostile: bool
) -> pa.Table:
    rows = []
    for part in range(parts):
        label = labels[part % len(labels)]
        for view in range(3):
            name = f"{label}/part-{part:03d}-{view}.png"
            rows.append(
                {
                    "id": f"{part * 3 + view:032x}",
                    "path": HOSTILE + name if hostile else name,
                    "target": label,
                    "group": f"part-{part:03d}",
                    "meta.line": "ABC"[part % 3],
                    "meta.lighting": ("even", "dim", "raking", "dim")[
                        view + (part % 2)
                    ],
                    "meta.material": (
                        "brushed steel",
                        "cast iron",
                        HOSTILE if hostile else "painted sheet",
                    )[part % 3],
                    "meta.exposure_ms": float(dice.normal(20, 4)),
                }
            )
    return pa.Table.from_pylist(rows)


def _answers(
    targets: np.ndarray, classes: int, skill: float, dice: np.random.Generator
) -> np.ndarray:
    logits = dice.normal(0, 1, (len(targets), classes))
    logits[np.arange(len(targets)), targets] += skill
    powers = np.exp(1.6 * logits)
    return powers / powers.sum(axis=1, keepdims=True)


def _evaluated(
    out: Path,
    table: pa.Table,
    labels: tuple[str, ...],
    skill: dict[str, float],
    dice: np.random.Generator,
) -> EvaluateRecord:
    out.mkdir(parents=True)
    targets = np.array([labels.index(name) for name in table["target"].to_pylist()])
    units = number_units(table["group"])
    made = {
        name: Predictions(_answers(targets, len(labels), much, dice), targets, units)
        for name, much in skill.items()
    }
    ours = made["gradual"]
    display = Quotations() if "content" in table.column_names else Pictures()
    columns = slice_columns(table, "auto", display.measured_slices)
    judged = score_slices(
        table, ours.correct, units, columns, smallest=10, settings=SETTINGS
    )
    tables.write_predictions(ours, table, labels, out / "predictions.parquet")
    tables.write_confusion(count_confusions(ours, labels), out / "confusion.csv")
    tables.write_classes(score_classes(ours, labels, SETTINGS), out / "per_class.csv")
    tables.write_slices(judged, "accuracy", out / "slices.csv")
    tables.write_reliability(reliability_bins(ours, SETTINGS), out / "reliability.csv")
    _write_worst_errors(ours, table, labels, display, out / "worst")
    found = {
        name: estimate_metrics(one, SETTINGS, wanted_k=3) for name, one in made.items()
    }
    return EvaluateRecord(
        candidate="gradual",
        model_sha256="b" * 64,
        labels=labels,
        examples=table.num_rows,
        units=int(units.max()) + 1,
        primary="accuracy",
        higher_is_better=True,
        metrics=found.pop("gradual"),
        others=found,
        comparisons=tuple(
            compare_accuracies(n, ours.correct, made[n].correct, units, SETTINGS)
            for n in found
        ),
        warnings=(),
    ).save(out)


def _write_worst_errors(
    ours: Predictions,
    table: pa.Table,
    labels: tuple[str, ...],
    display: Pictures | Quotations,
    folder: Path,
) -> None:
    worst = tables.find_worst_errors(ours, 12)
    examples = table.take(worst).to_pylist()

    def explain(answers: Sequence[int]) -> list[list[Highlight]]:
        return [
            [Highlight(0, 2, 1.0), Highlight(6, 10, -0.5)]
            if "content" in example
            else []
            for example in examples
        ]

    folder.mkdir()
    place = ExhibitPlace(examples, labels, display, Path(), folder, explain)
    tables.write_worst(
        ClassJudge(EvaluateConfig()).exhibit_worst(ours, worst, place),
        folder / "worst.json",
    )


def _candidate(
    folder: Path, name: str, labels: tuple[str, ...], spec: InputSpec, *, baseline: bool
) -> CandidateRecord:
    plans = {
        "gradual": (("head", 1, 5, 1e-3), ("top", 5, 5, 5e-4), ("deep", 10, 5, 2.5e-4)),
        "head": (("head", 1, 15, 1e-3),),
        "scratch": (("scratch", len(BLOCKS), 15, 1e-3),),
    }
    ceiling = {"gradual": 0.93, "head": 0.84, "scratch": 0.62}[name]
    rows, stages, epoch = [], [], 0
    for stage, count, epochs, rate in plans[name]:
        for _ in range(epochs):
            epoch += 1
            accuracy = (
                ceiling
                - (ceiling - 0.25) * math.exp(-epoch / 3.5)
                + 0.012 * math.sin(5 * epoch)
            )
            rows.append(
                (
                    stage,
                    epoch,
                    epoch * 12,
                    "train",
                    "loss",
                    0.5 + 1.1 * math.exp(-epoch / 5),
                )
            )
            rows.append((stage, epoch, epoch * 12, "val", "accuracy", accuracy))
            rows.append(
                (
                    stage,
                    epoch,
                    epoch * 12,
                    "val",
                    "log_loss",
                    0.25 + 1.4 * (1 - accuracy),
                )
            )
        trained = BLOCKS[-count:]
        stages.append(
            StageResult(
                name=stage,
                epochs=epochs,
                best_epoch=epoch - 1,
                trained=trained,
                frozen=BLOCKS[:-count],
                freeze_digest="d" * 64,
                lr={
                    b: rate * (1 if baseline else 0.5**d)
                    for d, b in enumerate(reversed(trained))
                },
                val={"accuracy": accuracy, "log_loss": 0.25 + 1.4 * (1 - accuracy)},
            )
        )
    (folder / name).mkdir(parents=True)
    with (folder / name / "curves.csv").open(
        "w", newline="", encoding="utf-8"
    ) as stream:
        csv.writer(stream).writerows(
            [("stage", "epoch", "step", "split", "metric", "value"), *rows]
        )
    return CandidateRecord(
        name=name,
        key="c" * 64,
        baseline=baseline,
        architecture="mobilenet_v3_small",
        labels=labels,
        input=spec,
        stages=tuple(stages),
        val=stages[-1].val,
        steps=epoch * 12,
        model_sha256="b" * 64,
        plan={
            "precision": "fp32",
            "memory_format": "channels-last",
            "threads": 2,
            "batch_size": 32,
            "feature_cache": True,
            "device": "cpu",
        },
    ).save(folder / name)


def _validated(folder: Path, labels: tuple[str, ...], hostile: bool) -> ValidateRecord:
    folder.mkdir(parents=True)
    bad = [
        (
            "ok/part-091-1.png",
            "truncated",
            "the file ends after 71 % of its data",
            "a whole image",
            "copy it again from the camera",
        ),
        (
            "stain/part-044-0.png",
            "truncated",
            "the file ends after 12 % of its data",
            "a whole image",
            "copy it again from the camera",
        ),
        (
            HOSTILE if hostile else "pit/Thumbs.db",
            "not-an-image",
            "no image format that Thaw reads",
            "JPEG, PNG, WEBP, BMP, TIFF, GIF",
            "remove it, or export it as PNG",
        ),
    ]
    manifest.write_table(
        pa.Table.from_pylist(
            [
                {"path": p, "id": None, "code": c, "found": f, "expected": e, "hint": m}
                for p, c, f, e, m in bad
            ],
            schema=manifest.QUARANTINE,
        ),
        folder / "quarantine.parquet",
    )
    per = {label: 78 - 9 * (n % 4) for n, label in enumerate(labels)}
    return ValidateRecord(
        manifest_sha256="a" * 64,
        labels=labels,
        examples=sum(per.values()),
        files=sum(per.values()) + 5,
        aliases=2,
        quarantined=3,
        per_class=per,
        converted={"exif-rotated": 3, "cmyk": 1},
        checks=23,
        findings=(
            Finding(
                code="duplicates",
                severity="info",
                subject="identical files",
                found="2 files with the content of another",
                items=("ok/part-002-1 (copy).png", "ok/part-010-0 (copy).png"),
            ),
            Finding(
                code="class-imbalance",
                severity="warning",
                subject="class balance",
                found="ok has 1.5 times the examples of crack",
                expected="at most 1.4 times",
                hint="bring more of crack, or set finetune.sampling to balanced",
            ),
        ),
    ).save(folder)


def _split(folder: Path, labels: tuple[str, ...], test: int) -> SplitRecord:
    return SplitRecord(
        manifest_sha256="a" * 64,
        labels=labels,
        new=24,
        near_duplicate_groups=4,
        left_out=(),
        counts={
            "train": {label: 55 - 6 * (n % 4) for n, label in enumerate(labels)},
            "val": {label: 12 - n % 3 for n, label in enumerate(labels)},
            "test": {label: test // len(labels) for label in labels},
        },
        warnings=(
            Finding(
                code="near-duplicates",
                severity="warning",
                subject="near-duplicates across the given splits",
                found="2 pairs",
                expected="none",
                hint="they were dropped from train",
                items=(
                    "train/ok/7.png ~ test/ok/9.png",
                    "train/pit/3.png ~ test/pit/5.png",
                ),
            ),
        ),
    ).save(folder)


def _backbone(folder: Path) -> BackboneRecord:
    return BackboneRecord(
        name="torchvision/mobilenet_v3_small",
        architecture="mobilenet_v3_small",
        source="shipped",
        sha256="e" * 64,
        weights_sha256="e" * 64,
        parameters=1_523_001,
        classes=24,
        blocks=BLOCKS,
        input=IMAGE_INPUT,
    ).save(folder)


def _context(hostile: bool) -> ReportContext:
    rates = [10 ** (-5 + n / 10) for n in range(41)]
    return ReportContext(
        workspace=HOSTILE if hostile else "surfaces",
        when=datetime(2026, 11, 20, 23, 5, tzinfo=UTC),
        data=DataVersion(
            md5="0123456789abcdef0123456789abcdef.dir",
            size=11_534_336,
            files=413,
            git_revision="9464c65aa21e",
            dirty=True,
            dirty_reason="data.dvc is not committed to Git",
        ),
        drift=(
            Finding(
                code="label-drift",
                severity="warning",
                subject="class shares",
                expected="at most 15 %",
                found="they moved by 17 % since the last accepted version",
            ),
        ),
        seconds={
            "validate": 2.31,
            "split": 0.4,
            "backbone": 0.2,
            "finetune": 48.2,
            "evaluate": 6.1,
            "register": 3.3,
        },
        unchanged=("backbone",),
        latency=Latency(
            candidate="gradual",
            model_sha256="b" * 64,
            megabytes=6.1,
            parameters=1_523_001,
            device="cpu",
            threads=2,
            precision="fp32",
            batches=(
                TimedBatch(batch=1, median_ms=7.9, p95_ms=9.8, runs=30),
                TimedBatch(batch=32, median_ms=1.42, p95_ms=1.66, runs=30),
            ),
        ),
        versions={
            "thaw": "0.1.0",
            "torch": "2.15.0",
            "torchvision": "0.29.2",
            "python": "3.11.7",
        },
        links={
            "the run in MLflow": "http://127.0.0.1:5000/#/experiments/1/runs/8d1f0c",
            "what Great Expectations judged": ".thaw/runs/now/validate/docs/index.html",
        },
        sweeps=(
            Sweep(
                "gradual",
                "head",
                tuple(rates),
                tuple(
                    1.6
                    - 0.9 / (1 + math.exp(-3 * (math.log10(r) + 2.8)))
                    + (40 * r) ** 2
                    for r in rates
                ),
                2e-3,
            ),
        ),
    )


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[1])
    one = make(target / "run")
    write_page(one.html(), target / "report.html")
    two = make(
        target / "hostile",
        labels=(*LABELS[:3], HOSTILE, "a label so long that no column holds it " * 2),
        hostile=True,
    )
    write_page(two.html(), target / "hostile.html")
    many = make(
        target / "many",
        labels=[f"class {n:03d}" for n in range(60)],
        parts=240,
        skill=(3.5, 2.0),
    )
    write_page(many.html(), target / "many.html")
    bare = make(target / "bare", labels=("ants", "bees"), baseline=False)
    bare = dataclasses.replace(
        bare.with_records(register=None), context=ReportContext(workspace="bees")
    )
    write_page(bare.html(), target / "bare.html")
    texts = make(
        target / "texts", labels=("negative", "positive"), skill=(0.8, 0.4), texts=True
    )
    write_page(texts.html(), target / "texts.html")
