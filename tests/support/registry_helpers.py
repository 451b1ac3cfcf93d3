"""A workspace as the steps before register leave it, with a random tiny network instead
of a trained one.
"""

from __future__ import annotations

import csv
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.config import Config, RegisterConfig
from pipeline.context import Context
from pipeline.evaluation import tables
from pipeline.manifest import COLUMNS, QUARANTINE, sha256, write_table
from pipeline.modalities.image.settings import ImageIntakeConfig
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.promotion_journal import Entry, now, read_history
from pipeline.records import (
    BackboneRecord,
    CandidateRecord,
    DataVersion,
    EvaluateRecord,
    FinetuneRecord,
    GitState,
    ImageInputSpec,
    MetricEstimate,
    RunRecords,
    SplitRecord,
    ValidateRecord,
    digest,
)
from pipeline.tasks.image_classification import TASK
from pipeline.tasks.image_classification.settings import ImageClassificationConfig
from pipeline.tracking.journal_run import JournalRun
from pipeline.training import members
from store_helpers import lay_store

LABELS = ("ant", "bee", "wasp")
SPEC = ImageInputSpec(size=64, resize=72)
DATA = DataVersion(
    md5="0123456789abcdef0123456789abcdef.dir",
    size=9,
    files=4,
    git_revision="abc",
    dirty=False,
)
GIT = GitState(revision="abc", changed=("dvc.lock",))


def pictures(folder: Path) -> list[Path]:
    """Image files of the kinds that are easy to present wrongly."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:150, 0:220]
    colour = np.stack([x % 256, y % 256, (x * 3 + y) % 256], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(folder / "a plain.png")
    Image.fromarray(colour).resize((900, 700)).save(folder / "b large.jpg", quality=90)
    Image.fromarray(colour).save(folder / "c turned.jpg", exif=exif)
    Image.fromarray(np.dstack([colour, (x % 256).astype(np.uint8)])).save(
        folder / "d alpha.png"
    )
    Image.fromarray((x * 250 + y).astype(np.uint16)).save(folder / "e grey16.png")
    Image.fromarray(colour).convert("CMYK").save(folder / "f cmyk.jpg")
    Image.fromarray(colour).convert("P").save(folder / "g palette.gif")
    Image.fromarray(colour[:40, :30]).save(folder / "h small.webp", lossless=True)
    return sorted(folder.iterdir())


def _logits(model: Any, files: list[Path], spec: ImageInputSpec) -> torch.Tensor:
    kind = TASK
    decoded = torch.from_numpy(
        np.stack([kind.codec.decode(file, spec) for file in files])
    )
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(
            kind.codec.prepare(decoded, spec, ImageClassificationConfig(), None)
        )
    return found


def probabilities(
    model: Any, files: list[Path], spec: ImageInputSpec
) -> np.ndarray[Any, Any]:
    """What evaluation finds: the task's own presentation, the network in blocks, fp32."""
    return TASK.scorer.probabilities(_logits(model, files, spec)).double().numpy()


def _spread(model: Any, files: list[Path], spec: ImageInputSpec) -> None:
    """Makes a random network tell its inputs apart, as a trained one does: logits that
    differ by about 1.
    """
    head = dict(model.blocks[-1].named_parameters())
    with torch.no_grad():
        # A vision transformer's new head is all zeros.
        for name, parameter in head.items():
            parameter.zero_() if name.endswith("bias") else parameter.normal_(
                generator=torch.Generator().manual_seed(0)
            )
    logits = _logits(model, files, spec)
    factor = 1 / logits.std(dim=0).mean()
    with torch.no_grad():
        for name, parameter in head.items():
            parameter.copy_(
                -0.9 * logits.mean(dim=0) if name.endswith("bias") else parameter
            ).mul_(factor)


def name_champion(journal: JournalRun, version: str) -> None:
    """Makes a version champion, as another machine does: by the journal alone."""
    champion = read_history(journal.read()).champion
    if champion != version:
        journal.append(
            Entry(
                kind="promoted",
                champion=champion,
                version=version,
                by="test",
                reason="",
                time=now(),
            )
        )
        journal.reconcile()


class Finished:
    """The outputs of the steps before register, as `build` left them below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "artifacts"
        self.files = sorted((root / "data").iterdir())
        self.config = Config()
        self.validated = ValidateRecord.load(self.out / "validate")
        self.split = SplitRecord.load(self.out / "split")
        self.backbone = BackboneRecord.load(self.out / "backbone")
        self.finetuned = FinetuneRecord.load(self.out / "finetune")
        self.candidate = self.finetuned.candidate()
        self.evaluated = EvaluateRecord.load(self.out / "evaluate")
        self.data = DATA

    def judge(self, accuracy: float, **others: float) -> EvaluateRecord:
        """The evaluation, with that accuracy and these other metrics."""
        value = MetricEstimate(
            value=accuracy, low=accuracy - 0.1, high=min(1.0, accuracy + 0.1)
        )
        loss = MetricEstimate(value=0.3, low=0.2, high=0.4)
        metrics = {"accuracy": value, "log_loss": loss}
        for name, other in others.items():
            metrics[name] = MetricEstimate(value=other, low=other, high=other)
        self.evaluated = self.evaluated.model_copy(update={"metrics": metrics})
        return self.evaluated.save(self.out / "evaluate")

    def retrained(self, seed: int) -> Finished:
        """The same workspace after another training: other weights, judged as well."""
        shutil.rmtree(self.out)
        again = build(self.root, seed=seed)
        again.config = self.config
        return again

    def with_thresholds(self, **thresholds: float) -> Config:
        self.config = Config(
            register=RegisterConfig(name="insects", thresholds=thresholds)
        )  # type: ignore[call-arg]
        return self.config

    def with_intake(self, **intake: Any) -> Config:
        """The same settings with other limits on what is taken in."""
        task = ImageClassificationConfig(intake=ImageIntakeConfig(**intake))
        self.config = self.config.model_copy(update={"task": task})
        return self.config

    def context(self, **more: Any) -> Context:
        scratch = self.root / ".thaw"
        return Context(
            root=self.root,
            data=self.root / "data",
            scratch=scratch,
            run_dir=scratch / "side",
            **more,
        )

    def promote(self, served: bool = True, **more: Any) -> Any:
        """Registers, then decides; returns what was decided.

        Args:
            served: whether the version was seen to be served before, which takes
                seconds.
        """
        from pipeline.steps.promote import promote, serving_mark
        from pipeline.steps.promotion_evidence import Challenger

        registered = self.register(**more)
        context = self.context(**more)
        if served:
            mark = serving_mark(context.scratch, registered.key)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        records = (
            self.validated,
            self.split,
            self.backbone,
            self.finetuned,
            self.evaluated,
        )
        return promote(
            Challenger(self.config, *records, registered, self.data, context)
        )

    def register(self, **more: Any) -> Any:
        from pipeline.steps.register import Registration, register

        run = RunRecords(
            self.validated, self.split, self.backbone, self.finetuned, self.evaluated
        )
        return register(Registration(self.config, run, DATA, GIT, self.context(**more)))


def build(
    root: Path,
    architecture: str = "squeezenet1_1",
    spec: ImageInputSpec = SPEC,
    seed: int = 3,
) -> Finished:
    """Writes data and outputs below `root`: one candidate with random weights, judged
    by the task's own code.
    """
    out = root / "artifacts"
    files = pictures(root / "data")
    model = blocks.build_network(architecture, len(LABELS), seed=seed)
    _spread(model, files, spec)
    folder = out / "finetune" / "head"
    folder.mkdir(parents=True)
    save_file(state_to_save(model), folder / "model.safetensors")
    weights = sha256(folder / "model.safetensors")
    CandidateRecord(
        name="head",
        key=digest("candidate", seed),
        baseline=False,
        architecture=architecture,
        labels=LABELS,
        input=spec,
        stages=(),
        val={"accuracy": 0.9},
        steps=20,
        model_sha256=weights,
        plan={"precision": "fp32"},
    ).save(folder)
    _curves(folder / "curves.csv")
    FinetuneRecord(
        key=digest("finetune", seed),
        candidates=("head",),
        best="head",
        primary="accuracy",
        higher_is_better=True,
        val={"head": {"accuracy": 0.9}},
    ).save(out / "finetune")
    rows = [
        {"id": file.name, "group": None, "split": "test", "target": LABELS[0]}
        for file in files
    ]
    members.write_members(
        pa.Table.from_pylist(rows, schema=members.SCHEMA),
        out / "finetune" / members.FILE,
    )
    evaluated = EvaluateRecord(
        candidate="head",
        model_sha256=weights,
        labels=LABELS,
        examples=len(files),
        primary="accuracy",
        higher_is_better=True,
        metrics={},
        others={},
        comparisons=(),
        warnings=(),
    ).save(out / "evaluate")
    found = probabilities(model, files, spec)
    names = [file.name for file in files]
    columns: dict[str, Any] = {"id": names, "path": names}
    columns |= {f"p.{label}": found[:, index] for index, label in enumerate(LABELS)}
    pq.write_table(pa.table(columns), evaluated.predictions)
    ValidateRecord(
        manifest_sha256="",
        labels=LABELS,
        examples=len(files),
        files=len(files),
        aliases=0,
        quarantined=0,
        per_class={LABELS[0]: len(files)},
        converted={},
        findings=(),
        checks=1,
    ).save(out / "validate")
    write_table(
        pa.Table.from_pylist([], schema=QUARANTINE),
        out / "validate" / "quarantine.parquet",
    )
    tables.write_classes([], out / "evaluate" / "per_class.csv")
    tables.write_slices([], "accuracy", out / "evaluate" / "slices.csv")
    tables.write_reliability([], out / "evaluate" / "reliability.csv")
    counts = {
        "train": {LABELS[0]: 9},
        "val": {LABELS[0]: 2},
        "test": {LABELS[0]: len(files)},
    }
    SplitRecord(
        manifest_sha256="",
        labels=LABELS,
        counts=counts,
        new=0,
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    ).save(out / "split")
    tested = [
        {
            "id": name,
            "path": name,
            "aliases": [],
            "target": LABELS[0],
            "split": "test",
            "unit": name,
        }
        for name in names
    ]
    pq.write_table(
        pa.Table.from_pylist(tested, schema=COLUMNS), out / "split" / "manifest.parquet"
    )
    BackboneRecord(
        name=f"torchvision/{architecture}",
        architecture=architecture,
        source="file",
        sha256="",
        weights_sha256="",
        parameters=1,
        classes=1000,
        blocks=("head",),
        input=spec,
    ).save(out / "backbone")
    finished = Finished(root)
    finished.judge(0.9)
    return finished


@cache
def _template(base: Path) -> Path:
    return build(base / "finished-template").root


def lay_finished(root: Path, factory: pytest.TempPathFactory) -> Finished:
    """A workspace with an empty embedded store and these outputs."""
    lay_store(root, factory)
    shutil.copytree(_template(factory.getbasetemp()), root, dirs_exist_ok=True)
    return Finished(root)


def _curves(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("stage", "epoch", "step", "split", "metric", "value"))
        for step in range(1, 6):
            writer.writerow(("head", step, step * 4, "train", "loss", 1 / step))
            writer.writerow(("head", step, step * 4, "val", "accuracy", step / 6))
