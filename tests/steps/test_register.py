"""Registering: once per evaluation, completed after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import registry_helpers
from consoles import RecordingConsole
from pipeline.config import Config, RegisterConfig, TrackingConfig
from pipeline.errors import ConfigError, TrackingError
from pipeline.receipts import current_receipt
from pipeline.tracking import registered
from pipeline.tracking.store import find
from pipeline.workspace import Workspace
from registry_helpers import DATA, LABELS, Finished, lay_finished

pytestmark = pytest.mark.slow


@pytest.fixture
def done(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return lay_finished(tmp_path / "insects", tmp_path_factory)


def client(done: Finished) -> Any:
    return find(done.config.tracking, Workspace(done.root)).client


def versions(done: Finished) -> list[Any]:
    return registered(done.config, Workspace(done.root), "insects")


def read_card(done: Finished, run_id: str) -> str:
    """The model card among a run's artifacts."""
    found = client(done).download_artifacts(run_id, "model_card.md")
    return Path(found).read_text().replace("\u202f", " ")


def die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt  # as a kill at this point


def test_an_evaluation_is_registered_once_with_its_evidence(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    # Where MLflow would lay a store of its own if it were left to it.
    monkeypatch.chdir(tmp_path / "elsewhere")
    (done.out / "evaluate" / "confusion.csv").write_text("a,b\n")
    done.with_thresholds(accuracy=0.8)
    first = done.register()
    assert (first.model, first.version) == ("insects", "1")
    again = done.register()
    assert (again.version, again.run_id) == (first.version, first.run_id)
    (version,) = versions(done)
    assert version.aliases == (), "who is champion is decided by the step after it"
    assert version.metrics == {"accuracy": 0.9, "log_loss": 0.3}
    assert (version.data, version.tags["git.revision"]) == (DATA.md5, "abc")
    assert version.tags["evaluation"] == done.evaluated.digest
    assert "accuracy 0.900" in str(version)

    ask = client(done)
    run = ask.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["finetune.batch_size"] == "32"
    assert run.data.metrics["test/accuracy_high"] == 1.0
    assert "version.torch" in run.data.tags
    assert [
        (one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs
    ] == [("data", DATA.md5)]
    assert [file.path for file in ask.list_artifacts(first.run_id)] == [
        "model_card.md",
        "plots",
        "provenance",
        "test",
    ]
    (child,) = ask.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{first.run_id}'"
    )
    assert not list((tmp_path / "elsewhere").iterdir())
    curve = ask.get_metric_history(child.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in curve] == [
        (epoch, 1 / epoch) for epoch in range(1, 6)
    ]


def test_the_model_is_code_and_safetensors_with_a_signature(done: Finished) -> None:
    record = done.register()
    import mlflow.models

    folder = Path(
        find(done.config.tracking, Workspace(done.root))
        .client.get_model_version("insects", record.version)
        .source.removeprefix("file://")
        .replace("%20", " ")
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert {".py", ".safetensors"} <= suffixes
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin"}
    assert not [
        path
        for path in files
        if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05", b"PK")
    ]
    info = mlflow.models.get_model_info(str(folder))
    assert [(column.name, column.type.name) for column in info.signature.inputs] == [
        ("image", "binary")
    ]
    assert [column.name for column in info.signature.outputs] == [
        "label",
        "score",
        "probabilities",
    ]
    assert info.saved_input_example_info is not None
    pinned = (folder / "requirements.txt").read_text().split()
    assert sorted(line.split("==")[0] for line in pinned) == [
        "mlflow",
        "numpy",
        "pandas",
        "pillow",
        "safetensors",
        "torch",
        "torchvision",
    ]
    assert "thaw" not in (folder / "conda.yaml").read_text().replace("thaw.key", "")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["search_logged_models", "create_model_version"])
def test_a_kill_is_made_good_by_the_next_call(
    done: Finished, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    done.with_thresholds(accuracy=0.8)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, point, die)
        with pytest.raises(KeyboardInterrupt):
            done.register()
    assert current_receipt(done.config, Workspace(done.root), done.evaluated) is None
    record = done.register()
    (version,) = versions(done)
    assert record.version == "1"
    assert version.key == record.key
    experiments = [one.experiment_id for one in client(done).search_experiments()]
    assert len(client(done).search_logged_models(experiments)) == 1


@pytest.mark.slow
def test_a_changed_evaluation_updates_the_version_and_makes_none(
    done: Finished,
) -> None:
    first = done.register()
    done.judge(0.95, macro_f1=0.8)
    second = done.register()
    (version,) = versions(done)
    assert (second.version, second.run_id) == (first.version, first.run_id)
    assert version.metrics == {"accuracy": 0.95, "log_loss": 0.3, "macro_f1": 0.8}
    assert version.tags["evaluation"] == done.evaluated.digest
    ask = client(done)
    described = ask.get_model_version("insects", "1").description.replace("\u202f", " ")
    assert "accuracy 95.0 % (85.0–100.0)" in described
    assert "accuracy 95.0 % (85.0–100.0)" in read_card(done, first.run_id)
    experiments = [one.experiment_id for one in ask.search_experiments()]
    (model,) = ask.search_logged_models(experiments)
    assert model.tags["metric.accuracy"] == "0.95"
    done.judge(0.9)
    done.register()
    (version,) = versions(done)
    assert version.metrics == {"accuracy": 0.9, "log_loss": 0.3}, (
        "a metric that is no longer evaluated has gone"
    )


def test_changed_serving_limits_make_a_version(done: Finished) -> None:
    place = Workspace(done.root)
    first = done.register()
    assert current_receipt(done.config, place, done.evaluated) == first
    done.with_intake(max_pixels=700_000)
    assert current_receipt(done.config, place, done.evaluated) is None
    second = done.register()
    assert second.version == "2"
    assert current_receipt(done.config, place, done.evaluated) == second


@pytest.mark.slow
def test_the_champion_loaded_elsewhere_obeys_changed_limits(
    done: Finished, tmp_path: Path
) -> None:
    done.with_thresholds(accuracy=0.8)
    done.promote()
    done.with_intake(max_pixels=700_000)
    uri = done.register().tracking_uri
    assert done.promote().champion == "2"
    large = tmp_path / "large.png"
    Image.new("RGB", (1000, 800)).save(large)
    assert "1000 × 800 pixels; at most 700000 are accepted" in json.loads(
        ask_elsewhere(uri, large)
    )


ASK = """
import json, pathlib, sys
import mlflow.pyfunc, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/insects@champion")
table = pandas.DataFrame({"image": [pathlib.Path(sys.argv[2]).read_bytes()]})
try:
    print(json.dumps(model.predict(table)["label"][0]))
except Exception as fault:
    print(json.dumps(str(fault)))
"""


def ask_elsewhere(uri: str, image: Path) -> str:
    """What the champion says of an image in a process of its own: a label, or why it
    refuses.
    """
    command = [sys.executable, "-P", "-W", "ignore", "-c", ASK, uri, str(image)]
    answered = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300
    )
    assert answered.returncode == 0, answered.stderr
    return answered.stdout.splitlines()[-1]


def test_a_version_carries_what_it_was_made_from_as_it_was_first_registered(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done.register()
    folder = served_files(done, first.version)[0].parent / "provenance"
    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(before) == {"params.yaml", "sources.json", "environment.txt"}
    sources = json.loads(before["sources.json"])
    assert sources["backbone"]["name"] == done.backbone.name
    assert sources["data"]["md5"] == DATA.md5
    assert sources["git"] == {"revision": "abc", "dirty": True, "changed": ["dvc.lock"]}
    monkeypatch.setattr(registry_helpers, "GIT", None)
    done.judge(0.95)
    again = done.register()
    assert again.version == first.version, "another Git revision is no other version"
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    (folder / "sources.json").unlink()
    done.register()
    assert json.loads((folder / "sources.json").read_text())["git"] is None, (
        "what was lost is written anew"
    )
    in_run = client(done).list_artifacts(first.run_id, "provenance")
    assert sorted(Path(file.path).name for file in in_run) == sorted(before)


@pytest.mark.slow
def test_registering_again_uploads_what_the_store_has_lost(done: Finished) -> None:
    first = done.register()
    files = served_files(done, first.version)
    whole = {file: file.read_bytes() for file in files}
    lost = [
        file
        for file in files
        if file.name in ("MLmodel", "weights.safetensors", "members.parquet")
    ]
    cut = next(file for file in files if file.name == "model.json")
    assert len(lost) == 3
    for file in lost:
        file.unlink()
    cut.write_bytes(cut.read_bytes()[:-9])
    said = RecordingConsole()
    again = done.register(console=said)
    assert again.version == first.version
    assert any(
        "4 files" in line and "weights.safetensors" in line for line in said.lines
    )
    assert served_files(done, first.version) == files
    assert all(
        file.read_bytes() == content
        for file, content in whole.items()
        if file.name != "MLmodel"
    )
    from pipeline.tracking import packaging

    assert (
        len(
            packaging.ask(
                packaging.load(files[0].parent), {"image": [done.files[0].read_bytes()]}
            )
        )
        == 1
    )
    done.register(console=(quiet := RecordingConsole()))
    assert not any("files" in line for line in quiet.lines)


def served_files(done: Finished, version: str) -> list[Path]:
    """The files of a version, where the embedded store keeps them; the first lies in
    their folder.
    """
    source = client(done).get_model_version("insects", version).source
    folder = Path(unquote(urlsplit(source).path))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: (len(path.parts), path))


def test_a_threshold_on_an_unknown_metric_lists_those_there_are(done: Finished) -> None:
    done.with_thresholds(acuracy=0.8)
    with pytest.raises(ConfigError, match="acuracy") as fault:
        done.register()
    assert "accuracy, log_loss" in str(fault.value)
    assert not versions(done)


def test_a_model_that_answers_otherwise_than_it_was_judged_is_not_registered(
    done: Finished,
) -> None:
    table = pq.read_table(done.evaluated.predictions).to_pandas()
    table.loc[0, f"p.{LABELS[0]}"] += 0.01
    pq.write_table(pa.Table.from_pandas(table), done.evaluated.predictions)
    with pytest.raises(TrackingError, match=r"a plain\.png"):
        done.register()
    assert not versions(done)


def test_a_model_that_cannot_be_loaded_is_not_registered(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tracking import packaging

    saved = packaging.save

    def broken(folder: Path, *rest: Any) -> None:
        saved(folder, *rest)
        weights = folder / "artifacts" / "model" / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-4])

    monkeypatch.setattr(packaging, "save", broken)
    with pytest.raises(TrackingError, match="cannot answer"):
        done.register()
    assert not versions(done)


def test_the_receipt_is_of_one_evaluation_and_one_set_of_settings(
    done: Finished,
) -> None:
    place = Workspace(done.root)
    done.config = Config(register=RegisterConfig(name="insects"))  # type: ignore[call-arg]
    record = done.register()
    assert current_receipt(done.config, place, done.evaluated) == record
    other = Config(register=RegisterConfig(name="birds"))  # type: ignore[call-arg]
    assert current_receipt(other, place, done.evaluated) is None
    assert current_receipt(done.config, place, done.judge(0.5)) is None
    (done.root / "mlflow" / "mlflow.db").unlink()
    done.judge(0.9)
    assert current_receipt(done.config, place, done.evaluated) is None


def test_a_deleted_run_is_recorded_again_from_the_outputs(done: Finished) -> None:
    first = done.register()
    client(done).delete_run(first.run_id)
    again = done.register(console=RecordingConsole())
    assert again.run_id != first.run_id
    assert again.version == first.version
    assert client(done).get_run(again.run_id).data.metrics["test/accuracy"] == 0.9


@pytest.mark.slow
def test_a_registry_that_is_away_is_named(done: Finished) -> None:
    done.config = Config(
        tracking=TrackingConfig(uri="http://127.0.0.1:9", system_metrics=False)
    )
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        done.register(console=RecordingConsole())
    assert current_receipt(done.config, Workspace(done.root), done.evaluated) is None


def test_with_tracking_off_nothing_is_registered_and_it_says_so(done: Finished) -> None:
    done.config = Config(
        tracking=TrackingConfig(enabled=False), register=RegisterConfig(name="insects")
    )  # type: ignore[call-arg]
    record = done.register()
    assert record.version == ""
    assert "tracking.enabled" in record.reason
    assert current_receipt(done.config, Workspace(done.root), done.evaluated) == record
