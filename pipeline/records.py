"""Records: the small frozen results that cross steps, each kept as `record.json` beside
the step's outputs.

A record holds only what the step's inputs determine: no times, no run ids, no absolute
paths. File names in a record are relative to its folder, which `load` fills in; so a
workspace can be moved.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, VersioningError

RECORD = "record.json"


def digest(*parts: Any) -> str:
    """A sha256 over JSON-serialisable parts (pydantic models too): the key of whatever
    they determine.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        return str(value)

    text = json.dumps(
        parts, sort_keys=True, separators=(",", ":"), default=plain, ensure_ascii=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


class FrozenModel(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Record(FrozenModel):
    """What a step hands on."""

    folder: Path = Field(default=Path(), exclude=True, repr=False)

    def save(self, folder: Path) -> Self:
        """Writes `record.json` into `folder` and returns the record bound to that
        folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False
        )
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        return self.model_copy(update={"folder": folder})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the record of a finished step.

        Raises:
            VersioningError: there is none, or it was written by another version of
                Thaw.
        """
        path = folder / RECORD
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate({**values, "folder": folder})
        except (OSError, ValueError, ValidationError) as fault:
            raise VersioningError(
                f"{path}",
                found=str(fault).splitlines()[0],
                expected=f"a {cls.__name__}",
                hint="thaw run",
            ) from fault

    @property
    def digest(self) -> str:
        """The sha256 over the record's values."""
        return digest(self.model_dump(mode="json"))


Severity = Literal["critical", "warning", "info"]


class Finding(FrozenModel):
    """One thing a check has to say about the data."""

    code: str
    severity: Severity
    subject: str
    found: str
    expected: str = ""
    hint: str = ""
    items: tuple[str, ...] = ()  # paths, classes or pairs concerned; all of them


class ValidateRecord(Record):
    """The dataset as it was read, scanned and judged. Files: manifest.parquet,
    quarantine.parquet.
    """

    manifest_sha256: str
    labels: tuple[str, ...]  # the label space, in order
    examples: int  # rows of the manifest
    files: int  # files found, aliases and quarantined ones among them
    aliases: int
    quarantined: int
    per_class: dict[str, int]
    # What was accepted by converting, by kind: "exif-rotated": 3.
    converted: dict[str, int]
    # Warnings and information; a critical one stops the run.
    findings: tuple[Finding, ...]
    checks: int  # expectations judged

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    @property
    def quarantine(self) -> Path:
        return self.folder / "quarantine.parquet"


class SplitRecord(Record):
    """The dataset with a split for every example. Files: manifest.parquet (columns
    split and unit filled).
    """

    manifest_sha256: str
    labels: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split → class → examples
    new: int  # examples that the ledger's latest batch brought, without edited ones
    # Bridging examples, near-duplicates across given splits.
    left_out: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    near_duplicate_groups: int
    # Split → examples, where an example has several classes or none, so that counts do
    # not add up to it.
    examples: dict[str, int] = Field(
        default={}, exclude_if=lambda examples: not examples
    )

    def size(self, split: str) -> int:
        """How many examples a split has."""
        if self.examples:
            return self.examples[split]
        return sum(self.counts[split].values())

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"


class ImageInputSpec(FrozenModel):
    """How an image becomes a network's input: enough for another program to do the
    same.

    An image is resized so that `fit` brings it to `resize` pixels, then its centre
    `size` × `size` pixels are taken, scaled to [0, 1] and normalised per channel.
    """

    kind: Literal["image"] = "image"
    size: int
    resize: int
    fit: Literal["crop", "squash", "pad"] = "crop"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background: tuple[int, int, int] = (255, 255, 255)


class TileSpec(FrozenModel):
    """The tiles in which much larger images are answered; see `pipeline.serving.tiles`."""

    width: int  # in pixels of the image
    height: int
    overlap: float  # of neighbours, as a share of their sides


class TextInputSpec(FrozenModel):
    """How a text, or a pair of texts, becomes a network's input: enough for another
    program to do the same.

    It is cut into at most `max_tokens` tokens and padded to the next multiple of
    `bucket` that holds them.
    """

    kind: Literal["text"] = "text"
    max_tokens: int
    bucket: int = 32
    # Of the last layer's vectors: over the tokens, of the first, of the last.
    pooling: Literal["mean", "cls", "last"]
    columns: tuple[str, ...]  # of the example: what is read, in order


InputSpec = Annotated[ImageInputSpec | TextInputSpec, Field(discriminator="kind")]


def text_spec(spec: InputSpec) -> TextInputSpec:
    """The input spec of texts, where only they are dealt with.

    Raises:
        ConfigError: it is that of another kind of input.
    """
    if not isinstance(spec, TextInputSpec):
        raise ConfigError(
            "backbone.name",
            found=f"a network for {spec.kind}",
            expected="a network for text",
            hint="choose another",
        )
    return spec


def image_spec(spec: InputSpec) -> ImageInputSpec:
    """The input spec of images, where only they are dealt with.

    Raises:
        ConfigError: it is that of another kind of input.
    """
    if not isinstance(spec, ImageInputSpec):
        raise ConfigError(
            "backbone.name",
            found=f"a network for {spec.kind}",
            expected="a network for images",
            hint="choose another",
        )
    return spec


class BackboneRecord(Record):
    """A pretrained network, ready to load. Files: weights.safetensors (the stock state
    dict), and what `files` names.
    """

    name: str  # provider/name, as configured
    architecture: str  # the provider's name of it
    source: str  # what the weights reference resolved to: "shipped", "file", or the URL
    sha256: str  # of the source file
    weights_sha256: str  # of weights.safetensors
    parameters: int
    classes: int  # classes of the pretrained head
    blocks: tuple[str, ...]  # from input to output; the last is "head"
    input: InputSpec
    # What else building it needs.
    files: tuple[str, ...] = Field(default=(), exclude_if=lambda files: not files)

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"


class SolvedHead(FrozenModel):
    """How the linear head of a stage was solved; see `pipeline.training.head_stage`."""

    # Inverse strength of the regularisation: scikit-learn's C, on standardised
    # features.
    strength: float
    chosen_by: Literal["cross-validation", "validation", "default"]
    objective: float  # mean loss and penalty at the solution
    loss: float  # the mean loss alone
    gradient: float  # its largest component there, in the solver's own scale
    iterations: int  # of L-BFGS, at this strength


class StageResult(FrozenModel):
    """What one stage of a recipe did."""

    name: str
    epochs: int  # run before early stopping; 1 where the head was solved
    best_epoch: int
    trained: tuple[str, ...]  # blocks
    frozen: tuple[str, ...]
    # Over every frozen parameter and buffer, the same before and after.
    freeze_digest: str
    lr: dict[str, float]  # peak rate per trained block; empty where the head was solved
    val: dict[str, float]  # metrics at the best epoch
    solved: SolvedHead | None = None


class CandidateRecord(Record):
    """One recipe, trained. Files: model.safetensors (a stock torchvision state dict
    with the new head, strict), curves.csv (stage, epoch, step, split, metric, value),
    val.parquet (id, target, probability per class).
    """

    name: str  # the recipe's
    key: str  # digest of everything that determines it
    # Trained for comparison only, never registered unless nothing else was asked for.
    baseline: bool
    architecture: str
    labels: tuple[str, ...]
    input: InputSpec
    stages: tuple[StageResult, ...]
    val: dict[str, float]
    steps: int  # optimiser steps in all: the budget
    model_sha256: str
    # The arithmetic chosen: precision, memory_format, threads, batch_size,
    # feature_cache, ….
    plan: dict[str, Any]
    backbone: str = "torchvision/"  # provider/name
    files: tuple[str, ...] = ()  # what else rebuilds the network, as in BackboneRecord
    # As the task's network made it.
    design: dict[str, Any] = Field(default={}, exclude_if=lambda design: not design)
    # None: all is shown whole.
    tiles: TileSpec | None = Field(default=None, exclude_if=lambda tiles: tiles is None)

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def other_files(self) -> tuple[Path, ...]:
        """The files besides the weights that rebuild the network."""
        return tuple(self.folder / name for name in self.files)


class BaselineAge(FrozenModel):
    """When and from what the model trained from scratch for comparison was made, where
    it is remembered.
    """

    trained: str  # the day, as 2026-11-25
    data: str  # DVC's hash of the data then
    examples: int  # trained and validated on then


class BaselineRecord(Record):
    """A model trained from scratch for comparison, remembered beside the data:
    `baseline/`, pinned by baseline.dvc. Files: candidate/ (a CandidateRecord's),
    members.parquet (what it was trained and validated on).
    """

    age: BaselineAge
    model_sha256: str
    conditions: dict[str, Any]  # what must be the same for it to be compared with

    @property
    def candidate(self) -> Path:
        return self.folder / "candidate"

    @property
    def members(self) -> Path:
        return self.folder / "members.parquet"


class TruncatedTexts(FrozenModel):
    """How many of some texts are longer than the network reads; the tokens beyond are
    cut off.
    """

    max_tokens: int  # that it reads
    examples: int  # in all
    truncated: int  # of these, longer ones
    # Tokens beyond `max_tokens`, of the longer ones; 0 where there are none.
    median_excess: int
    max_excess: int

    def describe(self) -> str:
        """A sentence without its full stop."""
        if not self.truncated:
            return f"none of {self.examples:,} texts is longer than {self.max_tokens:,} tokens"
        return (
            f"{self.truncated:,} of {self.examples:,} texts are longer than {self.max_tokens:,} tokens "
            f"and are cut, by {self.median_excess:,} tokens in the median and {self.max_excess:,} at most"
        )


class FinetuneRecord(Record):
    """All candidates and which is best on validation. Files: one folder a candidate,
    named by its recipe; members.parquet (id, group, split, target of every example they
    learnt from or will be tested on).
    """

    key: str
    candidates: tuple[str, ...]
    best: str
    primary: str  # the metric that chose, and its direction
    higher_is_better: bool
    val: dict[str, dict[str, float]]  # candidate → metric → value
    # Of the candidate `scratch`, where it is a remembered one.
    baseline: BaselineAge | None = None
    # Of train and val, where examples are texts.
    truncated_texts: TruncatedTexts | None = Field(
        default=None, exclude_if=lambda texts: texts is None
    )

    @property
    def members(self) -> Path:
        return self.folder / "members.parquet"

    def candidate(self, name: str | None = None) -> CandidateRecord:
        """The record of a candidate, the best one by default."""
        folder = self.folder / (name or self.best)
        return CandidateRecord.load(folder)


class MetricEstimate(FrozenModel):
    """A metric with its bootstrap interval."""

    value: float
    low: float
    high: float


class Comparison(FrozenModel):
    """The best candidate against another on the same test examples, by a paired test."""

    other: str
    metric: str
    difference: MetricEstimate  # best − other
    # pairs, where the other had learnt from some of the test examples.
    examples: int | None = None
    # two-sided: exact sign-flip test over units, of single examples McNemar's; or see
    # `test`.
    p_value: float
    verdict: Literal["better", "worse", "cannot-tell"]
    # What p_value is from: of a ranking, the resamples alone.
    test: Literal["sign-flip", "bootstrap"] = "sign-flip"


class EvaluateRecord(Record):
    """The best candidate on the test split, once. Files: predictions.parquet (id, path,
    target, and the answer: of classes predicted, confidence, probability per class
    `p.<label>`; else as JSON), per_class.csv, slices.csv, the kind's own tables (of
    classes confusion.csv and reliability.csv), worst/*.jpg with worst.json.
    """

    candidate: str
    model_sha256: str
    labels: tuple[str, ...]
    examples: int
    # What the intervals resample: groups and near-duplicates, or examples on their own.
    units: int | None = None
    confidence: float = 0.95  # of every interval
    primary: str
    higher_is_better: bool
    metrics: dict[str, MetricEstimate]
    # The other candidates' metrics on the same examples.
    others: dict[str, dict[str, MetricEstimate]]
    comparisons: tuple[Comparison, ...]
    baseline: BaselineAge | None = None  # as in FinetuneRecord
    warnings: tuple[Finding, ...]
    # What they are, and so which files there are.
    targets: Literal["classes", "boxes", "pixels"] = "classes"
    slice_metric: str = "accuracy"  # what slices.csv tells of each slice

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.parquet"


class TimedBatch(FrozenModel):
    """Milliseconds an example takes in batches of one size, over some runs."""

    batch: int
    median_ms: float
    p95_ms: float
    runs: int


class Latency(FrozenModel):
    """Size and speed of the network alone, as the evaluate step measured them:
    `latency.json` in the run's folder.
    """

    candidate: str
    model_sha256: str
    megabytes: float
    parameters: int
    device: str
    threads: int
    precision: str
    batches: tuple[TimedBatch, ...]


class DataVersion(FrozenModel):
    """Which data a run saw: enough to get the same files back, or to know that one
    cannot.
    """

    md5: str  # DVC's hash of the files as they are now
    size: int  # bytes
    files: int
    git_revision: str | None  # the commit that holds data.dvc; null without Git
    dirty: bool  # the hash and revision above do not lead back to these files
    dirty_reason: str = ""


class GitState(FrozenModel):
    """The commit that a workspace is at."""

    revision: str
    # Tracked files that differ from it; null where Git did not say.
    changed: tuple[str, ...] | None = None

    @property
    def dirty(self) -> bool | None:
        """Whether any tracked file differs; None where that is not known."""
        if self.changed is None:
            return None
        return bool(self.changed)


class RegisterRecord(Record):
    """What was registered: kept as the receipt `.thaw/receipts/register.json`, no
    output of a DVC stage.
    """

    evaluation: str  # digest of the EvaluateRecord
    key: str = ""  # of the version: of its weights and everything else that is served
    tracking_uri: str
    model: str
    version: str
    run_id: str
    reason: str = ""  # why it was not registered, in a sentence


class PromoteRecord(Record):
    """What was decided about a registered version: kept as the receipt
    `.thaw/receipts/promote.json`.
    """

    evaluation: str  # digest of the EvaluateRecord
    key: str  # of the version
    model: str
    version: str
    champion: str  # the version that is champion now; empty where none is
    decision: Literal["promote", "reject", "cannot-tell", "nothing-to-decide", "none"]
    reason: str  # in a sentence
    details: tuple[str, ...] = ()
    compared_with: str = ""  # the champion before
    metric: str = ""  # that decided
    # Over the champion before, between one-sided bounds.
    gain: MetricEstimate | None = None
    error_rate: float = 0.0  # of each bound
    examples: int = 0  # that both answered
    seen: int = 0  # test examples left out, that the champion had learnt from
    negative_flips: float | None = None
    positive_flips: float | None = None
    # On how many examples its answer is better than the champion's before.
    better: int | None = None
    worse: int | None = None
    flips: str = ""  # folder below .thaw that shows some of them
    looks: int = 0  # at this test split, this one among them
    looks_allowed: int = 0
    waits: bool = False  # for a person's approval
    # To be decided again by the next run, though nothing changed.
    provisional: bool = False
    next_command: str = ""

    @property
    def is_champion(self) -> bool:
        if not self.version:
            return False
        return self.champion == self.version


@dataclass(frozen=True)
class RunRecords:
    """The records of a finished run, and of its registration and what was decided of it
    where there are such.
    """

    validate: ValidateRecord
    split: SplitRecord
    backbone: BackboneRecord
    finetune: FinetuneRecord
    evaluate: EvaluateRecord
    register: RegisterRecord | None = None
    promote: PromoteRecord | None = None

    @property
    def candidate(self) -> CandidateRecord:
        """The candidate that was evaluated."""
        return self.finetune.candidate(self.evaluate.candidate)
