"""What a registered version was made from and with, as files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from pipeline.config import parse
from pipeline.records import BackboneRecord, DataVersion, GitState, ImageInputSpec
from pipeline.steps.provenance import write_provenance

DATA = DataVersion(
    md5="0" * 32 + ".dir", size=9, files=4, git_revision="abc", dirty=False
)
BACKBONE = BackboneRecord(
    name="torchvision/resnet18",
    architecture="resnet18",
    source="https://ines:sesame-7G4k@weights.example/resnet18.pth",
    sha256="a" * 64,
    weights_sha256="b" * 64,
    parameters=1,
    classes=1000,
    blocks=("head",),
    input=ImageInputSpec(size=64, resize=72),
)


def test_settings_are_whole_and_hold_no_secret(tmp_path: Path) -> None:
    uri = "postgresql://ines:sesame-7G4k@db.example/mlflow"
    config = parse({"tracking": {"uri": uri}, "finetune": {"epochs": 3}}, "params.yaml")
    write_provenance(tmp_path / "provenance", config, BACKBONE, DATA, None)
    for file in (tmp_path / "provenance").iterdir():
        assert "sesame" not in file.read_text()
    settings = yaml.safe_load((tmp_path / "provenance" / "params.yaml").read_text())
    assert settings["finetune"]["epochs"] == 3
    assert settings["finetune"]["batch_size"] == config.finetune.batch_size, (
        "defaults are written out"
    )
    sources = json.loads((tmp_path / "provenance" / "sources.json").read_text())
    assert sources["backbone"]["weights_sha256"] == "b" * 64
    assert sources["git"] is None


def test_a_clean_tree_and_one_that_git_says_nothing_of_are_told_apart(
    tmp_path: Path,
) -> None:
    config = parse({}, "params.yaml")
    for changed, dirty in (((), False), (("params.yaml",), True), (None, None)):
        folder = tmp_path / f"{dirty}"
        write_provenance(
            folder, config, BACKBONE, DATA, GitState(revision="abc", changed=changed)
        )
        assert (
            json.loads((folder / "sources.json").read_text())["git"]["dirty"] is dirty
        )


def test_the_environment_can_be_installed_and_tells_no_address(tmp_path: Path) -> None:
    write_provenance(
        tmp_path / "provenance", parse({}, "params.yaml"), BACKBONE, DATA, None
    )
    lines = (tmp_path / "provenance" / "environment.txt").read_text().splitlines()
    assert lines[0].startswith("# CPython 3.")
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines[2:])
    assert any(line.startswith("torch==") for line in lines)
    names = [line.split("==")[0].lower() for line in lines[2:]]
    assert len(set(names)) == len(names)
