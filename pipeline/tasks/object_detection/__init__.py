"""Object detection: an image, and a box and a class for each object in it."""

from __future__ import annotations

from pipeline.tasks.base import Task
from pipeline.tasks.canvas_codec import CanvasCodec
from pipeline.tasks.canvas_tiles import CanvasTiles
from pipeline.tasks.dense_network import DenseNetwork
from pipeline.tasks.image_classification.display import ImageDisplay
from pipeline.tasks.object_detection import network
from pipeline.tasks.object_detection.reader import DetectionReader
from pipeline.tasks.object_detection.sample import DetectionSample
from pipeline.tasks.object_detection.scorer import BoxScorer
from pipeline.tasks.object_detection.serving import BoxServing
from pipeline.tasks.object_detection.settings import USUAL_SIDE, detection_settings
from pipeline.tasks.object_detection.targets import BoxTargetCodec

NAME = "object-detection"
CODEC = CanvasCodec(NAME, detection_settings, USUAL_SIDE)

TASK = Task(
    name=NAME,
    reader=DetectionReader(NAME),
    codec=CODEC,
    network=DenseNetwork(
        CODEC.side,
        strides=network.STRIDES,
        kind=network.KIND,
        find_design=network.find_design,
        find_head=network.head_kind,
    ),
    scorer=BoxScorer(),
    display=ImageDisplay(),
    serving=BoxServing,
    sample=DetectionSample,
    target_codec=BoxTargetCodec(detection_settings),
    tiler=CanvasTiles(detection_settings),
)
