"""A warm start: which champion it begins from is pinned, followed by rule, and never
one that knows the test set.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from commands import change
from consoles import RecordingConsole
from flows.status import follow_champion
from pipeline import manifest, setup
from pipeline.config import parse
from pipeline.errors import ThawError, TrackingError, TrainingError
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks
from pipeline.records import FinetuneRecord, RegisterRecord, SplitRecord
from pipeline.step_table import STEPS
from pipeline.steps import champion
from pipeline.tracking import registered
from pipeline.tracking import store as stores
from pipeline.tracking.journal_run import JournalRun
from pipeline.training import members
from pipeline.versioning import Versioning
from pipeline.workspace import Workspace
from registry_helpers import name_champion

pytestmark = pytest.mark.slow

NAME = "blots"
COLOURS = {"blue": (40, 60, 200), "green": (60, 180, 60), "red": (200, 50, 40)}
EACH = 20
SETTINGS: dict[str, Any] = {
    "task": {"input": {"size": 64}, "intake": {"min_detail": 0}},
    "split": {"near_duplicates": -1},
    "backbone": {"name": "torchvision/squeezenet1_1", "weights": "net.safetensors"},
    "finetune": {
        "recipes": ["full", "scratch"],
        "epochs": 1,
        "batch_size": 16,
        "views": 1,
        "warm_start": "champion",
        "plan": {
            "precision": "fp32",
            "memory_format": "contiguous",
            "threads": 1,
            "device": "cpu",
        },
    },
    "evaluate": {"bootstrap": 20, "worst": 0},
    "register": {"name": NAME, "thresholds": {"accuracy": 0.0}},
    "tracking": {"system_metrics": False},
}


def paint(folder: Path) -> None:
    """Noisy squares of one colour, a folder a class."""
    generator = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(EACH):
            noise = generator.integers(-30, 30, (40, 40, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after its first run, with its own model as the champion."""
    base = tmp_path_factory.mktemp("warm")
    paint(base / "squares")
    setup.init(base / "place", source=base / "squares", config=parse(SETTINGS, "test"))
    place = Workspace(base / "place")
    save_file(
        state_to_save(blocks.build_network("squeezenet1_1", 3, seed=1)),
        place.root / "net.safetensors",
    )
    how, made = retrain(place)
    assert set(how.values()) == {"done"}
    assert made.version == "1"
    promote(place, "1")
    return place.root


@pytest.fixture
def place(pristine: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(pristine, tmp_path / "place", symlinks=True)))


def retrain(place: Workspace, *force: str) -> tuple[dict[str, str], RegisterRecord]:
    """The flow's steps in this process: what became of each, and what was registered."""
    # Prefect takes a second, which is no concern of processes that run other tests.
    from flows.retrain import begin_run
    from flows.step_task import run_or_restore

    run = begin_run(place, force)
    records: dict[str, Any] = {name: run_or_restore(run, name) for name in STEPS}
    made: RegisterRecord = records["register"]
    return {outcome.step: outcome.how for outcome in run.outcomes}, made


def lock(place: Workspace) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((place.root / champion.LOCK).read_text())
    return values


def fresh(place: Workspace) -> bool:
    return all(state.fresh for state in Versioning(place.root).states().values())


def weights(place: Workspace) -> str:
    return FinetuneRecord.load(place.output("finetune")).candidate("full").model_sha256


def promote(place: Workspace, version: str) -> None:
    """As another machine does: by the journal, of which this workspace has no copy."""
    name_champion(
        JournalRun(stores.find(place.config().tracking, place), NAME), version
    )


def source_of(place: Workspace, version: str) -> Path:
    found = next(
        one for one in registered(place.config(), place) if one.version == version
    )
    return Path(found.source.removeprefix("file://"))


def foreign_champion(place: Workspace, tmp_path: Path, tags: bool = True) -> str:
    """A version that someone else registered under the same name, and promoted; returns
    its number.
    """
    folder = Path(shutil.copytree(source_of(place, "1"), tmp_path / "foreign"))
    path = folder / "artifacts" / "model" / "weights.safetensors"
    state = {name: tensor * 1.01 for name, tensor in load_file(path).items()}
    save_file(state, path)
    client = stores.find(place.config().tracking, place).client
    given = {"model.sha256": manifest.sha256(path)} if tags else {}
    made = client.create_model_version(NAME, folder.as_uri(), tags=given)
    promote(place, str(made.version))
    return str(made.version)


def test_a_model_that_becomes_champion_is_no_reason_to_train_from_it_again(
    place: Workspace,
) -> None:
    assert lock(place) == {"model": NAME, "version": None, "sha256": None}, (
        "there was none before the first run"
    )
    for _ in range(2):
        assert not follow_champion(place, RecordingConsole())
        how, made = retrain(place)
        assert set(how.values()) == {"unchanged"}
        assert made.version == "1"
    first = weights(place)
    how, made = retrain(place, "finetune")
    assert how["finetune"] == "done"
    assert lock(place) == {"model": NAME, "version": "1", "sha256": first}
    assert weights(place) != first
    assert made.version == "2"
    for version in ("1", "2"):
        promote(place, version)
        assert not follow_champion(place, RecordingConsole())
        assert set(retrain(place)[0].values()) == {"unchanged"}


def test_another_champion_makes_finetune_stale_and_the_one_before_restores(
    place: Workspace, tmp_path: Path
) -> None:
    retrain(place, "finetune")
    from_first = weights(place)
    version = foreign_champion(place, tmp_path)
    assert follow_champion(place, said := RecordingConsole())
    assert f"{NAME} v{version} instead of {NAME} v1" in said.lines[-1]
    assert lock(place)["version"] == version
    assert Versioning(place.root).state("finetune").reasons == (
        "champion.lock changed",
    )
    assert retrain(place)[0]["finetune"] == "done"
    from_foreign = weights(place)
    assert from_foreign != from_first
    assert fresh(place)
    retrain(place, "finetune")
    assert weights(place) == from_foreign, "forced, it is the same model"
    promote(place, "1")
    assert retrain(place)[0]["finetune"] == "restored"
    assert weights(place) == from_first
    assert fresh(place)


def test_a_champion_that_nobody_tagged_is_pinned_by_its_weights(
    place: Workspace, tmp_path: Path
) -> None:
    version = foreign_champion(place, tmp_path, tags=False)
    assert follow_champion(place, RecordingConsole())
    path = source_of(place, version) / "artifacts" / "model" / "weights.safetensors"
    assert lock(place)["sha256"] == manifest.sha256(path)


def test_where_the_registry_cannot_be_asked_the_lock_stays_and_that_is_said(
    place: Workspace, tmp_path: Path
) -> None:
    retrain(place, "finetune")
    before = lock(place)
    change(place.root, "uri: null", 'uri: "http://someone:s3cret@127.0.0.1:9"')
    assert not follow_champion(place, said := RecordingConsole())
    assert f"champion.lock keeps {NAME} v1" in said.lines[-1]
    assert "s3cret" not in said.lines[-1]
    assert lock(place) == before
    assert fresh(place)
    change(place.root, 'uri: "http://someone:s3cret@127.0.0.1:9"', "uri: null")
    shutil.rmtree(place.mlflow)  # as in a new clone
    assert not follow_champion(place, said)
    assert lock(place) == before


def refusal(place: Workspace, kind: type[ThawError] = TrainingError) -> ThawError:
    shutil.rmtree(place.scratch / "champion", ignore_errors=True)
    with pytest.raises(kind) as caught:
        retrain(place, "finetune")
    return caught.value


def test_a_champion_that_knows_test_examples_is_refused_with_counts(
    place: Workspace,
) -> None:
    split = manifest.read(SplitRecord.load(place.output("split")).manifest)
    tests = [row for row in split.to_pylist() if row["split"] == "test"]
    path = source_of(place, "1") / members.FILE
    rows = members.read_members(path).to_pylist()
    leaked = {tests[0]["id"]: "train", tests[1]["id"]: "train", tests[2]["id"]: "val"}
    rows = [{**row, "split": leaked.get(row["id"], row["split"])} for row in rows]
    members.write_members(pa.Table.from_pylist(rows, schema=members.SCHEMA), path)
    said = refusal(place)
    assert f"{NAME} v1" in said.subject
    assert (
        f"of {len(tests)} test examples here it knows 3: 2 trained on and 1 validated on"
        in said.found
    )
    assert set(said.details) == {row["path"] for row in tests[:3]}
    assert "finetune.warm_start: none" in said.hint
    change(place.root, 'warm_start: "champion"', 'warm_start: "none"')
    assert retrain(place)[0]["finetune"] == "done"
    assert lock(place) == {}


def test_a_champion_that_does_not_say_what_it_learnt_from_is_refused(
    place: Workspace,
) -> None:
    (source_of(place, "1") / members.FILE).unlink()
    said = refusal(place)
    assert "members.parquet" in said.found
    assert "finetune.warm_start: none" in said.hint


def test_other_weights_than_the_lock_names_are_refused(place: Workspace) -> None:
    path = source_of(place, "1") / "artifacts" / "model" / "weights.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path)
    said = refusal(place, TrackingError)
    assert "champion.lock" in said.subject
    assert manifest.sha256(path) in said.found


def test_what_an_ancestor_learnt_from_counts_as_learnt(place: Workspace) -> None:
    path = source_of(place, "1") / members.FILE
    own = members.read_members(path)
    strange = {"id": "f" * 32, "group": "elsewhere", "split": "train", "target": "red"}
    tested = {**strange, "id": "e" * 32, "split": "test"}
    members.write_members(
        pa.concat_tables(
            [own, pa.Table.from_pylist([strange, tested], schema=members.SCHEMA)]
        ),
        path,
    )
    retrain(place, "finetune")
    made = members.read_members(
        FinetuneRecord.load(place.output("finetune")).members
    ).to_pylist()
    assert strange in made
    assert tested not in made
    assert len(made) == own.num_rows + 1
