"""`lr_find` on a small real network: any stage of any recipe, and nothing is left
behind.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.torch import save_file

from pipeline import manifest
from pipeline.config import FinetuneConfig, PlanConfig
from pipeline.context import Context
from pipeline.errors import ConfigError
from pipeline.modalities.image.settings import ImageInputConfig
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.records import BackboneRecord, ImageInputSpec, SplitRecord
from pipeline.steps.lr_find import lr_find
from pipeline.tasks.image_classification.settings import ImageClassificationConfig

CONFIG = FinetuneConfig(
    batch_size=8,
    views=1,
    plan=PlanConfig(precision="fp32", memory_format="contiguous", device="cpu"),
)
TASK = ImageClassificationConfig(input=ImageInputConfig(size=32))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and green squares, dealt, and the weights of a small network."""
    folder = tmp_path_factory.mktemp("lr-find")
    rows = []
    for number in range(24):
        pixels = np.random.default_rng(number).integers(
            0, 120, (32, 32, 3), dtype=np.uint8
        )
        pixels[..., number % 2] += 130
        path = folder / "data" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append(
            {
                "id": hashlib.md5(path.read_bytes()).hexdigest(),
                "path": path.name,
                "aliases": [],
                "group": None,
                "target": ("red", "green")[number % 2],
                "given_split": None,
                "split": "val" if number < 6 else "train",
            }
        )
    manifest.write(
        pa.Table.from_pylist(rows, schema=manifest.COLUMNS),
        folder / "split" / "manifest.parquet",
    )
    (folder / "backbone").mkdir()
    save_file(
        state_to_save(blocks.build_network("squeezenet1_1", 10, seed=1)),
        folder / "backbone" / "weights.safetensors",
    )
    return folder


def records(folder: Path) -> tuple[SplitRecord, BackboneRecord]:
    split = SplitRecord(
        folder=folder / "split",
        manifest_sha256="",
        labels=("green", "red"),
        counts={},
        new=24,
        left_out=(),
        warnings=(),
        near_duplicate_groups=0,
    )
    model = blocks.build_network("squeezenet1_1", 10, meta=True)
    backbone = BackboneRecord(
        folder=folder / "backbone",
        name="torchvision/squeezenet1_1",
        architecture="squeezenet1_1",
        source="file",
        sha256="",
        weights_sha256="",
        parameters=0,
        classes=10,
        blocks=tuple(model.names),
        input=ImageInputSpec(size=32, resize=32),
    )
    return split, backbone


def context(folder: Path, scratch: Path) -> Context:
    return Context(
        root=folder, data=folder / "data", scratch=scratch, run_dir=scratch / "side"
    )


@pytest.mark.slow
def test_the_first_stage_unless_another_is_asked_for(
    place: Path, tmp_path: Path
) -> None:
    found = lr_find(CONFIG, TASK, *records(place), context(place, tmp_path))
    sweep = found.sweep
    assert (found.recipe, found.stage) == ("gradual", "head")
    assert len(sweep.rates) == len(sweep.losses) > 10
    assert lr_find(CONFIG, TASK, *records(place), context(place, tmp_path)) == found
    assert not (tmp_path / "candidates").exists()
    assert not list(tmp_path.glob("lr-find/*"))


@pytest.mark.slow
def test_any_stage_of_any_recipe(place: Path, tmp_path: Path) -> None:
    probe, tune = (
        lr_find(
            CONFIG,
            TASK,
            *records(place),
            context(place, tmp_path),
            recipe="lp-ft",
            stage=stage,
        )
        for stage in ("probe", "tune")
    )
    assert probe.sweep.losses != tune.sweep.losses


def test_an_unknown_stage_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top, deep"):
        lr_find(
            CONFIG,
            TASK,
            *records(place),
            context(place, tmp_path),
            recipe="gradual",
            stage="tail",
        )
