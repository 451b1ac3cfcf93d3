"""Large pictures in tiles, from settings to answers: trained once, judged as it is
served, limits kept.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from consoles import RecordingConsole
from pipeline import setup
from pipeline.config import parse
from pipeline.records import CandidateRecord, EvaluateRecord, FinetuneRecord
from pipeline.steps.register import package_candidate
from pipeline.steps.run import load_record, run_alone
from pipeline.tasks import catalog
from pipeline.tracking import packaging
from pipeline.workspace import Workspace
from threads import threads

TASK = "semantic-segmentation"
SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": {
        "baseline": "never",
        "epochs": 3,
        "class_weights": "balanced",
        "plan": {
            "precision": "fp32",
            "memory_format": "contiguous",
            "threads": 1,
            "compile": "off",
        },
    },
    "evaluate": {"bootstrap": 20, "worst": 3},
    "tracking": {"enabled": False},
}
SIDE = 64  # of a tile; the sample's pictures have 112 pixels a side


def set_tiles(
    workspace: Workspace, tiles: dict[str, Any], intake: dict[str, Any] | None = None
) -> None:
    values = workspace.config().model_dump(mode="json")
    values["task"]["tiles"] = tiles
    values["task"]["intake"].update(intake or {})
    (workspace.root / "params.yaml").write_text(json.dumps(values), encoding="utf-8")


def finetuned(workspace: Workspace) -> FinetuneRecord:
    record = load_record(workspace, "finetune")
    assert isinstance(record, FinetuneRecord)
    return record


def load_served(workspace: Workspace, folder: Path) -> Any:
    record = finetuned(workspace)
    package_candidate(
        folder, workspace.config(), record.candidate(), record.members, {}
    )
    return packaging.load(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which a candidate was trained without tiles."""
    return train(TASK, tmp_path_factory.mktemp("tiled"))


def train(task: str, folder: Path) -> Workspace:
    sample = catalog.find(task).sample()
    sample.generate(folder / "sample")
    values: dict[str, Any] = {"task": {"name": task}}
    for section, own in (*sample.settings.items(), *SETTINGS.items()):
        values[section] = {**values.get(section, {}), **own}
    setup.init(
        folder / "workspace", source=folder / "sample", config=parse(values, "the test")
    )
    workspace = Workspace(folder / "workspace")
    with threads(1):
        for step in ("validate", "split", "backbone", "finetune"):
            run_alone(workspace, step, console=RecordingConsole())
    return workspace


@pytest.fixture(scope="module")
def tiled(
    trained: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, list[str], CandidateRecord]:
    """The same workspace with tiles: what finetune says when it runs again, and the
    candidate as it was without.
    """
    before = finetuned(trained).candidate()
    set_tiles(trained, {"side": SIDE})
    console = RecordingConsole()
    with threads(1):
        run_alone(trained, "finetune", console=console)
        run_alone(trained, "evaluate", console=RecordingConsole())
    return trained, console.lines, before


def encode(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()


def first_picture(workspace: Workspace) -> Image.Image:
    path = sorted((workspace.root / "data").rglob("images/*"))[0]
    with Image.open(path) as opened:
        return opened.convert("RGB")


@pytest.mark.slow
def test_tiles_are_no_reason_to_train_again(
    tiled: tuple[Workspace, list[str], CandidateRecord],
) -> None:
    workspace, lines, before = tiled
    after = finetuned(workspace).candidate()
    assert any("unchanged" in line for line in lines)
    assert before.tiles is None
    assert after.tiles is not None
    assert (after.tiles.width, after.tiles.height) == (SIDE, SIDE)
    assert after.model_sha256 == before.model_sha256


@pytest.mark.slow
def test_the_served_model_answers_in_tiles_as_it_was_judged(
    tiled: tuple[Workspace, list[str], CandidateRecord], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    workspace, _, _ = tiled
    model = load_served(workspace, tmp_path / "model")
    candidate = finetuned(workspace).candidate()
    evaluated = load_record(workspace, "evaluate")
    assert isinstance(evaluated, EvaluateRecord)
    rows = pq.read_table(evaluated.predictions).slice(0, 4).to_pylist()
    serving = catalog.find(TASK).serving()
    requests = serving.requests(rows, workspace.root / "data")
    with threads(1):
        answers = model.predict(requests).to_dict(orient="records")
    assert {(row["width"], row["height"]) for row in rows} == {(112, 112)}, (
        "no picture is cut: this test tests nothing"
    )
    for row, answer in zip(rows, answers, strict=True):
        assert serving.difference(answer, row, candidate) == ""


@pytest.mark.slow
def test_pictures_that_are_not_cut_are_answered_as_without_tiles(
    tiled: tuple[Workspace, list[str], CandidateRecord], tmp_path: Path
) -> None:
    workspace, _, _ = tiled
    picture = first_picture(workspace)
    small = encode(picture.crop((0, 0, 96, 80)))
    large = encode(picture)
    model = load_served(workspace, tmp_path / "tiled")
    with threads(1):
        in_tiles = packaging.ask(model, {"image": [large, small]}).to_dict(
            orient="records"
        )
    settings_file = tmp_path / "tiled" / "artifacts" / "model" / "model.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    del settings["tiles"]
    settings_file.write_text(json.dumps(settings), encoding="utf-8")
    with threads(1):
        whole = [
            packaging.ask(packaging.load(tmp_path / "tiled"), {"image": [one]})
            for one in (large, small)
        ]
    assert in_tiles[1] == whole[1].to_dict(orient="records")[0]
    assert in_tiles[0]["regions"], "nothing is found: this test tests nothing"
    assert in_tiles[0]["regions"] != whole[0].to_dict(orient="records")[0]["regions"]


@pytest.mark.slow
def test_another_tiling_is_another_version(
    tiled: tuple[Workspace, list[str], CandidateRecord],
) -> None:
    from pipeline import served

    workspace, _, before = tiled
    after = finetuned(workspace).candidate()
    config = workspace.config()
    assert served.key(config, "trays", before) != served.key(config, "trays", after)


@pytest.mark.slow
def test_a_detector_answers_in_tiles_as_it_was_judged(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    workspace = train("object-detection", tmp_path)
    set_tiles(workspace, {"side": SIDE})
    with threads(1):
        run_alone(workspace, "finetune", console=RecordingConsole())
        run_alone(workspace, "evaluate", console=RecordingConsole())
        evaluated = load_record(workspace, "evaluate")
        assert isinstance(evaluated, EvaluateRecord)
        rows = pq.read_table(evaluated.predictions).slice(0, 8).to_pylist()
        record = finetuned(workspace)
        serving = catalog.find("object-detection").serving()
        model = load_served(workspace, tmp_path / "model")
        answers = model.predict(
            serving.requests(rows, workspace.root / "data")
        ).to_dict(orient="records")
    assert any(answer["objects"] for answer in answers), (
        "nothing is found: this test tests nothing"
    )
    for row, answer in zip(rows, answers, strict=True):
        assert serving.difference(answer, row, record.candidate()) == ""
    settings = json.loads(
        (tmp_path / "model" / "artifacts" / "model" / "model.json").read_text(
            encoding="utf-8"
        )
    )
    assert settings["tiles"] == {"width": SIDE, "height": SIDE, "overlap": 0.25}


CHILD = """
import pathlib, resource, sys, warnings
warnings.simplefilter("ignore")
import mlflow.pyfunc, pandas, torch
torch.set_num_threads(1)
model = mlflow.pyfunc.load_model(sys.argv[1])
small = pathlib.Path(sys.argv[3]).read_bytes()
model.predict(pandas.DataFrame({"image": [small]}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = model.predict(pandas.DataFrame({"image": [pathlib.Path(sys.argv[2]).read_bytes()]})).iloc[0]
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert (answer["width"], answer["height"]) == (10_000, 10_000)
assert sum(region["pixels"] for region in answer["regions"]) <= 10_000**2
print("GREW", (after - before) // 1024)
"""
# Of which the decoded picture takes 382, as Pillow holds 4 bytes a pixel.
MOST_MIB = 900


@pytest.mark.full
def test_a_picture_of_10000_by_10000_is_answered_in_stated_memory_and_refused_by_default(
    trained: Workspace, tmp_path: Path
) -> None:
    picture = first_picture(trained)
    mosaic = Image.new("RGB", (10_000, 10_000))
    for left in range(0, 10_000, picture.width):
        for top in range(0, 10_000, picture.height):
            mosaic.paste(picture, (left, top))
    (tmp_path / "large.png").write_bytes(encode(mosaic))
    (tmp_path / "small.png").write_bytes(encode(picture))
    del mosaic
    set_tiles(trained, {"side": 500})
    with threads(1):
        run_alone(trained, "finetune", console=RecordingConsole())
    refusing = load_served(trained, tmp_path / "refusing")
    with pytest.raises(
        Exception, match="10000 × 10000 pixels; at most 50000000 are accepted"
    ):
        packaging.ask(refusing, {"image": [(tmp_path / "large.png").read_bytes()]})
    set_tiles(
        trained, {"side": 500}, {"max_pixels": 100_000_000, "max_bytes": 400_000_000}
    )
    load_served(trained, tmp_path / "answering")
    files = [str(tmp_path / name) for name in ("answering", "large.png", "small.png")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, *files],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.partition("GREW")[2]) < MOST_MIB
