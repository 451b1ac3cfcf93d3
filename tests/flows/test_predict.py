"""`thaw predict`: labels and scores from the registry, an error of its own for each
file that cannot be used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.predict import (
    Prediction,
    Predictions,
    format_json_lines,
    format_table,
    predict,
)
from pipeline.config import Config, RegisterConfig, to_yaml
from pipeline.errors import ConfigError, ServingError
from pipeline.workspace import Workspace
from registry_helpers import LABELS, Finished, lay_finished


@pytest.fixture
def done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    made = lay_finished(tmp_path / "insects", tmp_path_factory)
    made.config = Config(register=RegisterConfig(name="insects"))  # type: ignore[call-arg]
    (made.root / "params.yaml").write_text(to_yaml(made.config))
    (made.root / "dvc.yaml").write_text("")
    return made


@pytest.fixture
def place(done: Finished) -> Workspace:
    done.promote()
    return Workspace(done.root)


def paths(files: Sequence[Path]) -> list[str]:
    """As a command line has them."""
    return [str(file) for file in files]


def test_nothing_registered_says_what_to_do(tmp_path: Path) -> None:
    config = Config(register=RegisterConfig(name="insects"))  # type: ignore[call-arg]
    (tmp_path / "params.yaml").write_text(to_yaml(config))
    (tmp_path / "dvc.yaml").write_text("")
    with pytest.raises(ServingError, match="nothing is registered") as fault:
        predict(["a.png"], None, Workspace(tmp_path))
    assert "thaw run" in str(fault.value)


@pytest.mark.slow
def test_a_store_in_which_nothing_is_registered_says_so(done: Finished) -> None:
    with pytest.raises(ServingError, match="nothing is registered"):
        predict(paths(done.files), None, Workspace(done.root))


@pytest.mark.slow
def test_files_and_folders_are_answered_and_broken_files_spoil_no_others(
    done: Finished, place: Workspace, tmp_path: Path
) -> None:
    folder = done.root / "data"
    (folder / "broken\n.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (folder / ".hidden").write_bytes(b"")
    answer = predict(
        paths([folder, tmp_path / "missing.png", done.files[0]]), None, place
    )
    assert len(answer) == len(done.files) + 3
    good = [row for row in answer if not row.error]
    assert len(good) == len(done.files) + 1
    assert all(
        row.label in LABELS and row.top[0] == (row.label, row.score) for row in good
    )
    assert "no champion yet" in answer.note
    errors = {Path(row.source).name: row.error for row in answer if row.error}
    assert errors["missing.png"] == "no such file or directory"
    assert "row" not in errors["broken\n.jpg"]

    lines = [json.loads(line) for line in format_json_lines(answer)]
    assert lines[-1]["label"] == answer[-1].label
    assert lines[-1]["model"] == "models:/insects/1"
    assert [bool(line.get("error")) for line in lines] == [
        bool(row.error) for row in answer
    ]
    table = list(format_table(answer))
    assert len(table) == 1 + len(answer)
    assert table[0].startswith("models:/insects/1  (insects has no champion yet")
    assert not any("\n" in line for line in table)


def test_texts_that_were_cut_are_marked_and_counted() -> None:
    top = (("good", 0.9), ("bad", 0.1))
    predictions = Predictions(
        [
            Prediction("a.csv:2", {"text": "short"}, "good", 0.9, top, 0),
            Prediction("a.csv:3", {"text": "long " * 400}, "good", 0.9, top, 1160),
            Prediction("a.csv:4", {}, error="a cell is empty"),
        ]
    )
    _, whole, cut, _, note = format_table(predictions)
    assert not whole.endswith("(cut)")
    assert cut.endswith("(cut)")
    assert note.startswith("longer than the model reads, and cut: 1 of 2 texts")
    assert "1,160 tokens" in note
    lines = [json.loads(line) for line in format_json_lines(predictions)]
    assert [line.get("truncated_tokens") for line in lines] == [0, 1160, None]


@pytest.mark.slow
def test_the_champion_answers_where_there_is_one_and_any_version_by_name(
    done: Finished, tmp_path: Path
) -> None:
    done.config = Config(
        register=RegisterConfig(name="insects", thresholds={"accuracy": 0.5})
    )  # type: ignore[call-arg]
    done.promote()
    assert done.retrained(seed=4).promote().champion == "1"
    place = Workspace(done.root)
    answer = predict(paths(done.files[:1]), None, place)
    assert (answer.model, answer.note) == ("models:/insects/1", "")
    assert (
        predict(paths(done.files[:1]), "models:/insects@challenger", place).model
        == "models:/insects/2"
    )
    assert (
        predict(paths(done.files[:1]), "models:/insects/2", place).model
        == "models:/insects/2"
    )
    with pytest.raises(ConfigError, match="no such version") as fault:
        predict(paths(done.files), "models:/insects/7", place)
    assert "insects v2 (challenger)" in str(fault.value)
    with pytest.raises(ConfigError, match="no such model"):
        predict(paths(done.files), "models:/birds@champion", place)
    with pytest.raises(ConfigError, match="models:/NAME@ALIAS"):
        predict(paths(done.files), "insects", place)
    (tmp_path / "empty").mkdir()
    (empty,) = predict(paths([tmp_path / "empty"]), None, place)
    assert empty.error == "a folder with no files in it"
