"""The sample: a small image data set of surface inspection, generated, the same bytes
on every machine.

A part of some material is sound (`ok`) or carries one kind of flaw, and is photographed
two to four times, shifted and lit differently. `metadata.csv` names each photograph's
part (`group`), production line, material and lighting; under dim lighting the flaws are
really harder to see.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import WorkspaceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 96
PARTS = 138
LABELS = ("ok", "scratch", "pit", "ok", "stain", "crack")
"""The labels of successive parts, over and over; so more parts only add to fewer."""
COLUMNS = ("path", "label", "group", "line", "material", "lighting")


@dataclass(frozen=True)
class SampleSummary:
    """What `generate` left in the folder.

    Attributes:
        folder: where it is.
        images, parts: how many photographs of how many parts.
        classes: photographs per class.
        md5: digest over every file's name and content, in sorted order.
        written: whether this call wrote it, or found it there already.
    """

    folder: Path
    images: int
    parts: int
    classes: dict[str, int]
    md5: str
    written: bool


def generate(folder: Path, *, seed: int = 0, parts: int = PARTS) -> SampleSummary:
    """Write the sample into a folder that is new or empty; leave an identical sample as
    it is.

    Raises:
        WorkspaceError: the folder holds anything else.
    """
    files = dict(_files(seed, parts))
    written = write_sample(folder, files)
    classes = Counter(path.partition("/")[0] for path in files if path.endswith(".png"))
    return SampleSummary(
        folder,
        classes.total(),
        parts,
        dict(sorted(classes.items())),
        digest_files(files),
        written=written,
    )


def digest_files(files: Mapping[str, bytes]) -> str:
    """The MD5 over every file's name and content, in sorted order."""
    digest = hashlib.md5(usedforsecurity=False)
    for path in sorted(files):
        digest.update(path.encode() + b"\0" + files[path])
    return digest.hexdigest()


def write_sample(folder: Path, files: dict[str, bytes]) -> bool:
    """Writes the files of a sample; whether they were written, or lay there already.

    Args:
        files: path below the folder → content.

    Raises:
        WorkspaceError: the folder holds anything else.
    """
    present = _present(folder)
    if present and not _same(folder, files, present):
        raise WorkspaceError(
            str(folder),
            found=f"{len(present):,} file(s) that are not this sample",
            expected="a new or empty folder, or the same sample",
            hint="give another folder, or move what is there away",
        )
    if not present:
        _write(folder, files)
    return not present


def _files(seed: int, parts: int) -> Iterator[tuple[str, bytes]]:
    """Every file of the sample: relative path and content."""
    from pipeline.data.sample_surfaces import (
        FLAWS,
        LAMPS,
        MATERIALS,
        Dice,
        photograph,
        wear,
    )

    rows = [COLUMNS]
    for part in range(parts):
        dice = Dice(seed, part)
        label = LABELS[part % len(LABELS)]
        material = dice.pick(tuple(MATERIALS))
        surface = MATERIALS[material](dice)
        wear(surface, dice)
        FLAWS[label](surface, dice, dice.between(90, 160))
        group = f"part-{part:04d}"
        line = dice.pick(("A", "B", "C"))
        for view in range(dice.between(2, 4)):
            lighting = dice.pick(("ring", "ring", "side", "dim"))
            path = f"{label}/{group}-{view}.png"
            rows.append((path, label, group, line, material, lighting))
            yield path, png(photograph(surface, dice, LAMPS[lighting], SIDE))
    yield "metadata.csv", "".join(",".join(row) + "\n" for row in rows).encode()


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An RGB PNG of pixels (height, width, 3), stored."""
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1)
    return _png(rows, width, colour_type=2)


def palette_png(
    indices: npt.NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> bytes:
    """A PNG of indices (height, width) of a palette's colours (red, green, blue;
    0–255), stored.
    """
    colours = bytearray()
    for colour in palette:
        colours.extend(colour)
    width = indices.shape[1]
    return _png(indices, width, colour_type=3, palette=bytes(colours))


def _png(
    rows: npt.NDArray[np.uint8], width: int, colour_type: int, palette: bytes = b""
) -> bytes:
    """A PNG of rows of bytes (height, bytes of a row).

    The deflate stream is laid out here (RFC 1951, section 3.2.4), because how a zlib
    cuts its stored blocks is its own affair and differs between zlib and zlib-ng.
    """
    lines = b"".join(b"\0" + line.tobytes() for line in rows)
    blocks = [lines[start : start + 65535] for start in range(0, len(lines), 65535)]
    stream = b"\x78\x01"
    for number, block in enumerate(blocks, 1):
        is_last = number == len(blocks)
        stream += struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF)
        stream += block
    stream += struct.pack(">I", zlib.adler32(lines))
    header = struct.pack(">IIBBBBB", width, len(rows), 8, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    if palette:
        chunks.insert(1, (b"PLTE", palette))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        content += struct.pack(">I", len(body))
        content += name
        content += body
        content += struct.pack(">I", zlib.crc32(name + body))
    return content


def _present(folder: Path) -> set[str]:
    """The files (and anything else that is no folder) below the folder, as relative
    paths.
    """
    if folder.exists() and not folder.is_dir():
        return {folder.name}
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def _same(folder: Path, files: dict[str, bytes], present: set[str]) -> bool:
    if present != set(files):
        return False
    return all((folder / path).read_bytes() == body for path, body in files.items())


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write beside the folder and rename, so that an interruption leaves no half of a
    sample.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        for path, body in files.items():
            target = partial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
