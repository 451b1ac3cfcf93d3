"""torchvision's detectors and segmenters whose published weights are used whole, all
but the layers that depend on classes.

A table: of which classifier's body each is made, from which of its layers the head
reads, what builds the head, and how torchvision's names of its tensors correspond to
those here (`body.…` by the classifier's names, `head.…`). Read from torchvision's own
builders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["detector", "segmenter"]

# A second head that torchvision trains with and does not answer by.
AUXILIARY = "aux_classifier."


class WholeNetwork(NamedTuple):
    """How a network of torchvision is put together.

    Args:
        kind: what it is.
        body: torchvision's name of the classifier that its body is.
        arguments: of the body's builder.
        maps: paths, in the classifier, of the layers that give the maps, in the order
            in which they are computed.
        head: what the head's builder needs beside the maps; see
            `pipeline.serving.pixel_head` and `box_head`.
        names: the beginnings of torchvision's names, and those here.
        class_weight: torchvision's name of a tensor that has a row for each class.
        side: of the pictures that the published weights were trained on, in pixels: the
            shorter one.
        arguments_of_whole: of the whole network's builder.
        norm_eps: what the body's batch normalisation adds to a variance; None: what the
            classifier's does.
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
    norm_eps: float | None = None

    def rename(self, name: str) -> str:
        """The name here of a tensor, by torchvision's."""
        for theirs, ours in self.names.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name


_NO_AUXILIARY = {"aux_loss": False}
_SEGMENTER_SIDE = 520


def _resnet_segmenter(body: str, last_map: str, head: str) -> WholeNetwork:
    """Output stride 8: the strides of the last two stages are replaced by dilation
    (Chen et al. 2017, section 3.1).
    """
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
    head: str,
    maps: tuple[str, ...],
    class_weight: str,
    arguments_of_whole: dict[str, Any],
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


# 0 would be refused where the batch's own statistics are used, as in training from
# scratch.
_NEARLY_NOTHING = 1e-10
_RATIOS = [0.5, 1.0, 2.0]
_SIZES = [32.0, 64.0, 128.0, 256.0, 512.0]


def _detector(
    body: str,
    prefix: str,
    maps: tuple[str, ...],
    anchors: Sequence[float | list[float]],
    side: int,
    *,
    norm_eps: float | None = None,
    convolutions: tuple[int, int] = (1, 0),
) -> WholeNetwork:
    """Faster R-CNN with a feature pyramid.

    torchvision's body has normalisations that neither move nor train; here they are the
    usual ones of the same values, so that it may be trained from scratch too, and
    whether statistics move is said by the stage.

    Args:
        prefix: of the body's names.
        anchors, convolutions: see `pipeline.serving.box_head.BoxHead`.
    """
    head: dict[str, Any] = {
        "anchors": list(anchors),
        "ratios": _RATIOS,
        "pyramid_channels": 256,
        "hidden": 1024,
        "convolutions": list(convolutions),
    }
    names = {
        "backbone.body.": prefix,
        "backbone.fpn.": "head.pyramid.",
        "rpn.head.": "head.rpn.head.",
        "roi_heads.": "head.regions.",
    }
    return WholeNetwork(
        kind="detector",
        body=body,
        arguments={},
        maps=maps,
        head=head,
        names=names,
        class_weight="roi_heads.box_predictor.cls_score.weight",
        side=side,
        arguments_of_whole={},
        norm_eps=norm_eps,
    )


def _resnet_detector(
    norm_eps: float | None, convolutions: tuple[int, int] = (1, 0)
) -> WholeNetwork:
    maps = ("layer1.2", "layer2.3", "layer3.5", "layer4.2")
    return _detector(
        "resnet50",
        "body.",
        maps,
        _SIZES,
        800,
        norm_eps=norm_eps,
        convolutions=convolutions,
    )


def _mobilenet_detector(side: int) -> WholeNetwork:
    """Both of its maps have stride 32, and every level anchors of all sizes."""
    anchors = [_SIZES] * 3
    return _detector(
        "mobilenet_v3_large",
        "body.features.",
        ("features.13", "features.16"),
        anchors,
        side,
        norm_eps=1e-5,
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
    # torchvision's fixed normalisation adds nothing to a variance here (`overwrite_eps`
    # in its builder).
    "fasterrcnn_resnet50_fpn": _resnet_detector(norm_eps=_NEARLY_NOTHING),
    "fasterrcnn_resnet50_fpn_v2": _resnet_detector(norm_eps=None, convolutions=(2, 4)),
    "fasterrcnn_mobilenet_v3_large_fpn": _mobilenet_detector(800),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _mobilenet_detector(320),
}


def list_names(kind: Kind) -> list[str]:
    """The names of all networks of a kind."""
    names = []
    for name, whole in WHOLE_NETWORKS.items():
        if whole.kind == kind:
            names.append(name)
    return names
