"""Why a stage is stale, in a user's words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import PipelineStage

WORDS = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in DVC's cache",
}
NAMED = 8  # more changed settings than this are counted, not listed


def name(entry: Output) -> str:
    """The path of a dependency or output below the workspace."""
    path: str = os.path.relpath(entry.fs_path, entry.repo.root_dir)
    return path.replace(os.sep, "/")


def why(stage: PipelineStage) -> tuple[str, ...]:
    """What DVC holds against the stage; empty where it is fresh."""
    from dvc.dependency import ParamsDependency

    if not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
        return ("never run",)
    found = ["command changed"] if stage.changed_stage() else []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            found += _setting_changes(dep.params, dep.hash_info.value or {}, dep.read_params(), name(dep))
        else:
            found += [f"{name(dep)} {_file_changes(dep, status)}" for status in dep.status().values()]
    for out in stage.outs:
        found += [f"output {name(out)} {WORDS[status]}" for status in out.status().values()]
    return tuple(found)


def input_changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """How the inputs of two moments differ: path → hash, parameter file → values."""
    changes: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _setting_changes(list(new), old, new, path)
        elif old != new:
            changes.append(f"{path} changed")
    return changes


def ledger_objects(root: Path) -> tuple[str, ...]:
    """What speaks against a split that DVC finds fresh: it knows nothing of the ledger, which the step writes."""
    ledger, split = root / "ledger.parquet", root / "artifacts" / "split" / "manifest.parquet"
    if not split.exists():
        return ()
    if not ledger.exists():
        return ("ledger.parquet is missing",)
    # Reading both takes pyarrow, which takes longer to import than everything else here: once for each version.
    seen = root / ".thaw" / "ledger-agrees"
    versions = repr([(facts.st_ino, facts.st_size, facts.st_mtime_ns) for facts in (ledger.stat(), split.stat())])
    if seen.is_file() and seen.read_text() == versions:
        return ()
    from pipeline.data.ledger import agrees

    if not agrees(ledger, split):
        return ("ledger.parquet says otherwise than the split",)
    seen.parent.mkdir(exist_ok=True)
    seen.write_text(versions)
    return ()


def _setting_changes(keys: list[str], old: dict[str, Any], new: dict[str, Any], file: str) -> list[str]:
    changes = [change for key in keys for change in _differences(key, old.get(key), new.get(key))]
    if len(changes) > NAMED:
        return [f"{file}: {len(changes)} settings changed, {changes[0]} among them"]
    return ["engine changed" if change.startswith("engine ") else f"{file}: {change}" for change in changes]


def _differences(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for inner in dict.fromkeys([*old, *new]):
            yield from _differences(f"{key}.{inner}", old.get(inner), new.get(inner))
    elif old != new:
        yield f"{key} {json.dumps(old, default=str)} → {json.dumps(new, default=str)}"


def _file_changes(dep: Output, status: str) -> str:
    """How a dependency changed, with files counted where the cache still knows the old ones."""
    before = dep.get_obj() if status == "modified" and dep.hash_info.isdir else None
    if before is None:
        return WORDS[status]
    dep.save()
    old, new = ({key: oid for key, _, oid in tree} for tree in (before, dep.obj))
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "changed": sum(old[key] != new[key] for key in old.keys() & new.keys()),
    }
    return "changed: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
