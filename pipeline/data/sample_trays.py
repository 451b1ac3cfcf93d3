"""The samples of detection and segmentation: photographs of trays with washers, nuts
and screws.

A tray is photographed two or three times, shifted and lit differently; `metadata.csv`
names each photograph's tray (`group`), station and lighting. One tray in twelve is
empty. The same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.data.sample import digest_files, palette_png, png, write_sample

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDE = 112
TRAYS = 48
LABELS = ("nut", "screw", "washer")
BACKGROUND = "background"
# Of Okabe and Ito, for all who see colours.
PALETTE = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115))
FEWEST_PIXELS = 40  # of a part at the picture's edge, for it to be annotated
COLUMNS = ("path", "group", "station", "lighting")


class Photograph(NamedTuple):
    """One photograph of a tray.

    Args:
        name: its file name without an ending.
        pixels: (SIDE, SIDE, 3).
        parts: label and mask (SIDE, SIDE) of each part that is to be seen.
        facts: group, station and lighting.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    parts: Sequence[tuple[str, npt.NDArray[np.bool_]]]
    facts: tuple[str, str, str]


class TraySummary(NamedTuple):
    """What was generated.

    Args:
        images, trays: how many photographs of how many trays.
        md5: digest over every file's name and content, in sorted order.
        written: whether this call wrote it, or found it there already.
    """

    images: int
    trays: int
    md5: str
    written: bool


def generate_boxes(folder: Path, *, seed: int = 1, trays: int = TRAYS) -> TraySummary:
    """Writes the sample of detection in Pascal VOC's layout into a folder that is new
    or empty.

    Raises:
        WorkspaceError: the folder holds anything else.
    """
    files: dict[str, bytes] = {}
    rows = [COLUMNS]
    for photograph in _photographs(seed, trays):
        path = f"JPEGImages/{photograph.name}.png"
        files[path] = png(photograph.pixels)
        files[f"Annotations/{photograph.name}.xml"] = _voc_xml(photograph).encode()
        rows.append((path, *photograph.facts))
    return _write(folder, files, rows, trays)


def generate_masks(folder: Path, *, seed: int = 2, trays: int = TRAYS) -> TraySummary:
    """Writes the sample of segmentation, pictures and palette masks, into a folder that
    is new or empty.

    Raises:
        WorkspaceError: the folder holds anything else.
    """
    files: dict[str, bytes] = {}
    rows = [COLUMNS]
    for photograph in _photographs(seed, trays):
        path = f"images/{photograph.name}.png"
        files[path] = png(photograph.pixels)
        files[f"masks/{photograph.name}.png"] = palette_png(
            _class_map(photograph), PALETTE
        )
        rows.append((path, *photograph.facts))
    files["classes.txt"] = "".join(
        f"{label}\n" for label in (BACKGROUND, *LABELS)
    ).encode()
    return _write(folder, files, rows, trays)


def _write(
    folder: Path, files: dict[str, bytes], rows: Sequence[Sequence[str]], trays: int
) -> TraySummary:
    lines = [",".join(row) + "\n" for row in rows]
    files["metadata.csv"] = "".join(lines).encode()
    written = write_sample(folder, files)
    pictures = len(rows) - 1
    return TraySummary(pictures, trays, digest_files(files), written)


def _photographs(seed: int, trays: int) -> Iterator[Photograph]:
    import numpy as np

    from pipeline.data.sample_parts import lay_tray
    from pipeline.data.sample_surfaces import LAMPS, Dice, photograph_at, pick_corner

    for number in range(trays):
        dice = Dice(seed, number)
        surface, parts = lay_tray(number, dice)
        group = f"tray-{number:03d}"
        station = dice.pick(("A", "B"))
        for view in range(dice.between(2, 3)):
            lighting = dice.pick(("ring", "ring", "side"))
            top, left = pick_corner(dice, SIDE)
            pixels = photograph_at(surface, dice, LAMPS[lighting], SIDE, (top, left))
            window = np.s_[top : top + SIDE, left : left + SIDE]
            seen = []
            for part in parts:
                if part.mask[window].sum() >= FEWEST_PIXELS:
                    seen.append((part.label, part.mask[window]))
            yield Photograph(
                f"{group}-{view}", pixels, seen, (group, station, lighting)
            )


def _class_map(photograph: Photograph) -> npt.NDArray[np.uint8]:
    """The number of each pixel's class (SIDE, SIDE), 0 for the background."""
    import numpy as np

    numbers = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for label, mask in photograph.parts:
        numbers[mask] = 1 + LABELS.index(label)
    return numbers


def _voc_xml(photograph: Photograph) -> str:
    lines = [
        "<annotation>",
        f"  <filename>{photograph.name}.png</filename>",
        f"  <size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>",
    ]
    for label, mask in photograph.parts:
        left, top, right, bottom = _bounds(mask)
        lines += [
            "  <object>",
            f"    <name>{label}</name>",
            "    <difficult>0</difficult>",
            f"    <bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _bounds(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last column and row that a mask covers, counted from 1: left, top,
    right, bottom.
    """
    import numpy as np

    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return (
        int(columns[0]) + 1,
        int(rows[0]) + 1,
        int(columns[-1]) + 1,
        int(rows[-1]) + 1,
    )
