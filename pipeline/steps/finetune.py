"""Fine-tune: every recipe a candidate, the best on validation goes on."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import files, manifest
from pipeline.config import ENGINE, FinetuneConfig, StageConfig
from pipeline.config_section import TaskConfig
from pipeline.context import Context, TrackedRun
from pipeline.errors import Interrupted, TrainingError
from pipeline.records import (
    BackboneRecord,
    BaselineAge,
    BaselineRecord,
    CandidateRecord,
    FinetuneRecord,
    InputSpec,
    SplitRecord,
    TextInputSpec,
    TileSpec,
    TruncatedTexts,
    digest,
)
from pipeline.steps import baseline, recorded_facts
from pipeline.steps import champion as champions
from pipeline.tasks import catalog
from pipeline.text import format_seconds
from pipeline.training import (
    candidates,
    members,
    recipes,
    validation_metrics,
    warm_start,
)
from pipeline.training.interruption import StopSignal, interruptible
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import Targets
    from pipeline.tasks.base import ExampleStore, Task
    from pipeline.training.batch_source import FinetuneJob
    from pipeline.training.plan import PlanSample, TrainingPlan
    from pipeline.training.recipe_trainer import Recipe
    from pipeline.training.sampling import Rows

# What changes how fast a training runs, or what is made of it, but not its result.
IMMATERIAL: dict[str, bool | set[str]] = {
    "recipes": True,
    "own": True,
    "baseline": True,
    "baseline_steps": True,
    "epochs": True,
    "lr": True,
    "lr_decay": True,
    "checkpoint": True,
    "body_lr": True,
    "scratch_lr": True,
    "frozen": True,
    "plan": {"workers", "pixel_cache_gb"},
}

# Images by which a plan is measured: of those that every place of is answered for, a
# step takes ten times as long.
SAMPLED, SAMPLED_DENSE = 8, 2


def finetune(
    config: FinetuneConfig,
    task: TaskConfig,
    split: SplitRecord,
    backbone: BackboneRecord,
    out: Path,
    context: Context,
) -> FinetuneRecord:
    """Trains a candidate for each recipe, the baseline after them, and chooses the best
    on validation.

    A candidate whose every determinant is as it was is taken from `.thaw/candidates`;
    one that was interrupted goes on from its newest checkpoint.

    Raises:
        ConfigError: an unknown recipe, block pattern or metric.
        Interrupted: a signal came; everything is saved.
        TrackingError: the champion to start from cannot be loaded.
        TrainingError: a training could not be trusted, see
            `pipeline.training.recipe_trainer.train`; or the champion to start from
            learnt from what is a test example here.
    """
    validation_metrics.check_primary(
        config.primary, catalog.find(task.name).scorer.kind
    )
    if config.warm_start == "champion":
        workspace = Workspace(context.root)
        champions.fill(workspace.config(), workspace)
    stages: dict[str, Sequence[StageConfig]] = {}
    for name in recipes.recipe_names(config):
        stages[name] = recipes.recipe_stages(name, config, backbone.blocks)
    run = FinetuneRun(config, task, split, backbone, context)
    settings = config.model_dump(mode="json", exclude={"checkpoint"})
    key = digest(ENGINE, run.determinants, settings)
    trained = _train_candidates(run, stages, key)
    for record in trained.records:
        folder = out / record.name
        is_baseline = record.name not in stages
        candidates.copy_to_output(record, folder, baseline=is_baseline, tiles=run.tiles)
    age = None
    if run.remembers_baseline:
        age = _remember_baseline(run, trained.records[-1], out)
    members.write_members(run.members, out / members.FILE)
    run.write_timing()
    return FinetuneRecord(
        key=key,
        candidates=tuple(record.name for record in trained.records),
        best=trained.best.name,
        primary=config.primary,
        higher_is_better=validation_metrics.higher_is_better(config.primary),
        val={record.name: record.val for record in trained.records},
        baseline=age,
        truncated_texts=trained.truncated_texts,
    ).save(out)


class _TrainedCandidates(NamedTuple):
    """What the recipes came to.

    Args:
        records: of the recipes, and of the baseline behind them where there is one.
        best: of the recipes, on validation.
    """

    records: Sequence[CandidateRecord]
    best: CandidateRecord
    truncated_texts: TruncatedTexts | None


def _train_candidates(
    run: FinetuneRun, stages: Mapping[str, Sequence[StageConfig]], key: str
) -> _TrainedCandidates:
    """A candidate for each recipe's stages, and the baseline; all of it is recorded."""
    context = run.context
    primary = run.config.primary
    # One that is tracked and cannot be restored stops the run here.
    remembered = run.remembered_baseline
    tracked = recorded_facts.open_parent(context.tracker, key, context.root.name)
    with _recorded(tracked) as parent, interruptible() as stop:
        truncated_texts = run.truncated_texts
        records = [run.candidate(name, stages[name], stop, parent) for name in stages]
        best = max(
            records, key=lambda record: validation_metrics.score(record.val, primary)
        )
        if run.has_baseline:
            records.append(_baseline(run, remembered, stop, parent))
        recorded_facts.record_choice(parent, list(stages), best)
    return _TrainedCandidates(records, best, truncated_texts)


def _baseline(
    run: FinetuneRun,
    remembered: BaselineRecord | None,
    stop: StopSignal,
    parent: TrackedRun,
) -> CandidateRecord:
    """The candidate trained from scratch for comparison: remembered, or trained."""
    if remembered is not None:
        return run.known(CandidateRecord.load(remembered.candidate), parent)
    examples = len(run.job.train)
    steps_per_epoch = -(-examples // run.config.batch_size)
    stages = recipes.baseline(run.config, steps_per_epoch)
    return run.candidate(recipes.BASELINE, stages, stop, parent)


def _remember_baseline(
    run: FinetuneRun, candidate: CandidateRecord, out: Path
) -> BaselineAge:
    """Remembers the candidate trained from scratch where it is new, and puts what it
    learnt from beside its files.
    """
    remembered = run.remembered_baseline
    if not remembered:
        remembered = baseline.remember(run.comparison, candidate)
    copied = out / recipes.BASELINE / members.FILE
    shutil.copy(remembered.members, copied)
    return remembered.age


@contextmanager
def _recorded(run: TrackedRun) -> Iterator[TrackedRun]:
    """Closes a tracked run with what became of it."""
    try:
        yield run
    except BaseException as fault:
        run.close("KILLED" if isinstance(fault, Interrupted) else "FAILED")
        raise
    run.close()


@dataclass
class FinetuneRun:
    """What the candidates of one run share, made when the first of them needs it."""

    config: FinetuneConfig
    task_config: TaskConfig
    split: SplitRecord
    backbone: BackboneRecord
    context: Context
    timing: dict[str, Any] = field(default_factory=dict)  # what timing.json holds
    _measured: list[BlockedNetwork] = field(default_factory=list)
    _planned: list[TrainingPlan] = field(default_factory=list)

    @cached_property
    def task(self) -> Task:
        return catalog.find(self.task_config.name)

    @cached_property
    def spec(self) -> InputSpec:
        codec = self.task.codec
        return codec.input_spec(self.task_config, self.backbone)

    @property
    def has_baseline(self) -> bool:
        """Whether a training from scratch is added for comparison."""
        return (
            self.config.baseline != "never"
            and recipes.BASELINE not in recipes.recipe_names(self.config)
        )

    @property
    def remembers_baseline(self) -> bool:
        """Whether that training is done once and remembered."""
        return self.has_baseline and self.config.baseline == "first"

    @cached_property
    def remembered_baseline(self) -> BaselineRecord | None:
        """That training, as an earlier run remembered it; None where it is to be done."""
        if not self.remembers_baseline:
            return None
        return baseline.recall(self.comparison)

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """The manifest's train and val rows, by id."""
        import pyarrow.compute as pc

        table = manifest.read(self.split.manifest)
        tables: dict[str, pa.Table] = {}
        for name in ("train", "val"):
            rows = table.filter(pc.equal(table.column("split"), name))
            tables[name] = rows.sort_by("id")
        empty = [name for name, rows in tables.items() if not rows.num_rows]
        if empty:
            raise TrainingError(
                "the split",
                found=f"no examples in {' and '.join(empty)}",
                expected="some to train and to validate on",
                hint="look at `split` in params.yaml",
            )
        return tables

    @cached_property
    def members(self) -> pa.Table:
        """What the candidates learn from and will be tested on, and what a champion
        they start from learnt from.
        """
        own = members.members_of_split(manifest.read(self.split.manifest))
        if self.champion is None:
            return own
        return members.with_ancestor(own, self.champion.members)

    @cached_property
    def determinants(self) -> dict[str, Any]:
        """What determines a candidate besides its stages."""
        settings = self.config.model_dump(mode="json", exclude=IMMATERIAL)
        shown = self.task_config.model_dump(mode="json", exclude={"intake", "tiles"})
        data: dict[str, str] = {}
        for name, table in self.tables.items():
            columns = [
                table.column(column).to_pylist() for column in ("id", "target", "unit")
            ]
            data[name] = digest(*columns)
        return {
            "engine": ENGINE,
            "finetune": settings,
            "task": shown,
            "input": self.spec.model_dump(mode="json"),
            "labels": list(self.split.labels),
            "data": data,
            "architecture": self.backbone.architecture,
            "weights": self.backbone.weights_sha256,
            "files": self._file_digests(),
            "champion": self.champion and self.champion.sha256,
        }

    @cached_property
    def comparison(self) -> baseline.Comparison:
        """What a remembered training from scratch must fit."""
        return baseline.Comparison(
            self.config,
            self.backbone.architecture,
            self.spec,
            self.split.labels,
            self.split,
            self.context,
        )

    @cached_property
    def champion(self) -> warm_start.Champion | None:
        """What a warm start begins from; None without one."""
        if self.config.warm_start == "none":
            return None
        return champions.load(
            Workspace(self.context.root).config(), self.split, self.context
        )

    def candidate(
        self,
        name: str,
        stages: Sequence[StageConfig],
        stop: StopSignal,
        parent: TrackedRun,
    ) -> CandidateRecord:
        """The finished candidate of a recipe: found, gone on with, or trained from its
        beginning.
        """
        from pipeline.training.recipe_trainer import Recipe

        console = self.context.console
        plain = [stage.model_dump(mode="json") for stage in stages]
        recipe = Recipe(
            name, stages, {"recipe": name, "stages": plain, **self.determinants}
        )
        with _recorded(
            recorded_facts.open_candidate(
                self.context.tracker, recipe.key, name, parent
            )
        ) as run:
            record = candidates.find_candidate(
                self.context.scratch, recipe.key, console
            )
            if record is not None:
                console.info(f"{name}: unchanged")
            else:
                record = self._train(recipe, stop, run)
            recorded_facts.record_candidate(run, record, self._timing_of(record))
        console.info(
            f"{name}: {self.config.primary} {record.val[self.config.primary]:.4f} on validation"
        )
        return record

    def known(self, record: CandidateRecord, parent: TrackedRun) -> CandidateRecord:
        """A finished candidate of an earlier run, told to the tracking store like the
        others.
        """
        with _recorded(
            recorded_facts.open_candidate(
                self.context.tracker, record.key, record.name, parent
            )
        ) as run:
            recorded_facts.record_candidate(run, record, self._timing_of(record))
        return record

    def _train(
        self, recipe: Recipe, stop: StopSignal, run: TrackedRun
    ) -> CandidateRecord:
        from pipeline.training.recipe_trainer import train

        if (
            recipe.name == recipes.BASELINE
            and self.has_baseline
            and not candidates.checkpoints_of(self.context.scratch, recipe.key).exists()
        ):
            self._say_duration(recipe)
        began = time.monotonic()
        trained = train(
            self.job,
            recipe,
            self.plan,
            stop,
            lambda rows: recorded_facts.record_curves(run, rows),
        )
        target = self.tables["val"].column("target").to_pylist()
        record = candidates.save_candidate(
            self.job, recipe, trained, self.backbone, target
        )
        self.timing[recipe.name] = {
            "key": recipe.key,
            "seconds": time.monotonic() - began,
            "stages": {name: timed(spent) for name, spent in trained.times.items()},
            **peak_memory(),
        }
        return record

    def _timing_of(self, candidate: CandidateRecord) -> Mapping[str, Any] | None:
        """The times of its training, in this run or an earlier one; None where they are
        not known.
        """
        if candidate.name in self.timing:
            timing: Mapping[str, Any] = self.timing[candidate.name]
            return timing
        return recorded_facts.find_timing(self.context.scratch, candidate)

    @cached_property
    def store(self) -> ExampleStore:
        """The decoded examples of train and val."""
        import pyarrow as pa

        from pipeline.tasks.base import StoreLimits

        began = time.monotonic()
        context = self.context
        rows = pa.concat_tables(self.tables.values())
        limits = StoreLimits(context.scratch, self.config.plan.pixel_cache_gb)
        store = self.task.codec.open_store(
            self.spec, rows, context.data, self.backbone.folder, limits, context.console
        )
        self.timing["decode"] = time.monotonic() - began
        return store

    @cached_property
    def truncated_texts(self) -> TruncatedTexts | None:
        """How many texts of train and val are longer than the network reads; None where
        examples are none.
        """
        if not isinstance(self.spec, TextInputSpec):
            return None
        from pipeline.modalities.text.token_store import TokenStore

        if not isinstance(self.store, TokenStore):
            return None
        return self.store.truncated_texts

    @cached_property
    def job(self) -> FinetuneJob:
        from pipeline.training.batch_source import (
            ExampleSet,
            FinetuneJob,
            select_examples,
        )

        context = self.context
        config = self.config
        sets: dict[str, ExampleSet] = {}
        for name, table in self.tables.items():
            ids = table.column("id").to_pylist()
            units = table.column("unit").to_pylist()
            sets[name] = select_examples(
                self.store, ids, self._open_targets(table), units
            )
        return FinetuneJob(
            task=self.task,
            task_config=self.task_config,
            config=config,
            spec=self.spec,
            labels=self.split.labels,
            store=self.store,
            train=sets["train"],
            val=sets["val"],
            scratch=context.scratch,
            console=context.console,
            build=self._build,
            design=self.design,
        )

    def _open_targets(self, table: pa.Table) -> Targets:
        from pipeline.tasks.base import StoreLimits

        context = self.context
        targets = self.task.scorer.targets(table, self.split.labels)
        limits = StoreLimits(context.scratch, self.config.plan.pixel_cache_gb)
        return self.task.target_codec.open(
            targets, self.spec, self.task_config, context.data, limits, context.console
        )

    @cached_property
    def design(self) -> dict[str, Any]:
        """What building the network takes from settings and training examples."""
        return self.task.network.design(
            self.tables["train"],
            self.split.labels,
            self.spec,
            self.task_config,
            self.backbone,
        )

    @cached_property
    def tiles(self) -> TileSpec | None:
        """In which tiles large examples are answered; None where all are shown whole."""
        if self.task.tiler is None:
            return None
        return self.task.tiler.find_tiles(self.tables["train"], self.task_config)

    def _file_digests(self) -> dict[str, str]:
        """The sha256 of what else rebuilds the network: its configuration, its
        tokenizer.
        """
        return {
            name: files.sha256(self.backbone.folder / name)
            for name in self.backbone.files
        }

    @property
    def _presented(self) -> BackboneRecord:
        """The backbone, with the pooling that the settings ask for where it reads text."""
        if isinstance(self.spec, TextInputSpec):
            return self.backbone.model_copy(update={"input": self.spec})
        return self.backbone

    def _build(self, pretrained: bool) -> BlockedNetwork:
        if pretrained and self._measured:
            return self._measured.pop()
        model: BlockedNetwork = self.task.network.build(
            self._presented,
            self.split.labels,
            design=self.design,
            pretrained=pretrained,
            seed=self.config.seed,
        )
        if pretrained and self.champion is not None:
            warm_start.load_champion(model, self.champion, self.split.labels)
        return model

    def plan(self) -> TrainingPlan:
        """The arithmetic, measured on this machine or remembered."""
        from pipeline.training.plan import choose_plan

        if self._planned:
            return self._planned.pop()
        began = time.monotonic()

        def build() -> BlockedNetwork:
            # Measuring changes no weight: the training begins with it.
            self._measured.append(self._build(True))
            return self._measured[-1]

        chosen = choose_plan(
            build,
            self.task,
            self._sample(),
            self.config,
            self.context.scratch,
            self.context.console,
            steps=self._steps(),
            passes=self._passes(),
        )
        self.timing["plan"] = time.monotonic() - began
        return chosen

    def _say_duration(self, recipe: Recipe) -> None:
        """Says, before it starts, about how long a training of the whole network will
        take.
        """
        from pipeline.training.plan import BACKWARD

        plan = self.plan()
        self._planned.append(plan)  # for the training that follows
        seconds_each = self._seconds_per_example(plan)
        epochs = sum(stage.epochs for stage in recipe.stages)
        examples = len(self.job.train) + len(self.job.val) / BACKWARD
        duration = format_seconds(epochs * examples * seconds_each)
        self.context.console.info(
            f"{recipe.name}: for comparison, at most {epochs} epochs in about {duration} "
            f"({1e3 * seconds_each:.1f} ms an example); finetune.baseline: never goes without"
        )

    def _seconds_per_example(self, plan: TrainingPlan) -> float:
        """Of a training step of the whole network: as its plan was measured, else by a
        few steps now.
        """
        from pipeline.training.plan import find_remembered, seconds_per_example

        sample = self._sample()
        model = self._build(False)
        planned = find_remembered(
            model, self.task, sample.x, self.config, self.context.scratch
        )
        if planned is not None:
            return planned.chosen.seconds_per_example
        return seconds_per_example(model, sample, plan)

    def _steps(self) -> int:
        """Optimiser steps of the longest candidate, at most: whether compiling pays
        depends on them.
        """
        epochs: list[int] = []
        for name in recipes.recipe_names(self.config):
            stages = recipes.recipe_stages(name, self.config, self.backbone.blocks)
            epochs.append(sum(stage.epochs for stage in stages))
        examples = len(self.job.train)
        steps_per_epoch = -(-examples // self.config.batch_size)
        return max(epochs) * steps_per_epoch

    def _passes(self) -> int:
        """Forward passes of one example in all trainings; a head's stage presents each
        view once, thanks to the cache.
        """
        from pipeline.training.head_stage import PRESENTATIONS
        from pipeline.training.plan import BACKWARD
        from pipeline.training.stages import count_frozen_views

        config = self.config
        head_passes = count_frozen_views(config)
        if config.head_solver != "optimizer":
            head_passes = min(head_passes, PRESENTATIONS)
        names = list(recipes.recipe_names(config))
        if self.has_baseline and self.remembered_baseline is None:
            names.append(recipes.BASELINE)
        passes = 0
        for name in names:
            for stage in recipes.recipe_stages(name, config, self.backbone.blocks):
                if stage.train == ("head",):
                    passes += head_passes
                else:
                    passes += BACKWARD * stage.epochs
        return passes * len(self.job.train)

    def _sample(self) -> PlanSample:
        """Examples of the commonest shape, by which a plan is measured: a whole batch
        of texts, since the matrices of a few short ones are too small to show what bf16
        units do; of images, each large enough by itself, a few.
        """
        from pipeline.training.batch_source import BatchSource
        from pipeline.training.plan import PlanSample

        job = self.job
        count = SAMPLED if self.task.scorer.kind == "classes" else SAMPLED_DENSE
        if isinstance(self.spec, TextInputSpec):
            count = self.config.batch_size
        chosen = _commonest(job.train.shapes)[:count]
        source = BatchSource(job, job.train, None, 0)
        loss = self.task.scorer.build_loss(self.config, job.train.targets, job.labels)
        return PlanSample(
            source.batch(chosen, None), source.targets(chosen, None), loss
        )

    def write_timing(self) -> None:
        """What this run saw but its inputs do not determine, beside the run."""
        self.context.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.context.run_dir / recorded_facts.TIMING_FILE
        files.replace_json(path, self.timing)


def _commonest(shapes: Rows) -> Rows:
    """Positions of the examples of the commonest shape; of several as common, of the
    smallest.
    """
    import numpy as np

    codes, counts = np.unique(shapes, return_counts=True)
    return np.flatnonzero(shapes == codes[counts.argmax()])


def timed(spent: Mapping[str, float]) -> dict[str, float]:
    """A stage's times in seconds, and its examples a second while training."""
    seconds = spent.get("train", 0.0)
    speed = spent["examples"] / seconds if seconds else 0.0
    return {**spent, "examples_per_second": speed}


def peak_memory() -> dict[str, int]:
    """Most memory this process has held so far, in bytes; on a GPU too where one was
    used.
    """
    import torch

    peak = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        peak["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peak
