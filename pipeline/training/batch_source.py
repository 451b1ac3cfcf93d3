"""From rows of the decoded store to batches for the network, cached prefix or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from pipeline.errors import ThawError, TrainingError
from pipeline.records import digest
from pipeline.tasks.base import RandomDraw
from pipeline.training import sampling, stages

if TYPE_CHECKING:
    import torch

    from pipeline.config import FinetuneConfig
    from pipeline.config_section import TaskConfig
    from pipeline.context import Console
    from pipeline.models.network import BlockedNetwork
    from pipeline.objectives.base import Targets
    from pipeline.records import InputSpec
    from pipeline.tasks.base import Task
    from pipeline.tensors import Batch
    from pipeline.training.feature_cache import FeatureStore
    from pipeline.training.plan import TrainingPlan
    from pipeline.training.sampling import Keys, Rows
    from pipeline.training.stages import StageScope

T = TypeVar("T")


class Store(Protocol):
    """Decoded examples: `pipeline.data.decoded_store.DecodedStore`."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    def shapes(self, rows: Rows) -> Rows:
        """A code (n,) for the shape of each of the rows (n,)."""

    def batch(self, rows: Rows) -> Batch:
        """(N, *shape) uint8."""


class FeatureSource(Protocol):
    """A frozen prefix's outputs: `pipeline.training.feature_cache.FeatureStore`."""

    def batch(self, rows: Rows, views: Rows | None) -> Batch:
        """The input of the first block that trains, for rows of the store and their
        views.
        """


@dataclass(frozen=True)
class ExampleSet:
    """Some of the store's examples.

    Args:
        ids: (N,) sorted, so that the order they were listed in is forgotten.
        rows: (N,) their rows in the store.
        keys: (N,) what their randomness is counted by.
        targets: (N) opened; class indices (N,) where the targets are classes.
        units: (N,) what belongs together: examples of one unit are never held out from
            each other.
        shapes: (N,) a code for the shape of each.
    """

    ids: tuple[str, ...]
    rows: Rows
    keys: Keys
    targets: Targets
    units: tuple[str, ...]
    shapes: Rows

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def class_indices(self) -> torch.Tensor:
        """The targets (N,), int64, where they are classes."""
        import torch

        assert isinstance(self.targets, torch.Tensor)
        return self.targets

    @property
    def classes(self) -> Rows:
        """The class (N,) of each example; all the same where targets are no classes."""
        import numpy as np
        import torch

        if isinstance(self.targets, torch.Tensor):
            return self.targets.numpy()
        return np.zeros(len(self), np.int64)


@dataclass(frozen=True)
class FinetuneJob:
    """What all candidates of one fine-tuning share."""

    task: Task
    task_config: TaskConfig
    config: FinetuneConfig
    spec: InputSpec
    labels: tuple[str, ...]
    store: Store
    train: ExampleSet
    val: ExampleSet
    scratch: Path
    console: Console
    # Pretrained or not → the network, its head new.
    build: Callable[[bool], BlockedNetwork]
    # Of the network, as the task made it.
    design: Mapping[str, Any] = field(default_factory=dict)


class Piece(NamedTuple):
    """A part of a batch whose examples have one shape.

    Args:
        places: (n,) where its examples lie in the batch.
        x: their input (n, …).
    """

    places: Rows
    x: Batch


@dataclass(frozen=True)
class BatchSource:
    """Makes batches of one set of examples, as input of `blocks[start]`."""

    job: FinetuneJob
    examples: ExampleSet
    features: FeatureSource | None
    start: int

    def pieces(self, chosen: Rows, views: Rows | None) -> list[Piece]:
        """Input for some of the examples (positions), in pieces of one shape each; see
        `batch`.
        """
        shapes = self.examples.shapes[chosen]
        pieces = []
        for places in sampling.same_shape_batches(shapes, max(1, len(chosen))):
            shown = None if views is None else views[places]
            pieces.append(Piece(places, self.batch(chosen[places], shown)))
        return pieces

    def batch(self, chosen: Rows, views: Rows | None) -> Batch:
        """Input for some of the examples (positions) of one shape, each in its view, or
        plainly where `views` is None.

        Raises:
            TrainingError: an example cannot be loaded; names it.
        """
        try:
            return self._make(chosen, views)
        except ThawError:
            raise
        except Exception as fault:
            raise TrainingError(
                "loading a batch",
                found=f"{type(fault).__name__}: {fault}",
                expected="examples that can be read",
                hint="thaw run --force validate looks at every file again",
                details=self._culprits(chosen, views),
            ) from fault

    def _make(self, chosen: Rows, views: Rows | None) -> Batch:
        rows = self.examples.rows[chosen]
        if self.features is not None:
            return self.features.batch(rows, views)
        job = self.job
        decoded = job.store.batch(rows)
        return job.task.codec.prepare(
            decoded, job.spec, job.task_config, self._draws(chosen, views)
        )

    def targets(self, chosen: Rows, views: Rows | None) -> Targets:
        """The targets of some of the examples (positions), as they stand to the input
        that `batch` gives.
        """
        job = self.job
        draws = self._draws(chosen, views)
        return job.task.target_codec.place(
            self.examples.targets[chosen], job.spec, job.task_config, draws
        )

    def _draws(self, chosen: Rows, views: Rows | None) -> list[RandomDraw] | None:
        if views is None:
            return None
        draws: list[RandomDraw] = []
        for view, position in zip(views.tolist(), chosen.tolist(), strict=True):
            draws.append(
                RandomDraw(self.job.config.seed, view, self.examples.ids[position])
            )
        return draws

    def _culprits(self, chosen: Rows, views: Rows | None) -> list[str]:
        """Those of a failed batch that fail alone as well; all of them where none does."""
        broken = []
        for number in range(len(chosen)):
            single = slice(number, number + 1)
            view = None if views is None else views[single]
            try:
                self._make(chosen[single], view)
            except Exception as fault:
                identity = self.examples.ids[chosen[number]]
                broken.append(f"{identity}: {fault}")
        return broken or [self.examples.ids[position] for position in chosen.tolist()]


class LaterStage(NamedTuple):
    """What a later stage will train on.

    Args:
        boundary: index of the first block that it trains.
        turns: those of the running stage's that it may show again (see
            `feature_cache`); None: any.
    """

    boundary: int
    turns: frozenset[int] | None = None


class StageBatches(NamedTuple):
    """A stage's batches of the training and of the validation examples."""

    train: BatchSource
    val: BatchSource


def stage_batches(
    job: FinetuneJob,
    model: BlockedNetwork,
    scope: StageScope,
    plan: TrainingPlan,
    views: int | None,
    between: Callable[[], None],
    later: Sequence[LaterStage] = (),
) -> StageBatches:
    """A stage's batches, from the outputs of its frozen prefix where keeping them pays.

    Args:
        views: of the training examples; None: their plain presentation alone.
        between: called now and then while outputs are computed; may raise to end that.
        later: by their boundaries, ascending, all below this stage's: outputs up to
            there are kept on the way, where there is room for them too.
    """
    opener = _StoreOpener(job, model, plan, between)
    kept_views = _without_single(views)
    train = opener.open_source(job.train, kept_views, scope.boundary)
    val = opener.open_source(job.val, None, scope.boundary)
    if kept_views == _without_single(stages.count_views(job.config, scope)):
        # Later stages show the same ones.
        opener.begin_below(train, kept_views, later)
    opener.begin_below(val, None, later)
    return StageBatches(train, val)


def _without_single(views: int | None) -> int | None:
    """None, the plain presentation, where there is but one view: the first is plain."""
    return None if views == 1 else views


class _StoreOpener:
    """Opens stores of frozen prefixes' outputs, none of which drives out another."""

    def __init__(
        self,
        job: FinetuneJob,
        model: BlockedNetwork,
        plan: TrainingPlan,
        between: Callable[[], None],
    ) -> None:
        self._job = job
        self._model = model
        self._plan = plan
        self._between = between
        self._in_use: list[Path] = []
        self._weights: dict[int, str] = {}  # by the boundary above them

    def open_source(
        self, examples: ExampleSet, views: int | None, boundary: int
    ) -> BatchSource:
        """Batches as input of blocks[boundary], or of the first where outputs are not
        kept.
        """
        job = self._job
        by_shape: dict[int, FeatureStore] = {}
        for shape, rows in _rows_by_shape(examples).items():
            features = self._open(rows, views, boundary, job.console)
            if features is None:
                return BatchSource(job, examples, None, 0)
            by_shape[shape] = features
        stores = FeaturesByShape(job.store, by_shape)
        return BatchSource(job, examples, stores, boundary)

    def begin_below(
        self, source: BatchSource, views: int | None, later: Sequence[LaterStage]
    ) -> None:
        """Has a source's stores begin from those of lower blocks (ascending) that there
        is room for, and that will be read.
        """
        from pipeline.context import SilentConsole

        if not isinstance(source.features, FeaturesByShape):
            return
        for shape, rows in _rows_by_shape(source.examples).items():
            upper = source.features.stores[shape]
            for boundary, shown_turns in reversed(later):
                turns = None if views is None else shown_turns
                if turns is not None and not turns:
                    continue
                lower = self._open(rows, views, boundary, SilentConsole())
                if lower is not None:
                    upper.begin_from(lower, turns)
                    upper = lower

    def _open(
        self, rows: Rows, views: int | None, boundary: int, console: Console
    ) -> FeatureStore | None:
        from pipeline.training.feature_cache import FrozenPrefix, open_features

        job = self._job
        prefix = FrozenPrefix(
            model=self._model,
            boundary=boundary,
            store=job.store,
            rows=rows,
            task=job.task,
            spec=job.spec,
            task_config=job.task_config,
            seed=job.config.seed,
            views=views,
            plan=self._plan,
        )
        features = open_features(
            prefix,
            self._weights_below(boundary),
            job.scratch,
            console,
            self._between,
            self._in_use,
        )
        if features is not None:
            self._in_use.append(features.folder)
        return features

    def _weights_below(self, boundary: int) -> str:
        """What tells the weights of blocks[:boundary] apart."""
        from pipeline.training import fingerprint

        if not self._plan.feature_cache:
            return ""
        if boundary not in self._weights:
            prefix = tuple(block.name for block in self._model.blocks[:boundary])
            tensors = stages.block_tensors(self._model, prefix)
            self._weights[boundary] = digest(fingerprint.of_tensors(tensors))
        return self._weights[boundary]


def _rows_by_shape(examples: ExampleSet) -> dict[int, Rows]:
    """The store's rows by the code of their shape, the commonest first."""
    import numpy as np

    codes, counts = np.unique(examples.shapes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {int(code): examples.rows[examples.shapes == code] for code in codes[order]}


class FeaturesByShape:
    """A frozen prefix's outputs, kept apart for each shape.

    Args:
        stores: by the code of the shape.
    """

    def __init__(self, store: Store, stores: Mapping[int, FeatureStore]) -> None:
        self.stores = stores
        self._store = store

    def batch(self, rows: Rows, views: Rows | None) -> Batch:
        """The input of the first block that trains, for rows of one shape and their
        views.
        """
        shape_codes = self._store.shapes(rows[:1])
        code = int(shape_codes[0])
        return self.stores[code].batch(rows, views)


def select_examples(
    store: Store,
    ids: Sequence[str],
    targets: Targets,
    units: Sequence[str | None] | None = None,
) -> ExampleSet:
    """The examples of these ids (N) with their targets (N).

    Args:
        units: (N) what each belongs to; None: to nothing but itself.
    """
    import numpy as np

    row_of = {identity: number for number, identity in enumerate(store.ids)}
    order = sorted(range(len(ids)), key=lambda number: ids[number])
    sorted_ids = tuple(ids[number] for number in order)
    rows = np.array([row_of[identity] for identity in sorted_ids], np.int64)
    given_units: Sequence[str | None] = [None] * len(ids)
    if units is not None:
        given_units = units
    return ExampleSet(
        ids=sorted_ids,
        rows=rows,
        keys=sampling.keys(sorted_ids),
        targets=targets[np.array(order, np.int64)],
        units=tuple(given_units[number] or ids[number] for number in order),
        shapes=store.shapes(rows),
    )


def load_ahead(work: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """The results of `work` in its order, `workers` of them being made while one is
    used; 0 makes each when asked.
    """
    if not workers:
        yield from (piece() for piece in work)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="thaw-loader") as pool:
        try:
            for piece in work:
                waiting.append(pool.submit(piece))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
