"""How long to train a detector or segmenter on few images: what an epoch of them is
too short for, more epochs make good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config import FinetuneConfig
from pipeline.tasks.base import SourceDescription
from pipeline.text import pluralize

if TYPE_CHECKING:
    from pipeline.modalities.image.annotations.described_source import DescribedSource

LEAST_STEPS = 300
MOST_EPOCHS = 100


def describe_annotated(
    described: DescribedSource, defaults: Mapping[str, Mapping[str, Any]]
) -> SourceDescription:
    """What annotated images were taken for, with the training that so many need.

    Args:
        defaults: of the task, by section of params.yaml.
    """
    finetune = defaults["finetune"]
    settings: dict[str, dict[str, Any]] = {"task": described.settings}
    usual = int(finetune["epochs"])
    steps = math.ceil(described.training_images / int(finetune["batch_size"]))
    epochs = find_epochs(steps, usual)
    if epochs == usual:
        return SourceDescription(settings, described.notes)
    patience = int(FinetuneConfig.model_fields["patience"].default)
    settings["finetune"] = {
        "epochs": epochs,
        "patience": math.ceil(patience * epochs / usual),
    }
    note = (
        f"training: {epochs} epochs instead of {usual}, since "
        f"{pluralize(described.training_images, 'image')} to train on make {pluralize(steps, 'step')} an epoch"
    )
    return SourceDescription(settings, (*described.notes, note))


def find_epochs(steps: int, usual: int) -> int:
    """As many epochs of so many steps as come to `LEAST_STEPS`: at least the usual
    ones, at most `MOST_EPOCHS`.
    """
    if not steps:
        return usual
    wanted = math.ceil(LEAST_STEPS / steps)
    return max(usual, min(wanted, MOST_EPOCHS))
