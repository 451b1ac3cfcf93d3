"""Every setting, its default and its meaning.

`params.yaml` holds the sections of `Config`; DVC tracks the ones a step depends on
(`pipeline/step_table.py`), so each default stands once, here, and `to_yaml` writes the
whole file with these descriptions as comments.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipeline import redaction, task_catalog
from pipeline.config_section import Above, ConfigSection, Fraction, Positive, TaskConfig
from pipeline.errors import ConfigError
from pipeline.redaction import redact_forms

ENGINE = 4  # raised where the same settings and data give other results than before

# Folders of a workspace that are written and removed by Thaw, DVC or Git: no place for
# data.
OWN_FOLDERS = frozenset({"artifacts", "baseline", "mlflow", ".thaw", ".dvc", ".git"})

ColumnRole = Literal["path", "text", "pair", "label", "group", "split"]
# A folder is called so.
RecipeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$")]


class DriftConfig(ConfigSection):
    label_shift: Fraction = 0.15
    """warn when the class shares moved by more than this (total variation) since the last accepted version"""
    statistic_shift: float = Field(default=0.5, gt=0)
    """warn when a measured statistic's mean moved by more than this many of its standard deviations"""


class DataConfig(ConfigSection):
    path: str = "data"
    """the data folder, below the workspace; tracked by data.dvc"""
    table: str | None = None
    """a CSV, JSON Lines or Parquet file in the data folder that lists the examples; null: class folders, with an optional train/val/test level above them, or, of texts, all tables in the folder; of images with boxes or masks, a table of groups, splits and metadata, null: metadata.csv, if there is one"""
    columns: dict[ColumnRole, str] = {
        "path": "path",
        "text": "text",
        "pair": "pair",
        "label": "label",
        "group": "group",
        "split": "split",
    }
    """the table's column names, or positions from 1 where it has no header: path is read where an example is a file, text and pair (a second text, see task.intake.pair) where it is a row; every other column is metadata, kept for slices"""
    header: bool | Literal["auto"] = "auto"
    """whether the table's first line holds the column names; auto: it does, and a line that is an example stops the run"""
    labels: tuple[str, ...] | None = None
    """the label space, in order; null: the classes found, sorted"""
    drop_classes: tuple[str, ...] = ()
    """classes to leave out"""
    min_per_class: Positive = 10
    """a class with fewer usable examples stops the run"""
    max_bad_fraction: Fraction = 0.05
    """more unusable examples than this stop the run; fewer are quarantined by name"""
    conflicts: Literal["stop", "quarantine"] = "stop"
    """the same content under several labels; stop: the run stops and names them; quarantine: all copies are left out by name, and count as unusable"""
    max_imbalance: float = Field(default=20.0, ge=1)
    """warn when the largest class has this many times the examples of the smallest"""
    drift: DriftConfig = DriftConfig()

    @field_validator("labels")
    @classmethod
    def _refuse_repeated(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given is not None and len(set(given)) < len(given):
            raise ValueError("must name every class once")
        return given

    @field_validator("path")
    @classmethod
    def _require_below_workspace(cls, given: str) -> str:
        path = PurePosixPath(given)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a folder below the workspace, such as data")
        if path.parts[0] in OWN_FOLDERS:
            raise ValueError(
                f"must not be in {path.parts[0]}, whose content is Thaw's, DVC's or Git's to remove"
            )
        return given

    @field_validator("columns", mode="before")
    @classmethod
    def _complete_columns(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = cls.model_fields["columns"].default
        names: dict[str, object] = {}
        for role, name in given.items():
            names[role] = str(name) if type(name) is int else name
        columns: dict[str, object] = dict(known)
        columns.update(names)
        return columns


class SplitFractions(ConfigSection):
    train: Fraction = 0.7
    val: Fraction = 0.15
    test: Fraction = 0.15

    @model_validator(mode="after")
    def _require_sum_of_one(self) -> SplitFractions:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, and is {total:g}")
        if not self.train or not self.val or not self.test:
            raise ValueError("train, val and test must each be above 0")
        return self


class SplitConfig(ConfigSection):
    seed: int = 0
    """seed of the hash that assigns new examples to splits; the ledger keeps every assignment"""
    fractions: SplitFractions = SplitFractions()
    given: Literal["honour", "ignore"] = "honour"
    """whether a train/val/test that came with the data is kept"""
    given_val_as: Literal["val", "test"] = "val"
    """test: the given val is the test set, and validation examples are taken from the given train"""
    near_duplicates: int = Field(default=4, ge=-1, le=16)
    """keep examples in one split whose perceptual hashes differ in at most this many of 64 bits; -1: off"""


class BackboneConfig(ConfigSection):
    name: str = "torchvision/mobilenet_v3_small"
    """provider/name: torchvision/<any of its classifiers>, for boxes and masks also torchvision/<a detector or segmenter>, such as deeplabv3_resnet50, of which only the last layers are new; or transformers/<name on the Hugging Face hub>"""
    weights: str = "default"
    """default (the provider's published weights), shipped (the small ones that come with Thaw), a file, or any fsspec URL (https://, s3://, …); of transformers default (the hub), shipped, or a folder with config.json, model.safetensors and tokenizer.json; ${NAME} in it stands for an environment variable, so that no password lies here"""
    sha256: str | None = None
    """the weights file's sha256; null: what backbone.lock holds, which is written on first use and checked from then on"""
    mirror: str | None = None
    """fetch the provider's published weights from below this folder or URL instead of the provider's own server (of transformers: a folder, or a server that speaks the hub's protocol); ${NAME} as in weights"""
    offline: bool = False
    """use local files and the cache only; where a file is missing, the error says how to provide it"""
    size: Positive | None = None
    """input side the weights were trained with; null: the provider's"""
    mean: tuple[float, float, float] | None = None
    """channel means the weights were trained with; null: the provider's"""
    std: tuple[Above, Above, Above] | None = None
    """channel standard deviations the weights were trained with; null: the provider's"""

    @field_validator("weights", "mirror")
    @classmethod
    def _refuse_secrets(cls, given: str | None) -> str | None:
        if given is not None and redact_forms(given) != given:
            raise ValueError(
                "must hold no password or token, since DVC copies it into dvc.lock, which goes to Git; "
                "put it into an environment variable and name that, as in https://${WEIGHTS_LOGIN}@host/file"
            )
        return given

    @field_validator("name")
    @classmethod
    def _require_provider(cls, name: str) -> str:
        if "/" not in name:
            raise ValueError(f"'{name}' has no provider: write torchvision/{name}")
        return name


class StageConfig(ConfigSection):
    """One row of a fine-tuning schedule."""

    name: str
    train: tuple[str, ...]
    """what trains: head, last:N (the last N blocks and the head), all, or a pattern such as layer4*"""
    frozen: tuple[str, ...] = ()
    """blocks that stay frozen although `train` names them, by patterns"""
    epochs: Positive
    lr: Above | Literal["auto"] = 1e-3
    """peak learning rate of the head; auto: found by a learning-rate range test"""
    body_lr: Above | None = None
    """peak learning rate of the block below the head; null: the head's, multiplied by lr_decay"""
    lr_decay: float = Field(default=1.0, gt=0, le=1)
    """multiplies the learning rate per block going deeper (Howard and Ruder 2018, section 3.1)"""
    warmup: Fraction = 0.1
    """share of the stage's steps over which the learning rate rises"""
    batchnorm: Literal["frozen", "train"] = "frozen"
    """whether BatchNorm statistics are updated in the blocks that train; in frozen blocks they never are"""
    init: Literal["keep", "random"] = "keep"
    """random: start this stage from newly initialised weights (training from scratch)"""


class PlanConfig(ConfigSection):
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """arithmetic of the training; auto: measured on this machine"""
    memory_format: Literal["auto", "contiguous", "channels-last"] = "auto"
    threads: Positive | Literal["auto"] = "auto"
    """CPU threads; auto: one for each core this process may use, or two where the core runs two and that is faster"""
    workers: int = Field(default=0, ge=0)
    """loader processes; the decoded store makes 0 the fastest on most machines"""
    fuse: Literal["auto", "off"] = "auto"
    """run a frozen prefix with BatchNorm folded into its convolutions: the same but for the last bits, and faster"""
    feature_cache: Literal["auto", "on", "off"] = "auto"
    """compute a frozen prefix once per example and view"""
    feature_cache_gb: float = Field(default=8.0, gt=0)
    """most disk the feature cache may take"""
    pixel_cache_gb: float = Field(default=20.0, gt=0)
    """most disk the store of decoded examples may take"""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: on a GPU where it pays"""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: the best there is"""


class CheckpointConfig(ConfigSection):
    every_seconds: float = Field(default=60.0, gt=0)
    keep: Positive = 2


class FinetuneConfig(ConfigSection):
    recipes: tuple[str, ...] = Field(default=("gradual",), min_length=1)
    """the candidates, one a recipe: head, full, gradual, lp-ft, scratch, one from `own`, or `compare`: all five built-in ones"""
    own: dict[RecipeName, tuple[StageConfig, ...]] = {}
    """your recipes: name → list of stages"""
    baseline: Literal["first", "always", "never"] = "first"
    """compare with training from scratch; first: train it once, keep it under baseline.dvc and evaluate it on each new test split; always: train it again whenever anything changes; never"""
    baseline_steps: Positive | None = None
    """optimiser steps of that comparison, rounded up to whole epochs; null: as many epochs as `gradual` has"""
    epochs: Positive = 15
    """epochs of a built-in recipe in all, divided over its stages"""
    lr: Above | Literal["auto"] = 1e-3
    """peak learning rate of the head in the built-in recipes; auto: found by a learning-rate range test"""
    body_lr: Above | None = None
    """peak learning rate of the block below the head in the built-in recipes; null: the head's, multiplied by lr_decay"""
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    """multiplies the learning rate per block going deeper in the built-in recipes; a network has ten to a hundred blocks"""
    frozen: tuple[str, ...] = ()
    """patterns of blocks that stay frozen in all built-in recipes but scratch"""
    scratch_lr: Above | None = None
    """peak learning rate of all blocks in the recipe scratch; null: lr"""
    seed: int = 0
    batch_size: Positive = 32
    head_solver: Literal["auto", "optimizer"] = "auto"
    """a stage that trains only a linear head; auto: solved by L-BFGS on the frozen features, where epochs, lr, warmup and patience do not apply, unless that is too large; optimizer: trained like any other stage"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    """weight decay of the optimiser; norms and biases have none"""
    label_smoothing: Fraction = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight the loss by inverse class frequency"""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """balanced: every class equally often in an epoch"""
    clip_norm: Above | None = 1.0
    """gradient norm limit; null: none"""
    patience: int = Field(default=5, ge=0)
    """stop a stage after this many epochs without a better validation result; 0: never; the best is restored"""
    views: Positive = 8
    """variants of each example, the first plain, the others augmented; a stage that trains the first block shows all of them"""
    frozen_views: Positive = 4
    """how many of the views a stage shows that has frozen blocks below: their outputs are kept for each, so fewer cost less time and disk"""
    primary: str = "accuracy"
    """the validation metric that chooses the best epoch and the best candidate"""
    warm_start: Literal["none", "champion"] = "none"
    """champion: start from the weights of the registered champion, which champion.lock names, instead of the backbone's"""
    plan: PlanConfig = PlanConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @field_validator("baseline", mode="before")
    @classmethod
    def _from_switch(cls, value: object) -> object:
        """Earlier versions had true and false."""
        if not isinstance(value, bool):
            return value
        return "first" if value else "never"


class EvaluateConfig(ConfigSection):
    bootstrap: Positive = 1000
    """resamples for the intervals"""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = 0
    top_k: Positive = 3
    slices: tuple[str, ...] | Literal["auto"] = "auto"
    """metadata columns to evaluate by; auto: all with at most 20 values"""
    min_slice: Positive = 10
    """slices with fewer examples are listed as too small to evaluate"""
    worst: int = Field(default=12, ge=0)
    """how many of the worst errors to show"""


class RegisterConfig(ConfigSection):
    name: str | None = None
    """name in the model registry; null: the workspace folder's name"""
    thresholds: dict[str, FiniteFloat] = {}
    """test metrics a model must reach to become champion, such as accuracy: 0.9"""
    intended_use: str = ""
    """what the model is meant for, by whom and on what examples, in your words: a section of its model card"""
    limits: str = ""
    """what it must not be used for, whom mistakes would hurt, and what is known to go wrong, in your words: in its model card"""


class PromotionConfig(ConfigSection):
    mode: Literal["automatic", "human"] = "automatic"
    """human: a version that deserves it waits for `thaw approve VERSION --by NAME`"""
    accept: Literal["better", "not-worse"] = "better"
    """better: the challenger must be shown to be better than the champion; not-worse: not worse by more than the margin"""
    margin: float = Field(default=0.01, ge=0, le=1)
    """how much worse a challenger may be with `accept: not-worse`, in the metric"""
    metric: str | None = None
    """the test metric that decides; null: per example, of classes accuracy, of boxes f1, of masks mean_iou"""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """how sure it must be that none of all looks at a test split promotes a model that is no better"""
    looks: Positive = 20
    """how many challengers a test split may judge, until half of it is new; each look has its share of the error rate"""
    part_margin: float = Field(default=0.05, ge=0, le=1)
    """a class or slice may lose this much in the metric before the challenger is rejected"""
    removed_classes: tuple[str, ...] = ()
    """classes of the champion that a challenger may lack"""
    new_class_recall: Fraction = 0.0
    """the least recall of a class that the champion does not know"""
    max_negative_flips: Fraction | None = None
    """the largest share of examples that the champion gets right and the challenger wrong; null: any"""
    max_megabytes: Above | None = None
    """the largest size of the weights; null: any"""
    max_latency_ms: Above | None = None
    """the longest median time for one example, as the evaluation measured it; null: any"""
    expires_days: Annotated[int, Field(ge=1, le=3650)] = 7
    """days until a request for approval lapses"""

    @property
    def error_rate(self) -> float:
        """Of one look, one-sided."""
        whole_error = 1 - self.confidence
        return whole_error / self.looks


class TrackingConfig(ConfigSection):
    uri: str | None = None
    """an MLflow server (http://…) or database (sqlite:///…); null: the one embedded under mlflow/; ${NAME} stands for an environment variable"""
    experiment: str | None = None
    """the experiment's name; null: the workspace folder's name"""
    enabled: bool = True
    system_metrics: bool = True


def _default_task() -> TaskConfig:
    settings: Any = task_catalog.settings_type(task_catalog.DEFAULT)
    default: TaskConfig = settings()
    return default


class Config(ConfigSection):
    """params.yaml. `task` is an instance of the task's own model; `parse` makes it of
    what the file says.
    """

    engine: int = ENGINE
    """raised when Thaw's results change; leave it"""
    task: SerializeAsAny[TaskConfig] = Field(default_factory=_default_task)
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    backbone: BackboneConfig = BackboneConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    register_: RegisterConfig = Field(default=RegisterConfig(), alias="register")
    promotion: PromotionConfig = PromotionConfig()
    tracking: TrackingConfig = TrackingConfig()

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


TITLES = {
    "task": "the kind of problem, and how examples are read and turned into the network's input",
    "data": "where the data is, and what is required of it",
    "split": "train, val and test: assigned once and kept permanently in ledger.parquet",
    "backbone": "the pretrained network",
    "finetune": "how it is fine-tuned",
    "evaluate": "how the best candidate is judged on the test split",
    "register": "what goes into the model registry (no DVC stage depends on it)",
    "promotion": "when a registered model becomes the champion (no DVC stage depends on it)",
    "tracking": "where runs are recorded (no DVC stage depends on it)",
}


def read_yaml(text: str) -> Any:
    """What a YAML text says; with libyaml, where it is there, in a tenth of the time.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)


def load(path: Path) -> Config:
    """Reads params.yaml.

    Raises:
        ConfigError: it is missing, not YAML, has an unknown key or an unusable value
            (all faults are listed), or does not set data.path.
    """
    values = _read_file(path)
    if not isinstance(values, dict):
        raise ConfigError(
            str(path),
            found=type(values).__name__,
            expected="sections such as `data:` and `finetune:`",
        )
    config = parse(values, str(path))
    if "path" not in (values.get("data") or {}):
        # A default would not do: DVC fills it into dvc.yaml from this file.
        raise ConfigError(
            f"{path}: data.path",
            found="not set",
            expected="the data folder, which DVC reads here",
            hint=f"below `data:` write `path: {config.data.path}`",
        )
    return config


def _read_file(path: Path) -> Any:
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise ConfigError(
            str(path),
            found="no such file",
            expected="a workspace's settings",
            hint="run inside a workspace, or make one: thaw init DIR --data FOLDER",
        ) from fault
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise ConfigError(
            str(path),
            found=" ".join(str(fault).split()),
            expected="YAML",
            hint="correct that line",
        ) from fault


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def expand_variables(text: str, setting: str) -> str:
    """A setting's text with the value of an environment variable for each `${NAME}` in
    it.

    Raises:
        ConfigError: there is no such variable.
    """

    def value(match: re.Match[str]) -> str:
        variable = os.environ.get(match[1])
        if variable is None:
            raise ConfigError(
                setting,
                found=f"{match[0]}, and no environment variable {match[1]}",
                expected="one that is set",
                hint=f"export {match[1]}=…",
            )
        return variable

    expanded = _VARIABLE.sub(value, text)
    redaction.learn(expanded)
    return expanded


def parse(values: dict[str, Any], source: str) -> Config:
    """Checks settings read from `source`, and remembers the secrets among them; see
    `load` for the errors.
    """
    redaction.learn(values)
    _refuse_newer(values, source)
    settings = _task_settings(values, source)
    details: list[str] = []
    task: TaskConfig | None = None
    try:
        task = settings.model_validate(values.get("task") or {})
    except ValidationError as fault:
        details += [_explain(error, settings, ("task",)) for error in fault.errors()]
    others = with_defaults(
        {key: value for key, value in values.items() if key != "task"},
        settings.defaults,
    )
    try:
        config = Config.model_validate(others)
    except ValidationError as fault:
        details += [_explain(error, Config) for error in fault.errors()]
    if details:
        ending = "s" if len(details) > 1 else ""
        raise ConfigError(
            source,
            found=f"{len(details)} setting{ending} that cannot be used",
            hint="correct them; `thaw init` writes every setting with its meaning",
            details=details,
        )
    return config.model_copy(update={"task": task})


def _task_settings(values: dict[str, Any], source: str) -> type[TaskConfig]:
    """The model of the task's section.

    Raises:
        ConfigError: there is no such task, or the section is no mapping.
    """
    section = values.get("task")
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise ConfigError(
            f"{source}: task", found=repr(section), expected="settings such as `name:`"
        )
    name = section.get("name", task_catalog.DEFAULT)
    try:
        return task_catalog.settings_type(name)
    except ConfigError as fault:
        raise ConfigError(
            f"{source}: task.name", found=fault.found, expected=fault.expected
        ) from None


def with_defaults(
    values: dict[str, Any], defaults: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Settings with a task's own defaults where nothing is set: section → key → value."""
    filled = dict(values)
    for section, own in defaults.items():
        given = filled.get(section)
        if given is None:
            given = {}
        if isinstance(given, dict):
            filled[section] = own | given
    return filled


def _refuse_newer(values: dict[str, Any], source: str) -> None:
    """Refuses what a newer version wrote: settings unknown here would only hide the
    cause.
    """
    engine = values.get("engine")
    if isinstance(engine, int) and engine > ENGINE:
        raise ConfigError(
            f"{source}: engine",
            found=f"{engine}: the workspace was used with a newer version of Thaw",
            expected=f"at most {ENGINE}",
            hint="install that version, or a later one",
        )


def _explain(
    error: ErrorDetails, settings: type[BaseModel], above: tuple[str, ...] = ()
) -> str:
    """What is wrong with a setting.

    Args:
        settings: the model that found the error.
        above: the sections that this model is below.
    """
    keys = [str(part) for part in error["loc"]]
    where = ".".join([*above, *keys])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}; found {error['input']!r}"
    section = _find_section(settings, keys[:-1])
    if section is None:
        return f"{where}: no such setting"
    known = [field.alias or name for name, field in section.model_fields.items()]
    close = difflib.get_close_matches(keys[-1], known, 1)
    if close:
        hint = f"did you mean {close[0]}?"
    else:
        hint = f"there are {', '.join(known)}"
    return f"{where}: no such setting; {hint}"


def _find_section(settings: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    """The model of a section below `settings`; None where the keys lead to no section."""
    section = settings
    for key in keys:
        annotations = []
        for name, field in section.model_fields.items():
            if key in (name, field.alias):
                annotations.append(field.annotation)
        if not annotations:
            return None
        annotation = annotations[0]
        if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
            return None
        section = annotation
    return section


def to_yaml(config: Config) -> str:
    """The whole of params.yaml: every section and setting, with its description as a
    comment.
    """
    lines = [
        "# What this workspace fine-tunes. `thaw run` runs again the steps that a changed setting affects.",
        "",
    ]
    for name, field in Config.model_fields.items():
        key = field.alias or name
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            lines.append(f"# {TITLES[key]}")
            lines.append(f"{key}:")
            lines += _section_lines(value, "  ")
        else:
            lines.append(f"{key}: {_to_json(value)}  # {field.description}")
        lines.append("")
    return "\n".join(lines)


def _section_lines(section: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.description:
            lines.append(f"{indent}# {field.description}")
        if isinstance(value, BaseModel):
            lines.append(f"{indent}{name}:")
            lines += _section_lines(value, indent + "  ")
        else:
            lines.append(f"{indent}{name}: {_to_json(value)}")
    return lines


def _to_json(value: object) -> str:
    """A value as JSON, which is YAML too and keeps lists and mappings on one line."""
    return json.dumps(value, default=_to_plain, ensure_ascii=False)


def _to_plain(value: Any) -> object:
    """What JSON has no form for: a section within a list or mapping, or a set."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value)
