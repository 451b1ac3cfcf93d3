"""Boxes on their way to the loss: laid on the canvas once, and moved with every view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.records import image_spec

if TYPE_CHECKING:
    from pipeline.config_section import TaskConfig
    from pipeline.context import Console
    from pipeline.modalities.image.settings import CanvasSettings
    from pipeline.objectives.base import Targets
    from pipeline.objectives.box_targets import BoxTargets
    from pipeline.records import InputSpec
    from pipeline.tasks.base import RandomDraw, StoreLimits


class BoxTargetCodec:
    """The TargetCodec of boxes.

    Args:
        settings: the task's settings as far as they concern pictures.
    """

    def __init__(self, settings: Callable[[TaskConfig], CanvasSettings]) -> None:
        self._settings = settings

    def open(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        data: Path,
        limits: StoreLimits,
        console: Console,
    ) -> BoxTargets:
        """The boxes on the canvas."""
        from pipeline.modalities.image.canvas import lay_boxes
        from pipeline.objectives.box_targets import BoxTargets

        assert isinstance(targets, BoxTargets)
        return BoxTargets(
            lay_boxes(picture, image_spec(spec)) for picture in targets.pictures
        )

    def place(
        self,
        targets: Targets,
        spec: InputSpec,
        task: TaskConfig,
        draws: Sequence[RandomDraw] | None,
    ) -> BoxTargets:
        from pipeline.modalities.image.canvas import move_boxes
        from pipeline.objectives.box_targets import BoxTargets

        assert isinstance(targets, BoxTargets)
        if draws is None:
            return targets
        augment = self._settings(task).augment
        moved = []
        for picture, draw in zip(targets.pictures, draws, strict=True):
            moved.append(move_boxes(picture, image_spec(spec), augment, draw))
        return BoxTargets(moved)
