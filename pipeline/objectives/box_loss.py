"""The loss of a detector: region proposals and box classification (Ren et al. 2015,
section 3.1.2).

Every picture's loss is normalised by what was sampled of it alone, so that a batch may
be cut anywhere; what is sampled follows from the seed that comes with the picture's
target, so that no batch, worker or interruption changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.objectives.box_targets import BoxTargets, PictureBoxes

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork
    from pipeline.serving.box_head import BoxHead, Proposals
    from pipeline.tensors import Batch

# Of a place, on an object that does not count, for it to stand for the background.
MOST_IGNORED = 0.5
# Of the L1 loss of a box, in the scale of its deltas, as in torchvision.
SMOOTHNESS = 1 / 9


class BoxLoss:
    """The four losses of Faster R-CNN, summed over pictures."""

    def total_weight(self, targets: BoxTargets) -> float:
        """The number of pictures."""
        return float(len(targets))

    def __call__(
        self, model: BlockedNetwork, x: Batch, start: int, targets: BoxTargets
    ) -> Tensor:
        """The summed loss of some pictures.

        Args:
            targets: as they lie on the network's input.
        """
        network: Any = model
        head: BoxHead = network.head
        proposals = head.propose(network.maps(x, start))
        device = proposals.objectness.device
        truths = [_place(picture, device) for picture in targets.pictures]
        generators = [_start_generator(picture.seed) for picture in targets.pictures]
        first = _proposal_loss(head, proposals, truths, generators)
        return first + _region_loss(head, proposals, truths, generators)


class _Truth:
    """A picture's boxes (M, 4) and classes (M,), the background being class 0; and the
    boxes (I, 4) that do not count.
    """

    def __init__(self, boxes: Tensor, labels: Tensor, ignored: Tensor) -> None:
        self.boxes = boxes
        self.labels = labels
        self.ignored = ignored

    def is_background(self, labels: Tensor, places: Tensor) -> Tensor:
        """Of places (A, 4) with assigned labels (A,), those to learn the background
        from: none that lies on an object that does not count.
        """
        background = labels == 0
        if not len(self.ignored):
            return background
        return background & (_share_within(places, self.ignored) < MOST_IGNORED)

    def as_torchvision(self) -> dict[str, Tensor]:
        return {"boxes": self.boxes, "labels": self.labels}


def _place(picture: PictureBoxes, device: torch.device) -> _Truth:
    trained = picture.trained
    ignored_boxes = picture.boxes[picture.ignored]
    boxes = torch.from_numpy(trained.boxes).to(device)
    labels = torch.from_numpy(trained.labels).to(device)
    ignored = torch.from_numpy(ignored_boxes).to(device)
    return _Truth(boxes, labels + 1, ignored)


def _share_within(places: Tensor, boxes: Tensor) -> Tensor:
    """The largest share (A,) of each place (A, 4) that lies within one of the boxes (I,
    4).
    """
    top_left = torch.maximum(places[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(places[:, None, 2:], boxes[None, :, 2:])
    shared_sides = (bottom_right - top_left).clamp_min(0)
    sides = (places[:, 2:] - places[:, :2]).clamp_min(0)
    largest_shared = shared_sides.prod(dim=2).amax(dim=1)
    areas = sides.prod(dim=1)
    return largest_shared / areas.clamp_min(1e-6)


def _start_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _proposal_loss(
    head: BoxHead,
    proposals: Proposals,
    truths: list[_Truth],
    generators: list[torch.Generator],
) -> Tensor:
    """Is there something at an anchor, and where exactly."""
    rpn = head.rpn
    stated = [truth.as_torchvision() for truth in truths]
    labels, matched = rpn.assign_targets_to_anchors(proposals.anchors, stated)
    wanted = rpn.box_coder.encode(matched, proposals.anchors)
    count = len(truths)
    objectness = proposals.objectness.view(count, -1)
    deltas = proposals.deltas.view(count, -1, 4)
    total = objectness.sum() * 0
    for number in range(count):
        background = truths[number].is_background(
            labels[number], proposals.anchors[number]
        )
        positive, chosen = _sample(
            labels[number] >= 1,
            background,
            _limits(rpn.fg_bg_sampler),
            generators[number],
        )
        if not len(chosen):  # nothing of the picture counts
            continue
        total = total + functional.binary_cross_entropy_with_logits(
            objectness[number][chosen], labels[number][chosen].float()
        )
        total = total + _box_distance(
            deltas[number][positive], wanted[number][positive], len(chosen)
        )
    return total


def _region_loss(
    head: BoxHead,
    proposals: Proposals,
    truths: list[_Truth],
    generators: list[torch.Generator],
) -> Tensor:
    """Which class a proposed region is, and where exactly its object lies."""
    regions = head.regions
    # What is there is proposed as well, so that there is always something right to
    # learn from.
    boxes = []
    for proposed, truth in zip(proposals.boxes, truths, strict=True):
        boxes.append(torch.cat([proposed, truth.boxes]))
    matched, labels = regions.assign_targets_to_proposals(
        boxes, [truth.boxes for truth in truths], [truth.labels for truth in truths]
    )
    sampled: list[Tensor] = []
    classes: list[Tensor] = []
    wanted: list[Tensor] = []
    limits = _limits(regions.fg_bg_sampler)
    for number, truth in enumerate(truths):
        background = truth.is_background(labels[number], boxes[number])
        _, chosen = _sample(labels[number] >= 1, background, limits, generators[number])
        sampled.append(boxes[number][chosen])
        classes.append(labels[number][chosen])
        wanted.append(_matched_boxes(truth, matched[number][chosen]))
    targets = regions.box_coder.encode(wanted, sampled)
    logits, deltas = head.classify(proposals.levels, sampled)
    return _sum_region_losses(logits, deltas, classes, targets)


def _sum_region_losses(
    logits: Tensor, deltas: Tensor, classes: list[Tensor], targets: list[Tensor]
) -> Tensor:
    """The losses of all pictures' regions.

    Args:
        logits, deltas: of all regions, picture after picture.
        classes, targets: of the regions of each picture.
    """
    counts = [len(of_picture) for of_picture in classes]
    total = logits.sum() * 0
    logits_by_picture = torch.split(logits, counts)
    deltas_by_picture = torch.split(deltas, counts)
    for number, own_classes in enumerate(classes):
        if not len(own_classes):
            continue
        total = total + functional.cross_entropy(logits_by_picture[number], own_classes)
        total = total + _class_box_distance(
            deltas_by_picture[number], own_classes, targets[number]
        )
    return total


def _matched_boxes(truth: _Truth, matched: Tensor) -> Tensor:
    """The boxes (R, 4) that regions were matched to; in a picture without any, none is
    asked about them.
    """
    if not len(truth.boxes):
        return truth.boxes.new_zeros((len(matched), 4))
    return truth.boxes[matched]


def _class_box_distance(deltas: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Of the deltas (R, 4 · classes), those of the right class are asked, where there
    is an object.
    """
    objects = torch.where(classes > 0)[0]
    by_class = deltas.view(len(classes), -1, 4)
    return _box_distance(
        by_class[objects, classes[objects]], wanted[objects], len(classes)
    )


def _box_distance(found: Tensor, wanted: Tensor, sampled: int) -> Tensor:
    summed = functional.smooth_l1_loss(found, wanted, beta=SMOOTHNESS, reduction="sum")
    return summed / max(1, sampled)


def _limits(sampler: Any) -> tuple[int, int]:
    """How many are sampled of a picture in all, and how many of them at most with an
    object.
    """
    total = int(sampler.batch_size_per_image)
    return total, int(total * sampler.positive_fraction)


def _sample(
    positive: Tensor,
    negative: Tensor,
    limits: tuple[int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Positions of some of the positives, and of these and some negatives.

    Args:
        positive, negative: (A,) whether each is one.
        limits: how many in all, and how many positives.
    """
    total, most_positive = limits
    chosen_positive = _choose(positive, most_positive, generator)
    chosen_negative = _choose(negative, total - len(chosen_positive), generator)
    return chosen_positive, torch.cat([chosen_positive, chosen_negative])


def _choose(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    places = torch.where(candidates)[0]
    order = torch.randperm(len(places), generator=generator)
    chosen = order[:most].to(places.device)
    return places[chosen]
