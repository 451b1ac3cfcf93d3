"""A data folder's files and how its folders are to be read: as classes, or as splits
that hold classes.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.files import outside
from pipeline.errors import DataError
from pipeline.examples import ExampleFault
from pipeline.manifest import Split, real_path, stored_path
from pipeline.records import Finding

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# In a column, or as a table's own name.
TABLE_SPLIT_NAMES: dict[str, Split] = {**SPLIT_NAMES, "dev": "val"}
METADATA = "metadata.csv"
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"}
# What people lay beside the class folders, and not in them.
_DOCUMENTS = {
    "",
    ".md",
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".yaml",
    ".yml",
    ".html",
    ".pdf",
    ".parquet",
}


@dataclass(frozen=True)
class FolderTree:
    """What lies in a data folder, by paths as the manifest writes them."""

    files: tuple[str, ...]  # sorted
    folders: tuple[str, ...]  # at the top, sorted
    faults: tuple[ExampleFault, ...]


def walk(root: Path) -> FolderTree:
    """Lists a data folder; hidden entries and what operating systems leave behind are
    passed over.

    A link to a file in the folder is a file; any other link is a fault, and none is
    followed into a folder.

    Raises:
        DataError: the folder is missing or cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            folders = sorted(
                stored_path(entry.name) for entry in entries if _is_folder(entry)
            )
    except OSError as fault:
        raise DataError(
            f"data folder {root}",
            found=fault.strerror or str(fault),
            expected="a folder of examples",
            hint="bring the data (dvc pull), or correct data.path in params.yaml",
        ) from fault
    faults: list[ExampleFault] = []
    files = sorted(_files(root, "", faults))
    return FolderTree(
        tuple(files),
        tuple(folders),
        tuple(sorted(faults, key=lambda fault: fault.path)),
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and not _ignored(entry)


def _ignored(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith("."):
        return True
    return entry.name.lower() in _LITTER


def _files(root: Path, folder: str, faults: list[ExampleFault]) -> Iterator[str]:
    pending = [folder]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}".lstrip("/")
                    if _ignored(entry) or path == METADATA:
                        continue
                    if entry.is_symlink():
                        yield from _link(root, path, entry, faults)
                    elif entry.is_dir():
                        pending.append(path)
                    else:
                        yield stored_path(path)
        except OSError as fault:
            faults.append(
                ExampleFault(
                    stored_path(folder),
                    "unreadable",
                    fault.strerror or "cannot be read",
                    "a readable folder",
                    "check its permissions",
                )
            )


def _link(
    root: Path, path: str, entry: os.DirEntry[str], faults: list[ExampleFault]
) -> Iterator[str]:
    stored = stored_path(path)
    reason = outside(root, stored)
    if reason:
        faults.append(ExampleFault(stored, *reason))
    elif entry.is_dir():
        faults.append(
            ExampleFault(
                stored,
                "folder-link",
                "a link to a folder",
                "a folder",
                "replace the link by a copy of the folder",
            )
        )
    else:
        yield stored


@dataclass(frozen=True)
class PlacedFile:
    """A file's place in the layout."""

    path: str
    label: str
    given_split: Split | None


def place(
    tree: FolderTree, root: Path
) -> tuple[list[PlacedFile], list[ExampleFault], set[str]]:
    """Reads the folders as classes, or as splits that hold classes.

    Folders named for splits hold classes where at least one of them holds folders;
    where all hold their files directly they are classes that happen to be called so
    ("test" beside "ok").

    Returns:
        The files in class folders, the faults of files in none, and all class folders,
        empty ones too.

    Raises:
        DataError: folders for splits lie beside folders for classes.
    """
    by_split = _has_split_level(tree, root)
    depth = 1 if by_split else 0
    placed = []
    faults = []
    for path in tree.files:
        parts = path.split("/")
        if len(parts) > depth + 1:
            split = SPLIT_NAMES[parts[0].lower()] if by_split else None
            placed.append(PlacedFile(path, parts[depth], split))
        elif not _is_document(path):
            faults.append(
                ExampleFault(
                    path,
                    "no-label",
                    "in no class folder",
                    "a file in its class's folder",
                    "move it there",
                )
            )
    classes = set(tree.folders)
    if by_split:
        classes = {
            name for folder in tree.folders for name in _subfolders(root, folder)
        }
    return placed, faults, classes


def _is_document(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _DOCUMENTS


def _has_split_level(tree: FolderTree, root: Path) -> bool:
    direct = set()
    for path in tree.files:
        if path.count("/") == 1 and not _is_document(path):
            direct.add(path.split("/")[0])
    used = {path.split("/")[0] for path in tree.files if "/" in path}
    named = [folder for folder in tree.folders if folder.lower() in SPLIT_NAMES]
    others = []
    for folder in tree.folders:
        if folder in used and folder not in named:
            others.append(folder)
    # A stray file beside the classes of a split does not make the split a class; beside
    # other classes it may be one.
    nested = []
    for folder in named:
        if not (others and folder in direct) and _subfolders(root, folder):
            nested.append(folder)
    if nested and others:
        raise DataError(
            f"data folder {root}",
            found=f"folders for splits ({', '.join(nested)}) beside others ({', '.join(others)})",
            expected="class folders, or train/val/test folders that hold class folders",
            hint="move the others away, or list the examples in a table (data.table)",
        )
    return bool(nested)


def _subfolders(root: Path, folder: str) -> list[str]:
    try:
        with os.scandir(real_path(root, folder)) as entries:
            return [stored_path(entry.name) for entry in entries if _is_folder(entry)]
    except OSError:
        return []  # a fault of the walk already


def unicode_collisions(paths: Iterable[str]) -> Finding | None:
    """Names that look the same and differ in their Unicode form (NFC and NFD): which is
    meant depends on the disk.
    """
    forms = defaultdict(set)
    for path in paths:
        if not path.isascii():
            forms[unicodedata.normalize("NFC", path)].add(path)
    pairs = []
    for same in forms.values():
        if len(same) > 1:
            described = [f"{path} ({_form(path)})" for path in sorted(same)]
            pairs.append(" and ".join(described))
    if not pairs:
        return None
    return Finding(
        code="name-twins",
        severity="critical",
        subject="names that look the same",
        found=f"{len(pairs):,} that differ only in how their accents are written",
        expected="one way of writing a name",
        hint="rename or remove one of each",
        items=tuple(sorted(pairs)),
    )


def _form(path: str) -> str:
    digits = path.encode().hex(" ")
    ending = digits[-24:]
    for form in ("NFC", "NFD"):
        if unicodedata.is_normalized(form, path):
            return f"{form}, {ending}"
    return f"mixed, {ending}"
