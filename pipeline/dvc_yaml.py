"""dvc.yaml: the stages that are Thaw's, and how the file of a workspace made before is
brought up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.config import read_yaml
from pipeline.errors import WorkspaceError
from pipeline.step_table import DVC_STAGES, STEPS, stage_dependencies

HEADER = """\
# What depends on what. `thaw run` and `dvc repro` both go by this; written from pipeline/step_table.py.
"""

# What Thaw writes of a stage; every other key is the user's.
STAGE_KEYS = ("cmd", "deps", "params", "outs")
INDENT = 2

# DVC takes keys of these names for facts of files wherever they stand, and leaves them
# out of what it looks up results by (its issue 10296).
UNSEEN_KEYS = ("size", "nfiles")

Stages = Mapping[str, Mapping[str, Any]]


def stages_of(settings: Mapping[str, Any]) -> Stages:
    """Thaw's stages as they are written now: each `thaw step NAME`, with the settings
    and outputs it depends on.

    Args:
        settings: what params.yaml holds.
    """
    return {name: _stage_values(name, settings) for name in DVC_STAGES}


def generate(stages: Stages) -> str:
    """dvc.yaml of a new workspace.

    Args:
        stages: as `stages_of` gives them.
    """
    lines = ["stages:"]
    for name, values in stages.items():
        lines += _stage_lines(name, values, INDENT)
    return HEADER + "\n".join(lines) + "\n"


def outdated_stages(text: str, stages: Stages) -> list[str]:
    """The stages of Thaw that a workspace's dvc.yaml lacks, or has otherwise than they
    are written now.

    Raises:
        WorkspaceError: it is not YAML, or has no mapping of stages.
    """
    current = _parse_stages(text)
    return [
        name
        for name, wanted in stages.items()
        if _outdated_keys(current.get(name), name, wanted)
    ]


def update(text: str, stages: Stages) -> str:
    """A workspace's dvc.yaml with Thaw's stages as they are written now; everything
    else stays, byte for byte.

    Raises:
        WorkspaceError: it is not YAML, or is laid out so that it cannot be edited line
            by line.
    """
    for name in outdated_stages(text, stages):
        current = _parse_stages(text).get(name)
        for key in _outdated_keys(current, name, stages[name]):
            text = _rewrite_key(text, name, key, stages[name])
    still_outdated = outdated_stages(text, stages)
    if still_outdated:
        raise _unusable_error(
            f"stages {', '.join(still_outdated)}: not written line by line"
        )
    return text


def only_grew(before: bytes, after: bytes) -> bool:
    """Whether a lock file's content only grew: every key that was there has its value
    still.
    """
    old = _parse_lock(before)
    new = _parse_lock(after)
    if old is None or new is None:
        return False
    return all(key in new and new[key] == value for key, value in old.items())


def _parse_lock(content: bytes) -> Mapping[Any, Any] | None:
    """The mapping that a lock file holds; None where it holds anything else."""
    try:
        values = read_yaml(content.decode()) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return values if isinstance(values, Mapping) else None


def _stage_values(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as it is written now."""
    values: dict[str, Any] = {"cmd": f"thaw step {name}"}
    dependencies = stage_dependencies(name)
    if dependencies:
        values["deps"] = dependencies
    tracked = STEPS[name].params
    unseen = []
    for key in _list_unseen(settings):
        if any(key.startswith(f"{section}.") for section in tracked):
            unseen.append(key)
    values["params"] = [*tracked, *unseen]
    values["outs"] = [f"artifacts/{name}"]
    return values


def _list_unseen(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The settings that DVC sees by their full names alone."""
    for key, value in settings.items():
        name = f"{above}{key}"
        if key in UNSEEN_KEYS:
            yield name
        elif isinstance(value, Mapping):
            yield from _list_unseen(value, f"{name}.")


def _stage_lines(name: str, values: Mapping[str, Any], indent: int) -> list[str]:
    lines = [f"{' ' * indent}{name}:"]
    for key, value in values.items():
        lines += _key_lines(key, value, indent + INDENT)
    return lines


def _key_lines(key: str, value: str | list[str], indent: int) -> list[str]:
    margin = " " * indent
    if isinstance(value, str):
        return [f"{margin}{key}: {value}"]
    lines = [f"{margin}{key}:"]
    for item in value:
        lines.append(f"{margin}{' ' * INDENT}- {item}")
    return lines


def _parse_stages(text: str) -> dict[str, Any]:
    """The stages by name."""
    try:
        values = read_yaml(text) or {}
    except yaml.YAMLError as fault:
        raise _unusable_error(" ".join(str(fault).split())) from fault
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict):
        raise _unusable_error("no mapping of stages")
    return stages


def _unusable_error(found: str) -> WorkspaceError:
    return WorkspaceError(
        "dvc.yaml",
        found=found,
        expected="the stages that `thaw init` wrote, and your own",
        hint="correct it, or take an earlier one back from Git",
    )


def _outdated_keys(stage: Any, name: str, wanted: Mapping[str, Any]) -> list[str]:
    """The keys of one stage to be written anew; all of them where the stage is missing."""
    if not isinstance(stage, dict):
        return list(wanted)
    return [
        key
        for key in STAGE_KEYS
        if not _is_same(key, stage.get(key), wanted.get(key), name)
    ]


def _is_same(key: str, found: Any, wanted: Any, name: str) -> bool:
    # The user may start Thaw in another way, such as `uv run thaw step validate`.
    if key == "cmd":
        if not isinstance(found, str):
            return False
        last_word = found.split()[-1:]
        return last_word == [name]
    if isinstance(found, list) and isinstance(wanted, list):
        return sorted(map(str, found)) == sorted(wanted)
    return bool(found == wanted)


def _rewrite_key(text: str, name: str, key: str, wanted: Mapping[str, Any]) -> str:
    """The text with one key of one stage as it is written now, or with the whole stage
    where it is missing.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    whole = _key_blocks(yaml.compose(text), "dvc.yaml")["stages"]
    stages = _key_blocks(whole.value, "stages")
    if name not in stages:
        where = _line_of_missing(name, stages, whole.first + 1)
        indent = next(iter(stages.values())).column
        return _replace_lines(lines, where, where, _stage_lines(name, wanted, indent))
    keys = _key_blocks(stages[name].value, f"stage {name}")
    value = wanted.get(key)
    new: list[str] = []
    if value is not None:
        indent = next(iter(keys.values())).column
        new = _key_lines(key, value, indent)
    if key in keys:
        return _replace_lines(lines, keys[key].first, keys[key].last + 1, new)
    where = stages[name].first + 1
    for earlier in STAGE_KEYS[: STAGE_KEYS.index(key)]:
        if earlier in keys:
            where = keys[earlier].last + 1
    return _replace_lines(lines, where, where, new)


def _replace_lines(
    lines: Sequence[str], first: int, end: int, new: Sequence[str]
) -> str:
    """The text with lines `first` to before `end` replaced by new ones."""
    new_lines = [f"{line}\n" for line in new]
    before = lines[:first]
    after = lines[end:]
    return "".join([*before, *new_lines, *after])


def _line_of_missing(name: str, stages: Mapping[str, _KeyBlock], first: int) -> int:
    """The line before which a missing stage belongs: after the stage of Thaw's that
    precedes it, else the `first`.
    """
    where = first
    for earlier in DVC_STAGES[: DVC_STAGES.index(name)]:
        if earlier in stages:
            where = stages[earlier].last + 1
    return where


@dataclass(frozen=True)
class _KeyBlock:
    """Where a key with its value lies: lines counted from 0, the last one included."""

    first: int
    last: int
    column: int
    value: yaml.Node


def _key_blocks(node: yaml.Node | None, what: str) -> dict[str, _KeyBlock]:
    """The blocks of a mapping, by key."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise _unusable_error(f"{what}: not written line by line")
    blocks = {}
    for key, value in node.value:
        start = key.start_mark
        blocks[str(key.value)] = _KeyBlock(
            start.line, _last_line(key, value), start.column, value
        )
    return blocks


def _last_line(key: yaml.Node, value: yaml.Node) -> int:
    """The last line of a value; a block collection's own mark points behind the
    comments that follow it.
    """
    if (
        not isinstance(value, yaml.CollectionNode)
        or value.flow_style
        or not value.value
    ):
        ended_before = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
        end = value.end_mark.line - int(ended_before)
        return max(key.start_mark.line, end)
    last = value.value[-1]
    if isinstance(last, tuple):
        return _last_line(*last)
    return _last_line(last, last)
