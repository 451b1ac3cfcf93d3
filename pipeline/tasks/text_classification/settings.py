"""Settings of text classification: its section of params.yaml."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pipeline.config_section import TaskConfig
from pipeline.modalities.text.settings import TextInputConfig, TextIntakeConfig


class TextClassificationConfig(TaskConfig):
    name: Literal["text-classification"] = "text-classification"
    """the kind of problem"""
    intake: TextIntakeConfig = TextIntakeConfig()
    input: TextInputConfig = TextInputConfig()

    # Rates and epochs: those by which a six-layer encoder did best on SST-2. Word
    # vectors are half of its parameters, take a third of a step and hardly move. Short
    # texts are labelled twice in most sets, and not alike. Six bits is what rewordings
    # of a sentence stay within, and others do not.
    defaults: ClassVar[dict[str, dict[str, Any]]] = {
        "data": {"conflicts": "quarantine"},
        "split": {"near_duplicates": 6},
        "backbone": {"name": "transformers/sentence-transformers/all-MiniLM-L6-v2"},
        "finetune": {
            "recipes": ["full"],
            "epochs": 2,
            "lr": 1e-3,
            "body_lr": 2e-4,
            "lr_decay": 0.9,
            "frozen": ["word_embeddings"],
            "scratch_lr": 3e-4,
            "views": 1,
            "label_smoothing": 0.0,
        },
    }


def text_settings(task: TaskConfig) -> TextClassificationConfig:
    """A task's settings as those of text classification, which they are wherever this
    task's parts are used.
    """
    assert isinstance(task, TextClassificationConfig)
    return task
