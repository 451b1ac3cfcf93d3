"""torchvision's detectors and segmenters whose published weights are used whole, all but the layers that depend on classes.

A table: of which classifier's body each is made, from which of its layers the head reads, what builds the head, and how
torchvision's names of its tensors correspond to those here (`body.…` by the classifier's names, `head.…`). Read from
torchvision's own builders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["detector", "segmenter"]

AUXILIARY = "aux_classifier."  # a second head that torchvision trains with and does not answer by


class WholeNetwork(NamedTuple):
    """How a network of torchvision is put together.

    Args:
        kind: what it is.
        body: torchvision's name of the classifier that its body is.
        arguments: of the body's builder.
        maps: paths, in the classifier, of the layers that give the maps, in the order in which they are computed.
        head: what the head's builder needs beside the maps; see `pipeline.serving.pixel_head`.
        names: the beginnings of torchvision's names, and those here.
        class_weight: torchvision's name of a tensor that has a row for each class.
        side: of the pictures that the published weights were trained on, in pixels: the shorter one.
        arguments_of_whole: of the whole network's builder.
    """

    kind: Kind
    body: str
    arguments: dict[str, Any]
    maps: tuple[str, ...]
    head: dict[str, Any]
    names: dict[str, str]
    class_weight: str
    side: int
    arguments_of_whole: dict[str, Any]

    def rename(self, name: str) -> str:
        """The name here of a tensor, by torchvision's."""
        for theirs, ours in self.names.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name


_NO_AUXILIARY = {"aux_loss": False}
_SEGMENTER_SIDE = 520


def _resnet_segmenter(body: str, last_map: str, head: str) -> WholeNetwork:
    """Output stride 8: the strides of the last two stages are replaced by dilation (Chen et al. 2017, section 3.1)."""
    return WholeNetwork(
        kind="segmenter",
        body=body,
        arguments={"replace_stride_with_dilation": [False, True, True]},
        maps=(last_map,),
        head={"head": head},
        names={"backbone.": "body.", "classifier.": "head.classifier."},
        class_weight="classifier.4.weight",
        side=_SEGMENTER_SIDE,
        arguments_of_whole=_NO_AUXILIARY,
    )


def _mobilenet_segmenter(
    head: str, maps: tuple[str, ...], class_weight: str, arguments_of_whole: dict[str, Any]
) -> WholeNetwork:
    """Output stride 16 (Howard et al. 2019, section 6.4)."""
    return WholeNetwork(
        kind="segmenter",
        body="mobilenet_v3_large",
        arguments={"dilated": True},
        maps=maps,
        head={"head": head},
        names={"backbone.": "body.features.", "classifier.": "head.classifier."},
        class_weight=class_weight,
        side=_SEGMENTER_SIDE,
        arguments_of_whole=arguments_of_whole,
    )


WHOLE_NETWORKS: Mapping[str, WholeNetwork] = {
    "deeplabv3_resnet50": _resnet_segmenter("resnet50", "layer4.2", "deeplab"),
    "deeplabv3_resnet101": _resnet_segmenter("resnet101", "layer4.2", "deeplab"),
    "deeplabv3_mobilenet_v3_large": _mobilenet_segmenter(
        "deeplab", ("features.16",), "classifier.4.weight", _NO_AUXILIARY
    ),
    "fcn_resnet50": _resnet_segmenter("resnet50", "layer4.2", "fcn"),
    "fcn_resnet101": _resnet_segmenter("resnet101", "layer4.2", "fcn"),
    "lraspp_mobilenet_v3_large": _mobilenet_segmenter(
        "lraspp", ("features.4", "features.16"), "classifier.low_classifier.weight", {}
    ),
}


def list_names(kind: Kind) -> list[str]:
    """The names of all networks of a kind."""
    return [name for name, whole in WHOLE_NETWORKS.items() if whole.kind == kind]
