"""Which blocks a stage trains: patterns over block names. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.errors import ConfigError

HEAD = "head"
NECK = "neck"  # between body and head, where it is pretrained as well
EXPECTED = "head, last:n, all, or a pattern such as layer4*"
_NAMES_PER_LINE = 8


def select_blocks(blocks: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The blocks that any of the patterns names, in the network's order.

    Args:
        blocks: all block names from input to output, the last one "head".
        patterns: `head`, `last:n` (the last n blocks and the head), `all`, or a
            shell-style pattern.

    Raises:
        ConfigError: a pattern matches nothing, or there is none; the network's blocks
            are listed.
    """
    if not patterns:
        raise ConfigError(
            "train", found="no pattern", expected=EXPECTED, details=_list_names(blocks)
        )
    chosen: set[str] = set()
    for pattern in patterns:
        chosen.update(_match_pattern(blocks, pattern))
    return [name for name in blocks if name in chosen]


def _match_pattern(blocks: Sequence[str], pattern: str) -> Sequence[str]:
    if pattern == "all":
        return blocks
    kind, _, number = pattern.partition(":")
    if kind == "last" and number.isdecimal():
        count = int(number) + 1
        return blocks[-count:]
    matches = [name for name in blocks if fnmatchcase(name, pattern)]
    if not matches:
        raise ConfigError(
            f"train: {pattern!r}",
            found="no block of that name",
            expected=EXPECTED,
            hint="name one of these blocks",
            details=_list_names(blocks),
        )
    return matches


def _list_names(blocks: Sequence[str]) -> list[str]:
    lines = []
    for first in range(0, len(blocks), _NAMES_PER_LINE):
        names = blocks[first : first + _NAMES_PER_LINE]
        lines.append(" ".join(names))
    return lines
