"""Small detectors and segmenters with random weights."""

from __future__ import annotations

from pipeline.models.providers.torchvision import dense_network
from pipeline.models.providers.torchvision.dense_network import TorchvisionDenseNetwork
from pipeline.tasks.object_detection import network as box_network
from pipeline.tasks.semantic_segmentation import network as pixel_network

SIDE = 64
BOXES = {
    "anchors": [8, 16, 24, 32],
    "ratios": [0.5, 1.0, 2.0],
    "pyramid_channels": 16,
    "hidden": 32,
    "proposals": [50, 20],
    "sampled_anchors": 32,
    "sampled_regions": 16,
    "detections": 10,
    "score_threshold": 0.0,
    "overlap_threshold": 0.5,
}


def segmenter(architecture: str, seed: int = 0) -> TorchvisionDenseNetwork:
    design = dense_network.find_design(architecture, SIDE, (4, 8, 16, 32))
    design["widths"] = [8] * len(design["maps"])
    return eval_network(
        dense_network.build_network(design, 3, pixel_network.head_kind(), seed=seed)
    )


def detector(architecture: str) -> TorchvisionDenseNetwork:
    design = {**dense_network.find_design(architecture, SIDE, (8, 16, 32)), **BOXES}
    return eval_network(
        dense_network.build_network(design, 2, box_network.head_kind(), seed=0)
    )


def eval_network(network: TorchvisionDenseNetwork) -> TorchvisionDenseNetwork:
    network.stock.eval()
    return network
