"""Why a stage is stale, in a user's words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import FileStat

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import PipelineStage

STATUS_WORDS = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in DVC's cache",
}
MAX_NAMED = 8  # more changed settings than this are counted, not listed


def entry_path(entry: Output) -> str:
    """The path of a dependency or output below the workspace."""
    path: str = os.path.relpath(entry.fs_path, entry.repo.root_dir)
    return path.replace(os.sep, "/")


def list_reasons(stage: PipelineStage) -> tuple[str, ...]:
    """What DVC holds against the stage; empty where it is fresh."""
    from dvc.dependency import ParamsDependency

    if not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
        return ("never run",)
    reasons = []
    if stage.changed_stage():
        reasons.append("command changed")
    for dependency in stage.deps:
        path = entry_path(dependency)
        if isinstance(dependency, ParamsDependency):
            committed = dependency.hash_info.value or {}
            reasons += _setting_changes(
                dependency.params, committed, dependency.read_params(), path
            )
        else:
            for status in dependency.status().values():
                reasons.append(f"{path} {_describe_file_changes(dependency, status)}")
    for output in stage.outs:
        for status in output.status().values():
            reasons.append(f"output {entry_path(output)} {STATUS_WORDS[status]}")
    return tuple(reasons)


def list_input_changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[str]:
    """How the inputs of two moments differ: path → hash, parameter file → values."""
    changes: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old = before.get(path)
        new = after.get(path)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _setting_changes(new, old, new, path)
        elif old != new:
            changes.append(f"{path} changed")
    return changes


def ledger_reasons(root: Path) -> tuple[str, ...]:
    """What speaks against a split that DVC finds fresh: it knows nothing of the ledger,
    which the step writes.
    """
    ledger = root / "ledger.parquet"
    split = root / "artifacts" / "split" / "manifest.parquet"
    if not split.exists():
        return ()
    if not ledger.exists():
        return ("ledger.parquet is missing",)
    # Reading both takes pyarrow, which takes longer to import than everything else
    # here: once for each version.
    agreed = root / ".thaw" / "ledger-agrees"
    versions = repr([FileStat.of(ledger), FileStat.of(split)])
    if agreed.is_file() and agreed.read_text() == versions:
        return ()
    from pipeline.data.ledger import agrees

    if not agrees(ledger, split):
        return ("ledger.parquet says otherwise than the split",)
    agreed.parent.mkdir(exist_ok=True)
    agreed.write_text(versions)
    return ()


def _setting_changes(
    keys: Iterable[str], old: Mapping[str, Any], new: Mapping[str, Any], file: str
) -> list[str]:
    changes: list[str] = []
    for key in keys:
        if key in old:
            changes += _list_differences(key, old[key], new.get(key))
        else:
            changes.append(f"{key} {STATUS_WORDS['new']}")
    # One that DVC sees by its full name alone is found in its section too.
    changes = list(dict.fromkeys(changes))
    if len(changes) > MAX_NAMED:
        return [f"{file}: {len(changes)} settings changed, {changes[0]} among them"]
    lines = []
    for change in changes:
        if change.startswith("engine "):
            lines.append("engine changed")
        else:
            lines.append(f"{file}: {change}")
    return lines


def _list_differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in dict.fromkeys([*old, *new]):
            name = f"{key}.{inner}"
            yield from _list_differences(name, old.get(inner), new.get(inner))
    elif old != new:
        before = json.dumps(old, default=str)
        after = json.dumps(new, default=str)
        yield f"{key} {before} → {after}"


def _describe_file_changes(dependency: Output, status: str) -> str:
    """How a dependency changed, with files counted where the cache still knows the old
    ones.
    """
    if status != "modified" or not dependency.hash_info.isdir:
        return STATUS_WORDS[status]
    tree_before = dependency.get_obj()
    if tree_before is None:
        return STATUS_WORDS[status]
    dependency.save()
    old = {key: oid for key, _, oid in tree_before}
    new = {key: oid for key, _, oid in dependency.obj}
    in_both = old.keys() & new.keys()
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "changed": sum(old[key] != new[key] for key in in_both),
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    return f"changed: {', '.join(parts)}"
