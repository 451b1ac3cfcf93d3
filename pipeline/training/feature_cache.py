"""A frozen prefix computed once: its output for each example and view, kept in a
memory-mapped file.

Views are counted so that in one epoch each example shows its own: example i shows view
(e + key(i)) mod V in epoch e. The store is therefore filled a *turn* at a time: turn t
holds, for every example, the view it shows in the epochs that are t mod V, and is
computed the first time any of it is asked for. So no view is computed that no epoch
shows, and never more than the epochs would have computed themselves.

The files are mapped for reading alone and written by calls: on a full disk these fail,
and what is not kept yet is computed each time.

What is stored must not depend on who asked first: a turn is computed in chunks of
`CHUNK` examples in the order of their ids, since the last bits of a matrix product
differ with the batch size.

Where a later stage will train from a lower block on, its store is filled on the way:
the upper store begins from the lower one's outputs, and no block is run twice.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import files, storage
from pipeline.config import ENGINE
from pipeline.records import digest
from pipeline.tasks.base import RandomDraw
from pipeline.tensors import Batch, TensorGroup, map_tensors
from pipeline.training import sampling
from pipeline.training.plan import TrainingPlan, autocast, to_input

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from pipeline.config_section import TaskConfig
    from pipeline.context import Console
    from pipeline.models.network import BlockedNetwork
    from pipeline.records import InputSpec
    from pipeline.tasks.base import Task
    from pipeline.training.batch_source import Store
    from pipeline.training.sampling import Rows

Mapped = np.memmap[Any, Any]

CHUNK = 32
READ_BYTES_PER_SECOND = 0.5e9  # what a disk surely gives; memory gives more
UNSAFE_BYTES = 64 * 2**20  # written at most before it is made sure that the disk has it
META = "meta.json"  # written last: a store without it was never whole
LAYOUT = 2  # of the files; raised where the same output is kept otherwise
SPARE_BYTES = 2**30  # disk that is always left to others


@dataclass(frozen=True)
class FrozenPrefix:
    """The frozen blocks and all that determines their input.

    Args:
        rows: (N,) the examples' rows in the store of decoded examples, in any order;
            all of one shape.
        views: how many augmented views each has; None: the plain presentation alone.
    """

    model: BlockedNetwork
    boundary: int
    store: Store
    rows: Rows
    task: Task
    spec: InputSpec
    task_config: TaskConfig
    seed: int
    views: int | None
    plan: TrainingPlan

    @cached_property
    def rows_by_id(self) -> Rows:
        """(N,) the rows in the order of the examples' ids."""
        ids = self.store.ids
        ordered = sorted(self.rows.tolist(), key=lambda row: ids[row])
        return np.array(ordered, np.int64)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """(N,) sorted."""
        ids = self.store.ids
        return tuple(ids[row] for row in self.rows_by_id.tolist())

    @cached_property
    def keys(self) -> sampling.Keys:
        """(N,) what the views of each are counted by."""
        return sampling.keys(self.ids)

    def __call__(self, chosen: slice, turn: int) -> Batch:
        """The prefix's output for some examples in one turn, on the CPU: (n, …)."""
        positions = np.arange(len(self.ids))[chosen]
        turns = np.full(len(positions), turn)
        return self.at(positions, turns)

    def at(self, positions: Rows, turns: Rows) -> Batch:
        """The prefix's output for examples (n,), each in its turn (n,), on the CPU: (n,
        …).
        """
        pixels = self.store.batch(self.rows_by_id[positions])
        x = self.task.codec.prepare(
            pixels, self.spec, self.task_config, self._draws(positions, turns)
        )
        return self.go_on(x, 0)

    def go_on(self, x: Batch, start: int) -> Batch:
        """The prefix's output for input of blocks[start], on the CPU: (n, …)."""
        import torch

        with self._evaluating(), torch.inference_mode(), autocast(self.plan):
            output = self.model.run(to_input(x, self.plan), start, self.boundary)
        return map_tensors(lambda tensor: tensor.cpu(), output)

    def is_kept_exactly(self) -> bool:
        """Whether the outputs are of the type that they are kept in."""
        if self.plan.precision == "fp32":
            return True
        output = self(slice(0, 1), 0)
        arrays = _arrays(output, self.plan)
        exact = True
        for name, tensor in _tensors(output).items():
            exact = exact and tensor.dtype == _tensor(arrays[name], self.plan).dtype
        return exact

    def _draws(self, positions: Rows, turns: Rows) -> list[RandomDraw] | None:
        if self.views is None:
            return None
        first = sampling.views(self.keys[positions], 0, self.views)
        views = (first + turns) % self.views
        draws: list[RandomDraw] = []
        for position, view in zip(positions.tolist(), views.tolist(), strict=True):
            draws.append(RandomDraw(self.seed, view, self.ids[position]))
        return draws

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The blocks in eval: what is kept must not hold one batch's statistics or one
        step's dropout.
        """
        modules: list[torch.nn.Module] = []
        for block in self.model.blocks[: self.boundary]:
            modules += [module for module in block.modules() if module.training]
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module in modules:
                module.training = True

    def key(self, weights: str) -> str:
        """What the outputs are determined by."""
        plan = self.plan
        arithmetic = (
            plan.precision,
            plan.memory_format,
            plan.threads,
            plan.compile,
            plan.fuse,
            plan.device,
            plan.torch,
            CHUNK,
            LAYOUT,
        )
        randomness = None if self.views is None else (self.seed, self.views)
        shown = (self.task.name, self.spec, self.task_config, randomness)
        return digest(
            ENGINE,
            self.model.architecture,
            weights,
            self.boundary,
            shown,
            self.ids,
            arithmetic,
        )


class ArrayLayout(NamedTuple):
    """How the outputs of one name are kept.

    Args:
        shape: (turns, N, …).
        dtype: float32, int16 for the bits of bfloat16, or that of the output where it
            holds whole numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        values = int(np.prod(self.shape))
        return values * self.dtype.itemsize


# By the tensor's name; "" where the prefix's output is one tensor alone.
Layouts = dict[str, ArrayLayout]


class Files:
    """The files of one store.

    Args:
        folder: holds a file for each layout and `done`, in their full sizes.

    Attributes:
        data: name → (turns, N, …) memory-mapped for reading.
        done: (turns, chunks), 1 where a chunk is computed and on the disk.

    Raises:
        OSError: one of them cannot be opened to be read and written.
        ValueError: it is of another size.
    """

    def __init__(self, folder: Path, layouts: Layouts) -> None:
        self.folder = folder
        self.data: dict[str, Mapped] = {}
        self._data_files: dict[str, storage.PositionedFile] = {}
        for name, layout in layouts.items():
            path = folder / _file_name(name)
            self.data[name] = np.memmap(path, layout.dtype, "r", shape=layout.shape)
            self._data_files[name] = storage.PositionedFile(path)
        turns, examples = _turns_and_examples(layouts)
        flags = np.fromfile(folder / "done", np.uint8)
        self.done = flags.reshape(turns, _chunks(examples))
        self.examples = examples
        self.bytes_per_example = sum(
            int(data[0, :1].nbytes) for data in self.data.values()
        )
        self._done_file = storage.PositionedFile(folder / "done")

    def write(self, turn: int, first: int, values: dict[str, NDArray[Any]]) -> None:
        """Writes outputs (n, …) of the examples from `first` on; raises OSError where
        the disk is full.
        """
        examples_before = turn * self.examples + first
        for name, array in values.items():
            bytes_each = self.data[name][0, :1].nbytes
            offset = examples_before * bytes_each
            self._data_files[name].write(array, offset)

    def flag(self, turn: int, chunks: list[int]) -> None:
        """Flags chunks as computed once their data are surely on the disk; raises
        OSError where they are not.
        """
        for file in self._data_files.values():
            file.sync()
        flags = self.done[turn].copy()
        flags[chunks] = 1
        self._done_file.write(flags, turn * len(flags))
        self._done_file.sync()
        self.done[turn] = flags


class FeatureStore:
    """Inputs of `blocks[boundary]` for the rows it was opened with; see the module's
    docstring.

    Args:
        between: called between chunks; what it raises ends the computing, and nothing
            computed is lost.
        folder: where the files lie.
    """

    def __init__(
        self,
        prefix: FrozenPrefix,
        files: Files,
        console: Console,
        between: Callable[[], None],
    ) -> None:
        self.folder = files.folder
        self._prefix = prefix
        self._files = files
        self._console = console
        self._between = between
        self._lower: FeatureStore | None = None
        self._kept_turns: Collection[int] | None = None  # on the way; None: all
        self._filling = threading.Lock()
        self._written: dict[int, list[int]] = {}  # turn → chunks not flagged yet
        self._refused = False  # by the disk
        self._order = np.argsort(prefix.rows_by_id, kind="stable")
        self._sorted_rows = prefix.rows_by_id[self._order]

    def begin_from(
        self, lower: FeatureStore, turns: Collection[int] | None = None
    ) -> None:
        """Computes from the outputs of another store from now on, and has it keep them;
        does nothing where what it keeps is less exact than what was computed.

        Args:
            lower: of the same examples and views, with fewer blocks.
            turns: those that it keeps; None: all.
        """
        if lower._prefix.is_kept_exactly():
            self._lower = lower
            lower._kept_turns = turns

    def batch(self, rows: Rows, views: Rows | None) -> Batch:
        """Features (n, …) of rows of the decoded store in these views, float32 or
        bfloat16 as they were computed.
        """
        positions = self._order[np.searchsorted(self._sorted_rows, rows)]
        turns = self._turns(positions, views)
        for turn in np.unique(turns).tolist():
            if not self._fill(turn):
                return self._computed(positions, turns)
        return self._read(turns, positions)

    def _read(self, turns: Rows, positions: Rows) -> Batch:
        """Copies, which blocks may write into."""
        tensors = {}
        for name, data in self._files.data.items():
            tensors[name] = _tensor(data[turns, positions], self._prefix.plan)
        return _output(tensors)

    def _computed(self, positions: Rows, turns: Rows) -> Batch:
        """The same without the files, but for the last bits of another batch size."""
        output = self._prefix.at(positions, turns)
        plan = self._prefix.plan
        arrays = _arrays(output, plan)
        return _output({name: _tensor(array, plan) for name, array in arrays.items()})

    def _turns(self, positions: Rows, views: Rows | None) -> Rows:
        count = self._prefix.views
        if count is None or views is None:
            return np.zeros(len(positions), np.int64)
        first = sampling.views(self._prefix.keys[positions], 0, count)
        return (views - first) % count

    def _fill(self, turn: int) -> bool:
        """Computes what is missing of a turn; False where the disk does not take it."""
        with self._filling:  # loader threads may ask at once
            missing = np.flatnonzero(self._files.done[turn] == 0).tolist()
            if not missing:
                return True
            if self._refused:
                return False
            try:
                self._compute_all(turn, missing)
            except storage.Refused as fault:
                self._refused = True
                self._console.progress(self._what(turn), 1, 1)
                reason = storage.describe(fault.reason, self._files.folder)
                self._console.info(
                    f"features: {reason}; what is not kept yet is computed each time"
                )
            return not self._refused

    def _compute_all(self, turn: int, chunks: list[int]) -> None:
        """Raises storage.Refused where the disk does not take them; what it took before
        is kept.
        """
        try:
            for chunk in chunks:
                self._between()
                self._keep(turn, chunk, self._compute(turn, chunk))
                seen = self._examples_of(chunk).stop
                self._console.progress(self._what(turn), seen, self._files.examples)
        except BaseException:
            with suppress(storage.Refused):
                self._settle()
            raise
        self._settle()

    def _chunk(self, turn: int, chunk: int) -> Batch:
        """The outputs of a chunk in a turn, kept from now on where they will be asked
        for again and the disk takes them.
        """
        with self._filling:
            if self._files.done[turn, chunk]:
                chosen = self._examples_of(chunk)
                positions = np.arange(chosen.start, chosen.stop)
                return self._read(np.full_like(positions, turn), positions)
            output = self._compute(turn, chunk)
            is_kept = self._kept_turns is None or turn in self._kept_turns
            if is_kept and not self._refused:
                try:
                    self._keep(turn, chunk, output)
                except storage.Refused:
                    self._refused = True
            return output

    def _compute(self, turn: int, chunk: int) -> Batch:
        lower = self._lower
        if lower is None:
            return self._prefix(self._examples_of(chunk), turn)
        return self._prefix.go_on(lower._chunk(turn, chunk), lower._prefix.boundary)

    def _keep(self, turn: int, chunk: int, output: Batch) -> None:
        """Raises storage.Refused where the disk does not take it."""
        values = _arrays(output, self._prefix.plan)
        with storage.refusals():
            self._files.write(turn, self._examples_of(chunk).start, values)
        chunks = self._written.setdefault(turn, [])
        chunks.append(chunk)
        if len(chunks) * CHUNK * self._files.bytes_per_example >= UNSAFE_BYTES:
            self._settle()

    def _examples_of(self, chunk: int) -> slice:
        first = chunk * CHUNK
        return slice(first, min(first + CHUNK, self._files.examples))

    def _what(self, turn: int) -> str:
        views = self._prefix.views
        if views is None:
            return "features"
        return f"features, {turn + 1} of {views} views"

    def _settle(self) -> None:
        """Flags what was written; raises storage.Refused where the disk did not take it
        after all.
        """
        if self._lower is not None:
            with self._lower._filling, suppress(storage.Refused):
                self._lower._settle()
        written, self._written = self._written, {}
        for turn, chunks in written.items():
            with storage.refusals():
                self._files.flag(turn, chunks)


def open_features(
    prefix: FrozenPrefix,
    weights: str,
    scratch: Path,
    console: Console,
    between: Callable[[], None] = lambda: None,
    in_use: Collection[Path] = (),
) -> FeatureStore | None:
    """The store of a prefix's outputs; None, having said why, where keeping them would
    not pay or fit.

    Args:
        weights: fingerprint of those of the frozen blocks.
        scratch: the workspace's `.thaw`; the files lie under `features/`.
        between: called between chunks of computing, now and later, in whatever thread
            computes; it may raise.
        in_use: folders of stores that must stay, whatever room this one takes.
    """
    if not prefix.plan.feature_cache or not prefix.boundary or not len(prefix.rows):
        return None
    folder = scratch / "features" / prefix.key(weights)[:32]
    opened = _reopen(folder)
    if opened is None:
        opened = _create(folder, prefix, console, in_use)
    if opened is None:
        return None
    return FeatureStore(prefix, opened, console, between)


def _reopen(folder: Path) -> Files | None:
    """The files of a store that was made before; None where there is none or it is
    damaged.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        layouts = {}
        for name, entry in meta["arrays"].items():
            layouts[name] = ArrayLayout(tuple(entry["shape"]), np.dtype(entry["dtype"]))
        for name, size in _sizes(layouts).items():
            if (folder / name).stat().st_size != size:
                return None
        files.mark_used(folder / META)
        return Files(folder, layouts)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _file_name(name: str) -> str:
    return f"data.{name}" if name else "data"


def _turns_and_examples(layouts: Layouts) -> tuple[int, int]:
    first = next(iter(layouts.values()))
    turns, examples = first.shape[:2]
    return turns, examples


def _sizes(layouts: Layouts) -> dict[str, int]:
    """Bytes of each file of a store."""
    turns, examples = _turns_and_examples(layouts)
    sizes = {_file_name(name): layout.size for name, layout in layouts.items()}
    sizes["done"] = turns * _chunks(examples)
    return sizes


def _chunks(examples: int) -> int:
    return -(-examples // CHUNK)


def _create(
    folder: Path, prefix: FrozenPrefix, console: Console, in_use: Collection[Path]
) -> Files | None:
    example, seconds = _probe(prefix)
    turns = prefix.views or 1
    examples = len(prefix.ids)
    layouts: Layouts = {}
    for name, array in _arrays(example, prefix.plan).items():
        layouts[name] = ArrayLayout((turns, examples, *array.shape[1:]), array.dtype)
    wanted = sum(layout.size for layout in layouts.values())
    each = wanted // (turns * examples)
    if not prefix.plan.feature_cache_always and seconds < each / READ_BYTES_PER_SECOND:
        console.info(
            f"features: computed each time; {each / 1e6:.1f} MB an example take as long to read as the "
            f"{1e3 * seconds:.1f} ms to compute them"
        )
        return None
    try:
        refusal = _make_room(
            folder.parent, wanted, prefix.plan.feature_cache_gb, in_use
        )
        if not refusal:
            return _lay(folder, layouts)
    except OSError as fault:
        refusal = storage.describe(fault, folder)
        shutil.rmtree(folder, ignore_errors=True)
    console.info(f"features: computed each time; {refusal}")
    return None


def _lay(folder: Path, layouts: Layouts) -> Files:
    """New files, which take disk only as they are filled; `meta.json` last, so that
    with it they are whole.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, size in _sizes(layouts).items():
        with (folder / name).open("wb") as stream:
            stream.truncate(size)
    arrays = {}
    for name, layout in layouts.items():
        arrays[name] = {"shape": layout.shape, "dtype": layout.dtype.name}
    files.replace_text(folder / META, json.dumps({"arrays": arrays}))
    files.mark_used(folder / META)
    return Files(folder, layouts)


def _probe(prefix: FrozenPrefix) -> tuple[Batch, float]:
    """One example's output, and the seconds an example takes."""
    if not prefix.plan.fuse:  # then it has run already, and its kernels are chosen
        prefix(slice(0, 1), 0)
    began = time.perf_counter()
    output = prefix(slice(0, 1), 0)
    return output, time.perf_counter() - began


def _make_room(
    folder: Path, wanted: int, limit_gb: float, in_use: Collection[Path]
) -> str:
    """Removes stores, least recently used first, until `wanted` bytes fit; returns why
    they cannot, or "".
    """
    limit = int(limit_gb * 1e9)
    wanted_now = wanted + sum(_unwritten_bytes(store) for store in in_use)
    needed = wanted + sum(files.folder_size(store) for store in in_use)
    if needed > limit:
        return f"{needed / 1e9:.1f} GB is over finetune.plan.feature_cache_gb: {limit_gb:g}"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for meta in folder.glob(f"*/{META}"):
        size = files.folder_size(meta.parent)
        entries.append(files.CacheEntry((meta.parent,), files.used_ns(meta), size))
    files.evict_least_recently_used(
        entries,
        lambda held: held + wanted <= limit and _free(folder) >= wanted_now,
        keep=in_use,
    )
    if _free(folder) >= wanted_now:
        return ""
    spare = f"{SPARE_BYTES / 1e6:,.0f} MB stay free"
    return f"they take {wanted_now / 1e6:,.1f} MB; {storage.room(folder)}, of which {spare}"


def _unwritten_bytes(store: Path) -> int:
    """What a store's files will still take of the disk."""
    unwritten = 0
    for path in store.iterdir():
        status = path.stat()
        unwritten += max(0, status.st_size - 512 * status.st_blocks)
    return unwritten


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free - SPARE_BYTES


def _arrays(output: Batch, plan: TrainingPlan) -> dict[str, NDArray[Any]]:
    """A prefix's output as it is kept, by name."""
    return {name: _array(tensor, plan) for name, tensor in _tensors(output).items()}


def _tensors(output: Batch) -> dict[str, torch.Tensor]:
    """A prefix's output by name; "" where it is one tensor alone."""
    return dict(output.tensors) if isinstance(output, TensorGroup) else {"": output}


def _output(tensors: dict[str, torch.Tensor]) -> Batch:
    """What `_tensors` took apart."""
    return tensors[""] if "" in tensors else TensorGroup(tensors)


def _array(tensor: torch.Tensor, plan: TrainingPlan) -> NDArray[Any]:
    """A tensor as it is kept: in the plan's memory format, so that no layer has to turn
    it around each time it is read.
    """
    import torch

    if _is_turned(tensor.ndim, plan):
        tensor = tensor.movedim(1, -1)
    if not tensor.is_floating_point():
        return tensor.numpy()
    if plan.precision == "bf16":
        return tensor.bfloat16().contiguous().view(torch.int16).numpy()
    return tensor.float().numpy()


def _tensor(array: NDArray[Any], plan: TrainingPlan) -> torch.Tensor:
    """What `_array` made an array of; whole numbers of 16 bits are the bits of
    bfloat16.
    """
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.dtype == torch.int16:
        tensor = tensor.view(torch.bfloat16)
    if _is_turned(tensor.ndim, plan):
        return tensor.movedim(-1, 1)
    return tensor


def _is_turned(dimensions: int, plan: TrainingPlan) -> bool:
    """Whether a tensor lies with its channels behind height and width."""
    return dimensions == 4 and plan.memory_format == "channels-last"
