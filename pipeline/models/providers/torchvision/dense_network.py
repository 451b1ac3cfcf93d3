"""A network with an answer for every place of a picture: a classifier's body, and a
head that reads several of its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipeline.models import weights
from pipeline.models.block_patterns import HEAD, NECK
from pipeline.models.network import Block, ClassRows
from pipeline.models.providers.torchvision import feature_maps, torchvision_models
from pipeline.models.providers.torchvision.feature_maps import BodyBlock, FeatureMap
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.serving.feature_maps import builder_arguments
from pipeline.tensors import Batch, TensorGroup

# Among what crosses from block to block: what the last step gave, where that is no map.
CURRENT = "current"
LEVEL = "level"  # and its number: what a neck gave
BODY = "body."


class DenseModule(nn.Module):
    """What is saved: the body's weights as `body.…` by torchvision's names, the head's
    as `head.…`.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head


class HeadKind(NamedTuple):
    """What differs between heads.

    Args:
        make: from classes and design to the head.
        find_answer: from the head to what makes the network's output of what the head
            reads.
        find_neck: from the head to what makes that of the body's maps; None where the
            head reads them as they are.
        neck: where the neck's tensors are in the head; it is a block of its own where
            it is pretrained.
    """

    make: Callable[[int, Mapping[str, Any]], nn.Module]
    find_answer: Callable[[nn.Module], Callable[[Sequence[Tensor]], Tensor]]
    find_neck: (
        Callable[[nn.Module], Callable[[Sequence[Tensor]], list[Tensor]]] | None
    ) = None
    neck: str = ""


def _split_head(stock: DenseModule, kind: HeadKind, *, neck_apart: bool) -> list[Block]:
    """The blocks behind the body."""
    if not neck_apart:
        return [Block(HEAD, stock, ["head"])]
    head_parts = []
    for name, _ in stock.head.named_children():
        if name != kind.neck:
            head_parts.append(f"head.{name}")
    return [Block(NECK, stock, [f"head.{kind.neck}"]), Block(HEAD, stock, head_parts)]


class TorchvisionDenseNetwork:
    """A body and a head, run block by block; see
    `pipeline.models.network.BlockedNetwork`.

    What crosses from block to block is one tensor up to the first map, and from there
    the maps so far and what the last block gave, by names: a later block, or the head,
    reads them. Behind a neck it is what the neck made of the maps.

    Args:
        architecture: torchvision's name of the body's classifier, or of the whole
            network.
        classes: number of classes.
        stock: what is saved.
        maps: of the body, from fine to coarse.
        kind: of the head.
        neck_apart: whether the neck is a block of its own instead of a part of the
            head.
    """

    def __init__(
        self,
        architecture: str,
        classes: int,
        stock: DenseModule,
        maps: Sequence[FeatureMap],
        kind: HeadKind,
        *,
        neck_apart: bool,
    ) -> None:
        self.architecture = architecture
        self.classes = classes
        self.stock: nn.Module = stock
        self.stock_kwargs: dict[str, Any] = {}
        self.head = stock.head
        self.class_rows = _find_class_rows(stock.head)
        self._maps = list(maps)
        self._answer = kind.find_answer(stock.head)
        self._neck = None if kind.find_neck is None else kind.find_neck(stock.head)
        self._body: list[BodyBlock] = feature_maps.split_body(
            stock.body, maps, stock, BODY
        )
        self.blocks: list[Block] = [
            *self._body,
            *_split_head(stock, kind, neck_apart=neck_apart),
        ]

    @property
    def names(self) -> list[str]:
        """The blocks' names from input to output; the last is "head"."""
        return [block.name for block in self.blocks]

    def forward(self, x: Batch) -> Batch:
        return self.run(x)

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Batch:
        """Applies blocks[start:stop] to pictures (N, 3, S, S), or to what blocks[start
        - 1] gave.
        """
        first, end, _ = slice(start, stop).indices(len(self.blocks))
        if end == len(self.blocks):
            return self._answer(self.maps(x, first))
        if end > len(self._body):
            return TensorGroup(
                {
                    f"{LEVEL}{number}": level
                    for number, level in enumerate(self.maps(x, first))
                }
            )
        return self._pass_on(self._run_body(x, first, end))

    def maps(self, x: Batch, start: int = 0) -> list[Tensor]:
        """The maps (N, C, H, W) that the head reads, from fine to coarse, of what
        blocks[start - 1] gave: the body's, or what the neck makes of them.
        """
        if start > len(self._body):
            assert isinstance(x, TensorGroup)
            return [x.tensors[f"{LEVEL}{number}"] for number in range(len(x.tensors))]
        maps = self._body_maps(x, start)
        if self._neck is None:
            return maps
        return self._neck(maps)

    def _body_maps(self, x: Batch, start: int) -> list[Tensor]:
        live = self._run_body(x, start, len(self._body))
        map_tensors = []
        for feature_map in self._maps:
            values = live[feature_map.path]
            if feature_map.channels_last:
                values = values.permute(0, 3, 1, 2)
            map_tensors.append(values)
        return map_tensors

    def outputs(
        self, x: Batch, start: int = 0
    ) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Applies blocks[start:]; there is no auxiliary classifier."""
        maps = self.maps(x, start)
        return self._answer(maps), []

    def fuse(
        self, x: Batch, stops: Sequence[int], *, activations: bool = False
    ) -> None:
        """Nothing: maps are taken between operations that would be joined."""

    def unfuse(self) -> None:
        """Nothing; see `fuse`."""

    def compile_blocks(self) -> None:
        """Nothing: what takes the time is the head, whose shapes follow from what it
        finds.
        """

    def _run_body(self, x: Batch, start: int, stop: int) -> dict[str, Tensor]:
        """What is there after blocks[start:stop] of the body: the maps so far and,
        where that is no map, what the last step gave.
        """
        live = self._take_up(x, start)
        for block in self._body[start:stop]:
            if CURRENT in live:
                current = live.pop(CURRENT)
            else:
                current = self._latest(live)
            for mapped in block.steps:
                current = mapped.step.call(current)
                if mapped.map is not None:
                    live[mapped.map.path] = current
            if not block.ends_in_map:
                live[CURRENT] = current
        return live

    def _latest(self, live: Mapping[str, Tensor]) -> Tensor:
        """The coarsest map so far, which the next block goes on from; later steps must
        not write into it.
        """
        paths = [feature_map.path for feature_map in self._maps]
        live_paths = [path for path in paths if path in live]
        return live[live_paths[-1]]

    def _take_up(self, x: Batch, start: int) -> dict[str, Tensor]:
        """What blocks[start - 1] gave, by name."""
        if isinstance(x, TensorGroup):
            return dict(x.tensors)
        if start and self._body[start - 1].ends_in_map:
            return {self._maps[0].path: x}
        return {CURRENT: x}

    def _pass_on(self, live: dict[str, Tensor]) -> Batch:
        if len(live) == 1:
            return next(iter(live.values()))
        return TensorGroup(live)


def _find_class_rows(head: nn.Module) -> dict[str, ClassRows]:
    """Which rows of the head's tensors belong to classes, by their names in the whole
    network.
    """
    stated: Mapping[str, tuple[int, int]] = getattr(head, "class_rows", {})
    class_rows = {}
    for name, (first, each) in stated.items():
        class_rows[f"head.{name}"] = ClassRows(first, each)
    return class_rows


def find_design(architecture: str, side: int, strides: Sequence[int]) -> dict[str, Any]:
    """What rebuilds a body: `architecture`, `arguments` of torchvision's builder, and
    its `maps`, as JSON holds them.

    Raises:
        ConfigError: the architecture does not exist, has no such maps, or cannot be
            built for that side.
    """
    maps = _choose_maps(architecture, side, tuple(strides))
    return {
        "architecture": architecture,
        "arguments": torchvision_models.find_stock_kwargs(architecture, side),
        "side": side,
        "maps": [feature_map._asdict() for feature_map in maps],
    }


# To find the maps, a network is built and walked through, which takes a third of a
# second; a run asks for the same several times.
@lru_cache(maxsize=32)
def _choose_maps(
    architecture: str, side: int, strides: tuple[int, ...]
) -> tuple[FeatureMap, ...]:
    arguments = torchvision_models.find_stock_kwargs(architecture, side)
    classifier = torchvision_models.build_stock(
        architecture, 1, arguments, meta=True
    ).eval()
    return tuple(feature_maps.choose_maps(architecture, classifier, side, strides))


def find_whole_design(architecture: str, side: int) -> dict[str, Any]:
    """What rebuilds one of torchvision's detectors or segmenters: as `find_design`
    gives it, with `network`, torchvision's name of the whole, and what its head needs.

    Raises:
        ConfigError: a picture of that side is too small for it.
    """
    maps = _read_whole_maps(architecture, side)
    return {
        **_describe_whole_body(architecture, side),
        "maps": [feature_map._asdict() for feature_map in maps],
        **WHOLE_NETWORKS[architecture].head,
    }


def _describe_whole_body(architecture: str, side: int) -> dict[str, Any]:
    whole = WHOLE_NETWORKS[architecture]
    design = {
        "network": architecture,
        "architecture": whole.body,
        "arguments": whole.arguments,
        "side": side,
    }
    if whole.norm_eps is not None:
        design["norm_eps"] = whole.norm_eps
    return design


@lru_cache(maxsize=32)
def _read_whole_maps(architecture: str, side: int) -> tuple[FeatureMap, ...]:
    design = _describe_whole_body(architecture, side)
    body = build_body(design, meta=True).eval()
    paths = WHOLE_NETWORKS[architecture].maps
    return tuple(feature_maps.read_maps(architecture, body, side, paths))


def build_body(
    design: Mapping[str, Any], *, meta: bool = False, seed: int = 0
) -> nn.Module:
    """The classifier that a design's body is, with random weights; see
    `torchvision_models.build_stock`.
    """
    return torchvision_models.build_stock(
        str(design["architecture"]), 1, builder_arguments(design), meta=meta, seed=seed
    )


def read_maps(design: Mapping[str, Any]) -> list[FeatureMap]:
    """A design's maps."""
    maps = []
    for values in design["maps"]:
        maps.append(FeatureMap(**values))
    return maps


def build_network(
    design: Mapping[str, Any], classes: int, kind: HeadKind, *, seed: int
) -> TorchvisionDenseNetwork:
    """A network with random weights; the global random state stays as it is.

    Args:
        design: as `find_design` or `find_whole_design` gives it, and what the head
            needs.
        kind: of the head.
        seed: of the random weights.
    """
    architecture = str(design.get("network", design["architecture"]))
    body = build_body(design, seed=seed)
    with torchvision_models.seed_generator(seed):
        head = kind.make(classes, design)
    stock = DenseModule(body, head)
    neck_apart = "network" in design and kind.find_neck is not None
    return TorchvisionDenseNetwork(
        architecture, classes, stock, read_maps(design), kind, neck_apart=neck_apart
    )


def load_pretrained(network: TorchvisionDenseNetwork, source: Path) -> None:
    """Gives the body a classifier's weights; the classifier's own last layers are left
    out.

    Raises:
        BackboneError: a name is missing or of another shape, or the file cannot be
            read.
    """
    published = weights.read_weights(source).state
    body = network.stock.get_submodule("body")
    wanted = body.state_dict()
    state = {name: published[name] for name in wanted if name in published}
    torchvision_models.fill_network(body, state, str(source))


def load_finetuned(network: TorchvisionDenseNetwork, path: Path) -> None:
    """Gives the network exactly the weights that were saved.

    Raises:
        BackboneError: the file is not that of this network.
    """
    torchvision_models.fill_network(
        network.stock, weights.read_weights(path).state, str(path)
    )
