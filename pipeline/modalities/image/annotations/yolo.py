"""YOLO: a text file for each image, with a class number and a box or polygon in each
line, in shares of the sides.

The format is that of Darknet and Ultralytics: `class x y width height`, x and y being
the box's centre, or `class x1 y1 x2 y2 x3 y3 …`, a polygon. `data.yaml` names the
classes, and where the images of each split lie.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipeline.config import read_yaml
from pipeline.data.layout import TABLE_SPLIT_NAMES
from pipeline.errors import DataError
from pipeline.manifest import Split
from pipeline.modalities.image.annotations.annotated_images import (
    AnnotatedImages,
    add_unpaired,
)
from pipeline.modalities.image.annotations.boxes import (
    AnnotatedObject,
    Box,
    BoxAnnotation,
    polygon_box,
)
from pipeline.modalities.image.annotations.faults import (
    AnnotationError,
    is_writable,
    read_annotation,
    shown,
)
from pipeline.modalities.image.annotations.given_splits import (
    MAIN,
    GivenSplits,
    add_splits_of_folders,
    find_lists,
    find_splits,
)
from pipeline.modalities.image.annotations.pairing import (
    ImageNames,
    pair,
    roles_of,
    strip_role,
)
from pipeline.modalities.image.annotations.settings import AnnotationConfig

LABEL_FOLDERS = frozenset({"labels", "label", "annotations", "annotation", "txt"})
NAME_LISTS = (
    "classes.txt",
    "obj.names",
    "predefined_classes.txt",
    "labels.txt",
    "_darknet.labels",
)
SLACK = 0.02  # a share this far above 1 is a slip of rounding
_DOCUMENTS = ("readme", "license", "licence", "requirements", "notes", "changelog")


@dataclass(frozen=True)
class ClassNames:
    """The classes of a YOLO data set.

    Args:
        path: the file that names them, below the data folder.
        names: number → name.
        folders: split → the folders or lists that the file gives for it.
        keypoint_numbers: how many numbers of key points follow each box.
    """

    path: str
    names: Mapping[int, str]
    folders: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    keypoint_numbers: int = 0


def read_yolo_folder(
    root: Path, files: Sequence[str], images: Sequence[str], settings: AnnotationConfig
) -> AnnotatedImages:
    """The boxes of all images below a data folder.

    Args:
        files: all files, by paths below it.
        images: those that are images.

    Raises:
        DataError: no file names the classes, or several name them differently.
    """
    classes = find_class_names(root, settings.files or files)
    result = AnnotatedImages(splits=_splits(root, files, images, classes))
    pairs = pair(images, find_yolo(files, images, classes.path))
    for image, source in sorted(pairs.of_image.items()):
        try:
            content = read_annotation(root, source)
            result.of_image[image] = read_yolo(content, source, classes)
        except AnnotationError as fault:
            result.faults.append(fault.of(image))
    add_unpaired(result, pairs, settings)
    return result


def find_yolo(
    files: Iterable[str], images: Sequence[str], names: str = ""
) -> list[str]:
    """The text files that may be annotations: in folders for labels, else beside
    images.

    Args:
        names: the file that names the classes, which is none.
    """
    lists = set(find_lists(files, MAIN))
    texts = []
    for path in files:
        if path.lower().endswith(".txt") and path not in lists and path != names:
            texts.append(path)
    labels = [path for path in texts if not LABEL_FOLDERS.isdisjoint(roles_of([path]))]
    if labels:
        return labels
    homes = {path.rpartition("/")[0] for path in images}
    return [
        path
        for path in texts
        if path.rpartition("/")[0] in homes and not _is_document(path)
    ]


def _is_document(path: str) -> bool:
    _, _, name = path.lower().rpartition("/")
    return name in NAME_LISTS or name.startswith(_DOCUMENTS)


def find_class_names(root: Path, files: Iterable[str]) -> ClassNames:
    """The classes: from data.yaml or any other YAML file with `names`, else from
    classes.txt and its kin.

    Raises:
        DataError: there is none, or several say different things.
    """
    ordered = sorted(files, key=lambda path: (path.count("/"), path))
    class_names = _names_in_yaml(root, ordered) or _names_in_lists(root, ordered)
    if not class_names:
        raise DataError(
            f"data folder {root}",
            found="no file that names the classes",
            expected="data.yaml with names, or classes.txt with a name in each line",
            hint="add one: in a YOLO label the class is only a number",
        )
    first = class_names[0]
    different = [classes for classes in class_names if classes.names != first.names]
    if different:
        raise DataError(
            f"data folder {root}",
            found=f"{first.path} and {different[0].path}, which name the classes differently",
            expected="one list of names",
            hint="name the right one in task.annotations.files",
        )
    return first


def _names_in_yaml(root: Path, files: Sequence[str]) -> list[ClassNames]:
    class_names = []
    for path in files:
        if path.lower().endswith((".yaml", ".yml")):
            names = _read_yaml_names(root, path)
            if names is not None:
                class_names.append(names)
    return class_names


def _names_in_lists(root: Path, files: Sequence[str]) -> list[ClassNames]:
    class_names = []
    for path in files:
        name = path.rpartition("/")[2].lower()
        if name in NAME_LISTS or path.endswith(".names"):
            class_names.append(_read_name_list(root, path))
    return class_names


def _read_yaml_names(root: Path, path: str) -> ClassNames | None:
    """What a YAML file says; None where it says nothing of classes."""
    try:
        values = read_yaml(read_annotation(root, path).decode("utf-8-sig"))
    except AnnotationError as fault:
        raise DataError(
            path, found=fault.found, expected=fault.expected, hint=fault.hint
        ) from fault
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        found = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise DataError(
            path, found=found, expected="YAML", hint="correct or remove it"
        ) from fault
    if not isinstance(values, dict) or "names" not in values:
        return None
    names = _number_names(values["names"])
    if names is None:
        raise DataError(
            f"{path}: names",
            found=shown(values["names"]),
            expected="a list of class names",
        )
    count = values.get("nc", len(names))
    if count != len(names):
        raise DataError(
            path,
            found=f"nc: {shown(count)}, and {len(names):,} names",
            expected="as many names as classes",
            hint="correct the one that is wrong: else numbers may stand for other classes",
        )
    keypoints = _count_keypoint_numbers(path, values.get("kpt_shape"))
    return ClassNames(path, names, _read_folders(values), keypoints)


def _count_keypoint_numbers(path: str, shape: Any) -> int:
    """How many numbers `kpt_shape` (points, numbers of each) stands for; 0 without."""
    if shape is None:
        return 0
    is_shape = isinstance(shape, list) and len(shape) == 2
    if not is_shape or not all(type(one) is int and one > 0 for one in shape):
        raise DataError(
            f"{path}: kpt_shape",
            found=shown(shape),
            expected="how many points a line has, and how many numbers each: [17, 3]",
            hint="correct it, or remove it where lines hold boxes alone",
        )
    return int(shape[0] * shape[1])


def _number_names(given: Any) -> dict[int, str] | None:
    """Number → name, from a list or a mapping; None of anything else."""
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict):
        return None
    names: dict[int, str] = {}
    for number, name in given.items():
        is_name = (
            not isinstance(name, (dict, list))
            and str(name).strip()
            and is_writable(str(name))
        )
        if not str(number).isdecimal() or not is_name:
            return None
        names[int(number)] = str(name).strip()
    return names or None


def _read_folders(values: Mapping[str, Any]) -> dict[Split, tuple[str, ...]]:
    folders: dict[Split, tuple[str, ...]] = {}
    for key, given in values.items():
        split = TABLE_SPLIT_NAMES.get(str(key).casefold())
        entries = given if isinstance(given, list) else [given]
        texts = tuple(entry for entry in entries if isinstance(entry, str) and entry)
        if split is not None and texts:
            folders[split] = texts
    return folders


def _read_name_list(root: Path, path: str) -> ClassNames:
    try:
        lines = read_annotation(root, path).decode("utf-8-sig").splitlines()
    except (AnnotationError, ValueError) as fault:
        raise DataError(
            path, found=str(fault), expected="a class name in each line, in UTF-8"
        ) from fault
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    return ClassNames(path, dict(enumerate(names)))


def _splits(
    root: Path, files: Sequence[str], images: Sequence[str], classes: ClassNames
) -> GivenSplits:
    """The given splits: as data.yaml says, else by lists and folders."""
    entries = Counter(itertools.chain.from_iterable(classes.folders.values()))
    # Train and val in one folder: no split at all.
    repeated = {entry for entry, count in entries.items() if count > 1}
    names = ImageNames(images)
    of_image: dict[str, Split] = {}
    for split in ("train", "val", "test"):
        for entry in classes.folders.get(split, ()):
            if entry not in repeated:
                of_image.update(
                    dict.fromkeys(_images_of(root, entry, files, images, names), split)
                )
    if of_image:
        return GivenSplits(add_splits_of_folders(of_image, images), (), ())
    return find_splits(root, files, images, MAIN)


def _images_of(
    root: Path,
    entry: str,
    files: Sequence[str],
    images: Sequence[str],
    names: ImageNames,
) -> list[str]:
    """The images that an entry of data.yaml stands for: a folder, or a list of files."""
    parts = []
    for part in PurePosixPath(entry.replace("\\", "/")).parts:
        if part not in ("/", ".", ".."):
            parts.append(part)
    if entry.lower().endswith(".txt"):
        return _listed_images(root, parts, files, names)
    for start in range(len(parts)):
        is_telling = any(strip_role(part) for part in parts[start:])
        if start > 0 and not is_telling:
            break  # "images" alone would be the images of every split
        tail = f"/{'/'.join(parts[start:])}/"
        below = [path for path in images if tail in f"/{path.rpartition('/')[0]}/"]
        if below:
            return below
    return []


def _listed_images(
    root: Path, parts: Sequence[str], files: Sequence[str], names: ImageNames
) -> list[str]:
    paths = [path for path in files if path.rpartition("/")[2] == parts[-1]]
    listed: list[str] = []
    for path in paths[:1]:
        try:
            lines = (
                read_annotation(root, path)
                .decode("utf-8-sig", "surrogateescape")
                .splitlines()
            )
        except AnnotationError as fault:
            raise DataError(
                path, found=fault.found, expected=fault.expected, hint=fault.hint
            ) from fault
        for line in lines:
            named = names.find(line.strip(), path.rpartition("/")[0])
            if len(named) == 1:
                listed += named
    return listed


def read_yolo(content: bytes, source: str, classes: ClassNames) -> BoxAnnotation:
    """What one text file says; an empty one, that there is no object.

    Raises:
        AnnotationError: a line is no box, names an unknown class or is in pixels.
    """
    lines = content.decode("utf-8-sig", "replace").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            objects.append(_read_line(line, f"{source}#{number}", classes))
    return BoxAnnotation(source, tuple(objects), in_shares=True)


def _read_line(line: str, place: str, classes: ClassNames) -> AnnotatedObject:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    if classes.keypoint_numbers and len(numbers) == 5 + classes.keypoint_numbers:
        del numbers[5:]
    is_box = len(numbers) == 5
    is_polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
    if not all(map(math.isfinite, numbers)) or not (is_box or is_polygon):
        raise AnnotationError(
            "bad-line",
            f"{place}: {shown(line)}",
            "a class number and x y width height, or the corners of a polygon",
            _line_hint(numbers),
        )
    label = None
    if numbers[0] == int(numbers[0]):
        label = classes.names.get(int(numbers[0]))
    if label is None:
        expected = f"a number from {min(classes.names)} to {max(classes.names)}, as {classes.path} names them"
        raise AnnotationError(
            "unknown-class",
            f"{place}: class {numbers[0]:g}",
            expected,
            "correct it, or add the name",
        )
    _refuse_pixels(numbers[1:], place)
    to_box = _centred_box if is_box else polygon_box
    return AnnotatedObject(place, label, to_box(numbers[1:]))


def _line_hint(numbers: Sequence[float]) -> str:
    if len(numbers) == 6:
        return "a sixth number is a prediction's confidence: leave it out"
    return "correct the line"


def _refuse_pixels(numbers: Sequence[float], place: str) -> None:
    if max(map(abs, numbers)) > 1 + SLACK:
        raise AnnotationError(
            "pixel-coordinates",
            f"{place}: {max(numbers, key=abs):g}",
            "shares of the picture's sides, from 0 to 1",
            "divide pixels by the picture's width and height",
        )


def _centred_box(numbers: Sequence[float]) -> Box:
    x, y, width, height = numbers
    left = x - width / 2
    top = y - height / 2
    right = x + width / 2
    bottom = y + height / 2
    return left, top, right, bottom
