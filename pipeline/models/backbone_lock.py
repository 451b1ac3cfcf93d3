"""backbone.lock: the sha256 of the file that each weights reference led to when it was
first used.

The backbone stage depends on it, so that weights are other weights where it says so. An
entry is written once; who means other weights removes it.
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
    """What the entry of these settings is called; without the user, password and query
    of a URL, for it goes to Git.
    """
    return _without_secrets(f"{config.name} {config.weights}")


def read_lock(root: Path) -> Entries:
    """The entries of the workspace's lock; none where there is no lock.

    Raises:
        BackboneError: it is not what Thaw writes.
    """
    path = root / LOCK
    if not path.exists():
        return {}
    entries = {}
    for name, entry in _read_entries(path).items():
        entries[_without_secrets(name)] = entry
    return entries


def pin_file(config: BackboneConfig, root: Path, sha256: str, size: int) -> None:
    """Writes what the settings' reference led to, unless that is written already.

    Args:
        size: of the file, in bytes.
    """
    entry = {"sha256": sha256, "size": size}
    _add_entry(config, root, entry)


def pin_folder(
    config: BackboneConfig, root: Path, sha256: str, facts: dict[str, Any]
) -> None:
    """Writes what the settings' reference led to where that is a folder, unless that is
    written already.

    Args:
        sha256: of its weights file.
        facts: of the folder: `files`, name → sha256, and the hub's `revision` where it
            comes from there.
    """
    _add_entry(config, root, {"sha256": sha256, **facts})


def remove_secrets(root: Path) -> None:
    """Takes the credentials out of a lock that an earlier version of Thaw wrote with
    them.
    """
    entries = read_lock(root)
    if not entries:
        return
    names_in_file = set(_read_entries(root / LOCK))
    if set(entries) != names_in_file:
        _write_lock(root, entries)


def _add_entry(config: BackboneConfig, root: Path, entry: dict[str, Any]) -> None:
    entries = read_lock(root)
    name = entry_name(config)
    if name in entries:
        return
    entries[name] = entry
    _write_lock(root, entries)


def _read_entries(path: Path) -> Entries:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = None
    if not _is_lock(entries):
        raise BackboneError(
            str(path),
            found="not the JSON that Thaw wrote",
            expected="name and weights → sha256, size",
            hint="restore it from version control; `{}` in its place accepts whatever weights come next",
        )
    checked: Entries = entries
    return checked


def _is_lock(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(entry, dict) for entry in value.values())


def _write_lock(root: Path, entries: Entries) -> None:
    text = json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False)
    replace_text(root / LOCK, text + "\n")


def _without_secrets(name: str) -> str:
    backbone, _, reference = name.partition(" ")
    if "://" not in reference:
        return name
    return f"{backbone} {transfer.redact_url(reference)}"
