"""The head of a detector: feature pyramid, region proposals and box classification,
made of torchvision's parts.

Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017). Whether it trains
or answers is a matter of which method is called, never of a module's mode: all parts
keep the same numbers of proposals in both.

Its names are such that the tensors of torchvision's published Faster R-CNNs fit: see
the design's `convolutions`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import (
    FeaturePyramidNetwork,
    LastLevelMaxPool,
)

ANSWER_VALUES = 6  # of a box: left, top, right, bottom, score, class
NO_BOX = -1.0  # the score of an unused place among the answers
POOLED = 7  # cells a side of a region's features
ONE_CONVOLUTION = (1, 0)  # where anchors are judged, and none where regions are


class Proposals(NamedTuple):
    """What the first half of the head says.

    Args:
        levels: of the pyramid (N, C, H, W), by name.
        anchors: of each picture (A, 4), in pixels.
        objectness: (N · A, 1) logits.
        deltas: (N · A, 4) from anchors to boxes.
        boxes: proposals of each picture (P, 4), in pixels.
    """

    levels: dict[str, Tensor]
    anchors: list[Tensor]
    objectness: Tensor
    deltas: Tensor
    boxes: list[Tensor]


class BoxHead(nn.Module):
    """Feature maps in, boxes out.

    Args:
        classes: number of classes, without the background.
        design: `side` of the input in pixels; `maps`, each with its `channels`;
            `pyramid_channels`; `hidden` units of the box classifier; `anchors`: side or
            sides in pixels of each level's, one level more than maps; `ratios` of their
            height to their width; `proposals` a picture before and after suppression;
            `sampled_anchors` and `sampled_regions` of a picture in a training step;
            `detections` a picture at most; `score_threshold` and `overlap_threshold` of
            an answer; and optionally `convolutions`, how many there are where anchors
            and where regions are judged, with batch normalisation in the pyramid and
            the latter (Li et al. 2021, section 3).
    """

    def __init__(self, classes: int, design: Mapping[str, Any]) -> None:
        super().__init__()
        self.side = int(design["side"])
        self.hidden = int(design["hidden"])
        self.detections = int(design["detections"])
        inputs = [int(feature_map["channels"]) for feature_map in design["maps"]]
        names = [str(number) for number in range(len(inputs))]
        self.level_names = [*names, "pool"]  # as the pyramid calls them
        _, region_depth = design.get("convolutions", ONE_CONVOLUTION)
        norm = nn.BatchNorm2d if region_depth else None
        channels = int(design["pyramid_channels"])
        self.pyramid = FeaturePyramidNetwork(
            inputs, channels, LastLevelMaxPool(), norm_layer=norm
        )
        self.rpn = _build_proposals(design)
        self.regions = _build_regions(classes, names, design)

    # Rows of each tensor that belong to classes: how many come before the first class,
    # the background's, and how many each class has. A warm start matches them by name.
    class_rows: ClassVar[dict[str, tuple[int, int]]] = {
        "regions.box_predictor.cls_score.weight": (1, 1),
        "regions.box_predictor.cls_score.bias": (1, 1),
        "regions.box_predictor.bbox_pred.weight": (4, 4),
        "regions.box_predictor.bbox_pred.bias": (4, 4),
    }

    def merge(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid's levels (N, C, H, W) of the body's maps (N, C, H, W), both from
        fine to coarse.
        """
        named = OrderedDict()
        for number, feature_map in enumerate(maps):
            named[str(number)] = feature_map
        merged = self.pyramid(named)
        return list(merged.values())

    def propose(self, levels: Sequence[Tensor]) -> Proposals:
        """The first half: where something may be.

        Args:
            levels: as `merge` gives them.
        """
        levels = list(levels)
        objectness, deltas = self.rpn.head(levels)
        images = self._images(len(levels[0]), levels[0].device)
        anchors = self.rpn.anchor_generator(images, levels)
        per_level = [scores[0].numel() for scores in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        # In fp32: half precision rounds coordinates to whole pixels and more.
        flat_objectness = flat_objectness.float()
        flat_deltas = flat_deltas.float()
        decoded = self.rpn.box_coder.decode(flat_deltas.detach(), anchors)
        by_image = decoded.view(len(anchors), -1, 4)
        boxes, _ = self.rpn.filter_proposals(
            by_image, flat_objectness, images.image_sizes, per_level
        )
        named = dict(zip(self.level_names, levels, strict=True))
        return Proposals(named, anchors, flat_objectness, flat_deltas, boxes)

    def classify(
        self, levels: dict[str, Tensor], boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The second half: class logits (R, classes + 1), the background first, and
        deltas (R, 4 · (classes + 1)) of all pictures' regions, in fp32.
        """
        sizes = [(self.side, self.side)] * len(boxes)
        pooled = self.regions.box_roi_pool(levels, boxes, sizes)
        if len(pooled):
            features = self.regions.box_head(pooled)
        else:  # of which a normalisation would compute statistics
            features = pooled.new_zeros((0, self.hidden))
        logits, deltas = self.regions.box_predictor(features)
        return logits.float(), deltas.float()

    def detect(self, levels: Sequence[Tensor]) -> Tensor:
        """The answers (N, detections, 6) to the pyramid's levels: left, top, right,
        bottom in pixels of the input, score, class; best first, and `NO_BOX` as the
        score of what is left over.
        """
        proposals = self.propose(levels)
        logits, deltas = self.classify(proposals.levels, proposals.boxes)
        sizes = [(self.side, self.side)] * len(proposals.boxes)
        boxes, scores, labels = self.regions.postprocess_detections(
            logits, deltas, proposals.boxes, sizes
        )
        answers = logits.new_full((len(boxes), self.detections, ANSWER_VALUES), NO_BOX)
        for number, (corners, score, label) in enumerate(
            zip(boxes, scores, labels, strict=True)
        ):
            values = torch.cat(
                [corners, score[:, None], (label[:, None] - 1).to(corners.dtype)], dim=1
            )
            answers[number, : len(values)] = values
        return answers

    def _images(self, count: int, device: torch.device) -> ImageList:
        """What torchvision's parts ask of the input: its size alone."""
        pixel = torch.empty(1, device=device)
        empty = pixel.expand(count, 3, self.side, self.side)
        size = (self.side, self.side)
        return ImageList(empty, [size] * count)


def _build_proposals(design: Mapping[str, Any]) -> RegionProposalNetwork:
    anchors = _build_anchors(design)
    depth, _ = design.get("convolutions", ONE_CONVOLUTION)
    before, after = design["proposals"]
    return RegionProposalNetwork(
        anchors,
        RPNHead(
            int(design["pyramid_channels"]),
            anchors.num_anchors_per_location()[0],
            conv_depth=depth,
        ),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=int(design["sampled_anchors"]),
        positive_fraction=0.5,
        pre_nms_top_n={"training": before, "testing": before},
        post_nms_top_n={"training": after, "testing": after},
        nms_thresh=0.7,
    )


def _build_regions(
    classes: int, levels: list[str], design: Mapping[str, Any]
) -> RoIHeads:
    """What judges the regions that are cut out of the levels of these names."""
    channels = int(design["pyramid_channels"])
    hidden = int(design["hidden"])
    _, depth = design.get("convolutions", ONE_CONVOLUTION)
    if depth:
        box_head: nn.Module = FastRCNNConvFCHead(
            (channels, POOLED, POOLED),
            [channels] * depth,
            [hidden],
            norm_layer=nn.BatchNorm2d,
        )
    else:
        box_head = TwoMLPHead(channels * POOLED**2, hidden)
    return RoIHeads(
        MultiScaleRoIAlign(levels, output_size=POOLED, sampling_ratio=2),
        box_head,
        FastRCNNPredictor(hidden, classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=int(design["sampled_regions"]),
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=float(design["score_threshold"]),
        nms_thresh=float(design["overlap_threshold"]),
        detections_per_img=int(design["detections"]),
    )


def _build_anchors(design: Mapping[str, Any]) -> AnchorGenerator:
    sizes = []
    for level in design["anchors"]:
        sides = level if isinstance(level, list) else [level]
        sizes.append(tuple(float(side) for side in sides))
    ratios = tuple(float(ratio) for ratio in design["ratios"])
    return AnchorGenerator(tuple(sizes), (ratios,) * len(sizes))
