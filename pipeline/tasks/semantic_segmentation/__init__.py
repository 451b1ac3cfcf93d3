"""Semantic segmentation: an image, and a class for each of its pixels."""

from __future__ import annotations

from pipeline.tasks.base import Task
from pipeline.tasks.canvas_codec import CanvasCodec
from pipeline.tasks.canvas_tiles import CanvasTiles
from pipeline.tasks.dense_network import DenseNetwork
from pipeline.tasks.image_classification.display import ImageDisplay
from pipeline.tasks.semantic_segmentation import network
from pipeline.tasks.semantic_segmentation.reader import SegmentationReader
from pipeline.tasks.semantic_segmentation.sample import SegmentationSample
from pipeline.tasks.semantic_segmentation.scorer import PixelScorer
from pipeline.tasks.semantic_segmentation.serving import PixelServing
from pipeline.tasks.semantic_segmentation.settings import segmentation_settings
from pipeline.tasks.semantic_segmentation.targets import MaskTargetCodec

NAME = "semantic-segmentation"
USUAL_SIDE = 256  # pixels of the canvas
CODEC = CanvasCodec(NAME, segmentation_settings, USUAL_SIDE)

TASK = Task(
    name=NAME,
    reader=SegmentationReader(NAME),
    codec=CODEC,
    network=DenseNetwork(
        CODEC.side,
        strides=network.STRIDES,
        kind=network.KIND,
        find_design=network.find_design,
        find_head=network.head_kind,
    ),
    scorer=PixelScorer(),
    display=ImageDisplay(),
    serving=PixelServing,
    sample=SegmentationSample,
    target_codec=MaskTargetCodec(),
    tiler=CanvasTiles(segmentation_settings),
)
