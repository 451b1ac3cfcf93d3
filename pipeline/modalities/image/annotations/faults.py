"""What is wrong with an annotation, on its way from where it was read to the example it
belongs to.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.files import outside
from pipeline.examples import ExampleError
from pipeline.manifest import real_path
from pipeline.text import printable

MOST_BYTES = 50_000_000  # of the annotation of one image
# Of one that is for many; a COCO file of a million boxes has about 300 MB.
MOST_BYTES_OF_ALL = 4_000_000_000


class AnnotationError(ExampleError):
    """Why an image's annotation cannot be used."""


def is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON and YAML can hold halves of
    characters, which cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object, most: int = 60) -> str:
    """A value of someone's file, as a message shows it: on one line, and not all of a
    long one.
    """
    text = printable(str(value))
    if len(text) <= most:
        return text
    return f"{text[:most]}…"


def read_annotation(root: Path, path: str, most: int = MOST_BYTES) -> bytes:
    """The content of an annotation file.

    Args:
        root: the data folder.
        path: the file below it, as the manifest writes it.
        most: bytes that it may have.

    Raises:
        AnnotationError: it leads out of the data folder, is too large or cannot be
            read.
    """
    reason = outside(root, path)
    if reason:
        code, found, expected, hint = reason
        raise AnnotationError(code, f"{path}: {found}", expected, hint)
    file = real_path(root, path)
    try:
        if not file.is_file():
            raise AnnotationError(
                "not-a-file",
                f"{path}: a folder, pipe or device",
                "a file",
                "replace it",
            )
        if file.stat().st_size > most:
            found = f"{path}: {file.stat().st_size} bytes"
            raise AnnotationError("too-large", found, f"at most {most}", "replace it")
        return file.read_bytes()
    except (OSError, ValueError) as fault:
        found = f"{path}: {' '.join(str(fault).split())}"
        raise AnnotationError(
            "unreadable", found, "a readable file", "check its permissions and disk"
        ) from fault
