"""params.yaml: what it may leave out, and how its faults are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Config, load, parse
from pipeline.errors import ConfigError


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "data:\n  path: data\n  drift:\nsplit:\nfinetune:\n  plan:\nregister:\n"
    )
    assert load(path) == Config()


def test_an_empty_setting_is_still_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"finetune\.epochs: Input should be a valid integer; found None",
    ):
        parse({"finetune": {"epochs": None}}, "params.yaml")


@pytest.mark.parametrize(
    "text", ["data:\n", "data:\n  table: list.csv\n", "finetune: {}\n"]
)
def test_the_data_folder_is_written_for_dvc(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="below `data:` write `path: data`"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "path", ["baseline", "artifacts/photographs", "./mlflow", ".thaw", ".dvc/x", ".git"]
)
def test_data_do_not_lie_where_others_clear_away(path: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.path.*must not be in"):
        parse({"data": {"path": path}}, "params.yaml")


def test_a_folder_of_that_name_elsewhere_is_one_like_others() -> None:
    assert (
        parse({"data": {"path": "sets/baseline"}}, "params.yaml").data.path
        == "sets/baseline"
    )
