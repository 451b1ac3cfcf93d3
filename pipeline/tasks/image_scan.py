"""The scan of image files, shared by the tasks that have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.examples import ExampleFault, ListedExample, MeasuredExample

if TYPE_CHECKING:
    from pipeline.context import Console
    from pipeline.modalities.image.settings import ImageIntakeConfig


def scan_images(
    root: Path,
    examples: Sequence[ListedExample],
    intake: ImageIntakeConfig,
    task_name: str,
    scratch: Path,
    console: Console,
) -> Mapping[str, MeasuredExample | ExampleFault]:
    """Decodes and measures every image file once; see
    `pipeline.tasks.base.Reader.scan_examples`.

    Args:
        task_name: part of the key of what is remembered.
    """
    from pipeline.config import ENGINE
    from pipeline.data.scan import scan
    from pipeline.data.scan_cache import ScanCache
    from pipeline.modalities.image import measurement
    from pipeline.records import digest

    paths = sorted({example.path for example in examples})
    measure = partial(measurement.measure_image, root, intake=intake)
    cache = ScanCache(scratch / "scan", digest(ENGINE, task_name, intake))
    return scan(root, paths, measure, cache, console)
