"""What an image becomes on its way to the network: decoded, presented plainly,
augmented by counted random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.errors import DataError, TrainingError
from pipeline.modalities.image import augmentation
from pipeline.modalities.image.settings import ImageAugmentConfig, ImageInputConfig
from pipeline.models.network import state_to_save
from pipeline.records import BackboneRecord, ImageInputSpec
from pipeline.tasks import catalog
from pipeline.tasks.base import RandomDraw
from pipeline.tasks.image_classification import TASK
from pipeline.tasks.image_classification.settings import ImageClassificationConfig

SPEC = ImageInputSpec(size=56, resize=64)
STILL = ImageAugmentConfig(
    crop_scale=(1, 1),
    crop_ratio=(1, 1),
    hflip=0,
    brightness=0,
    contrast=0,
    saturation=0,
)


def saved(path: Path, pixels: Any, **options: Any) -> Path:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def smooth(height: int, width: int) -> np.ndarray[Any, Any]:
    """A picture without detail finer than a few pixels: red grows rightwards, green
    downwards.
    """
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, np.full_like(x, 128)], axis=-1)


def batch(count: int, side: int = 64) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(
            0, 256, (count, side, side, 3), dtype=np.uint8
        )
    )


def draws(count: int, view: int = 1, seed: int = 0) -> list[RandomDraw]:
    return [RandomDraw(seed, view, f"{number:032x}") for number in range(count)]


def test_the_catalogue_knows_it() -> None:
    assert catalog.find("image-classification") is TASK


# --- decoding -------------------------------------------------------------------------
def test_crop_takes_the_centre_square(tmp_path: Path) -> None:
    pixels = np.zeros((100, 300, 3))
    pixels[:, 100:200] = (200, 100, 50)
    decoded = TASK.codec.decode(saved(tmp_path / "wide.png", pixels), SPEC)
    assert decoded.shape == TASK.codec.shape(SPEC)
    assert decoded.dtype == np.uint8
    # The outermost columns mix with what lies beside the square, as they do in any
    # antialiased resize.
    assert (decoded[:, 1:-1] == (200, 100, 50)).all()


def test_crop_equals_resizing_the_shorter_side_then_cropping(tmp_path: Path) -> None:
    pixels = smooth(128, 256)
    ours = TASK.codec.decode(saved(tmp_path / "p.png", pixels), SPEC).astype(int)
    usual = (
        Image.fromarray(pixels.astype(np.uint8))
        .resize((128, 64), Image.Resampling.BILINEAR)
        .crop((32, 0, 96, 64))
    )
    assert np.abs(ours - np.asarray(usual).astype(int)).max() <= 1


def test_squash_keeps_both_ends(tmp_path: Path) -> None:
    pixels = np.zeros((40, 400, 3))
    pixels[:, :100], pixels[:, 300:] = (255, 0, 0), (0, 0, 255)
    decoded = TASK.codec.decode(
        saved(tmp_path / "p.png", pixels), SPEC.model_copy(update={"fit": "squash"})
    )
    assert tuple(decoded[32, 0]) == (255, 0, 0)
    assert tuple(decoded[32, -1]) == (0, 0, 255)


def test_pad_keeps_all_and_fills_with_the_background(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"fit": "pad", "background": (1, 2, 3)})
    decoded = TASK.codec.decode(
        saved(tmp_path / "p.png", np.full((50, 100, 3), 200)), spec
    )
    assert (decoded[:16] == (1, 2, 3)).all()
    assert (decoded[48:] == (1, 2, 3)).all()
    assert (decoded[16:48] == 200).all()


def test_a_pixel_wide_line_can_be_padded(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"fit": "pad"})
    assert TASK.codec.decode(
        saved(tmp_path / "p.png", np.zeros((1, 500, 3))), spec
    ).shape == (64, 64, 3)


def test_a_large_jpeg_decoded_at_reduced_size_looks_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.jpg", smooth(1024, 1536), quality=95)
    ours = TASK.codec.decode(path, SPEC).astype(int)
    full = Image.open(path).resize(
        (64, 64), Image.Resampling.BILINEAR, box=(256, 0, 1280, 1024)
    )
    assert np.abs(ours - np.asarray(full).astype(int)).mean() < 2


def test_an_undecodable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        TASK.codec.decode(tmp_path / "broken.jpg", SPEC)


# --- the input of a backbone ----------------------------------------------------------
def backbone(**spec: Any) -> BackboneRecord:
    return BackboneRecord(
        name="torchvision/squeezenet1_1",
        architecture="squeezenet1_1",
        source="file",
        sha256="",
        weights_sha256="",
        parameters=0,
        classes=1000,
        blocks=("head",),
        input=ImageInputSpec(**{"size": 224, "resize": 256, **spec}),
    )


def test_the_backbones_own_presentation_is_kept() -> None:
    spec = TASK.codec.input_spec(
        ImageClassificationConfig(), backbone(mean=(0.1, 0.2, 0.3))
    )
    assert (spec.size, spec.resize, spec.mean) == (224, 256, (0.1, 0.2, 0.3))


def test_another_size_keeps_the_margin_in_proportion() -> None:
    spec = TASK.codec.input_spec(
        ImageClassificationConfig(input=ImageInputConfig(size=112)), backbone()
    )
    assert (spec.size, spec.resize) == (112, 128)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_whole_picture_has_no_margin(fit: Any) -> None:
    spec = TASK.codec.input_spec(
        ImageClassificationConfig(input=ImageInputConfig(fit=fit)), backbone()
    )
    assert (spec.size, spec.resize, spec.fit) == (224, 224, fit)


# --- the plain presentation -----------------------------------------------------------
def test_plain_is_the_normalised_centre() -> None:
    decoded = batch(5)
    x = TASK.codec.prepare(decoded, SPEC, ImageClassificationConfig(), None)
    assert x.shape == (5, 3, 56, 56)
    assert x.dtype == torch.float32
    mean, std = (torch.tensor(v)[:, None, None] for v in (SPEC.mean, SPEC.std))
    expected = (decoded[:, 4:60, 4:60].permute(0, 3, 1, 2).float() / 255 - mean) / std
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


# --- augmentation ---------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_in_the_batch_change_not_a_bit(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoded, config = (
            batch(19),
            ImageClassificationConfig(
                augment=ImageAugmentConfig(vflip=0.5, rotate90=True)
            ),
        )
        together = TASK.codec.prepare(decoded, SPEC, config, draws(19))
        alone = torch.cat(
            [
                TASK.codec.prepare(
                    decoded[i : i + 1], SPEC, config, draws(19)[i : i + 1]
                )
                for i in range(19)
            ]
        )
        turned = list(range(18, -1, -1))
        other = TASK.codec.prepare(
            decoded[turned], SPEC, config, [draws(19)[i] for i in turned]
        )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)
    assert torch.equal(together, other[turned])


def test_the_first_view_is_the_plain_one() -> None:
    mixed = [RandomDraw(0, view, f"{view:032x}") for view in (0, 1, 0)]
    found, plain = (
        TASK.codec.prepare(batch(3), SPEC, ImageClassificationConfig(), mixed),
        TASK.codec.prepare(batch(3), SPEC, ImageClassificationConfig(), None),
    )
    assert [torch.equal(a, b) for a, b in zip(found, plain, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_view_follows_from_seed_view_and_id_alone() -> None:
    config = ImageAugmentConfig()
    views = {
        augmentation.draw_view(RandomDraw(s, v, i), 256, config)
        for s in (0, 1)
        for v in (0, 1)
        for i in ("a", "b")
    }
    assert len(views) == 8
    assert augmentation.draw_view(
        RandomDraw(0, 1, "a"), 256, config
    ) == augmentation.draw_view(RandomDraw(0, 1, "a"), 256, config)


def test_nothing_random_leaves_the_picture() -> None:
    spec = SPEC.model_copy(update={"size": 64})
    still = TASK.codec.prepare(
        batch(3), spec, ImageClassificationConfig(augment=STILL), draws(3)
    )
    torch.testing.assert_close(
        still,
        TASK.codec.prepare(batch(3), spec, ImageClassificationConfig(), None),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("setting", "turn"),
    [
        ({"hflip": 1}, lambda x: x.flip(-1)),
        ({"vflip": 1}, lambda x: x.flip(-2)),
        ({"hflip": 1, "vflip": 1}, lambda x: x.flip(-1, -2)),
    ],
)
def test_flips(setting: dict[str, float], turn: Any) -> None:
    spec = SPEC.model_copy(update={"size": 64})
    config = ImageClassificationConfig(augment=STILL.model_copy(update=setting))
    plain = TASK.codec.prepare(batch(3), spec, config, None)
    torch.testing.assert_close(
        TASK.codec.prepare(batch(3), spec, config, draws(3)),
        turn(plain),
        rtol=0,
        atol=1e-5,
    )


def test_quarter_turns_are_all_four_and_nothing_else() -> None:
    spec = SPEC.model_copy(update={"size": 64})
    config = ImageClassificationConfig(
        augment=STILL.model_copy(update={"rotate90": True})
    )
    picture = batch(1)
    seen = TASK.codec.prepare(picture.expand(40, -1, -1, -1), spec, config, draws(40))
    plain = TASK.codec.prepare(picture, spec, config, None)[0]
    turns = [plain.rot90(k, (1, 2)) for k in range(4)]
    which = [
        [torch.allclose(x, turned, atol=1e-5) for turned in turns].index(True)
        for x in seen
    ]
    assert set(which) == {0, 1, 2, 3}


def test_crops_keep_to_their_limits_and_spread_over_them() -> None:
    config = ImageAugmentConfig(crop_scale=(0.3, 0.9), crop_ratio=(0.8, 1.25))
    views = [
        augmentation.draw_view(RandomDraw(0, 0, str(n)), 256, config)
        for n in range(2000)
    ]
    shares = np.array([v.height * v.width / 256**2 for v in views])
    ratios = np.array([v.width / v.height for v in views])
    assert shares.min() > 0.28
    assert shares.max() < 0.91
    assert shares.min() < 0.32
    assert shares.max() > 0.87
    assert ratios.min() > 0.78
    assert ratios.max() < 1.28
    assert abs(np.log(ratios).mean()) < 0.02
    assert all(
        0 <= v.top <= 256 - v.height and 0 <= v.left <= 256 - v.width for v in views
    )
    assert {0} < {v.top for v in views if v.height < 256}
    assert abs(np.mean([v.hflip for v in views]) - 0.5) < 0.05


def test_colours_equal_one_adjustment_after_another() -> None:
    # Far from clipping.
    planes = np.random.default_rng(0).uniform(60, 190, (3, 20, 20)).astype(np.float32)
    seen = augmentation.View(
        0, 0, 20, 20, False, False, 0, brightness=1.1, contrast=0.8, saturation=1.3
    )
    x = planes.astype(np.float64) * 1.1
    grey = np.tensordot(augmentation.GREY, x, 1)
    x = 0.8 * x + 0.2 * grey.mean()
    x = 1.3 * x - 0.3 * np.tensordot(augmentation.GREY, x, 1)
    augmentation._change_colours(planes, seen)
    np.testing.assert_allclose(planes, x, rtol=1e-4)


def test_colours_are_clipped_to_what_a_picture_can_hold() -> None:
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    config = ImageClassificationConfig(
        augment=STILL.model_copy(update={"brightness": 0.9})
    )
    for view in range(1, 7):
        x = TASK.codec.prepare(white, SPEC, config, draws(1, view))
        assert x.max() <= (1 - min(SPEC.mean)) / min(SPEC.std) + 1e-5


# --- targets and answers --------------------------------------------------------------
def test_targets_go_by_name() -> None:
    manifest = pa.table({"target": ["b", "a", "b"]})
    assert TASK.scorer.targets(manifest, ("a", "b")).tolist() == [1, 0, 1]
    assert TASK.scorer.targets(manifest, ("b", "c", "a")).tolist() == [0, 2, 0]


def test_a_label_outside_the_label_space_is_named() -> None:
    with pytest.raises(DataError, match="wasp"):
        TASK.scorer.targets(pa.table({"target": ["ant", "wasp"]}), ("ant", "bee"))


def test_probabilities_are_float32_and_sum_to_one() -> None:
    found = TASK.scorer.probabilities(torch.randn(4, 3).bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    with pytest.raises(TrainingError, match="shape"):
        TASK.scorer.probabilities(torch.randn(4, 3, 2))


@pytest.mark.slow
def test_a_built_model_has_the_backbones_weights_and_a_new_head(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from pipeline.models.providers.torchvision import blocks

    pretrained = blocks.build_network("squeezenet1_1", 1000, seed=3)
    save_file(state_to_save(pretrained), tmp_path / "weights.safetensors")
    record = backbone().model_copy(update={"folder": tmp_path})
    model = TASK.network.build(record, ("ant", "bee"))
    assert torch.equal(
        model.stock.features[0].weight, pretrained.stock.features[0].weight
    )
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    fresh = TASK.network.build(record, ("ant", "bee"), pretrained=False)
    assert not torch.equal(
        fresh.stock.features[0].weight, pretrained.stock.features[0].weight
    )
