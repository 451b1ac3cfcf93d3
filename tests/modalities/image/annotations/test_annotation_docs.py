"""docs/annotated-images.md says what the code does: its codes and its settings are the
real ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipeline.modalities.image import annotations
from pipeline.modalities.image.annotations.settings import (
    AnnotationConfig,
    MaskConfig,
    MaskValues,
)

REPOSITORY = Path(__file__).parents[4]
GUIDE = (REPOSITORY / "docs" / "annotated-images.md").read_text(encoding="utf-8")
RAISED = re.compile(
    r"(?:AnnotationError|ExampleError|_fault|ExampleFault|_refuse)\((?:[^\"()]*,)?\s*\"([a-z-]+)\""
)
# Of files that cannot be opened at all, whatever is in them: as with every other file.
OF_ANY_FILE = {"unreadable", "not-a-file", "too-large", "too-many-pixels"}


def documented_codes() -> set[str]:
    """What stands in the first column of the tables of faults."""
    faults = GUIDE.partition("## What becomes of a fault")[2]
    cells = re.findall(r"^\| (`[^|]*) \|", faults, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([a-z-]+)`", cell)}


def test_every_fault_is_documented_and_every_documented_one_is_raised() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for path in Path(annotations.__path__[0]).glob("*.py")
    ]
    raised = {code for source in sources for code in RAISED.findall(source)}
    assert raised - OF_ANY_FILE == documented_codes()


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"task\.(annotations|masks)\.(\w+)", GUIDE))
    sections = {"annotations": AnnotationConfig, "masks": MaskConfig}
    assert named
    assert all(name in sections[section].model_fields for section, name in named)


@pytest.mark.parametrize("line", re.findall(r"(classes: \{.*?\})", GUIDE))
def test_every_example_of_values_is_accepted(line: str) -> None:
    assert MaskValues.model_validate(yaml.safe_load(line))
