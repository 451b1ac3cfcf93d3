"""Small detectors and segmenters with random weights."""

from __future__ import annotations

from pipeline.models.providers.torchvision import dense_network
from pipeline.models.providers.torchvision.dense_network import DenseNetwork
from pipeline.serving.box_head import BoxHead
from pipeline.serving.pixel_head import PixelHead

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


def segmenter(architecture: str, seed: int = 0) -> DenseNetwork:
    design = dense_network.find_design(architecture, SIDE, (4, 8, 16, 32))
    design["widths"] = [8] * len(design["maps"])
    return eval_network(dense_network.build_network(design, 3, PixelHead, lambda head: head, seed=seed))


def detector(architecture: str) -> DenseNetwork:
    design = {**dense_network.find_design(architecture, SIDE, (8, 16, 32)), **BOXES}
    return eval_network(dense_network.build_network(design, 2, BoxHead, lambda head: head.detect, seed=0))  # type: ignore[arg-type, return-value]


def eval_network(network: DenseNetwork) -> DenseNetwork:
    network.stock.eval()
    return network
