"""Text classification: one text, or a pair of texts, and one label of a closed set."""

from __future__ import annotations

from pipeline.tasks.base import Task
from pipeline.tasks.class_network import ClassNetwork
from pipeline.tasks.class_scorer import ClassScorer
from pipeline.tasks.text_classification.codec import TextCodec
from pipeline.tasks.text_classification.display import TextDisplay
from pipeline.tasks.text_classification.explainer import TextExplainer
from pipeline.tasks.text_classification.reader import TextReader
from pipeline.tasks.text_classification.sample import TextSample
from pipeline.tasks.text_classification.serving import TextServing

TASK = Task(
    name="text-classification",
    reader=TextReader(),
    codec=TextCodec(),
    network=ClassNetwork("transformers"),
    scorer=ClassScorer(),
    display=TextDisplay(),
    serving=TextServing,
    sample=TextSample,
    explainer=TextExplainer,
)
