"""What becomes of each kind of image file at intake."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from image_builders import (
    dataset,
    encoded,
    frames,
    picture,
    placeholder,
    png_header,
    save,
)
from pipeline.errors import DataError
from pipeline.examples import ExampleFault, MeasuredExample
from pipeline.modalities.image import decoding
from pipeline.modalities.image.decoding import open_rgb
from pipeline.modalities.image.measurement import measure_image as measure
from pipeline.modalities.image.settings import ImageIntakeConfig

JPEG = encoded(picture(), "JPEG", quality=95)
PNG = encoded(picture(), "PNG")
EPS = encoded(picture(), "EPS")
SCRAMBLED = PNG[:60] + bytes(200) + PNG[260:]

FAULTS = {
    "truncated JPEG": ("a.jpg", JPEG[: len(JPEG) // 2], {}, "truncated"),
    "truncated PNG": ("a.png", PNG[: len(PNG) // 2], {}, "truncated"),
    "zero bytes": ("a.jpg", b"", {}, "empty"),
    "text": ("a.jpg", b"no image, sorry\n", {}, "not-an-image"),
    "EPS": ("a.jpg", EPS, {}, "not-an-image"),
    "web page": ("a.png", b"<!DOCTYPE html><html>Log in</html>", {}, "not-an-image"),
    "binary": ("a.png", bytes(range(256)), {}, "not-an-image"),
    "bomb beyond the cap": ("a.png", png_header(10_000, 8_800), {}, "too-many-pixels"),
    "bomb beyond Pillow's cap": (
        "a.png",
        png_header(60_000, 60_000),
        {},
        "too-many-pixels",
    ),
    "too many bytes": ("a.jpg", JPEG, {"max_bytes": 500}, "too-large"),
    "too small": ("a.png", encoded(picture(size=(40, 15)), "PNG"), {}, "too-small"),
    "extreme aspect": ("a.png", encoded(picture(size=(320, 20)), "PNG"), {}, "aspect"),
    "animated GIF": ("a.gif", frames("GIF"), {}, "animated"),
    "animated PNG": ("a.png", frames("PNG"), {}, "animated"),
    "animated WebP": ("a.webp", frames("WEBP"), {}, "animated"),
    "TIFF of several pages": ("a.tif", frames("TIFF"), {}, "animated"),
    "format not allowed": ("a.png", PNG, {"formats": ("JPEG",)}, "format"),
    "scrambled PNG": ("a.png", SCRAMBLED, {}, "undecodable"),
}


def judged(
    root: Path, path: str = "a.png", **settings: object
) -> MeasuredExample | ExampleFault:
    return measure(root, path, ImageIntakeConfig.model_validate(settings))


def measured(root: Path, path: str = "a.png", **settings: object) -> MeasuredExample:
    result = judged(root, path, **settings)
    assert isinstance(result, MeasuredExample), result
    return result


def refused(root: Path, path: str = "a.png", **settings: object) -> ExampleFault:
    result = judged(root, path, **settings)
    assert isinstance(result, ExampleFault), result
    return result


@pytest.mark.parametrize(
    ("name", "data", "settings", "code"), FAULTS.values(), ids=FAULTS.keys()
)
def test_bad_file_is_a_fault(
    tmp_path: Path, name: str, data: bytes, settings: dict[str, object], code: str
) -> None:
    save(tmp_path / name, data)
    fault = refused(tmp_path, name, **settings)
    assert (fault.code, fault.path) == (code, name)
    assert fault.found
    assert fault.expected
    assert fault.hint


def test_what_was_found_instead_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", EPS)
    save(tmp_path / "b.jpg", b"not\x1b[31m red")
    save(tmp_path / "c.jpg", PNG)
    assert "EPS" in refused(tmp_path, "a.jpg").found
    assert "\x1b" not in refused(tmp_path, "b.jpg").found
    assert "PNG" in refused(tmp_path, "c.jpg", formats=["JPEG"]).found


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SyntaxError("x"),
        MemoryError(),
        EOFError(),
        RuntimeError("x"),
        IndexError("x"),
    ],
)
def test_whatever_a_decoder_raises_becomes_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save(tmp_path / "a.png")
    fired = []

    def load(image: Image.Image) -> None:
        fired.append(image)
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    fault = refused(tmp_path)
    assert fired
    assert fault.code in ("undecodable", "truncated", "out-of-memory")


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../a.png", "sub/../../a.png", "", "a\0.png"]
)
def test_path_out_of_the_folder_is_never_opened(tmp_path: Path, path: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "data").mkdir()
    fault = refused(tmp_path / "data", path)
    assert fault.code in ("outside", "path")


def test_links_that_leave_or_loop_are_faults(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save(tmp_path / "out.png")
    save(root / "in.png")
    (root / "leaves.png").symlink_to("../out.png")
    (root / "loops.png").symlink_to("loops.png")
    (root / "stays.png").symlink_to("in.png")
    assert refused(root, "leaves.png").code == "outside"
    assert refused(root, "loops.png").code == "link-loop"
    assert measured(root, "stays.png").id == measured(root, "in.png").id


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert refused(tmp_path).code == "not-a-file"


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    assert refused(tmp_path).code == "missing"


def test_measurements(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), dtype=np.uint8)
    pixels[:, 30:] = 200
    save(tmp_path / "a.png", encoded(Image.fromarray(pixels), "PNG"))
    result = measured(tmp_path, min_detail=0)
    assert result.values["brightness"] == 100
    assert result.values["contrast"] == 100
    assert result.values["detail"] == 1
    assert (result.values["width"], result.values["height"]) == (60, 40)
    assert (result.values["format"], result.values["mode"]) == ("PNG", "L")
    assert len(result.values["phash"]) == 16
    assert result.converted == ("grey",)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    save(tmp_path / "a.png", encoded(Image.fromarray(ramp), "PNG"))
    assert "16-bit" in measured(tmp_path).converted
    grey = np.asarray(open_rgb(tmp_path / "a.png"))[..., 0]
    assert np.abs(grey.astype(float) - ramp / 257).max() <= 0.51


def test_float_and_32_bit_grey_keep_their_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    save(tmp_path / "unit.tif", encoded(Image.fromarray(ramp), "TIFF"))
    save(
        tmp_path / "wide.tif",
        encoded(Image.fromarray((ramp * 2e6 - 1e6).astype(np.int32)), "TIFF"),
    )
    for name in ("unit.tif", "wide.tif"):
        grey = np.asarray(open_rgb(tmp_path / name))
        assert (grey.min(), grey.max()) == (0, 255)
        assert "32-bit" in measured(tmp_path, name).converted


def test_cmyk_is_converted(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", encoded(picture(mode="CMYK"), "JPEG"))
    assert measured(tmp_path, "a.jpg").converted == ("cmyk",)
    assert open_rgb(tmp_path / "a.jpg").mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_laid_on_the_background(tmp_path: Path, mode: str) -> None:
    image = picture(mode="RGBA")
    image.putalpha(0)
    options = {"transparency": 0} if mode == "P" else {}
    image = Image.new("P", image.size) if mode == "P" else image.convert(mode)
    save(tmp_path / "a.png", encoded(image, "PNG", **options))
    rgb = open_rgb(tmp_path / "a.png", background=(10, 20, 30))
    assert rgb.getcolors() == [(rgb.width * rgb.height, (10, 20, 30))]
    assert "alpha" in measured(tmp_path, min_detail=0).converted


@pytest.mark.parametrize(
    ("format_", "name"), [("JPEG", "a.jpg"), ("PNG", "a.png"), ("TIFF", "a.tif")]
)
def test_exif_rotation_is_applied(tmp_path: Path, format_: str, name: str) -> None:
    pixels = np.zeros((40, 64, 3), dtype=np.uint8)
    pixels[:, 32:] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save(tmp_path / name, encoded(Image.fromarray(pixels), format_, exif=exif))
    upright = np.asarray(open_rgb(tmp_path / name))
    assert upright.shape == (64, 40, 3)
    assert upright[:28].mean() < 5
    assert upright[36:].mean() > 250
    result = measured(tmp_path, name)
    assert "exif-rotated" in result.converted
    assert (result.values["width"], result.values["height"]) == (40, 64)


def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    save(
        tmp_path / "a.jpg",
        encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(tmp_path, "a.jpg")
        open_rgb(tmp_path / "a.jpg")


def test_wrong_extension_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", PNG)
    assert measured(tmp_path, "a.jpg").converted == ("extension",)


def test_first_frame_on_request(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", frames("GIF"))
    assert measured(tmp_path, "a.gif", animated="first-frame").converted == (
        "first-frame",
    )


def test_photo_with_previews_is_one_image(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", frames("MPO", 2))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert measured(tmp_path, "a.jpg").values["format"] == "JPEG"


def test_placeholder_is_doubted_and_low_contrast_is_not(tmp_path: Path) -> None:
    save(tmp_path / "placeholder.gif", encoded(placeholder(), "GIF"))
    save(tmp_path / "blank.png", encoded(Image.new("RGB", (64, 64), "black"), "PNG"))
    dull = np.random.default_rng(0).normal(128, 0.7, (96, 96)).round().astype(np.uint8)
    save(tmp_path / "dull.png", encoded(Image.fromarray(dull), "PNG"))
    for name in ("placeholder.gif", "blank.png"):
        doubt = measured(tmp_path, name).doubt
        assert doubt is not None
        assert doubt.code == "no-detail"
        assert measured(tmp_path, name, min_detail=0).doubt is None
    assert measured(tmp_path, "dull.png").doubt is None


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("size", [(1000, 600), (512, 512), (300, 511), (100, 90)])
def test_draft_never_undershoots(
    tmp_path: Path, size: tuple[int, int], turn: int
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    save(tmp_path / "a.jpg", encoded(picture(size=size), "JPEG", exif=exif))
    whole = open_rgb(tmp_path / "a.jpg")
    reduced = open_rgb(tmp_path / "a.jpg", draft=(100, 60))
    assert reduced.width >= min(100, whole.width)
    assert reduced.height >= min(60, whole.height)
    assert min(size) < 500 or reduced.width < whole.width


def test_open_rgb_names_the_file_it_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jpg"):
        open_rgb(save(tmp_path / "a.jpg", JPEG[:200]))
    with pytest.raises(DataError, match="cannot identify"):
        open_rgb(save(tmp_path / "b.jpg", EPS))


def test_quiet_restores_the_filters_whatever_the_threads_do(tmp_path: Path) -> None:
    dataset(tmp_path, each=20)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_rgb, sorted(tmp_path.rglob("*.png")) * 5))
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="mine"), decoding.quiet():
        warnings.warn("mine", UserWarning, stacklevel=1)


@pytest.mark.real
def test_of_real_photos_just_the_placeholder_is_doubted(real: Path) -> None:
    root = real / "data" / "hymenoptera"
    names = sorted(str(file.relative_to(root)) for file in root.rglob("*.*"))
    # A sample of the photos; the whole folder is judged in `make test-all`.
    doubted = [
        name
        for name in [*names[::10], "train/ants/imageNotFound.gif"]
        if measured(root, name).doubt
    ]
    assert doubted == ["train/ants/imageNotFound.gif"]
