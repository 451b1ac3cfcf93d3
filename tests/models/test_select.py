"""Which blocks a stage's patterns name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.models.block_patterns import select_blocks

BLOCKS = ["conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "head"]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["head"], ["head"]),
        (["last:0"], ["head"]),
        (["last:2"], ["layer2.0", "layer2.1", "head"]),
        (["last:99"], BLOCKS),
        (["all"], BLOCKS),
        (["layer1*"], ["layer1.0", "layer1.1"]),
        (["layer?.0"], ["layer1.0", "layer2.0"]),
        (["head", "conv1", "layer2.[01]"], ["conv1", "layer2.0", "layer2.1", "head"]),
        (["head", "last:1", "head"], ["layer2.1", "head"]),
    ],
)
def test_patterns_name_blocks_in_the_networks_order(
    patterns: list[str], chosen: list[str]
) -> None:
    assert select_blocks(BLOCKS, patterns) == chosen


@pytest.mark.parametrize(
    "pattern", ["layer9*", "last:", "last:x", "last:-1", "Head", ""]
)
def test_a_pattern_that_matches_nothing_is_an_error_naming_the_blocks(
    pattern: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        select_blocks(BLOCKS, ["head", pattern])
    assert repr(pattern) in str(caught.value)
    assert all(name in str(caught.value) for name in BLOCKS)


def test_no_pattern_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no pattern"):
        select_blocks(BLOCKS, [])


def test_choosing_blocks_needs_no_torch() -> None:
    code = "import sys, pipeline.models.block_patterns, pipeline.models.fetch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
