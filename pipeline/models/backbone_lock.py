"""backbone.lock: the sha256 of the file that each weights reference led to when it was first used.

The backbone stage depends on it, so that weights are other weights where it says so. An entry is written once; who
means other weights removes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config import BackboneConfig
from pipeline.errors import BackboneError
from pipeline.files import replace_text
from pipeline.models import transfer

LOCK = "backbone.lock"

Entries = dict[str, dict[str, Any]]  # name of the reference → sha256, size


def entry_name(config: BackboneConfig) -> str:
    """What the entry of these settings is called; without the user, password and query of a URL, for it goes to Git."""
    return _without_secrets(f"{config.name} {config.weights}")


def read(root: Path) -> Entries:
    """The entries of the workspace's lock; none where there is no lock.

    Raises:
        BackboneError: it is not what Thaw writes.
    """
    path = root / LOCK
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise BackboneError(
            str(path), found="not the JSON that Thaw wrote", expected="name and weights → sha256, size",
            hint="restore it from version control; `{}` in its place accepts whatever weights come next",
        )  # fmt: skip
    return {_without_secrets(name): entry for name, entry in entries.items()}


def pin(config: BackboneConfig, root: Path, sha256: str, size: int) -> None:
    """Writes what the settings' reference led to, unless that is written already.

    Args:
        size: of the file, in bytes.
    """
    entries = read(root)
    name = entry_name(config)
    if name not in entries:
        _write(root, {**entries, name: {"sha256": sha256, "size": size}})


def pin_folder(config: BackboneConfig, root: Path, sha256: str, facts: dict[str, Any]) -> None:
    """Writes what the settings' reference led to where that is a folder, unless that is written already.

    Args:
        sha256: of its weights file.
        facts: of the folder: `files`, name → sha256, and the hub's `revision` where it comes from there.
    """
    entries = read(root)
    name = entry_name(config)
    if name not in entries:
        _write(root, {**entries, name: {"sha256": sha256, **facts}})


def remove_secrets(root: Path) -> None:
    """Takes the credentials out of a lock that an earlier version of Thaw wrote with them."""
    path = root / LOCK
    entries = read(root)
    if entries and set(entries) != set(json.loads(path.read_text(encoding="utf-8"))):
        _write(root, entries)


def _write(root: Path, entries: Entries) -> None:
    text = json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False)
    replace_text(root / LOCK, text + "\n")


def _without_secrets(name: str) -> str:
    backbone, _, reference = name.partition(" ")
    return f"{backbone} {transfer.shown(reference)}" if "://" in reference else name
