"""dvc.yaml: the stages that are Thaw's, and how the file of a workspace made before is brought up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from pipeline.config import STAGE_PARAMS, read_yaml
from pipeline.errors import WorkspaceError


class LockPlaceholder(NamedTuple):
    """A small lock file in the workspace's root, on which a stage depends and which the stage itself may fill in.

    DVC refuses to run a stage that lacks a dependency, so the file always exists: `thaw init`, and `thaw run` where it
    is missing, write `content`. The step may then add keys, but never change one: `Versioning.commit` accepts a file that
    grew while the step ran, and dvc.lock remembers it as it was afterwards.

    Args:
        file: its name; not `*.dvc`, which DVC refuses as a dependency.
        stage: the stage that depends on it.
        content: a YAML (or JSON) mapping that says nothing yet, such as `{}`.
    """

    file: str
    stage: str
    content: str = "{}\n"


PLACEHOLDERS: tuple[LockPlaceholder, ...] = (
    LockPlaceholder("backbone.lock", "backbone"),
    LockPlaceholder("baseline.lock", "finetune"),
    LockPlaceholder("champion.lock", "finetune"),
)

# stage → what earlier stages and the data give it; `${data.path}` is filled in by DVC from params.yaml
STAGE_DEPS: dict[str, tuple[str, ...]] = {
    "validate": ("${data.path}",),
    "split": ("artifacts/validate",),
    "backbone": (),
    "finetune": ("${data.path}", "artifacts/split", "artifacts/backbone"),
    "evaluate": ("${data.path}", "artifacts/split", "artifacts/finetune"),
}

HEADER = """\
# What depends on what. `thaw run` and `dvc repro` both go by this; written from pipeline/config.py.
"""

STAGE_KEYS = ("cmd", "deps", "params", "outs")  # what Thaw writes of a stage; every other key is the user's
INDENT = 2


def generate() -> str:
    """dvc.yaml of a new workspace: five stages, each `thaw step NAME`, with the settings and outputs they depend on."""
    lines = ["stages:"]
    for name in STAGE_PARAMS:
        lines += _stage_lines(name, INDENT)
    return HEADER + "\n".join(lines) + "\n"


def outdated_stages(text: str) -> list[str]:
    """The stages of Thaw that a workspace's dvc.yaml lacks, or has otherwise than they are written now.

    Raises:
        WorkspaceError: it is not YAML, or has no mapping of stages.
    """
    stages = _parse(text)
    return [name for name in STAGE_PARAMS if _outdated_keys(stages.get(name), name)]


def updated(text: str) -> str:
    """A workspace's dvc.yaml with Thaw's stages as they are written now; everything else stays, byte for byte.

    Raises:
        WorkspaceError: it is not YAML, or is laid out so that it cannot be edited line by line.
    """
    for name in outdated_stages(text):
        for key in _outdated_keys(_parse(text).get(name), name):
            text = _with_key(text, name, key)
    left = outdated_stages(text)
    if left:
        raise _unusable(f"stages {', '.join(left)}: not written line by line")
    return text


def placeholders(stage: str) -> tuple[str, ...]:
    """The lock files that a stage depends on and may fill in."""
    return tuple(entry.file for entry in PLACEHOLDERS if entry.stage == stage)


def may_become(before: bytes, after: bytes) -> bool:
    """Whether a placeholder's content only grew: every key that was there has its value still."""
    try:
        old, new = (read_yaml(content.decode()) or {} for content in (before, after))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    return all(key in new and new[key] == value for key, value in old.items())


def _stage_values(name: str) -> dict[str, Any]:
    deps = [*STAGE_DEPS[name], *placeholders(name)]
    values: dict[str, Any] = {"cmd": f"thaw step {name}"}
    if deps:
        values["deps"] = deps
    values["params"] = list(STAGE_PARAMS[name])
    values["outs"] = [f"artifacts/{name}"]
    return values


def _stage_lines(name: str, indent: int) -> list[str]:
    lines = [f"{' ' * indent}{name}:"]
    for key, value in _stage_values(name).items():
        lines += _key_lines(key, value, indent + INDENT)
    return lines


def _key_lines(key: str, value: str | list[str], indent: int) -> list[str]:
    if isinstance(value, str):
        return [f"{' ' * indent}{key}: {value}"]
    return [f"{' ' * indent}{key}:", *(f"{' ' * (indent + INDENT)}- {item}" for item in value)]


def _parse(text: str) -> dict[str, Any]:
    """The stages by name."""
    try:
        values = read_yaml(text) or {}
    except yaml.YAMLError as fault:
        raise _unusable(" ".join(str(fault).split())) from fault
    stages = values.get("stages") if isinstance(values, dict) else None
    if not isinstance(stages, dict):
        raise _unusable("no mapping of stages")
    return stages


def _unusable(found: str) -> WorkspaceError:
    return WorkspaceError(
        "dvc.yaml",
        found=found,
        expected="the stages that `thaw init` wrote, and your own",
        hint="correct it, or take an earlier one back from Git",
    )


def _outdated_keys(stage: Any, name: str) -> list[str]:
    """The keys of one stage to be written anew; all of them where the stage is missing."""
    wanted = _stage_values(name)
    if not isinstance(stage, dict):
        return list(wanted)
    return [key for key in STAGE_KEYS if not _same(key, stage.get(key), wanted.get(key), name)]


def _same(key: str, found: Any, wanted: Any, name: str) -> bool:
    if key == "cmd":  # the user may start Thaw in another way, such as `uv run thaw step validate`
        return isinstance(found, str) and found.split()[-1:] == [name]
    if isinstance(found, list) and isinstance(wanted, list):
        return sorted(map(str, found)) == sorted(wanted)
    return bool(found == wanted)


def _with_key(text: str, name: str, key: str) -> str:
    """The text with one key of one stage as it is written now, or with the whole stage where it is missing."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    whole = _blocks(yaml.compose(text), "dvc.yaml")["stages"]
    stages = _blocks(whole.value, "stages")
    if name not in stages:
        where = _line_of_missing(name, stages, whole.first + 1)
        indent = next(iter(stages.values())).column
        return "".join([*lines[:where], *_ended(_stage_lines(name, indent)), *lines[where:]])
    keys = _blocks(stages[name].value, f"stage {name}")
    indent = next(iter(keys.values())).column
    value = _stage_values(name).get(key)
    new = _ended(_key_lines(key, value, indent)) if value is not None else []
    if key in keys:
        first, last = keys[key].first, keys[key].last
        return "".join([*lines[:first], *new, *lines[last + 1 :]])
    before = [keys[earlier].last for earlier in STAGE_KEYS[: STAGE_KEYS.index(key)] if earlier in keys]
    where = before[-1] + 1 if before else stages[name].first + 1
    return "".join([*lines[:where], *new, *lines[where:]])


def _line_of_missing(name: str, stages: Mapping[str, _Block], first: int) -> int:
    """The line before which a missing stage belongs: after the stage of Thaw's that precedes it, else the `first`."""
    names = list(STAGE_PARAMS)
    earlier = [stages[other].last for other in names[: names.index(name)] if other in stages]
    return earlier[-1] + 1 if earlier else first


class _Block(NamedTuple):
    """Where a key with its value lies: lines counted from 0, the last one included."""

    first: int
    last: int
    column: int
    value: yaml.Node


def _blocks(node: yaml.Node | None, what: str) -> dict[str, _Block]:
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise _unusable(f"{what}: not written line by line")
    return {
        str(key.value): _Block(key.start_mark.line, _last_line(key, value), key.start_mark.column, value)
        for key, value in node.value
    }


def _last_line(key: yaml.Node, value: yaml.Node) -> int:
    """The last line of a value; a block collection's own mark points behind the comments that follow it."""
    if not isinstance(value, yaml.CollectionNode) or value.flow_style or not value.value:
        end = value.end_mark
        ended_before = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
        return max(key.start_mark.line, end.line - int(ended_before))
    last = value.value[-1]
    return _last_line(*last) if isinstance(last, tuple) else _last_line(last, last)


def _ended(lines: list[str]) -> Iterator[str]:
    return (f"{line}\n" for line in lines)
