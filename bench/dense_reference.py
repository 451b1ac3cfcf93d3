"""Some training steps as torchvision's reference script for detection takes them, and
the same at Thaw's resolution.

python bench/dense_reference.py CONTENDER WORKSPACE SCRATCH RESULT.json --threads N
[--quick]

Faster R-CNN with a feature pyramid by torchvision's own builders, with their defaults
(256 channels, 2,000 proposals, 512 regions), fp32, SGD with momentum, batches of 2,
flips; pictures resized to 800 pixels, or 320. What is measured is processor's seconds a
picture; it is not trained to an end, which takes hours. The contenders:

reference-800, reference-320    mobilenet_v2; the builder's default takes two feature
                                maps, both of stride 32
reference-800-pyramid           mobilenet_v2 with four maps of strides 4 to 32, those of
                                the paper on feature pyramids (Lin et al. 2017, section 3)
reference-800-resnet50          the script's own fasterrcnn_resnet50_fpn, four maps too
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _mobilenet_extractor

from pipeline.records import SplitRecord
from pipeline.steps.run import load_record
from pipeline.workspace import Workspace

BATCH, STEPS = 2, 6
# Places in the builder's list of strided blocks: strides 4, 8, 16 and 32.
PYRAMID = [1, 2, 3, 4]
ANCHORS = ((32,), (64,), (128,), (256,), (512,))


def build(contender: str, classes: int) -> FasterRCNN:
    """The network of a contender, with all layers trainable and random weights."""
    side = int(contender.split("-")[1])
    sizes = {"min_size": side, "max_size": 1333 if side == 800 else side}
    if contender == "reference-800-resnet50":
        return fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=classes + 1, **sizes
        )
    body = torchvision.models.mobilenet_v2(weights=None)
    maps = PYRAMID if contender == "reference-800-pyramid" else None
    backbone = _mobilenet_extractor(
        body, fpn=True, trainable_layers=6, returned_layers=maps
    )
    levels = len(backbone.fpn.inner_blocks) + 1
    anchors = AnchorGenerator(ANCHORS[:levels], ((0.5, 1.0, 2.0),) * levels)
    return FasterRCNN(backbone, classes + 1, rpn_anchor_generator=anchors, **sizes)


def batches(
    workspace: Workspace, count: int
) -> list[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Pictures as they are, with their boxes."""
    split = load_record(workspace, "split")
    assert isinstance(split, SplitRecord)
    rows = pq.read_table(split.manifest).to_pylist()
    rows = [row for row in rows if row["split"] == "train"][: BATCH * count]
    data = workspace.root / workspace.config().data.path
    found = []
    for start in range(0, len(rows), BATCH):
        images, targets = [], []
        for row in rows[start : start + BATCH]:
            pixels = np.array(Image.open(data / row["path"]).convert("RGB"))
            images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
            boxes = json.loads(row["target"])["boxes"]
            labels = [split.labels.index(one["label"]) + 1 for one in boxes]
            targets.append(
                {
                    "boxes": torch.tensor([one["box"] for one in boxes]).float(),
                    "labels": torch.tensor(labels),
                }
            )
        found.append((images, targets))
    return found


def main() -> None:
    name, root, left = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[4])
    torch.set_num_threads(int(sys.argv[sys.argv.index("--threads") + 1]))
    steps = 1 if "--quick" in sys.argv else STEPS
    workspace = Workspace(root)
    classes = len(load_record(workspace, "split").labels)  # type: ignore[attr-defined]
    model = build(name, classes).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4
    )
    work = batches(workspace, steps + 1)
    cpu_seconds = []
    for images, targets in work:
        began = time.process_time()
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        cpu_seconds.append((time.process_time() - began) / len(images))
    left.write_text(
        json.dumps(
            {"cpu_seconds_a_picture": float(np.median(cpu_seconds[1:])), "steps": steps}
        )
    )


if __name__ == "__main__":
    main()
