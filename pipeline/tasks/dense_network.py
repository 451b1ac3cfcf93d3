"""A network that answers for places of a picture, shared by detection and segmentation:
a classifier's body under a new head, or one of torchvision's detectors or segmenters
under new last layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import BackboneConfig
    from pipeline.config_section import TaskConfig
    from pipeline.models.network import BlockedNetwork
    from pipeline.models.providers.torchvision.dense_network import HeadKind
    from pipeline.models.providers.torchvision.whole_networks import Kind
    from pipeline.records import BackboneRecord, CandidateRecord, InputSpec


FindDesign = Callable[
    ["pa.Table", Sequence[str], "InputSpec", "TaskConfig", "BackboneRecord"],
    dict[str, Any],
]


class DenseNetwork:
    """The Network of boxes or masks.

    Args:
        find_side: from the task's settings to the canvas's pixels a side.
        strides: of the maps that a new head can read.
        kind: what of torchvision's may be used whole.
        find_design: what the body and the head are built from, by the training
            examples, the labels, the input, the task's settings and the backbone.
        find_head: how the head is built and asked.
    """

    def __init__(
        self,
        find_side: Callable[[TaskConfig], int],
        *,
        strides: Sequence[int],
        kind: Kind,
        find_design: FindDesign,
        find_head: Callable[[], HeadKind],
    ) -> None:
        self._find_side = find_side
        self._strides = strides
        self._kind = kind
        self._find_design = find_design
        self._find_head = find_head

    def check_backbone(self, backbone: BackboneConfig, task: TaskConfig) -> str:
        """The strides of the maps that the head reads, or that the backbone is used
        whole, in words; no weights are read.

        Raises:
            ConfigError: the backbone is no network for pictures, has no such maps, or
                answers otherwise.
        """
        from pipeline.models.providers.torchvision import backbones

        _require_torchvision(backbone.name)
        architecture = backbones.find_architecture(backbone)
        side = self._find_side(task)
        design = _find_design(architecture, side, self._strides, self._kind)
        if "network" in design:
            return f"all of {architecture} but the layers that depend on classes"
        there = [str(one["stride"]) for one in design["maps"]]
        return "feature maps at strides " + ", ".join(there)

    def design(
        self,
        train: pa.Table,
        labels: Sequence[str],
        spec: InputSpec,
        task: TaskConfig,
        backbone: BackboneRecord,
    ) -> dict[str, Any]:
        """The body's maps and the head's sizes; of a whole network, its own.

        Raises:
            ConfigError: the backbone has no such maps, or answers otherwise.
        """
        return self._find_design(train, labels, spec, task, backbone)

    def build(
        self,
        backbone: BackboneRecord,
        labels: Sequence[str],
        *,
        design: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> BlockedNetwork:
        """The network with the backbone's weights, all but those of new layers, or with
        random ones.
        """
        from pipeline.models.providers.torchvision import dense_network, whole_weights

        assert design is not None  # as `design` made it
        network = dense_network.build_network(
            design, len(labels), self._find_head(), seed=seed
        )
        if not pretrained:
            return network
        if "network" in design:
            whole_weights.load_pretrained(network, backbone.weights)
        else:
            dense_network.load_pretrained(network, backbone.weights)
        return network

    def load(self, candidate: CandidateRecord) -> BlockedNetwork:
        """The network of a finished candidate with its weights."""
        from pipeline.models.providers.torchvision import dense_network

        network = dense_network.build_network(
            candidate.design, len(candidate.labels), self._find_head(), seed=0
        )
        dense_network.load_finetuned(network, candidate.model)
        return network


def find_body_design(
    backbone: BackboneRecord, spec: InputSpec, strides: Sequence[int], kind: Kind
) -> dict[str, Any]:
    """What rebuilds the body, and of a network that is used whole the head, which
    `network` then names; see `pipeline.models.providers.torchvision.dense_network`.

    Args:
        strides, kind: as for `DenseNetwork`.

    Raises:
        ConfigError: the backbone is no network for pictures, has no such maps, or
            answers otherwise.
    """
    from pipeline.records import image_spec

    _require_torchvision(backbone.name)
    return _find_design(backbone.architecture, image_spec(spec).size, strides, kind)


def _find_design(
    architecture: str, side: int, strides: Sequence[int], kind: Kind
) -> dict[str, Any]:
    from pipeline.models.providers.torchvision import dense_network, whole_networks

    whole = whole_networks.WHOLE_NETWORKS.get(architecture)
    if whole is None:
        return dense_network.find_design(architecture, side, strides)
    if whole.kind != kind:
        raise ConfigError(
            f"backbone.name: torchvision/{architecture}",
            found=f"a {whole.kind} of torchvision",
            expected=f"one of its classifiers, or a {kind}",
            hint="choose one of "
            + ", ".join(
                [*whole_networks.list_names(kind), "torchvision/resnet50 and the like"]
            ),
        )
    return dense_network.find_whole_design(architecture, side)


def _require_torchvision(name: str) -> None:
    provider, _, _ = name.partition("/")
    if provider != "torchvision":
        raise ConfigError(
            "backbone.name",
            found=name,
            expected="a network of torchvision",
            hint="choose one, such as torchvision/resnet50",
        )
