"""Image classification: one image, one label of a closed set."""

from __future__ import annotations

from pipeline.tasks.base import Task
from pipeline.tasks.class_network import ClassNetwork
from pipeline.tasks.class_scorer import ClassScorer
from pipeline.tasks.image_classification.codec import ImageCodec
from pipeline.tasks.image_classification.display import ImageDisplay
from pipeline.tasks.image_classification.reader import ImageReader
from pipeline.tasks.image_classification.sample import ImageSample
from pipeline.tasks.image_classification.serving import ImageServing

NAME = "image-classification"

TASK = Task(
    name=NAME,
    reader=ImageReader(NAME),
    codec=ImageCodec(NAME),
    network=ClassNetwork("torchvision"),
    scorer=ClassScorer(),
    display=ImageDisplay(),
    serving=ImageServing,
    sample=ImageSample,
)
