"""Which blocks a stage trains: patterns over block names. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.errors import ConfigError

HEAD = "head"


def select(blocks: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The blocks that any of the patterns names, in the network's order.

    Args:
        blocks: all block names from input to output, the last one "head".
        patterns: `head`, `last:n` (the last n blocks and the head), `all`, or a shell-style pattern.

    Raises:
        ConfigError: a pattern matches nothing, or there is none; the blocks there are are named.
    """
    if not patterns:
        raise ConfigError("train", found="no pattern", expected=EXPECTED, details=_listing(blocks))
    chosen = {name for pattern in patterns for name in _matches(blocks, pattern)}
    return [name for name in blocks if name in chosen]


EXPECTED = "head, last:n, all, or a pattern such as layer4*"


def _matches(blocks: Sequence[str], pattern: str) -> Sequence[str]:
    if pattern == "all":
        return blocks
    kind, _, number = pattern.partition(":")
    if kind == "last" and number.isdecimal():
        return blocks[-(int(number) + 1) :]
    found = [name for name in blocks if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(
            f"train: {pattern!r}", found="no block of that name", expected=EXPECTED,
            hint="name one of these blocks", details=_listing(blocks),
        )  # fmt: skip
    return found


def _listing(blocks: Sequence[str]) -> list[str]:
    return [" ".join(blocks[i : i + 8]) for i in range(0, len(blocks), 8)]
